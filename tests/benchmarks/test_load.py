"""Hold the load generators to what they promise: no wrong byte passes."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from benchmarks.build import MissingError, build_c
from benchmarks.load import Found, Load, LoadError, parse, run
from benchmarks.process import ROOT

ENOUGH_SECONDS = 20.0
UNTIL_CAUGHT = "--seconds=1"
"""For what ends a run by itself after a few good replies: most end it at once, on a slow machine too."""

Spoil = Callable[[bytes], bytes]


def c_load() -> list[str]:
    """Return the C generator's command, or skip by name."""
    try:
        return [str(build_c("load"))]
    except MissingError as error:
        pytest.skip(f"load.c: {error}")


@pytest.fixture(params=["c", "python"])
def generator(request: pytest.FixtureRequest) -> list[str]:
    """Return the command of each generator in turn."""
    return c_load() if request.param == "c" else [sys.executable, "-m", "benchmarks.slow_load"]


@contextlib.contextmanager
def stream_server(spoil: Spoil, *, most_bytes: int = 1 << 40) -> Iterator[int]:
    """Echo what `spoil` makes of one connection's reads; yield the port."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(ENOUGH_SECONDS)
                seen = 0
                while seen < most_bytes and (data := connection.recv(65536)):
                    seen += len(data)
                    connection.sendall(spoil(data))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(ENOUGH_SECONDS)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(ENOUGH_SECONDS)
    assert not thread.is_alive()


@contextlib.contextmanager
def datagram_server(answer: Callable[[int, bytes], list[bytes]]) -> Iterator[int]:
    """Send what `answer` makes of the n-th datagram; yield the port."""
    stopping = threading.Event()

    def serve() -> None:
        turn = 0
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError, ConnectionError):
                data, peer = sock.recvfrom(65536)
                for reply in answer(turn, data):
                    sock.sendto(reply, peer)
                turn += 1

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.05)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield sock.getsockname()[1]
        finally:
            stopping.set()
            thread.join(ENOUGH_SECONDS)


def run_generator(command: list[str], port: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a generator briefly, with one connection unless told otherwise."""
    options = [f"--port={port}", "--connections=1", "--seconds=0.2", "--warm-up=0.05", *words]
    return subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=ENOUGH_SECONDS, check=False
    )


def once(change: Spoil) -> Spoil:
    """Apply a change to the first read after a few good ones."""
    reads = iter(range(1 << 30))
    return lambda data: change(data) if next(reads) == 3 else data


def test_an_honest_server_passes_and_is_counted(generator: list[str]) -> None:
    """A server that echoes gives a result whose counts agree."""
    with stream_server(lambda data: data) as port:
        done = run_generator(generator, port, "--size=100", "--depth=3")
    assert done.returncode == 0, done.stderr
    found = parse(done.stdout)
    assert found.answered >= found.messages > 0
    assert found.bytes == found.messages * 100
    assert found.p50_us <= found.p99_us <= found.p999_us
    assert "warm" in done.stderr


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[:-1], id="the last byte dropped"),
        pytest.param(lambda data: data[1:], id="the first byte dropped"),
        pytest.param(lambda data: data[1:2] + data[:1] + data[2:], id="two bytes swapped"),
        pytest.param(lambda data: data[:7] + bytes([data[7] ^ 1]) + data[8:], id="one bit flipped"),
        pytest.param(lambda data: data + b"x", id="a byte added"),
        pytest.param(lambda data: data[len(data) // 2 :] + data[: len(data) // 2], id="halves reordered"),
    ],
)
@pytest.mark.parametrize("words", [(), ("--lines",)], ids=["raw", "lines"])
def test_a_server_that_spoils_a_byte_is_caught(
    generator: list[str], spoil: Spoil, words: tuple[str, ...]
) -> None:
    """A byte dropped, swapped, flipped or added once is status 1."""
    with stream_server(once(spoil)) as port:
        done = run_generator(generator, port, UNTIL_CAUGHT, *words)
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    assert "connection 0" in done.stderr or "never came back" in done.stderr


def test_messages_in_the_wrong_order_are_caught(generator: list[str]) -> None:
    """Two whole messages that change places end the run with status 1."""
    with stream_server(lambda data: data[64:128] + data[:64] + data[128:]) as port:
        done = run_generator(generator, port, "--depth=2")
    assert done.returncode == 1
    assert "byte 0 is" in done.stderr or "corrupt" in done.stderr


