"""`oread serve` as a process: start, signals, drain, and every error line."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMAND = (sys.executable, "-m", "oread")

HELD_APP = """
import oread, trio
registry = oread.Registry()

@registry.on("held")
async def held(data: bytes) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", {port}) as stream:
        await stream.send_all(b"begun")
        try:
            return await stream.receive_some()
        finally:
            {at_the_end}
"""
"""Its handler tells the test that it has begun, and answers what the test says."""

AT_THE_END = {
    "held": "pass",
    "clinging": (
        "with trio.CancelScope(shield=True): await stream.send_all(b'never'); await trio.sleep_forever()"
    ),
}
"""Module name: what its handler does when it ends."""


class Holder:
    """A daemon with one HTTP request in flight, that the test can let go."""

    def __init__(self, serve: Callable[..., Any], directory: Path, *arguments: str) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(60)
        port = self._listening.getsockname()[1]
        for name, at_the_end in AT_THE_END.items():
            (directory / f"{name}.py").write_text(HELD_APP.format(port=port, at_the_end=at_the_end))
        self.daemon = serve("http://127.0.0.1:0", "--app", "held:registry", *arguments)
        self.client = socket.create_connection(("127.0.0.1", self.daemon.port()), timeout=60)
        self.client.sendall(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        self.handler, _ = self._listening.accept()
        self.handler.settimeout(60)
        assert self.handler.recv(5) == b"begun"

    def close(self) -> None:
        """Close the sockets of the test's side."""
        for sock in (self._listening, self.client, self.handler):
            sock.close()


@pytest.fixture
def hold(serve: Callable[..., Any], tmp_path: Path) -> Any:
    """Start daemons with a request in flight."""
    holders: list[Holder] = []

    def start(*arguments: str) -> Holder:
        holders.append(Holder(serve, tmp_path, *arguments))
        return holders[-1]

    yield start
    for holder in holders:
        holder.close()


def read_all(sock: socket.socket) -> bytes:
    """Read to the end."""
    return b"".join(iter(lambda: sock.recv(65_536), b""))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(hold: Callable[..., Holder], number: signal.Signals) -> None:
    """The request in flight is answered, nothing new is taken, status 0."""
    holder = hold()
    address = ("127.0.0.1", holder.daemon.port())
    with socket.create_connection(address, timeout=60) as idle:
        idle.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(65_536).startswith(b"HTTP/1.1 404 ")
        holder.daemon.signal(number)
        assert read_all(idle) == b""  # a drain has begun once idle connections end
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=60)
    holder.daemon.wait_logged(f"{number.name}: draining")
    holder.handler.sendall(b"late")
    reply = read_all(holder.client)
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert reply.endswith(b"\r\n\r\nlate")
    status, log = holder.daemon.wait()
    assert status == 0
    assert "0 handlers cancelled" in log


def test_a_second_signal_stops_at_once(hold: Callable[..., Holder]) -> None:
    """What is in flight is cancelled; the status says which signal it was."""
    holder = hold()
    holder.daemon.signal(signal.SIGTERM)
    holder.daemon.wait_logged("draining")
    holder.daemon.signal(signal.SIGINT)
    status, log = holder.daemon.wait()
    assert status == 128 + signal.SIGINT
    assert "SIGINT: stopping at once" in log
    assert "Traceback" not in log
    assert b"late" not in read_all(holder.client)
    assert holder.handler.recv(1) == b""


def test_a_third_signal_ends_what_will_not_end(hold: Callable[..., Holder]) -> None:
    """A handler that clings to life can't keep the process."""
    holder = hold("--app", "clinging")
    holder.daemon.signal()
    holder.daemon.wait_logged("draining")
    holder.daemon.signal()
    assert holder.handler.recv(5) == b"never"
    holder.daemon.signal()
    status, log = holder.daemon.wait()
    assert status == -signal.SIGTERM
    assert "Traceback" not in log


