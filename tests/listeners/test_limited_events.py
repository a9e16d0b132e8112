"""What `limit=` and `shield=` mean on sockets; a place is given back in every way out."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import oread
from oread.dispatch import Gate

GET = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"


class Slow:
    """A handler of `slow` that ends when it is told, limited to some at a time."""

    def __init__(self, registry: oread.Registry, *, limit: int | None = 1, shield: bool = False) -> None:
        self.registry = registry
        self.running = 0
        self.most = 0
        self.ended: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.go = trio.Event()
        registry.on("slow", self.handle, limit=limit, shield=shield)

    async def handle(self, data: bytes) -> bytes:
        """Wait for `go`."""
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
        except trio.Cancelled:
            self.cancelled.append(data)
            raise
        finally:
            self.running -= 1
        self.ended.append(data)
        return data

    @property
    def gate(self) -> Gate:
        """The gate of the event."""
        found = self.registry.find("slow")
        assert found is not None
        assert found[0].gate is not None
        return found[0].gate

    def assert_free(self) -> None:
        """Nothing is taken, nobody waits."""
        assert (self.gate.running, self.gate.waiting) == (0, 0)


@pytest.fixture
def slow(registry: oread.Registry) -> Slow:
    return Slow(registry)


# streams


@pytest.mark.parametrize("framing", ["raw", "lines"])
async def test_stream_over_the_limit_waits_unread(slow: Slow, serve_memory: Any, framing: str) -> None:
    """The second connection is answered when the first has been; what it sends on stays unread."""
    async with serve_memory(f"tcp://:0/slow?framing={framing}") as memory:
        first, second = memory.client(), memory.client()
        await first.send_all(b"one\n")
        await wait_all_tasks_blocked()
        await second.send_all(b"two\n")
        await wait_all_tasks_blocked()
        await second.send_all(b"three\n")
        await wait_all_tasks_blocked()
        assert (slow.running, slow.gate.waiting) == (1, 1)
        assert memory.service.statistics().endpoints[0].messages == 2
        slow.go.set()
        await first.send_eof()
        await second.send_eof()
        assert await first.receive_all() == b"one\n"
        assert await second.receive_all() == b"two\nthree\n"
        assert (slow.most, memory.refused) == (1, {})
    slow.assert_free()


async def test_those_who_wait_are_served_in_their_order(slow: Slow, serve_memory: Any) -> None:
    """First come, first served; one that is answered and asks again stands behind."""
    async with serve_memory("tcp://:0/slow?framing=lines") as memory:
        clients = [memory.client() for _ in range(4)]
        for number, client in enumerate(clients):
            await client.send_all(b"%da\n%db\n" % (number, number))
            await wait_all_tasks_blocked()
        slow.go.set()
        for client in clients:
            await client.send_eof()
            await client.receive_all()
    assert slow.ended == [b"0a", b"1a", b"2a", b"3a", b"0b", b"1b", b"2b", b"3b"]


async def test_reset_of_one_who_waits_is_forgotten(slow: Slow, serve_memory: Any) -> None:
    """Its turn goes to the next."""
    async with serve_memory("tcp://:0/slow") as memory:
        clients = [memory.client() for _ in range(3)]
        for number, client in enumerate(clients):
            await client.send_all(b"%d" % number)
            await wait_all_tasks_blocked()
        clients[1].reset()
        await wait_all_tasks_blocked()
        assert slow.gate.waiting == 1
        slow.go.set()
        assert await clients[2].receive_some() == b"2"
        assert slow.ended == [b"0", b"2"]
    slow.assert_free()


async def test_reset_of_one_who_runs_frees_its_place(slow: Slow, serve_memory: Any) -> None:
    """The handler is cancelled, the next one begins."""
    async with serve_memory("tcp://:0/slow") as memory:
        first, second = memory.client(), memory.client()
        for client in (first, second):
            await client.send_all(b"x")
            await wait_all_tasks_blocked()
        first.reset()
        await wait_all_tasks_blocked()
        assert (slow.cancelled, slow.running, slow.gate.waiting) == ([b"x"], 1, 0)
    slow.assert_free()


async def test_reset_of_one_in_the_queue_frees_its_place(slow: Slow, serve_memory: Any) -> None:
    """A peer that goes between its message and its runner leaves nothing behind."""
    async with serve_memory("tcp://:0/slow") as memory:
        client = memory.client()
        await wait_all_tasks_blocked()
        [connection] = memory.service._listeners[0].connections
        found = slow.registry.find("slow")
        assert found is not None
        connection.submit(found[0], b"x")
        assert slow.gate.running == 1
        connection.reset()
        assert slow.gate.running == 0
        await wait_all_tasks_blocked()
        assert slow.running == 0
        await client.aclose()
    slow.assert_free()


async def test_drain_cancels_those_who_run_and_those_who_wait(
    slow: Slow, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """At its deadline; all are named and every place is free."""
    async with serve_memory("tcp://:0/slow") as memory:
        clients = [memory.client() for _ in range(3)]
        for client in clients:
            await client.send_all(b"x")
            await wait_all_tasks_blocked()
        report = await memory.service.drain(1)
        assert len(report.cancelled) == 3
    slow.assert_free()


@pytest.mark.parametrize("url", ["tcp://:0/slow", "http://:0"])
async def test_hard_cancel_frees_every_place(slow: Slow, serve_memory: Any, url: str) -> None:
    """Another service of the same registry finds the limit untouched."""
    async with serve_memory(url) as memory:
        for _ in range(2):
            await memory.client().send_all(GET)
            await wait_all_tasks_blocked()
        assert slow.gate.running == 1
    slow.assert_free()


async def test_streamed_reply_keeps_its_place_to_its_end(registry: oread.Registry, serve_memory: Any) -> None:
    """An iterator that an async handler returns is part of the call."""
    go = trio.Event()

    async def items() -> AsyncIterator[bytes]:
        yield b"one\n"
        await go.wait()
        yield b"two\n"

    @registry.on("slow", limit=1)
    async def slow(data: bytes) -> AsyncIterator[bytes]:
        return items()

    found = registry.find("slow")
    assert found is not None
    gate = found[0].gate
    assert gate is not None
    async with serve_memory("tcp://:0/slow") as memory:
        first, second = memory.client(), memory.client()
        for client in (first, second):
            await client.send_all(b"x")
            await wait_all_tasks_blocked()
        assert (gate.running, gate.waiting) == (1, 1)
        assert await first.receive_some() == b"one\n"
        go.set()
        assert await first.receive_some() == b"two\n"
        await wait_all_tasks_blocked()
        assert await second.receive_some() == b"one\ntwo\n"
        await wait_all_tasks_blocked()
        assert gate.running == 0


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_no_place_is_lost(
    registry: oread.Registry, serve_memory: Any, seed: int, autojump_clock: MockClock
) -> None:
    """Messages, resets, FINs and streamed replies in any order end with every place free."""
    chance = random.Random(seed)

    async def items(data: bytes) -> AsyncIterator[bytes]:
        yield data
        await trio.sleep(chance.random())
        yield data

    @registry.on("slow", limit=3)
    async def slow(data: bytes) -> Any:
        await trio.sleep(chance.random())
        if data == b"fail":
            raise LookupError
        return items(data) if data == b"items" else data

    found = registry.find("slow")
    assert found is not None
    gate = found[0].gate
    assert gate is not None
    async with serve_memory("tcp://:0/slow?framing=lines") as memory:

        async def peer() -> None:
            client = memory.client()
            try:
                for _ in range(chance.randrange(1, 5)):
                    await client.send_all(chance.choice([b"a\n", b"items\n", b"fail\n", b"a\nitems\na\n"]))
                    await trio.sleep(chance.random() / 2)
                    assert 0 <= gate.running <= 3
                if chance.random() < 0.5:
                    client.reset()
                else:
                    await client.send_eof()
                    await client.receive_all()
            except trio.BrokenResourceError:
                return  # by a failure of the handler

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(peer)
        await memory.service.drain(30)
        assert (gate.running, gate.waiting) == (0, 0)


# HTTP


async def test_http_over_the_limit_is_busy(slow: Slow, serve_memory: Any) -> None:
    """503 with Retry-After at once, counted; the connection goes on, and the place is free afterwards."""
    async with serve_memory("http://:0") as memory:
        first, second = memory.client(), memory.client()
        await first.send_all(GET)
        await wait_all_tasks_blocked()
        await second.send_all(GET + GET.replace(b"slow", b"bytes"))
        await second.send_eof()
        answer = await second.receive_all()
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: 1" in answer
        assert b"HTTP/1.1 200" in answer
        assert (memory.refused["busy"], memory.refused["http_503"]) == (1, 1)
        slow.go.set()
        assert (await first.receive_some()).startswith(b"HTTP/1.1 200")
        await first.send_all(GET)
        assert (await first.receive_some()).startswith(b"HTTP/1.1 200")
    slow.assert_free()


async def test_http_peer_that_is_gone_frees_its_place(
    slow: Slow, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """After the grace of a FIN, and at once after a reset."""
    async with serve_memory("http://:0") as memory:
        for leave in ("fin", "reset"):
            client = memory.client()
            await client.send_all(GET)
            await wait_all_tasks_blocked()
            assert slow.gate.running == 1
            if leave == "fin":
                await client.send_eof()
                await trio.sleep(2)
            else:
                client.reset()
                await wait_all_tasks_blocked()
            slow.assert_free()


# UDP


async def test_udp_over_the_limit_is_dropped_and_counted(slow: Slow, client: Any) -> None:
    """The others hear nothing; the place is free afterwards."""
    async with oread.open_service(slow.registry, "udp://127.0.0.1:0/slow") as service:
        port = service.endpoints[0].port
        for _ in range(3):
            await client.send(b"x", port)
        while service.statistics().endpoints[0].messages < 3:
            await trio.lowlevel.checkpoint()
        assert service.statistics().endpoints[0].refused == {"busy": 2}
        slow.go.set()
        assert (await client.receive())[0] == b"x"
        assert await client.ask(b"y", port) == b"y"
        assert client.received_nothing()
    slow.assert_free()


@pytest.mark.parametrize("gently", [True, False])
async def test_udp_frees_every_place_at_its_end(slow: Slow, client: Any, gently: bool) -> None:
    """Whether drained or left at once."""
    async with oread.open_service(slow.registry, "udp://127.0.0.1:0/slow") as service:
        await client.send(b"x", service.endpoints[0].port)
        while not slow.running:
            await trio.lowlevel.checkpoint()
        if gently:
            report = await service.drain(0)
            assert len(report.cancelled) == 1
            slow.assert_free()
    slow.assert_free()


# shield


@pytest.mark.parametrize("url", ["tcp://:0/slow", "http://:0"])
async def test_shielded_handler_outlives_its_peer(
    registry: oread.Registry, serve_memory: Any, url: str, autojump_clock: MockClock
) -> None:
    """A reset does not cancel it; it holds its place and the drain until it has ended."""
    slow = Slow(registry, shield=True)
    async with serve_memory(url) as memory:
        client = memory.client()
        await client.send_all(GET)
        await wait_all_tasks_blocked()
        client.reset()
        await trio.sleep(5)
        assert (slow.running, slow.gate.running) == (1, 1)
        assert memory.service.statistics().endpoints[0].open == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.service.drain, 30)
            await trio.sleep(5)
            assert slow.running == 1
            slow.go.set()
        assert (len(slow.ended), slow.cancelled) == (1, [])
    slow.assert_free()


async def test_shielded_handler_outlives_the_grace_of_a_fin(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """And a client that only half-closed still gets its answer."""
    slow = Slow(registry, shield=True)
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(GET)
        await client.send_eof()
        await trio.sleep(10)
        assert (slow.running, memory.refused) == (1, {})
        slow.go.set()
        assert (await client.receive_all()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("url", ["tcp://:0/slow", "http://:0"])
async def test_drain_deadline_cancels_a_shielded_handler(
    registry: oread.Registry, serve_memory: Any, url: str, autojump_clock: MockClock
) -> None:
    """Also one whose peer is long gone; it is named."""
    slow = Slow(registry, shield=True)
    async with serve_memory(url) as memory:
        gone, there = memory.client(), memory.client()
        await gone.send_all(GET)
        await wait_all_tasks_blocked()
        gone.reset()
        await wait_all_tasks_blocked()
        slow.gate.resize(2)
        await there.send_all(GET)
        await wait_all_tasks_blocked()
        report = await memory.service.drain(3)
        assert (len(report.cancelled), len(slow.cancelled)) == (2, 2)
    slow.assert_free()


@pytest.mark.parametrize("url", ["tcp://:0/slow", "http://:0"])
async def test_hard_cancel_cancels_a_shielded_handler(
    registry: oread.Registry, serve_memory: Any, url: str
) -> None:
    """Leaving the service leaves nothing behind."""
    slow = Slow(registry, shield=True)
    async with serve_memory(url) as memory:
        client = memory.client()
        await client.send_all(GET)
        await wait_all_tasks_blocked()
        client.reset()
        await wait_all_tasks_blocked()
        assert slow.running == 1
    assert (slow.running, len(slow.cancelled)) == (0, 1)
    slow.assert_free()


async def test_handlers_of_gone_peers_count_as_connections(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """A peer that connects, asks and resets can't run more handlers than it may have connections."""
    slow = Slow(registry, limit=None, shield=True)
    async with serve_memory("tcp://:0/slow?connections=3") as memory:
        for _ in range(6):
            client = memory.client()
            await client.send_all(b"x")
            await wait_all_tasks_blocked()
            client.reset()
            await wait_all_tasks_blocked()
        assert slow.running == 3
        slow.go.set()
        await wait_all_tasks_blocked()
        assert slow.running == 0


