"""Several exchanges at once on one connection: dispatch, runners, places and streams do not mind."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

import oread
from oread.dispatch import Entry, Failed
from oread.dispatch.payload import is_stream
from oread.listeners.streaming import AwaitedReply, PulledReply
from oread.messages import Message, Peer
from oread.reactor import Reactor, Runner, RunnerPool
from oread.testing import MemoryNetwork


class Wire:
    """One connection: what its streams have sent, in the order of sending."""

    def __init__(self, registry: oread.Registry, runners: RunnerPool, reactor: Reactor) -> None:
        self.registry, self.runners, self.reactor = registry, runners, reactor
        self.sent: list[tuple[int, Any]] = []


class Stream:
    """One exchange of it: origin, job and outlet in one, as HTTP/2 would have it."""

    flags = 0

    def __init__(self, wire: Wire, number: int, event: str, data: bytes) -> None:
        self.wire, self.number, self.data = wire, number, data
        found = wire.registry.find(event)
        assert found is not None
        self.entry: Entry = found[0]
        self.captures = found[1]
        self.runner: Runner | None = None
        self.reply: Any = None
        gate = self.entry.gate
        if gate is None or gate.take():
            wire.runners.submit(self)
        else:
            gate.when_free(self._on_place)

    def _on_place(self) -> None:
        self.entry.gate.take()  # type: ignore[union-attr]
        self.wire.runners.submit(self)

    def message(self, data: bytes | memoryview) -> Message:
        """Make the message of this exchange."""
        return Message(
            event=self.entry.event,
            data=bytes(data),
            transport="h2",
            captures=self.captures,
            received=0.0,
            peer=lambda: Peer(None, "h2"),
            local=lambda: None,
        )

    def report(self, failed: Failed) -> None:
        """Do not expect any."""
        raise failed.error

    def begin(self) -> Coroutine[Any, Any, Any]:
        """Call the handlers, or send what they gave."""
        coroutine: Coroutine[Any, Any, Any] = (
            self.entry.start(self, self.data) if self.reply is None else self.reply.run()
        )
        return coroutine

    def finish(self, result: Any) -> None:
        """Take the reply."""
        kind = None if self.reply is not None else is_stream(result)
        if self.reply is not None:
            self.end_stream(result)
        elif kind is None:
            self.wire.sent.append((self.number, result))
            if self.entry.gate is not None:
                self.entry.gate.give()
        elif kind == "sync":
            context = contextvars.copy_context()
            self.reply = PulledReply(
                self, self.entry, result, reactor=self.wire.reactor, context=context, wanted=True, form=None
            )
            self.reply.start()
        else:
            self.reply = AwaitedReply(
                self, self.entry, result, runners=self.wire.runners, wanted=True, form=None
            )
            self.reply.start()

    def has_little_pending(self) -> bool:
        """Take everything."""
        return True

    def send_item(self, item: Any) -> None:
        """Note an item."""
        self.wire.sent.append((self.number, item))

    def end_stream(self, failed: Failed | None) -> None:
        """Note the end."""
        self.wire.sent.append((self.number, failed))


async def test_exchanges_of_one_connection_go_on_side_by_side() -> None:
    """Quick ones and streams before slow ones, one that waits for its place; each with its own message."""
    registry = oread.Registry()
    free = trio.Event()

    @registry.on("slow/{name}")
    async def slow(data: bytes, name: str, message: Message) -> str:
        await free.wait()
        return f"{name} {message.captures['name']} {data.decode()}"

    @registry.on("quick")
    async def quick(data: bytes) -> bytes:
        return data

    @registry.on("one", limit=1)
    async def one(data: bytes) -> bytes:
        await free.wait()
        return data

    @registry.on("pulled")
    async def pulled() -> Iterator[int]:
        return iter(range(2))

    @registry.on("awaited")
    async def awaited() -> AsyncIterator[int]:
        async def count() -> AsyncIterator[int]:
            for number in range(2):
                await trio.lowlevel.checkpoint()
                yield number

        return count()

    network = MemoryNetwork()
    reactor, runners = Reactor(network), RunnerPool(contextvars.copy_context())
    wire = Wire(registry, runners, reactor)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        runners.start(nursery)
        asked = ("slow/a", "slow/b", "one", "one", "pulled", "awaited", "awaited", "quick")
        for number, event in enumerate(asked):
            Stream(wire, number, event, b"%d" % number)
        await wait_all_tasks_blocked()
        before = wire.sent.copy()
        free.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    by_number = [[item for at, item in before if at == number] for number in range(8)]
    assert by_number == [[], [], [], [], [0, 1, None], [0, 1, None], [0, 1, None], [b"7"]]
    assert sorted(wire.sent[len(before) :]) == [(0, "a a 0"), (1, "b b 1"), (2, b"2"), (3, b"3")]