def test_a_deadline_that_passes_names_whom_it_cancelled(hold: Callable[..., Holder]) -> None:
    """`--drain 0` cancels at once, says whom, and still is a drain."""
    holder = hold("--drain", "0")
    peer_port = holder.client.getsockname()[1]
    holder.daemon.signal()
    status, log = holder.daemon.wait()
    assert status == 0
    (line,) = [json.loads(line) for line in log.splitlines() if "cancelled: " in line]
    assert f"127.0.0.1:{peer_port}" in line["event"]
    assert line["level"] == "warning"
    assert "1 handlers cancelled" in log


def test_the_demo_set_is_served_as_it_is_announced(demo_ports: None, serve: Callable[..., Any]) -> None:
    """Without arguments: TCP and UDP echo, HTTP, a group and a broadcast."""
    daemon = serve(endpoints=5)
    assert daemon.urls == [
        "tcp://127.0.0.1:7007/echo",
        "udp://127.0.0.1:7007/echo",
        "http://127.0.0.1:7080",
        "udp://239.255.70.7:7008/echo?interface=lo&reply=unicast",
        "udp://127.255.255.255:7009/echo?reply=unicast",
    ]
    with socket.create_connection(("127.0.0.1", 7007), timeout=60) as client:
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"
    daemon.signal()
    assert daemon.wait()[0] == 0


ENDPOINTS = (
    "tcp://127.0.0.1:0/echo",
    "tcp://127.0.0.1:0/echo?framing=lines",
    "udp://127.0.0.1:0/echo",
    "udp://239.255.70.7:0/echo?interface=lo&reply=unicast",
    "udp://127.255.255.255:0/echo?reply=unicast",
    "http://127.0.0.1:0",
)


@pytest.mark.parametrize("url", [*ENDPOINTS, "tcp://[::1]:0/echo", "tcp://0.0.0.0:0/echo", "unix"])
def test_what_is_announced_to_type_works(serve: Callable[..., Any], tmp_path: Path, url: str) -> None:
    """Each line for a second terminal, run by a shell, gets its answer."""
    if "[::1]" in url and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    daemon = serve(f"unix://{tmp_path}/s?event=echo" if url == "unix" else url)
    (line,) = daemon.hints
    tool = next(word for word in ("nc", "socat", "curl", "oread") if word in line.split())
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    result = subprocess.run(["/bin/sh", "-c", line], capture_output=True, timeout=60, check=False)
    assert (b'"event": "echo"' if tool == "curl" else b"hello\n") in result.stdout
    assert result.returncode == 0


def test_an_app_is_served_by_its_name(serve: Callable[..., Any], tmp_path: Path) -> None:
    """The working directory is looked in, and the hint names an event of it."""
    (tmp_path / "shop.py").write_text(
        "import oread\nother = oread.Registry()\n"
        "@other.on('order')\ndef order(data: bytes) -> bytes:\n    return data[::-1]\n"
    )
    daemon = serve("http://127.0.0.1:0", "--app", "shop:other")
    with socket.create_connection(("127.0.0.1", daemon.port()), timeout=60) as client:
        client.sendall(
            b"POST /order HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
        )
        assert read_all(client).endswith(b"cba")
    assert daemon.hints == [f"curl -d hello http://127.0.0.1:{daemon.port()}/order"]


