"""`oread call`, `oread handlers` and the rest of the command line, run."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def urls(serve: Callable[..., Any], tmp_path: Path) -> dict[str, str]:
    """Serve the stock handlers; return the URLs by what they are."""
    wanted = {
        "tcp": "tcp://127.0.0.1:0/echo",
        "length": "tcp://127.0.0.1:0/echo?framing=length",
        "chargen": "tcp://127.0.0.1:0/chargen",
        "discard": "udp://127.0.0.1:0/discard",
        "unix": f"unix://{tmp_path}/oread.sock?event=echo",
        "udp": "udp://127.0.0.1:0/echo",
        "group": "udp://239.255.70.7:0/echo?interface=lo&reply=unicast",
        "broadcast": "udp://127.255.255.255:0/echo?reply=unicast",
        "http": "http://127.0.0.1:0",
    }
    daemon = serve(*wanted.values(), endpoints=len(wanted))
    return dict(zip(wanted, daemon.urls, strict=True))


@contextmanager
def serving_one(peer: Callable[[socket.socket], object]) -> Iterator[int]:
    """Serve one connection in a thread; give the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)

        def accept() -> None:
            accepted, _ = listening.accept()
            accepted.settimeout(60)
            with accepted:
                peer(accepted)

        thread = threading.Thread(target=accept)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(60)


@pytest.fixture
def resetting_port() -> Iterator[int]:
    """Serve one peer that resets what connects."""

    def reset(accepted: socket.socket) -> None:
        accepted.recv(1)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with serving_one(reset) as port:
        yield port


@pytest.fixture
def lingering_port() -> Iterator[int]:
    """Serve one peer that answers and does not end its side."""
    released = threading.Event()

    def linger(accepted: socket.socket) -> None:
        accepted.sendall(b"hello")
        released.wait(60)

    with serving_one(linger) as port:
        yield port
        released.set()


@pytest.mark.parametrize("kind", ["tcp", "length", "unix", "udp", "group", "broadcast"])
def test_the_reply_is_printed_byte_for_byte(run: Callable[..., Any], urls: dict[str, str], kind: str) -> None:
    """Nothing is added to the data, whatever it is and wherever it comes from."""
    data = b"\x00\xff\r\nhello"
    by_argument = run("call", urls[kind], "hello")
    assert (by_argument.returncode, by_argument.stdout, by_argument.stderr) == (0, b"hello", b"")
    by_input = run("call", urls[kind], data=data)
    assert (by_input.returncode, by_input.stdout) == (0, data)


def test_a_dash_is_standard_input_and_a_terminal_is_none(
    run: Callable[..., Any], urls: dict[str, str]
) -> None:
    """`-` reads the input; without DATA a terminal is not waited for."""
    assert run("call", urls["tcp"], "-", data=b"typed").stdout == b"typed"
    leader, terminal = pty.openpty()
    result = subprocess.run(
        [sys.executable, "-m", "oread", "call", f"{urls['http']}/inspect"],
        stdin=terminal,
        capture_output=True,
        timeout=60,
        check=False,
    )
    os.close(leader)
    os.close(terminal)
    assert json.loads(result.stdout)["method"] == "GET"


def test_a_websocket_is_asked_for_one_message(run: Callable[..., Any], urls: dict[str, str]) -> None:
    """The first that comes back is printed; a close code is one line and status 1."""
    url = urls["http"].replace("http:", "ws:")
    assert run("call", f"{url}/echo", "hello").stdout == b"hello"
    result = run("call", f"{url}/nothing", "hello")
    assert result.returncode == 1
    assert b"404" in result.stderr
    result = run("call", f"{url}/discard", "hello", "--wait", "0.2")
    assert b"no answer within 0.2 s" in result.stderr
    assert run("call", f"{url}/echo", "hello", "--method", "PUT").returncode == 2


def test_http_posts_data_and_gets_without(run: Callable[..., Any], urls: dict[str, str]) -> None:
    """The method follows the data unless it is said."""
    seen = [
        json.loads(run("call", f"{urls['http']}/inspect?a=b", *more).stdout)
        for more in ((), ("hello",), ("hello", "--method", "PUT"))
    ]
    assert [each["method"] for each in seen] == ["GET", "POST", "PUT"]
    assert [each["data"] for each in seen] == ["", "hello", "hello"]
    assert {each["target"] for each in seen} == {"/inspect?a=b"}


