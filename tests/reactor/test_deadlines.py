"""Deadlines as data, on a mock clock."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock

from oread.reactor import Deadlines


class Thing:
    """A source that notes when it is asked, and arms itself again if told to."""

    def __init__(self, deadlines: Deadlines, log: list[tuple[str, float]], name: str) -> None:
        self.armed = math.inf
        self.again: list[float] = []
        self._deadlines, self._log, self._name = deadlines, log, name

    def on_deadline(self, now: float) -> None:
        self._log.append((self._name, now))
        if self.again:
            self._deadlines.arm(self, now + self.again.pop(0))


async def test_sources_are_asked_at_their_bucket(autojump_clock: MockClock) -> None:
    """Rounded up to 0.25 s; an earlier deadline moves it forward, a later one does not."""
    log: list[tuple[str, float]] = []
    deadlines = Deadlines()
    start = trio.current_time()
    early, moved, late = (Thing(deadlines, log, name) for name in ("early", "moved", "late"))
    late.again = [1.0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.keep)
        deadlines.arm(late, start + 9.9)
        deadlines.arm(early, start + 1.1)
        deadlines.arm(moved, start + 30.0)
        deadlines.arm(moved, start + 2.0)
        deadlines.arm(moved, start + 50.0)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert [name for name, _ in log] == ["early", "moved", "late", "late"]
    for (_, at), wanted in zip(log, (1.1, 2.0, 9.9, 11.0), strict=True):
        assert wanted <= at - start <= wanted + 0.5


async def test_many_that_expire_together_let_others_have_their_turn(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no time for a turn each is followed by the other tasks; all are asked once, but the disarmed."""
    monkeypatch.setattr("oread.reactor.deadlines.TURN_SECONDS", 0.0)
    log: list[tuple[str, float]] = []
    deadlines = Deadlines()
    things = [Thing(deadlines, log, str(number)) for number in range(10)]
    turns: set[int] = set()
    when = math.ceil(trio.current_time()) + 1  # a bucket's own time
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.keep)
        for each in things:
            deadlines.arm(each, when)
        await trio.sleep_until(when)
        for turn in range(30):
            turns.add(len(log))
            if turn == 4:
                deadlines.disarm(next(each for each in things if each.armed != math.inf))
                deadlines.arm(things[int(log[0][0])], when)
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert len(turns) >= 5
    assert len(log) == 10
    assert len({name for name, _ in log}) == 9


async def test_disarmed_source_is_not_kept(autojump_clock: MockClock) -> None:
    """A closed connection is asked no more, and nothing holds it."""
    log: list[tuple[str, float]] = []
    deadlines = Deadlines()
    thing = Thing(deadlines, log, "closed")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.keep)
        deadlines.arm(thing, trio.current_time() + 1)
        deadlines.disarm(thing)
        deadlines.disarm(thing)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert log == []
    assert thing.armed == math.inf


async def test_source_may_disarm_others_of_its_bucket(autojump_clock: MockClock) -> None:
    """What closes another at the same deadline keeps it from being asked."""
    deadlines = Deadlines()
    asked: list[Thing] = []

    class Closer(Thing):
        def on_deadline(self, now: float) -> None:
            asked.append(self)
            for other in things:
                deadlines.disarm(other)

    things: list[Thing] = [Closer(deadlines, [], "closer") for _ in range(3)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.keep)
        for thing in things:
            deadlines.arm(thing, trio.current_time() + 1)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert len(asked) == 1


async def test_timers_are_exact_and_can_be_cancelled(autojump_clock: MockClock) -> None:
    """call_at is not rounded; a cancelled timer stays silent."""
    deadlines = Deadlines()
    start = trio.current_time()
    called: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.keep)
        deadlines.call_at(start + 0.033, lambda: called.append(trio.current_time() - start))
        dropped = deadlines.call_at(start + 0.02, lambda: called.append(-1.0))
        dropped.cancel()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert called == [pytest.approx(0.033)]