async def test_shielded_stream_ends_at_its_next_item(registry: oread.Registry, serve_memory: Any) -> None:
    """It is not cancelled where it waits, but an item that nobody gets ends it."""
    go, ended = trio.Event(), []

    async def items() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await go.wait()
            ended.append("waited")
            yield b"two"
            ended.append("never")
        finally:
            ended.append("closed")

    @registry.on("slow", shield=True)
    async def slow(data: bytes) -> AsyncIterator[bytes]:
        return items()

    async with serve_memory("tcp://:0/slow") as memory:
        client = memory.client()
        await client.send_all(b"x")
        assert await client.receive_some() == b"one"
        client.reset()
        await wait_all_tasks_blocked()
        assert ended == []
        go.set()
        await wait_all_tasks_blocked()
        assert ended == ["waited", "closed"]


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("url", ["tcp://:0/stream?framing=lines", "http://:0"])
async def test_a_handler_that_yields_holds_its_place_until_its_last_item(
    registry: oread.Registry, serve_memory: Any, url: str, kind: str
) -> None:
    """A second one waits on a stream, and is Busy by HTTP; the end of the items gives the place back."""
    asked = trio.Event()

    def many(data: bytes) -> Iterator[bytes]:
        asked.set()
        while True:
            yield bytes(65_536)

    async def few(data: bytes) -> AsyncIterator[bytes]:
        asked.set()
        yield b"item"
        await trio.sleep_forever()

    registry.on("stream", many if kind == "sync" else few, limit=1)
    found = registry.find("stream")
    assert found is not None
    gate = found[0].gate
    assert gate is not None
    request = GET.replace(b"slow", b"stream") if url.startswith("http") else b"x\n"
    async with serve_memory(url) as memory:
        first, second = memory.client(), memory.client()
        await first.send_all(request)
        await asked.wait()
        await second.send_all(request)
        await wait_all_tasks_blocked()
        if url.startswith("http"):
            assert (await second.receive_some()).startswith(b"HTTP/1.1 503 ")
            assert gate.running == 1
        else:
            assert (gate.running, gate.waiting) == (1, 1)
        first.reset()
        await wait_all_tasks_blocked()
        assert (gate.running, gate.waiting) == (0 if url.startswith("http") else 1, 0)
        second.reset()
    await wait_all_tasks_blocked()
    assert (gate.running, gate.waiting) == (0, 0)