def test_an_http_failure_prints_its_body_and_is_1(run: Callable[..., Any], urls: dict[str, str]) -> None:
    """The body goes to stdout, the status in one line to stderr."""
    url = f"{urls['http']}/nothing"
    result = run("call", url, "hello")
    assert result.returncode == 1
    assert b"nothing is served at /nothing" in result.stdout
    assert result.stderr.decode() == f"oread: {url}: 404 Not Found; its body is above\n"


def test_verbose_says_who_answered(run: Callable[..., Any], urls: dict[str, str]) -> None:
    """By UDP each answer has its sender, by HTTP the head is on stderr."""
    port = urls["udp"].partition("/echo")[0].rpartition(":")[2]
    assert run("call", "-v", urls["udp"], "hello").stdout == f"127.0.0.1:{port}: hello\n".encode()
    result = run("call", "-v", f"{urls['http']}/echo", "hello")
    assert result.stdout == b"hello"
    assert result.stderr.startswith(b"200 OK\n")
    assert b"content-length: 5\n" in result.stderr


def test_every_responder_is_printed(
    run: Callable[..., Any], serve: Callable[..., Any], urls: dict[str, str]
) -> None:
    """Several answers of one group stand one a line."""
    first = serve("udp://239.255.70.8:0/echo?interface=lo&reply=unicast&shared=true")
    second = serve(first.urls[0])
    assert second.urls == first.urls
    result = run("call", first.urls[0], "hello", "--wait", "2")
    # which address of this machine answers on lo is the kernel's choice
    assert re.fullmatch(rf"([\d.]+:{first.port()}: hello\n){{2}}", result.stdout.decode())


def test_a_peer_that_does_not_end_is_left_by_wait(run: Callable[..., Any], lingering_port: int) -> None:
    """What came until then is printed, and that is fine."""
    result = run("call", f"tcp://127.0.0.1:{lingering_port}", "x", "--wait", "2")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"hello", b"")


def test_a_peer_that_sends_without_end_is_1(run: Callable[..., Any], urls: dict[str, str]) -> None:
    """A call takes 64 MiB and no more, however long it may wait."""
    result = run("call", urls["chargen"], "", "--wait", "60")
    assert result.returncode == 1
    assert result.stdout.startswith(b" !\"#$%&'()*+,-./0123456789")
    assert result.stderr.endswith(b"more than 67108864 bytes came back; one call takes no more\n")


def test_a_reader_that_goes_ends_the_call_quietly(urls: dict[str, str]) -> None:
    """`oread call ... | head -1` says nothing but the line."""
    line = f"{sys.executable} -m oread call '{urls['chargen']}' '' | head -1"
    result = subprocess.run(["/bin/sh", "-c", line], capture_output=True, timeout=60, check=False)
    assert (len(result.stdout), result.stderr) == (74, b"")


def test_ctrl_c_ends_the_call_quietly(urls: dict[str, str]) -> None:
    """A call that is interrupted says nothing and is ended by the signal."""
    command = [sys.executable, "-m", "oread", "call", urls["chargen"], ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert len(process.stdout.read(74)) == 74
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=60)
    assert (process.returncode, log) == (-signal.SIGINT, b"")


def test_no_answer_is_1(run: Callable[..., Any], urls: dict[str, str]) -> None:
    """A datagram that nobody answers is said in one line."""
    result = run("call", urls["discard"], "hello", "--wait", "0.2")
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.decode() == (
        f"oread: {urls['discard']}: no answer within 0.2 s; give it longer with --wait\n"
    )


