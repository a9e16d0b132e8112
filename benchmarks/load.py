"""Run the load generators and read what they found.

Echo load is `native/load.c`, or `slow_load` where there is no C compiler;
HTTP load is wrk with a script of `native/`. Each prints one line of JSON.
"""

from __future__ import annotations

import math
import select
import shutil
import subprocess
import sys
from collections.abc import Callable

import attrs
import msgspec

from benchmarks.build import NATIVE, MissingError, build_c
from benchmarks.process import ROOT

SPARE_SECONDS = 20.0  # for connecting, draining and a slow start on a busy core


class LoadError(Exception):
    """Say what the generator objected to in a server's answers."""


@attrs.frozen(kw_only=True)
class Load:
    """Say what is sent, over how many connections and for how long."""

    udp: bool = False
    size: int = 64
    connections: int = 64
    depth: int = 1
    lines: bool = False
    reconnect: bool = False
    train: bool = False
    script: str = ""
    seconds: float = 0.3
    warm_up_seconds: float = 0.1

    def words(self, port: int) -> list[str]:
        """Return the options of the echo generators."""
        values = {
            "port": port,
            "size": self.size,
            "connections": self.connections,
            "depth": self.depth,
            "seconds": self.seconds,
            "warm-up": self.warm_up_seconds,
        }
        flags = {"udp": self.udp, "lines": self.lines, "reconnect": self.reconnect, "train": self.train}
        words = [f"--{name}={value}" for name, value in values.items()]
        return words + [f"--{name}" for name, wanted in flags.items() if wanted]


@attrs.frozen(kw_only=True)
class Found:
    """Hold what a generator printed: counts, times and percentiles.

    `messages` fall into the measured window of `seconds`; `answered` counts on
    to the last outstanding reply, as the server's CPU time does.
    """

    seconds: float
    messages: int
    bytes: int
    p50_us: float
    p99_us: float
    p999_us: float
    answered: int = 0
    lost: int = 0
    late: int = 0
    reordered: int = 0
    connects: int = 0
    failures: int = 0
    tool: str = "wrk"


def parse(output: str) -> Found:
    """Read a generator's result from the last line that is JSON.

    Raises:
        LoadError: there is none, it is not as expected, or nothing was answered.
    """
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise LoadError(f"the load generator printed no result: {output.strip()[-200:] or 'nothing at all'}")
    try:
        found = msgspec.json.decode(lines[-1], type=Found)
    except msgspec.MsgspecError as error:
        raise LoadError(f"the load generator's result is not as expected: {error}") from error
    if found.messages < 1 or found.seconds <= 0:
        raise LoadError("no message was answered in the measured window")
    if found.failures:
        raise LoadError(f"wrk saw {found.failures} failed requests or connections")
    return found


def generator() -> list[str]:
    """Return the command of the echo generator: the C one if possible."""
    try:
        return [str(build_c("load"))]
    except MissingError:
        return [sys.executable, "-m", "benchmarks.slow_load"]


def generator_name() -> str:
    """Return the echo generator's name; a slow one says that it is."""
    return (
        "slow_load.py: Python, slow, itself the limit of fast servers" if len(generator()) > 1 else "load.c"
    )


def missing_for(load: Load) -> str | None:
    """Return why this load can't be made here, or None when it can."""
    if load.script and shutil.which("wrk") is None:
        return "wrk is not installed"
    if (load.reconnect or load.train) and len(generator()) > 1:
        return "cc is not installed, and the Python generator can't do this load"
    return None


def run(load: Load, port: int, on_measured: Callable[[], None]) -> Found:
    """Load a server and return what the generator found.

    Args:
        load: what to send; its `script` says whether wrk or echo sends it.
        port: where the server listens on loopback.
        on_measured: called when the warm-up is over.

    Raises:
        LoadError: an answer was wrong, or the generator did not end in time.
    """
    if load.script:
        on_measured()
        return _finish(_start(_wrk(load, port)), math.ceil(load.seconds))
    process = _start([*generator(), *load.words(port)])
    assert process.stderr is not None
    ready, _, _ = select.select([process.stderr], [], [], load.warm_up_seconds + SPARE_SECONDS)
    line = process.stderr.readline() if ready else b""
    if line.strip() == b"warm":
        on_measured()
        return _finish(process, load.seconds)
    process.kill()
    _, rest = process.communicate()
    raise LoadError(
        (line + rest).decode().strip() or "the load generator did not come to its measured window"
    )


def _wrk(load: Load, port: int) -> list[str]:
    seconds = math.ceil(load.seconds)  # wrk takes whole seconds only
    script = NATIVE / load.script
    url = f"http://127.0.0.1:{port}"
    return ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "-s", str(script), url]


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    # Unbuffered: reading the word "warm" must not swallow a complaint that comes right behind it.
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )


def _finish(process: subprocess.Popen[bytes], seconds: float) -> Found:
    try:
        output, complaint = process.communicate(timeout=seconds + SPARE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise LoadError("the load generator did not end in time") from None
    if process.returncode != 0:
        raise LoadError(
            complaint.decode().strip() or f"the load generator ended with status {process.returncode}"
        )
    return parse(output.decode())