def test_the_limit_of_open_files_is_raised(serve: Callable[..., Any]) -> None:
    """A soft limit below the hard one does not stay."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells another process's limits")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    daemon = serve(
        "tcp://127.0.0.1:0/echo",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard)),
    )
    assert resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_a_failing_handler_is_one_json_line_with_its_traceback(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    """Away from a terminal the log is JSON, and the failure ends nothing."""
    (tmp_path / "bad.py").write_text(
        "import oread\nregistry = oread.Registry()\n"
        "@registry.on('bad')\ndef bad(data: bytes):\n    raise LookupError('on purpose')\n"
    )
    daemon = serve("udp://127.0.0.1:0/bad", "--app", "bad")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ("127.0.0.1", daemon.port()))
        record = json.loads(daemon.wait_logged("on purpose"))
    assert (record["level"], record["logger"]) == ("error", "oread")
    assert "LookupError: on purpose" in record["exception"]
    daemon.signal()
    assert daemon.wait()[0] == 0


def test_a_failure_that_stops_the_service_is_one_line_and_1(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    """With failure=stop the process ends by itself, and the last line says by whom."""
    (tmp_path / "bad.py").write_text(
        "import oread\nregistry = oread.Registry()\n"
        "@registry.on('bad')\ndef bad(data: bytes):\n    raise LookupError('on purpose')\n"
    )
    daemon = serve("udp://127.0.0.1:0/bad?failure=stop", "--app", "bad")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ("127.0.0.1", daemon.port()))
        status, rest = daemon.wait()
    assert status == 1
    last = json.loads(rest.splitlines()[-1])
    assert (
        last["event"]
        == "stopped: bad.bad failed with LookupError('on purpose') on an endpoint with failure=stop"
    )
    assert "exception" not in last


APPS = {
    "broken_syntax": "def f(:\n",
    "raises": "raise ValueError('two\\nlines')\n",
    "exits": "import sys\nsys.exit(3)\n",
    "needs": "import not_installed_here\n",
    "empty": "registry = {}\n",
    "other": "import oread\nmine = oread.Registry()\n",
}

APP = ("tcp://127.0.0.1:0/echo", "--app")
ERRORS = {
    "unknown command": (["srve"], "No such command"),
    "no command": ([], "a command is needed: serve, call, listen, ping, handlers"),
    "unknown flag": (["serve", "--frobnicate"], "No such option"),
    "bad drain": (["serve", "--drain", "nan"], "seconds from 0 to inf"),
    "bad scheme": (
        ["serve", "gopher://127.0.0.1:0/echo"],
        "scheme must be one of tcp, unix, http, tls, https, udp",
    ),
    "no port": (["serve", "tcp://127.0.0.1/echo"], "a port is needed"),
    "no event": (["serve", "tcp://127.0.0.1:0"], "an event is needed"),
    "unknown option": (["serve", "tcp://127.0.0.1:0/echo?colour=red"], "unknown option 'colour'"),
    "limit out of range": (
        ["serve", "tcp://127.0.0.1:0/echo?connections=0"],
        "connections=0 is outside 1 to",
    ),
    "event without handler": (
        ["serve", "tcp://127.0.0.1:0/nothing"],
        "no handler for event 'nothing'; there are: chargen",
    ),
    "not an address of ours": (["serve", "tcp://192.0.2.1:0/echo"], "Cannot assign requested address"),
    "unknown host": (["serve", "tcp://nowhere.invalid:0/echo"], "check the host name"),
    "unknown interface": (
        ["serve", "udp://239.255.70.7:0/echo?interface=nowhere0"],
        "no interface nowhere0; there are: ",
    ),
    "no directory": (["serve", "unix:///nowhere/at/all?event=echo"], "make the directory first"),
    "app without endpoint": (["serve", "--app", "other:mine"], "--app needs at least one ENDPOINT"),
    "no module": (["serve", *APP, "nowhere_app:registry"], "there is no module 'nowhere_app'"),
    "no module's name": (["serve", *APP, "../x:registry"], "is no module's name"),
    "module with a syntax error": (
        ["serve", *APP, "broken_syntax"],
        "importing 'broken_syntax' raised SyntaxError",
    ),
    "module that raises": (["serve", *APP, "raises"], "importing 'raises' raised ValueError: two lines"),
    "module that exits": (["serve", *APP, "exits"], "importing 'exits' raised SystemExit: 3"),
    "module that needs another": (
        ["serve", *APP, "needs"],
        "raised ModuleNotFoundError: No module named 'not_installed",
    ),
    "no such name": (["serve", *APP, "other:registry"], "has no 'registry'; its registries are mine"),
    "not a registry": (["serve", *APP, "empty:registry"], "'registry' is of type dict"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_a_user_can_mend_is_one_line(run: Callable[..., Any], tmp_path: Path, case: str) -> None:
    """One line on stderr that says what, exit status 2, nothing on stdout."""
    for name, text in APPS.items():
        (tmp_path / f"{name}.py").write_text(text)
    arguments, expected = ERRORS[case]
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stdout == b""
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("oread: ")
    assert expected in lines[0]


def test_a_port_in_use_leaves_nothing_bound(run: Callable[..., Any], tmp_path: Path) -> None:
    """The endpoint is named, and what was bound before it is gone."""
    path = tmp_path / "oread.sock"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}/echo"
        result = run("serve", f"unix://{path}?event=echo", url)
    assert result.returncode == 2
    assert result.stderr.decode() == (
        f"oread: {url}: Address already in use; stop who has it, or name another port (0 picks a free one)\n"
    )
    assert not path.exists()


def test_a_udp_port_in_use_is_explained(run: Callable[..., Any]) -> None:
    """Who may share one is said: a wildcard and a group of two programs may not."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        result = run("serve", f"udp://239.255.70.7:{taken.getsockname()[1]}/echo?interface=lo")
    assert result.returncode == 2
    assert "0.0.0.0 shares it with groups of the same service only" in result.stderr.decode()


