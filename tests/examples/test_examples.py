"""The programs of `examples/` do what they say, and end with nothing left."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
import trio
from markdown_examples import ROOT

import oread

Load = Callable[[str], ModuleType]
FILES = sorted((ROOT / "examples").rglob("*.py"))
MOST_LINES = 120
MOST_SECONDS = 30


class Person:
    """Somebody in the chat room, by a plain socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._kept = b""

    async def write(self, line: str) -> None:
        await self.stream.send_all(line.encode() + b"\n")

    async def read(self) -> str:
        while b"\n" not in self._kept:
            chunk = await self.stream.receive_some()
            assert chunk, "the room has closed the connection"
            self._kept += chunk
        line, _, self._kept = self._kept.partition(b"\n")
        return line.decode()


async def enter(room: oread.Endpoint, name: str) -> Person:
    """Connect, say who one is, and wait until the room has heard it."""
    person = Person(await trio.open_tcp_stream(room.host, room.port))
    assert await person.read() == "your name?"
    await person.write(name)
    assert await person.read() == f"* {name} is here"
    return person


async def test_the_chat_room_tells_everybody(load: Load) -> None:
    """What one writes all read, and who comes and goes is told."""
    chat = load("chat")
    with trio.fail_after(MOST_SECONDS):
        async with trio.open_nursery() as nursery:
            room, _ = await nursery.start(partial(chat.main, 0, 0))
            ann = await enter(room, "Ann")
            bob = await enter(room, "Bob")
            assert await ann.read() == "* Bob is here"
            await bob.write("hello")
            assert [await ann.read(), await bob.read()] == ["Bob: hello"] * 2
            await bob.stream.send_eof()
            assert await bob.stream.receive_some() == b""
            assert await ann.read() == "* Bob has left"
            await bob.stream.aclose()
            await ann.stream.aclose()
            nursery.cancel_scope.cancel()


async def test_the_chat_room_is_found_by_asking_the_group(load: Load) -> None:
    """Who asks the multicast group is told the room's port."""
    chat = load("chat")
    with trio.fail_after(MOST_SECONDS):
        async with trio.open_nursery() as nursery:
            room, finder = await nursery.start(partial(chat.main, 0, 0))
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
                await asking.sendto(b"room", (finder.host, finder.port))
                answer, _ = await asking.recvfrom(100)
            assert answer.decode() == f"127.0.0.1 {room.port}\n"
            nursery.cancel_scope.cancel()


async def test_the_gateway_passes_readings_on(load: Load) -> None:
    """A datagram shows among the latest readings and on the live stream."""
    gateway = load("gateway")
    with trio.fail_after(MOST_SECONDS):
        async with trio.open_nursery() as nursery:
            service = await nursery.start(partial(gateway.main, 0, 0))
            devices, http = service.endpoints
            watcher = await trio.open_tcp_stream("127.0.0.1", http.port)
            await watcher.send_all(b"GET /live HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
            while not service.registry.count("reading") > 1:  # until the live stream has subscribed
                await trio.lowlevel.checkpoint()
            reading = {"device": "roof", "celsius": 21.5}
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
                await device.connect(("127.0.0.1", devices.port))
                await device.send(json.dumps(reading).encode())
                assert await device.recv(100) == b"ok\n"
            async with oread.connect(str(http), method="GET") as client:
                latest = await client.call("readings", reply=list)
            assert latest == [reading]
            seen = b""
            while b"\n\n" not in seen:
                seen += await watcher.receive_some()
            assert b"event: reading\ndata: " + json.dumps(reading).encode() + b"\n\n" in seen
            await watcher.aclose()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "reading", ['{"device": "", "celsius": 1}', '{"device": "roof", "celsius": 1e9}', "[]"]
)
async def test_the_gateway_drops_what_is_no_reading(load: Load, reading: str) -> None:
    """A datagram outside the bounds is counted and not answered."""
    registry = load("gateway").make_registry()
    with pytest.raises(oread.BadRequest):
        await registry.emit("reading", reading.encode())
    assert await registry.emit("readings") == [[]]


