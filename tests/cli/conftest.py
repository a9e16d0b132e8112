"""Run the real command line in child processes, watched so that none hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from fixed_ports import DEMO_PORTS, holding

LONGEST_SECONDS = 60.0
"""A child that still runs then is killed, and its test fails by what is missing."""

COMMAND = (sys.executable, "-P", "-m", "oread")
"""-P: without the working directory on the path, as for the installed script."""


class Daemon:
    """A running `oread serve`, by its process and its two pipes."""

    def __init__(self, arguments: Sequence[str], directory: Path, **options: object) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
            **options,
        )
        self._watchdog = threading.Timer(LONGEST_SECONDS, self.process.kill)
        self._watchdog.start()
        self.urls: list[str] = []
        self.hints: list[str] = []

    def wait_announced(self, endpoints: int) -> None:
        """Read the announcement: the URLs, an empty line, a headline, the hints."""
        self.urls = [self._read_line() for _ in range(endpoints)]
        assert self._read_line() == ""
        assert self._read_line() == "In a second terminal:"
        self.hints = [self._read_line() for _ in range(endpoints)]

    def _read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_logged(self, text: str) -> str:
        """Read the log until a line has this text; return the line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if text in line:
                return line
        raise AssertionError(f"the log ended without {text!r}")

    def port(self, at: int = 0) -> int:
        """Return the port of an announced endpoint."""
        return int(self.urls[at].partition("://")[2].partition("/")[0].partition("?")[0].rpartition(":")[2])

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """Wait for the end; return the status and the rest of the log."""
        _, rest = self.process.communicate(timeout=LONGEST_SECONDS)
        return self.process.returncode, rest

    def close(self) -> None:
        """Stop it if it still runs."""
        self._watchdog.cancel()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def demo_ports() -> Iterator[None]:
    """Have the demo set's ports; named before `serve`, until its daemons are gone."""
    with holding(DEMO_PORTS):
        yield


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start daemons that are announced; all are gone afterwards."""
    daemons: list[Daemon] = []

    def start(*arguments: str, endpoints: int = 1, **options: object) -> Daemon:
        daemon = Daemon(arguments, tmp_path, **options)
        daemons.append(daemon)
        daemon.wait_announced(endpoints)
        return daemon

    yield start
    for daemon in daemons:
        daemon.close()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run one command to its end."""

    def run_command(
        *arguments: str, data: bytes = b"", **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*COMMAND, *arguments],
            input=data,
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, **environment},
            timeout=LONGEST_SECONDS,
            check=False,
        )

    return run_command
