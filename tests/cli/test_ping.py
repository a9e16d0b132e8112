"""`oread ping`, run as it is typed: against echoes, silence, loss, socat and a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

COMMAND = (sys.executable, "-P", "-m", "oread")
LONGEST_SECONDS = 60
pytestmark = pytest.mark.skipif(
    not Path("/sys/class/net/lo").exists(), reason="the loopback interface is not called lo here"
)
Run = Callable[..., subprocess.CompletedProcess[bytes]]
NO_DELAY = "delay_low_seconds=0&delay_high_seconds=0"
QUICK = ("--interval", "20ms", "--wait", "200ms")


@pytest.fixture
def urls(serve: Callable[..., Any]) -> dict[str, str]:
    """Serve echoes of every mode."""
    wanted = {
        "unicast": "udp://127.0.0.1:0/echo",
        "multicast": f"udp://239.255.70.7:0/echo?interface=lo&reply=unicast&{NO_DELAY}",
        "broadcast": f"udp://127.255.255.255:0/echo?reply=unicast&{NO_DELAY}",
        "silent": "udp://127.0.0.1:0/discard",
    }
    daemon = serve(*wanted.values(), endpoints=len(wanted))
    return dict(zip(wanted, daemon.urls, strict=True))


@contextmanager
def answering(answer: Callable[[int, bytes], list[bytes]]) -> Iterator[str]:
    """Answer probes in a thread as a test wants; give the URL."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(LONGEST_SECONDS)

        def serve() -> None:
            number = 0
            while True:
                data, peer = sock.recvfrom(65_535)
                if data == b"end":
                    return
                number += 1
                for reply in answer(number, data):
                    sock.sendto(reply, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"udp://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
                ending.sendto(b"end", sock.getsockname())
            thread.join(LONGEST_SECONDS)


@pytest.mark.parametrize("mode", ["unicast", "multicast", "broadcast"])
def test_a_line_for_each_answer_and_a_summary(run: Run, urls: dict[str, str], mode: str) -> None:
    """In a pipe it prints omping's lines; nothing lost is status 0."""
    done = run("ping", urls[mode], "--count", "3", *QUICK)
    assert (done.stderr, done.returncode) == (b"", 0)
    lines = done.stdout.decode().splitlines()
    port = re.findall(r":(\d+)/", urls[mode])[0]
    head = re.escape(f"127.0.0.1:{port} : {mode}, ")
    answer = re.compile(head + r"seq=\d, size=64 bytes, dist=0, time=\d+\.\d{3}ms$")
    assert len([line for line in lines if answer.match(line)]) == 3
    assert re.match(
        head + r"xmt/rcv/%loss = 3/3/0%, min/avg/max/std-dev = (\d+\.\d{3}/){3}\d+\.\d{3}$", lines[-2]
    )
    assert re.match(
        head + r"jitter/p50/p90/p99 = (\d+\.\d{3}/){3}\d+\.\d{3}, reordered = 0, hops = 0$", lines[-1]
    )


def test_the_demo_set_answers(demo_ports: None, run: Run, serve: Callable[..., Any]) -> None:
    """The group of `oread serve` alone, with its random delay, answers as the README says."""
    serve(endpoints=5)
    done = run("ping", "udp://239.255.70.7:7008/echo?interface=lo", "--count", "2", "--interval", "50ms")
    assert done.returncode == 0, done.stderr
    assert b"127.0.0.1:7008 : multicast, xmt/rcv/%loss = 2/2/0%" in done.stdout


def test_json_has_every_figure(run: Run, urls: dict[str, str]) -> None:
    """One object, with times in milliseconds, for programs."""
    done = run("ping", urls["multicast"], "--count", "4", *QUICK, "--json", "--size", "100", "--hops", "3")
    found = json.loads(done.stdout)
    assert (found["sent"]["multicast"], found["refused"], done.returncode) == (4, {}, 0)
    (row,) = found["responders"]
    counts = ("kind", "sent", "received", "lost", "loss_percent", "duplicates", "reordered", "hops")
    assert [row[name] for name in counts] == ["multicast", 4, 4, 0, 0.0, 0, 0, 0]
    assert set(row["rtt_ms"]) == {
        *("last", "min", "avg", "max", "stddev", "jitter", "p50", "p90", "p99"),
    }
    assert 0 <= row["rtt_ms"]["min"] <= row["rtt_ms"]["p50"] <= row["rtt_ms"]["max"]


def test_loss_repetition_and_order_are_told(run: Run) -> None:
    """A responder that loses, doubles and turns round is seen through; the threshold decides."""
    held: list[bytes] = []

    def answer(number: int, data: bytes) -> list[bytes]:
        if number == 1:
            return []
        if number == 2:
            return [data, data]
        if number == 3:
            held.append(data)
            return []
        return [data, *[held.pop()]] if held else [data]

    with answering(answer) as url:
        done = run("ping", url, "--count", "5", *QUICK, "--loss", "19")
    text = done.stdout.decode()
    assert "xmt/rcv/%loss = 5/4+1/20% (seq>=2 0%)" in text
    assert "reordered = 1" in text
    assert text.count("(duplicate)") == text.count("(reordered)") == 1
    assert done.returncode == 1
    assert b"lost 20 % of 5 unicast probes; --loss allows 19 %" in done.stderr
    with answering(lambda number, data: [data] if number > 1 else []) as url:
        assert run("ping", url, "--count", "5", *QUICK, "--loss", "20").returncode == 0


def test_nobody_there_is_status_1(run: Run, urls: dict[str, str]) -> None:
    """Silence is one line, and so are answers that are none."""
    done = run("ping", urls["silent"], "--count", "2", *QUICK)
    assert (done.stdout, done.returncode) == (b"", 1)
    assert done.stderr.count(b"\n") == 1
    assert b"nobody answered 2 probes; it has to be an echo" in done.stderr
    with answering(lambda _number, data: [b"no", data[::-1]]) as url:
        done = run("ping", url, "--count", "2", *QUICK)
    assert (done.stdout.strip(), done.returncode) == (b"not counted: foreign 4", 1)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("tcp://127.0.0.1:1",), b"ping is for udp only, not for tcp"),
        (("udp://127.0.0.1:1", "--interval", "1ms"), b"--interval is 10ms or more"),
        (("udp://127.0.0.1:1", "--for", "soon"), b"is not a time such as"),
        (("udp://127.0.0.1:1", "--loss", "101"), b"'--loss'"),
        (("udp://127.0.0.1:1", "--size", "10"), b"'--size'"),
        (("udp://239.255.70.7:1?interface=nowhere0", "--count", "1"), b"no interface nowhere0"),
        (("udp://127.0.0.1",), b"a port is needed"),
    ],
)
def test_what_can_be_mended_is_one_line(run: Run, arguments: tuple[str, ...], fault: bytes) -> None:
    """Status 2, no traceback, and it names the fault."""
    done = run("ping", *arguments)
    assert (done.stdout, done.returncode) == (b"", 2)
    assert done.stderr.count(b"\n") == 1
    assert fault in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_summary(urls: dict[str, str], number: signal.Signals) -> None:
    """Ctrl-C is how it ends: what was found is printed, and the status is that of what was found."""
    with subprocess.Popen(
        [*COMMAND, "ping", urls["unicast"], "--interval", "20ms"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = threading.Timer(LONGEST_SECONDS, process.kill)
        watchdog.start()
        assert process.stdout is not None
        assert "seq=1" in process.stdout.readline()
        process.send_signal(number)
        output, errors = process.communicate()
        watchdog.cancel()
    assert "xmt/rcv/%loss = " in output
    assert (errors, process.returncode) == ("", 0)


def test_it_ends_by_time(run: Run, urls: dict[str, str]) -> None:
    """With --for it needs no signal."""
    done = run("ping", urls["unicast"], "--for", "200ms", "--interval", "20ms", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["responders"][0]["received"] >= 1


def test_a_terminal_shows_a_table(urls: dict[str, str]) -> None:
    """On a terminal there is a live table instead of lines, and the summary below it."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "ping", urls["unicast"], "--count", "3", "--interval", "20ms"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
    ) as process:
        os.close(theirs)
        watchdog = threading.Timer(LONGEST_SECONDS, process.kill)
        watchdog.start()
        shown = b""
        try:
            while chunk := os.read(ours, 65_536):
                shown += chunk
        except OSError:
            pass  # EIO: the other side has closed
        finally:
            os.close(ours)
        process.wait()
        watchdog.cancel()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert b"responder" in shown
    assert b"seq=1," not in shown
    assert b"xmt/rcv/%loss = 3/3/0%" in shown


NODE_ECHO = """
const socket = require("dgram").createSocket({type: "udp4", reuseAddr: false});
socket.on("message", (data, peer) => socket.send(data, peer.port, peer.address));
socket.bind(0, "239.255.70.9", () => {
  socket.addMembership("239.255.70.9", "127.0.0.1");
  console.log(socket.address().port);
});
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_a_program_of_nodes_is_a_responder(run: Run) -> None:
    """A group's member that is none of ours answers, from its own unicast address."""
    with subprocess.Popen(["node", "-e", NODE_ECHO], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            url = f"udp://239.255.70.9:{port}?interface=lo"
            done = run("ping", url, "--count", "3", "--interval", "50ms", "--loss", "0")
        finally:
            process.terminate()
    assert done.returncode == 0, done
    assert f"127.0.0.1:{port} : multicast, xmt/rcv/%loss = 3/3/0%" in done.stdout.decode()


@pytest.mark.skipif(shutil.which("socat") is None, reason="socat is not installed")
def test_socat_is_a_responder(run: Run) -> None:
    """Whatever echoes answers a ping: here socat, which knows nothing of it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with subprocess.Popen(
        ["socat", "-d", "-d", f"UDP4-RECVFROM:{port},bind=127.0.0.1,fork", "EXEC:cat"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            while "receiving on" not in process.stderr.readline():
                pass
            # Each probe is a process there: more time than an echo needs.
            done = run(
                "ping", f"udp://127.0.0.1:{port}", "--count", "2", "--interval", "100ms", "--wait", "5s"
            )
        finally:
            process.terminate()
    assert b"xmt/rcv/%loss = 2/2/0%" in done.stdout, done
