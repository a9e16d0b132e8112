"""Slow peers of every kind at once, each ended at its own deadline while others are served."""

from __future__ import annotations

import fcntl
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import oread

LIMITS = (
    "http://:0?first_byte_seconds=3&head_seconds=6&body_seconds=9&body_rate_bytes=0"
    "&stall_seconds=12&keep_alive_seconds=15"
)
DRIP_SECONDS = 1.0
SIOCOUTQNSD = 0x894B
"""Bytes that were not sent yet (linux/sockios.h)."""


async def test_each_slow_peer_ends_at_its_deadline_while_others_are_served(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """Silent, slow head, slow body (whole and by parts), slow reader, idle: and a busy one beside them."""

    @registry.on("large")
    def large() -> bytes:
        return b"x" * 1_000_000

    @registry.on("parts")
    async def parts(body: AsyncIterator[bytes]) -> str:
        return str([len(part) async for part in body])

    post = b"POST /%b HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx"
    openings = {
        "silent": b"",
        "head": b"GET /bytes HTTP/1.1\r\n",
        "body": post % b"bytes",
        "parts": post % b"parts",
        "reader": b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n",
        "idle": b"GET /bytes HTTP/1.1\r\nHost: a\r\n\r\n",
    }
    ended: dict[str, float] = {}
    answers: dict[str, bytes] = {}
    served = 0

    async with serve_memory(LIMITS) as memory, trio.open_nursery() as nursery:

        async def be_slow(kind: str) -> None:
            client = memory.client()
            begun = trio.current_time()
            await client.send_all(openings[kind])
            if kind == "reader":
                await trio.sleep(14)
                ended[kind] = 14 if memory.refused.get("stalled") else 0
                return
            answers[kind] = await client.receive_all()
            ended[kind] = trio.current_time() - begun

        async def be_busy() -> None:
            nonlocal served
            client = memory.client()
            while len(ended) < len(openings):
                await client.send_all(openings["idle"])
                assert (await client.receive_some()).startswith(b"HTTP/1.1 200 OK")
                served += 1
                await trio.sleep(DRIP_SECONDS)
            nursery.cancel_scope.cancel()

        for kind in openings:
            nursery.start_soon(be_slow, kind)
        nursery.start_soon(be_busy)
    limits = {"silent": 3, "head": 6, "body": 9, "parts": 9, "reader": 12, "idle": 15}
    assert {kind: limits[kind] <= at <= limits[kind] + 2.5 for kind, at in ended.items()} == dict.fromkeys(
        openings, True
    )
    assert answers["silent"] == b""
    assert [answers[kind][9:12] for kind in ("head", "body", "parts", "idle")] == [
        b"408",
        b"408",
        b"408",
        b"200",
    ]
    assert served >= 15


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux what it holds")
async def test_replies_to_slow_readers_do_not_fill_the_kernel(
    registry: oread.Registry, serve_one: Any
) -> None:
    """It takes little more than what its peer takes; the rest waits for its turn."""
    registry.on("large", lambda: b"x" * 4_000_000)
    async with serve_one("http://127.0.0.1:0") as service:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.connect(("127.0.0.1", service.endpoints[0].port))
            client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
            connections = service._listeners[0].connections
            while not any(each.pending for each in connections):
                await trio.lowlevel.checkpoint()
            [connection] = connections
            unsent = int.from_bytes(fcntl.ioctl(connection.fd, SIOCOUTQNSD, bytes(4)), sys.byteorder)
            assert 0 < unsent < 300_000


MODES = {
    "slow heads": ("-H", "-i", "2"),
    "slow bodies": ("-B", "-i", "2", "-s", "8192"),
    "slow readers": ("-X", "-w", "10", "-y", "20", "-n", "1", "-z", "32"),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_slowhttptest_does_not_keep_others_out(mode: str, tmp_path: Any) -> None:
    """300 slow connections of its making; a request beside them is answered every time."""
    tool = shutil.which("slowhttptest")
    if tool is None:
        pytest.skip("slowhttptest is not installed")
    serving = subprocess.Popen(
        [sys.executable, "-m", "oread", "serve", "http://127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert serving.stdout is not None
        url = serving.stdout.readline().strip()
        port = int(url.rpartition(":")[2])
        attack = subprocess.Popen(
            [tool, "-c", "300", "-r", "300", "-l", "5", "-u", f"{url}/inspect", *MODES[mode]],
            stdout=subprocess.DEVNULL,
            cwd=tmp_path,
        )
        answered = 0
        while attack.poll() is None:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
                answered += 1
        assert answered > 10
    finally:
        serving.kill()
        serving.communicate()