async def test_the_embedded_service_hands_its_work_to_the_program(load: Load) -> None:
    """What was handed in before the stop is counted, and all tasks end."""
    program = load("embedded").Program()
    with trio.fail_after(MOST_SECONDS):
        async with trio.open_nursery() as nursery:
            endpoint = await nursery.start(program.run, 0)
            async with oread.connect(str(endpoint)) as client:
                await client.call("count", "to be or not to be")
                await client.call("stop")
    assert program.words["be"] == 2


async def test_the_embedded_service_tries_a_taken_port_again(load: Load, autojump_clock: object) -> None:
    """A port in use is tried again, and its error raised at last."""
    program = load("embedded").Program()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ExceptionGroup) as caught:
        await program.run(taken.getsockname()[1])
    assert caught.group_contains(OSError, match="in use")
    assert trio.current_time() >= 1 + 2 + 4


async def ask_lines(port: int, *lines: str) -> list[object]:
    """Send lines on one connection; return what came back, decoded."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        answers: list[object] = []
        person = Person(stream)
        for line in lines:
            await person.write(line)
            answers.append(json.loads(await person.read()))
        return answers


async def test_the_migrated_program_answers(load: Load) -> None:
    """After: orders are priced, remembered and checked."""
    after = load("migration/after")
    with trio.fail_after(MOST_SECONDS):
        async with trio.open_nursery() as nursery:
            service = await nursery.start(partial(after.main, 0, 0))
            answers = await ask_lines(
                service.endpoints[0].port,
                '{"jsonrpc": "2.0", "method": "order", "params": {"item": "tea", "count": 2}, "id": 1}',
                '{"jsonrpc": "2.0", "method": "order", "params": {"item": "tea"}, "id": 2}',
                '{"jsonrpc": "2.0", "method": "seen", "id": 3}',
            )
            nursery.cancel_scope.cancel()
    assert answers[0] == {"jsonrpc": "2.0", "result": {"item": "tea", "cents": 500}, "id": 1}
    assert answers[1]["error"]["code"] == -32602
    assert answers[2] == {"jsonrpc": "2.0", "result": ["tea"], "id": 3}


async def test_the_program_before_the_migration_answers() -> None:
    """Before: the same orders, by pyee and asyncio, in a process of its own."""
    pytest.importorskip("pyee")
    code = (
        "import asyncio, sys; sys.path.insert(0, sys.argv[1]); import before\n"
        "asyncio.run(before.main(0, lambda port: print(port, flush=True)))"
    )
    command = [sys.executable, "-c", code, str(ROOT / "examples" / "migration")]
    with trio.fail_after(MOST_SECONDS):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(partial(trio.run_process, command, stdout=-1, capture_stdout=False))
            port = int(await process.stdout.receive_some())
            answers = await ask_lines(
                port,
                '{"event": "order", "data": {"item": "tea", "count": 2}}',
                '{"event": "order", "data": {"item": "tea"}}',
                '{"event": "seen", "data": null}',
                '{"event": "nothing", "data": null}',
            )
            nursery.cancel_scope.cancel()
    assert answers == [
        {"item": "tea", "cents": 500},
        {"error": "an order has an item and a count"},
        ["tea", "tea"],
        {"error": "no such event"},
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_example_is_short(path: Path) -> None:
    """An example is read in one go."""
    assert len(path.read_text().splitlines()) <= MOST_LINES


async def test_the_page_is_served_beside_its_handlers(load: Load) -> None:
    """The application's page, the count by HTTP, the live data by WebSocket; its lifespan around."""
    asgi = load("asgi")
    site = asgi.Site()
    with trio.fail_after(MOST_SECONDS):
        async with oread.open_service(asgi.make_registry(site), "http://127.0.0.1:0") as service:
            assert site.open
            base = f"http://127.0.0.1:{service.endpoints[0].port}"
            async with httpx2.AsyncClient(base_url=base) as client:
                assert "new WebSocket" in (await client.get("/")).text
                assert (await client.get("/visits")).json() == 1
                assert (await client.get("/nothing")).status_code == 404
            async with oread.connect(base.replace("http:", "ws:")) as caller:
                heard = await caller.call("live", "hello", reply=dict[str, Any])
                assert heard == {"visits": 1, "said": "hello"}
        assert not site.open
