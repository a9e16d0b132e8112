"""The reactor's loop and its traps, on real sockets."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from oread.reactor import ERROR, READABLE, TURN_SECONDS, EpollPoller, Reactor, open_poller
from oread.reactor.reactor import FIRST_EVENTS

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="these traps are epoll's")


@asynccontextmanager
async def running() -> AsyncIterator[Reactor]:
    """A reactor that serves until the end of the block."""
    poller = open_poller()
    reactor = Reactor(poller)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.run)
            yield reactor
            nursery.cancel_scope.cancel()
    finally:
        poller.close()


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected non-blocking sockets."""
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


async def test_serves_what_is_ready() -> None:
    """A callback is called while its socket is ready, and not after remove."""
    with pair() as (left, right):
        async with running() as reactor:
            got: list[bytes] = []
            reactor.add(left.fileno(), lambda ready: got.append(left.recv(100)))
            right.send(b"one")
            await wait_all_tasks_blocked(0.01)
            right.send(b"two")
            await wait_all_tasks_blocked(0.01)
            reactor.remove(left.fileno())
            right.send(b"three")
            await wait_all_tasks_blocked(0.01)
            assert got == [b"one", b"two"]


async def test_callback_may_close_another_of_the_same_batch() -> None:
    """An event of a socket closed earlier in the batch reaches nobody, whoever has its number next."""
    with pair() as (first, first_peer), pair() as (second, second_peer):
        calls: list[str] = []
        async with running() as reactor:

            def closes(name: str, mine: socket.socket, other: socket.socket) -> None:
                calls.append(name)
                mine.recv(10)
                number = other.fileno()
                reactor.close(other)
                with socket.socket() as newcomer:
                    assert newcomer.fileno() != number, "it must stay open until the batch has ended"

            first_peer.send(b"x")
            second_peer.send(b"x")
            reactor.add(first.fileno(), lambda ready: closes("first", first, second))
            reactor.add(second.fileno(), lambda ready: closes("second", second, first))
            await wait_all_tasks_blocked(0.01)
            left = first if calls == ["first"] else second
            reactor.remove(left.fileno())
        assert calls in (["first"], ["second"])


async def test_other_tasks_run_beside_a_saturated_reactor() -> None:
    """A socket that is always ready does not keep Trio from its other tasks."""
    with pair() as (left, right):
        right.send(b"never read")
        async with running() as reactor:
            count = 0

            def on_ready(_ready: int) -> None:
                nonlocal count
                count += 1

            reactor.add(left.fileno(), on_ready)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            assert count > 0
            before = count
            while count < before + 1000:
                await trio.lowlevel.checkpoint()
            reactor.remove(left.fileno())


async def test_slow_burst_does_not_bind_the_next() -> None:
    """Few events are asked for after a slow callback, and many again once the reactor has waited."""
    asked: list[int] = []
    poller = EpollPoller()
    poll = poller.poll

    def record(timeout: float, most: int) -> list[tuple[int, int]]:
        asked.append(most)
        return poll(timeout, most)

    poller.poll = record
    reactor = Reactor(poller)
    with pair() as (left, right), contextlib.closing(poller):

        def slow(_ready: int) -> None:
            left.recv(10)
            until = perf_counter() + 2 * TURN_SECONDS
            while perf_counter() < until:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.run)
            reactor.add(left.fileno(), slow)
            right.send(b"x")
            await wait_all_tasks_blocked(0.01)
            assert asked[:2] == [FIRST_EVENTS, 1]
            asked.clear()
            right.send(b"x")
            await wait_all_tasks_blocked(0.01)
            assert asked[0] == FIRST_EVENTS
            nursery.cancel_scope.cancel()


