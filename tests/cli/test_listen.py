"""`oread listen`, run as it is typed: what others send is printed."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/sys/class/net/lo").exists(), reason="the loopback interface is not called lo here"
)
COMMAND = (sys.executable, "-P", "-m", "oread", "listen")
LONGEST_SECONDS = 60
GROUP = "239.255.70.7"
Run = Callable[..., subprocess.CompletedProcess[bytes]]

NODE_SENDER = """
const socket = require("dgram").createSocket("udp4");
socket.bind(0, "127.0.0.1", () => {
  socket.setMulticastInterface("127.0.0.1");
  socket.send("from node", Number(process.argv[1]), "239.255.70.7", () => socket.close());
});
"""


class Listener:
    """A running `oread listen`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stderr is not None
        self.announced = process.stderr.readline()
        _, _, self.url = self.announced.strip().partition("listening on ")

    @property
    def port(self) -> int:
        """The port that it was given."""
        return int(self.url.partition("?")[0].rpartition(":")[2])

    def end(self) -> tuple[list[str], str, int]:
        """Wait for its end; return lines, errors and status."""
        output, errors = self.process.communicate()
        return output.splitlines(), errors, self.process.returncode


@contextmanager
def listening(*arguments: str) -> Iterator[Listener]:
    """Start one, and wait until it listens."""
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watchdog = threading.Timer(LONGEST_SECONDS, process.kill)
        watchdog.start()
        try:
            yield Listener(process)
        finally:
            watchdog.cancel()
            process.kill()


def send(data: bytes, host: str, port: int) -> None:
    """Send one datagram by loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        index = struct.pack("@4s4si", bytes(4), socket.inet_aton("127.0.0.1"), socket.if_nametoindex("lo"))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, index)
        sock.sendto(data, (host, port))


@pytest.mark.parametrize(
    ("url", "mode", "host"),
    [
        ("udp://127.0.0.1:0", "unicast", "127.0.0.1"),
        (f"udp://{GROUP}:0?interface=lo", "multicast", GROUP),
        ("udp://127.255.255.255:0", "broadcast", "127.255.255.255"),
        ("udp://0.0.0.0:0/any", "unicast", "127.0.0.1"),
    ],
)
def test_datagrams_are_printed_in_order(url: str, mode: str, host: str) -> None:
    """A group is joined, a broadcast heard; --count ends it with status 0."""
    with listening(url, "--count", "3") as listener:
        for data in (b"hello", b'{"a": 1}', b"\xff\x00"):
            send(data, host, listener.port)
        lines, errors, status = listener.end()
    assert (errors, status) == ("", 0)
    ways = [line.partition(" ")[2] for line in lines[:3]]
    assert all(way.startswith(f"{mode} 127.0.0.1:") for way in ways)
    assert all(f" -> {host}:{listener.port} lo ttl " in way for way in ways)
    assert [way.partition(", ")[2] for way in ways] == ["5 bytes: hello", '8 bytes: {"a":1}', "2 bytes"]
    assert lines[3].split() == ["0000", "ff", "00", ".."]


def test_connections_and_requests_are_printed_as_json() -> None:
    """A line by TCP and a request by HTTP come out as objects; the request is answered."""
    with (
        listening("tcp://127.0.0.1:0?framing=lines", "--count", "2", "--json") as listener,
        socket.create_connection(("127.0.0.1", listener.port)) as sock,
    ):
        sock.sendall(b"one\ntwo\n")
        lines, _, status = listener.end()
    assert [(json.loads(line)["transport"], json.loads(line)["text"]) for line in lines] == [
        ("tcp", "one"),
        ("tcp", "two"),
    ]
    assert status == 0
    with listening("http://127.0.0.1:0", "--count", "1", "--json") as listener:
        with urllib.request.urlopen(f"{listener.url}/some/path?q", data=b"body") as response:
            assert response.status == 204
        (line,), _, status = listener.end()
    found = json.loads(line)
    assert (found["method"], found["target"], found["text"], status) == ("POST", "/some/path?q", "body", 0)


def test_a_signal_ends_it() -> None:
    """Ctrl-C is how it ends: status 0, whatever came."""
    with listening("udp://127.0.0.1:0") as listener:
        listener.process.send_signal(signal.SIGINT)
        assert listener.end() == ([], "", 0)


def test_time_that_is_over_is_status_1(run: Run) -> None:
    """Less than was wanted within --for is one line, and status 1."""
    done = run("listen", "udp://127.0.0.1:0", "--for", "10ms")
    assert (done.stdout, done.returncode) == (b"", 1)
    assert done.stderr.splitlines()[1] == (
        b"oread: udp://127.0.0.1:0: 0 of 1 messages came within 0.01 s; check the address and the interface"
    )


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("udp://192.0.2.77:0",), b"no interface here has this address"),
        (("udp://239.255.70.7:0?interface=nowhere0",), b"no interface nowhere0"),
        (("tcp://127.0.0.1:0?framing=jsonrpc",), b"use lines"),
        (("http://127.0.0.1:0/path",), b"no path"),
        (("udp://127.0.0.1:0", "--count", "0"), b"'--count'"),
    ],
)
def test_what_can_be_mended_is_one_line(run: Run, arguments: tuple[str, ...], fault: bytes) -> None:
    """Status 2, no traceback, and it names the fault."""
    done = run("listen", *arguments)
    assert (done.stdout, done.returncode) == (b"", 2)
    assert done.stderr.count(b"\n") == 1
    assert fault in done.stderr


@pytest.mark.skipif(shutil.which("socat") is None, reason="socat is not installed")
def test_socat_is_heard() -> None:
    """What socat sends to the group is printed."""
    with listening(f"udp://{GROUP}:0?interface=lo", "--count", "1") as listener:
        sender = f"UDP4-DATAGRAM:{GROUP}:{listener.port},ip-multicast-if=127.0.0.1,bind=127.0.0.1"
        subprocess.run(["socat", "-u", "-", sender], input=b"from socat", check=True, timeout=LONGEST_SECONDS)
        (line,), _, _ = listener.end()
    assert line.endswith(", 10 bytes: from socat")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node_is_heard() -> None:
    """What a program of Node's sends to the group is printed."""
    with listening(f"udp://{GROUP}:0?interface=lo", "--count", "1") as listener:
        arguments = ["node", "-e", NODE_SENDER, str(listener.port)]
        subprocess.run(arguments, check=True, timeout=LONGEST_SECONDS)
        (line,), _, _ = listener.end()
    assert line.endswith(", 9 bytes: from node")