def test_an_answer_meant_for_another_connection_is_caught() -> None:
    """Two connections send different bytes, so crossed replies end the run."""
    command = c_load()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(ENOUGH_SECONDS)
        port = listener.getsockname()[1]
        words = [f"--port={port}", "--connections=2", "--seconds=0.2"]
        with subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True) as process:
            first, _ = listener.accept()
            second, _ = listener.accept()
            with first, second:
                from_first, from_second = first.recv(64), second.recv(64)
                first.sendall(from_second)
                second.sendall(from_first)
                _, complaint = process.communicate(timeout=ENOUGH_SECONDS)
    assert process.returncode == 1
    assert "instead of" in complaint


def test_a_connection_closed_early_is_caught(generator: list[str]) -> None:
    """A server that closes after some good replies ends the run with status 1."""
    with stream_server(lambda data: data, most_bytes=640) as port:
        done = run_generator(generator, port, UNTIL_CAUGHT)
    assert done.returncode == 1
    assert "connection 0" in done.stderr or "reset" in done.stderr.lower()


def test_nobody_listening_is_an_error_not_a_result(generator: list[str]) -> None:
    """A refused connection ends the run with status 1 and one line."""
    with socket.socket() as bound_only:
        bound_only.bind(("127.0.0.1", 0))
        done = run_generator(generator, bound_only.getsockname()[1])
    assert (done.returncode, done.stdout) == (1, "")
    assert "refused" in done.stderr


def test_lost_datagrams_are_counted_and_sent_anew(generator: list[str]) -> None:
    """A datagram server that drops one in eight passes, with its losses told."""
    with datagram_server(lambda turn, data: [] if turn % 8 == 7 else [data]) as port:
        # Long enough that a machine at work answers all the others in time.
        done = run_generator(generator, port, "--udp", "--depth=4", "--lost-after=0.5", "--seconds=1")
    assert done.returncode == 0, done.stderr
    found = parse(done.stdout)
    assert found.lost > 0
    assert found.messages > 0


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        pytest.param(lambda data: [data[:40] + b"\0" + data[41:] + b""], "corrupt", id="corrupt"),
        pytest.param(lambda data: [data[:-1]], "63 bytes", id="cut"),
        pytest.param(lambda data: [data, data], "twice", id="doubled"),
        pytest.param(lambda data: [b""], "empty", id="empty"),
    ],
)
def test_spoilt_datagrams_are_caught(spoil: Callable[[bytes], list[bytes]], complaint: str) -> None:
    """A datagram changed, cut, doubled or emptied ends the run with status 1."""
    command = c_load()
    with datagram_server(lambda turn, data: spoil(data) if turn == 3 else [data]) as port:
        done = run_generator(command, port, UNTIL_CAUGHT, "--udp", "--size=64")
    assert done.returncode == 1, done.stdout
    assert complaint in done.stderr


def test_a_silent_datagram_server_is_an_error() -> None:
    """When no datagram comes back there is no result."""
    command = c_load()
    with datagram_server(lambda _turn, _data: []) as port:
        done = run_generator(command, port, "--udp", "--lost-after=0.05")
    assert done.returncode == 1
    assert "no datagram came back" in done.stderr


def test_the_callback_comes_once_when_warm_up_is_over() -> None:
    """`run` reports the start of the measured window once and returns counts."""
    calls: list[str] = []
    with stream_server(lambda data: data) as port:
        found = run(
            Load(connections=1, seconds=0.1, warm_up_seconds=0.05), port, lambda: calls.append("warm")
        )
    assert calls == ["warm"]
    assert found.connects == 1


def test_run_raises_what_the_generator_objects_to() -> None:
    """A spoilt byte comes out of `run` as a LoadError with the reason."""
    load = Load(connections=1, seconds=0.2, warm_up_seconds=0.0)
    with (
        stream_server(lambda data: data[::-1]) as port,
        pytest.raises(LoadError, match=r"instead of|corrupt"),
    ):
        run(load, port, lambda: None)


GOOD = '{"seconds": 1.0, "messages": 5, "bytes": 10, "p50_us": 1.0, "p99_us": 2.0, "p999_us": 3.0'


def test_a_result_is_read_from_the_last_line_of_json() -> None:
    """Words of wrk around the result are passed over."""
    found = parse("Running 1s test\n  Thread Stats\n" + GOOD + ', "failures": 0}\n')
    assert found == Found(seconds=1.0, messages=5, bytes=10, p50_us=1.0, p99_us=2.0, p999_us=3.0)


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ("", "printed no result"),
        ("Requests/sec: 12\n", "printed no result"),
        ("{}", "not as expected"),
        ('{"seconds": "soon"}', "not as expected"),
        (GOOD, "not as expected"),
        (GOOD + ', "failures": 3}', "3 failed requests"),
        (GOOD.replace("5,", "0,") + "}", "no message was answered"),
    ],
)
def test_a_bad_result_is_refused(output: str, complaint: str) -> None:
    """What is not a whole result of a clean run raises, never counts as zero."""
    with pytest.raises(LoadError, match=complaint):
        parse(output)