def test_a_port_that_needs_privileges_is_named() -> None:
    """Permission denied says what to do about it."""
    setting = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not setting.exists() or int(setting.read_text()) <= 1:
        pytest.skip("every user may bind port 1 here")
    libc = ctypes.CDLL(None)
    result = subprocess.run(
        [*COMMAND, "serve", "tcp://127.0.0.1:1/echo"],
        capture_output=True,
        timeout=60,
        check=False,
        # root without CAP_NET_BIND_SERVICE is as anybody: prctl(2) PR_CAPBSET_DROP; no harm to others
        preexec_fn=lambda: libc.prctl(24, 10, 0, 0, 0),
    )
    assert result.returncode == 2
    assert result.stderr.decode() == (
        "oread: tcp://127.0.0.1:1/echo: Permission denied; "
        "name a port from 1024 on, or a path you may write to\n"
    )


def test_a_reader_that_goes_ends_it_quietly() -> None:
    """A closed pipe on stdout is no traceback, and nothing stays served."""
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [*COMMAND, "serve", "tcp://127.0.0.1:0/echo"],
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, b"")


@pytest.mark.parametrize("form", ["common", "combined", "json"])
def test_requests_are_logged_on_stdout_when_asked_for(serve: Callable[..., Any], form: str) -> None:
    """A line for each, also for what was refused; nothing of it on stderr."""
    daemon = serve("http://127.0.0.1:0", "--access-log", form)
    assert daemon.hints
    with socket.create_connection(("127.0.0.1", daemon.port()), timeout=60) as client:
        client.sendall(b'GET /echo HTTP/1.1\r\nHost: a\r\nUser-Agent: a"b\r\n\r\nGET /%\r\n')
        while client.recv(1000):
            pass
    lines = [daemon.process.stdout.readline() for _ in range(2)]
    if form == "json":
        first, second = map(json.loads, lines)
        assert (first["event"], first["method"], first["status"]) == ("request", "GET", 200)
        assert (first["user_agent"], second["method"], second["status"]) == ('a"b', None, 400)
    else:
        assert '"GET /echo HTTP/1.1" 200 ' in lines[0]
        assert ('"a\\x22b"' in lines[0]) == (form == "combined")
        assert '"-" 400 ' in lines[1]
    daemon.signal()
    status, log = daemon.wait()
    assert (status, "GET" in log) == (0, False)
