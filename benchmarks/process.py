"""Start servers pinned to a core, read what they cost, and stop them.

A server is a process group of its own; figures sum over its processes and
threads. Only Linux tells them; elsewhere they are missing, not guessed.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import attrs

from benchmarks.table import Peer, Probe

ROOT = Path(__file__).parents[1]
PROC = Path("/proc")
READY_SECONDS = 20.0  # granian and hypercorn take 1 to 2 s on a busy core
STOP_SECONDS = 3.0
PORT_ATTEMPTS = 3
ATTEMPT_SECONDS = 0.5
PING = b"ping of 16 bytes"
HELLO_REQUEST = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
HELLO_BODY = b"Hello, World!"


class ServerError(Exception):
    """Say why a server did not start or answer."""


@attrs.frozen(kw_only=True)
class Cores:
    """Name the core of the server and that of the load; equal if only one."""

    server: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        """Take the first and the last core that this process may use."""
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        return cls(server=cores[0], load=cores[-1])

    def pin_load(self) -> None:
        """Keep this thread, and what it starts, on the load's core."""
        _pin(self.load)


def _pin(core: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


@attrs.define
class Server:
    """Hold one running server: who it is, where it listens, what it costs."""

    peer: Peer
    port: int
    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def printed(self, start: int = 0) -> bytes:
        """Return what the server has printed, from an offset on."""
        # pread: the server writes through the same file offset, which must not move.
        size = os.fstat(self.output.fileno()).st_size
        return os.pread(self.output.fileno(), max(0, size - start), start)

    def pids(self) -> list[int]:
        """Return the server's processes: itself and all descendants."""
        found = [self.process.pid]
        for pid in found:
            for children in PROC.glob(f"{pid}/task/*/children"):
                with contextlib.suppress(OSError):  # a thread that has just ended
                    found.extend(map(int, children.read_text().split()))
        return found

    def cpu_ns(self) -> dict[str, int]:
        """Return nanoseconds on a CPU so far, for each thread."""
        spent: dict[str, int] = {}
        for pid in self.pids():
            for path in PROC.glob(f"{pid}/task/*/schedstat"):
                with contextlib.suppress(OSError):  # a thread that has just ended
                    spent[path.parent.name] = int(path.read_text().split()[0])
        return spent

    def anonymous_bytes(self) -> int:
        """Return the resident bytes that no file backs: user-space memory."""
        total = 0
        for pid in self.pids():
            for line in (PROC / f"{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1]) * 1024
        return total


def cpu_between(before: dict[str, int], after: dict[str, int]) -> int:
    """Return the nanoseconds spent between two readings of `cpu_ns`."""
    return sum(spent - before.get(thread, 0) for thread, spent in after.items())


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextlib.contextmanager
def running(peer: Peer, cores: Cores) -> Iterator[Server]:
    """Run a server until the block ends; it has answered when it begins.

    Raises:
        ServerError: it ended or did not answer in time.
    """
    with tempfile.TemporaryFile() as output, contextlib.ExitStack() as started:
        for attempt in range(PORT_ATTEMPTS):
            server = _start(peer, cores, output)
            started.callback(stop, server.process)
            try:
                _wait_ready(server)
                break
            except ServerError:
                # The port was free when it was picked; somebody may have taken it since.
                if attempt == PORT_ATTEMPTS - 1 or b"in use" not in server.printed().lower():
                    raise
        yield server


def spawn(peer: Peer, port: int, core: int, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a peer's command on a core, in a process group of its own."""
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    environment = {**os.environ, "GOMAXPROCS": "1", "PYTHONUNBUFFERED": "1"}
    # Else a checkout is compiled anew at each start, which no installed package is.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    # Inherited affinity is there before the first instruction; setting it afterwards would be too late for a
    # runtime that counts its cores at start.
    _pin(core)
    try:
        return subprocess.Popen(
            peer.command_on(port),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    finally:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, own)


def pick_port(probe: Probe) -> int:
    """Return a port of loopback that is free now."""
    kind = socket.SOCK_DGRAM if probe == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def answers(probe: Probe, port: int) -> bool:
    """Return whether a server answers a first message, correctly."""
    kind = socket.SOCK_DGRAM if probe == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(ATTEMPT_SECONDS)
        try:
            sock.connect(("127.0.0.1", port))
            if probe == "http":
                return exchange(sock, HELLO_REQUEST, HELLO_BODY)
            message = PING if probe == "udp" else PING[:-1] + b"\n"  # a line, for framing=lines
            return exchange(sock, message, message)
        except (ConnectionError, TimeoutError):
            return False


def exchange(sock: socket.socket, request: bytes, ending: bytes) -> bool:
    """Send a request and return whether the answer ends as it must."""
    sock.sendall(request)
    answer = b""
    while not answer.endswith(ending):
        data = sock.recv(65536)
        answer += data
        if not data or len(answer) > 65536:
            return False
    return True


def _start(peer: Peer, cores: Cores, output: IO[bytes]) -> Server:
    output.seek(0)
    output.truncate()
    port = pick_port(peer.probe)
    return Server(peer=peer, port=port, process=spawn(peer, port, cores.server, output), output=output)


def _wait_ready(server: Server) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if answers(server.peer.probe, server.port):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = server.process.wait(timeout=0.01)
            raise ServerError(f"ended with status {status}: {_last_line(server)}")
    raise ServerError(f"did not answer within {READY_SECONDS:.0f} s: {_last_line(server)}")


def _last_line(server: Server) -> str:
    lines = server.printed()[-4096:].decode(errors="replace").split("\n")
    return next(
        (line.strip() for line in reversed(lines) if any(map(str.isalpha, line))), "it printed nothing"
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server's whole process group, gently first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_SECONDS)
            # Its children share the group; whoever is left after the leader's end is not needed either.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return