def test_a_silent_stream_is_1(run: Callable[..., Any]) -> None:
    """A peer that accepts and says nothing fails by --wait, by HTTP too."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for scheme in ("tcp", "http"):
            result = run("call", f"{scheme}://127.0.0.1:{silent.getsockname()[1]}", "x", "--wait", "0.2")
            assert result.returncode == 1
            assert b"no answer within 0.2 s" in result.stderr


@pytest.mark.parametrize("scheme", ["tcp", "udp", "http"])
def test_a_refused_call_is_1(run: Callable[..., Any], scheme: str) -> None:
    """Nobody listens there: one line that says so."""
    kind = socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{bound.getsockname()[1]}"
        if scheme == "udp":
            bound.close()
        result = run("call", url, "hello")
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.decode() == (
        f"oread: {url}: Connection refused; nothing listens there: start it, or check the port\n"
    )


def test_a_reset_call_is_1(run: Callable[..., Any], resetting_port: int) -> None:
    """A peer that breaks off is no traceback."""
    result = run("call", f"tcp://127.0.0.1:{resetting_port}", "hello")
    assert result.returncode == 1
    assert result.stderr.decode() == (
        f"oread: tcp://127.0.0.1:{resetting_port}: the peer broke off; ask its log why\n"
    )


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["gopher://x:1"], 2, "scheme must be one of tcp, unix, http, tls, https, udp, ws, wss"),
        (["tcp://127.0.0.1"], 2, "a port is needed"),
        (["tcp://127.0.0.1:1", "x", "--wait", "never"], 2, "seconds from 0 to 86400"),
        (["tcp://127.0.0.1:1", "x", "--method", "PUT"], 2, "--method is for http only"),
        (["http://127.0.0.1:1/", "x", "--method", "a b"], 2, "method='a b' is not a token"),
        (["http://127.0.0.1:1/ü", "x"], 2, "is not a path with ASCII characters only"),
        (["udp://127.0.0.1:1?interface=lo", "x"], 2, "interface does not fit a call to a unicast"),
        (["udp://239.255.70.7:1?interface=nowhere0", "x"], 2, "no interface nowhere0"),
        (["udp://127.0.0.1:9", "x" * 65_508], 2, "a datagram holds at most 65,507 bytes"),
        (["unix:///nowhere/at/all", "x"], 1, "nothing listens at this path"),
        (["tcp://nowhere.invalid:1", "x"], 1, "check the host name"),
        ([], 2, "Missing argument 'URL'"),
    ],
)
def test_what_a_caller_can_mend_is_one_line(
    run: Callable[..., Any], arguments: list[str], status: int, expected: str
) -> None:
    """One line on stderr, nothing on stdout, 2 for usage and 1 for the peer."""
    result = run("call", *arguments)
    assert (result.returncode, result.stdout) == (status, b"")
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("oread: ")
    assert expected in lines[0]


def test_handlers_are_listed(run: Callable[..., Any], tmp_path: Path) -> None:
    """The demo set as a table, an app as JSON, each in order."""
    table = run("handlers").stdout.decode().splitlines()
    assert table[0].split() == ["event", "kind", "payload", "methods", "handler"]
    assert table[1].split() == ["echo", "sync", "bytes", "any", "oread.handlers.echo"]
    (tmp_path / "shop.py").write_text(
        "import oread\nregistry = oread.Registry()\n"
        "@registry.on('orders/{order_id}', methods=('GET',))\nasync def order(order_id: int): ...\n"
    )
    assert json.loads(run("handlers", "--app", "shop", "--json").stdout) == [
        {
            "event": "orders/{order_id}",
            "handler": "shop.order",
            "kind": "async",
            "payload": None,
            "methods": ["GET"],
            "exposed": True,
            "once": False,
            "schema": {
                "payload": None,
                "reply": {
                    "$schema": "https://json-schema.org/draft/2020-12/schema",
                    "type": "string",
                    "contentMediaType": "*/*",
                },
                "captures": {
                    "order_id": {
                        "$schema": "https://json-schema.org/draft/2020-12/schema",
                        "type": "integer",
                    }
                },
            },
        }
    ]
    assert json.loads(run("handlers", "--json").stdout)[0]["event"] == "echo"


def test_version_and_help_are_0(run: Callable[..., Any]) -> None:
    """The version is the installed one, and help names every command."""
    assert run("--version").stdout.decode() == f"oread {version('oread')}\n"
    text = run("--help").stdout.decode()
    assert all(f"\n  {command} " in text for command in ("serve", "call", "handlers"))
    assert all(run(command, "--help").returncode == 0 for command in ("serve", "call", "handlers"))
