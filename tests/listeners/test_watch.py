"""Who is told when the interfaces change, and when."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet

import attrs
import pytest
import trio
import trio.testing

from oread.listeners.watch import GATHER_SECONDS, POLL_SECONDS, RETRY_SECONDS, InterfaceWatch
from oread.reactor import Reactor
from oread.sockets.interfaces import Interface, Interfaces
from oread.testing import MemoryNetwork

ETH0 = Interface(name="eth0", index=2, up=True, loopback=False, multicast=True)


@attrs.define(eq=False, slots=False)
class Follower:
    """Notes what it is told, and says what it is to say."""

    told: list[tuple[float, int, AbstractSet[int] | None]] = attrs.field(factory=list)
    """Seconds since it was made, how many interfaces, which are gone."""
    answers: list[bool] = attrs.field(factory=list)
    begun: float = attrs.field(factory=trio.current_time)

    def on_interfaces(self, interfaces: Interfaces, gone: AbstractSet[int] | None) -> bool:
        """Note it."""
        self.told.append((trio.current_time() - self.begun, len(interfaces.all), gone))
        return self.answers.pop(0) if self.answers else True


@pytest.fixture
async def reactor() -> AsyncIterator[Reactor]:
    """A reactor of which only the deadlines run, on a mock clock."""
    reactor = Reactor(MemoryNetwork())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.deadlines.keep)
        yield reactor
        nursery.cancel_scope.cancel()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Interface]:
    """The interfaces of a machine without rtnetlink; to be changed by the test."""
    there = [ETH0]

    def refuse() -> None:
        raise OSError(errno.EAFNOSUPPORT, "no rtnetlink")

    monkeypatch.setattr("oread.listeners.watch.LinkNews", refuse)
    monkeypatch.setattr("oread.listeners.watch.read_interfaces", lambda: Interfaces.of(tuple(there)))
    return there


async def test_without_news_the_interfaces_are_polled(
    autojump_clock: trio.testing.MockClock, reactor: Reactor, machine: list[Interface]
) -> None:
    """What changed is told at the next look, what did not is not."""
    watch, follower = InterfaceWatch(reactor), Follower()
    watch.follow(follower)
    await trio.sleep(2.5 * POLL_SECONDS)
    assert follower.told == [(pytest.approx(GATHER_SECONDS), 1, set())]
    machine.append(attrs.evolve(ETH0, name="eth1", index=3))
    await trio.sleep(POLL_SECONDS)
    assert [count for _, count, _ in follower.told] == [1, 2]


async def test_what_could_not_be_done_is_tried_again(
    autojump_clock: trio.testing.MockClock, reactor: Reactor, machine: list[Interface]
) -> None:
    """A follower that says it is not complete is told again soon, until it is."""
    watch, follower = InterfaceWatch(reactor), Follower(answers=[False, False])
    watch.follow(follower)
    await trio.sleep(POLL_SECONDS)
    times = [when for when, *_ in follower.told]
    assert times == pytest.approx([GATHER_SECONDS + number * RETRY_SECONDS for number in range(3)])


async def test_who_leaves_is_told_nothing(
    autojump_clock: trio.testing.MockClock, reactor: Reactor, machine: list[Interface]
) -> None:
    """Leaving ends it, also from within, and nothing is left that looks."""
    watch = InterfaceWatch(reactor)
    gone, leaving = Follower(), Follower(answers=[False])
    told = leaving.on_interfaces

    def leave(interfaces: Interfaces, which: AbstractSet[int] | None) -> bool:
        watch.leave(leaving)
        return told(interfaces, which)

    leaving.on_interfaces = leave  # type: ignore[method-assign]
    watch.follow(gone)
    watch.follow(leaving)
    watch.leave(gone)
    watch.leave(gone)
    await trio.sleep(10 * POLL_SECONDS)
    assert (len(gone.told), len(leaving.told)) == (0, 1)


async def test_interfaces_that_can_not_be_read_are_read_later(
    autojump_clock: trio.testing.MockClock,
    reactor: Reactor,
    machine: list[Interface],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Out of descriptors, say: nothing is told, and nothing ends."""
    failures = [OSError(errno.EMFILE, "too many open files")]

    def read() -> Interfaces:
        if failures:
            raise failures.pop()
        return Interfaces.of(tuple(machine))

    monkeypatch.setattr("oread.listeners.watch.read_interfaces", read)
    watch, follower = InterfaceWatch(reactor), Follower()
    watch.follow(follower)
    await trio.sleep(POLL_SECONDS / 2)
    assert [when for when, *_ in follower.told] == pytest.approx([GATHER_SECONDS + RETRY_SECONDS])
