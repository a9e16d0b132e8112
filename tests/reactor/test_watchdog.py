"""The watchdog: it names the inline handler that held up the reactor, once."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import oread
from oread.reactor import Watchdog

LIMIT_SECONDS = 20
"""Far beyond what the thread needs: only a watchdog that sees nothing gets here."""


def watchdogs() -> list[threading.Thread]:
    """The threads that watch."""
    return [thread for thread in threading.enumerate() if thread.name == "oread watchdog"]


class Blocker:
    """Blocks inline, until the watchdog has seen it."""

    def __init__(self) -> None:
        self.watchdog: Watchdog | None = None
        self.times = 0

    def block(self) -> None:
        """Keep the thread busy."""
        assert self.watchdog is not None
        self.times += 1
        before, end = self.watchdog.noted, time.perf_counter() + LIMIT_SECONDS
        while self.watchdog.noted is before and time.perf_counter() < end:
            time.sleep(0.001)  # blocking is what is tested


@pytest.fixture
def blocker(registry: oread.Registry) -> Blocker:
    """The registry's handlers that block."""
    blocker = Blocker()

    @registry.on("blocks")
    def blocking_handler(data: bytes) -> bytes:
        blocker.block()
        return data

    @registry.on("blocks-in-chain")
    def first(data: bytes) -> None:
        blocker.block()

    @registry.on("blocks-in-chain")
    def second(data: bytes) -> bytes:
        return data

    @registry.on("blocks-streaming")
    def blocking_generator(data: bytes) -> Iterator[bytes]:
        blocker.block()
        yield data

    return blocker


async def serve_and_block(
    registry: oread.Registry, blocker: Blocker, event: str, messages: int = 1
) -> oread.Statistics:
    """Let a handler block, and wait until that is reported."""
    network = oread.testing.MemoryNetwork()
    listening = network.listen()
    bound = oread.Bound(listening, f"tcp://:0/{event}?framing=lines")
    async with oread.open_service(registry, bound, poller=network, stall_seconds=0.02) as service:
        blocker.watchdog = service._watchdog
        client = network.connect(listening)
        for number in range(messages):
            await client.send_all(b"x\n")
            assert await client.receive_some() == b"x\n"
            while service.statistics().stalls <= number:
                await trio.lowlevel.checkpoint()
        return service.statistics()


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("blocks", "blocking_handler"),
        ("blocks-in-chain", "first"),
        ("blocks-streaming", "blocking_generator"),
    ],
)
async def test_blocking_handler_is_named_with_its_stack(
    registry: oread.Registry, blocker: Blocker, event: str, name: str, caplog: Any
) -> None:
    """The log has the function the registry called, and the line it stood at; the stall is counted."""
    found = await serve_and_block(registry, blocker, event)
    assert found.stalls == 1
    [record] = [record for record in caplog.records if "held up" in record.message]
    assert record.message.startswith(f"{__name__}.blocker.<locals>.{name} held up every other handler")
    assert "time.sleep(0.001)" in record.message
    assert "_step" not in record.message, "the stack begins at the user's function"


async def test_one_handler_is_named_once_a_minute(
    registry: oread.Registry, blocker: Blocker, caplog: Any
) -> None:
    """Every stall is counted, the log is not filled."""
    found = await serve_and_block(registry, blocker, "blocks", messages=3)
    assert (found.stalls, blocker.times) == (3, 3)
    assert caplog.text.count("held up") == 1


async def test_mock_clock_changes_nothing(
    registry: oread.Registry, blocker: Blocker, autojump_clock: MockClock
) -> None:
    """Stalls are real time, whatever clock Trio runs by."""
    assert (await serve_and_block(registry, blocker, "blocks")).stalls == 1


async def test_handlers_that_do_not_block_are_not_named(
    registry: oread.Registry, serve_memory: Any, caplog: Any
) -> None:
    """Neither work in small pieces nor waiting is a stall."""
    async with serve_memory("tcp://:0/bytes?framing=lines") as memory:
        client = memory.client()
        for _ in range(50):
            await client.send_all(b"x\n" * 20)
            await client.receive_some()
        assert memory.service.statistics().stalls == 0
    assert "held up" not in caplog.text


async def test_thread_lives_as_long_as_the_service(registry: oread.Registry) -> None:
    """It is started by the service and gone with it, also when the block fails."""
    assert watchdogs() == []
    with pytest.raises(LookupError):
        async with oread.open_service(registry, "tcp://127.0.0.1:0/bytes"):
            assert len(watchdogs()) == 1
            raise LookupError
    assert watchdogs() == []


async def test_no_thread_when_off(registry: oread.Registry) -> None:
    """A program that wants one thread has one."""
    async with oread.open_service(registry, "tcp://127.0.0.1:0/bytes", stall_seconds=math.inf) as service:
        assert watchdogs() == []
        assert service.statistics().stalls == 0


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
async def test_nonsense_is_refused(registry: oread.Registry, seconds: float) -> None:
    """Before anything is bound."""
    with pytest.raises(ValueError, match="stall_seconds"):
        async with oread.open_service(registry, "tcp://127.0.0.1:0/bytes", stall_seconds=seconds):
            pytest.fail("served")


class Turn:
    """Stands for a reactor in one long turn: only its time is looked at."""

    def __init__(self, begun: float) -> None:
        self.serving_since: float | None = begun


def look_at(begun: float) -> tuple[Watchdog, Turn]:
    """Make a watchdog of such a turn, whose thread is this one."""
    turn: Any = Turn(begun)
    watchdog = Watchdog(turn, 0.1)
    watchdog._watched_thread = threading.get_ident()
    return watchdog, turn


def test_a_turn_is_blamed_when_it_is_seen_twice() -> None:
    """A process that was stopped for long is no stall of a handler: the thread slept as well."""
    watchdog, turn = look_at(time.perf_counter() - 1)
    watchdog.look()
    assert watchdog.noted is None
    turn.serving_since = None
    watchdog.look()
    turn.serving_since = time.perf_counter() - 1
    watchdog.look()
    assert watchdog.noted is None
    watchdog.look()
    assert watchdog.noted is not None


def test_what_goes_on_for_long_is_told_at_once(caplog: Any) -> None:
    """A handler that never returns is named by the thread, once."""
    watchdog, _ = look_at(time.perf_counter() - 6)
    for _ in range(5):
        watchdog.look()
    assert caplog.text.count("which goes on") == 1