async def test_deferred_work_waits_for_the_next_pass() -> None:
    """What a callback defers runs behind the other ready sockets, even when nothing else comes."""
    with pair() as (left, right):
        async with running() as reactor:
            order: list[str] = []

            def on_ready(_ready: int) -> None:
                left.recv(100)
                order.append("ready")
                reactor.defer(lambda: reactor.defer(lambda: order.append("deferred twice")))

            reactor.add(left.fileno(), on_ready)
            right.send(b"x")
            await wait_all_tasks_blocked(0.01)
            assert order == ["ready", "deferred twice"]
            reactor.defer(lambda: order.append("from another task"))
            await wait_all_tasks_blocked(0.01)
            assert order[2:] == ["from another task"]
            reactor.remove(left.fileno())


async def test_deferred_work_leaves_the_ready_their_turn() -> None:
    """However much is deferred, a turn's worth is done between two polls, in its order."""
    with pair() as (left, right):
        async with running() as reactor:
            order: list[int] = []
            seen: list[int] = []

            def work(number: int) -> None:
                order.append(number)
                end = perf_counter() + 2 * TURN_SECONDS
                while perf_counter() < end:
                    pass

            def on_ready(_ready: int) -> None:
                left.recv(100)
                seen.append(len(order))
                if len(seen) == 1:
                    for number in range(5):
                        reactor.defer(lambda number=number: work(number))
                if len(seen) < 6:
                    right.send(b"x")

            reactor.add(left.fileno(), on_ready)
            right.send(b"x")
            await wait_all_tasks_blocked(0.05)
            assert order == [0, 1, 2, 3, 4]
            assert seen == [0, 0, 1, 2, 3, 4]
            reactor.remove(left.fileno())


async def test_masked_descriptor_still_tells_of_a_reset() -> None:
    """With interest 0 the kernel reports ERROR and HANGUP only: how a peer's going is learnt."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        served, _ = listening.accept()
        with served:
            async with running() as reactor:
                bits: list[int] = []

                def on_ready(ready: int) -> None:
                    bits.append(ready)
                    reactor.remove(served.fileno())

                reactor.add(served.fileno(), on_ready, 0)
                client.send(b"data that nobody waits for")
                await wait_all_tasks_blocked(0.01)
                assert bits == []
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()
                await wait_all_tasks_blocked(0.01)
                assert len(bits) == 1
                assert bits[0] & ERROR
                assert not bits[0] & READABLE


async def test_error_in_a_callback_ends_the_reactor() -> None:
    """An error of our own is loud, and what was closed in its batch is closed."""
    with pair() as (left, right), pair() as (other, _):
        right.send(b"x")
        with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
            async with running() as reactor:

                def on_ready(_ready: int) -> None:
                    reactor.close(other)
                    raise LookupError("ours")

                reactor.add(other.fileno(), lambda ready: None)
                reactor.add(left.fileno(), on_ready)
                await trio.sleep_forever()
        assert other.fileno() == -1


async def test_closing_wakes_whoever_waits() -> None:
    """The epoll descriptor is closed only after Trio was told."""
    poller = open_poller()
    with pytest.RaisesGroup(trio.ClosedResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.wait)
            await wait_all_tasks_blocked()
            poller.close()
            poller.close()


def test_child_of_a_fork_touches_nothing() -> None:
    """The epoll set is shared after a fork; a child's clean-up must not empty it."""

    def fork_and_look(poller: EpollPoller) -> None:
        with pair() as (left, right):
            poller.add(left.fileno(), READABLE)
            child = os.fork()
            if child == 0:
                poller.remove(left.fileno())
                poller.close()
                os._exit(0)
            os.waitpid(child, 0)
            right.send(b"x")
            assert poller.poll(0, 1) == [(left.fileno(), READABLE)]

    async def main() -> None:
        poller = EpollPoller()
        fork_and_look(poller)
        poller.close()

    trio.run(main)


async def test_wake_ends_a_wait_once() -> None:
    """A wake makes the poller ready one time; the descriptor it reports means nothing."""
    poller = open_poller()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.wait)
        await wait_all_tasks_blocked()
        poller.wake()
    assert poller.poll(0, 8) == [(poller.waker, READABLE)]
    assert poller.poll(0, 8) == []
    poller.close()
