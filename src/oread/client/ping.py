"""Send probes and take their echoes: the clock and the socket of a `ProbeSession`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import trio

from oread.client.open_datagram import Datagrams
from oread.messages import Datagram
from oread.protocols.probes import Answer, ProbeSession


async def ping(
    datagrams: Datagrams,
    session: ProbeSession,
    on_answer: Callable[[Answer], object],
    *,
    interval_seconds: float,
    wait_seconds: float,
    count: float = math.inf,
) -> None:
    """Probe an endpoint until so many probes were sent and answered.

    A group or broadcast is probed as a whole, and by unicast everyone who has
    answered. One peer that has answered every probe is not waited for further.

    Args:
        datagrams: received from by nobody else.
        session: holds what was found.
        on_answer: is called with each answer, duplicates too.
        interval_seconds: between two probes.
        wait_seconds: for answers after the last one.
        count: of probes; `math.inf` goes on until cancelled.

    Raises:
        OSError: the first probe could not be sent; later ones count as lost.

    Cancellation: what was found stays in the session.
    """
    kind = datagrams.mode

    def take(message: Datagram) -> None:
        now_ns = time.monotonic_ns() - _waited_ns(message)
        answer = session.receive(message.data, message.peer.address, message.ttl, now_ns)
        if answer is not None:
            on_answer(answer)
        if kind == "unicast" and session.sent[kind] >= count and _answered_all(session):
            scope.cancel()

    with trio.CancelScope() as scope:
        await _send(datagrams, session, first=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_receive, datagrams, take)
            begun = trio.current_time()
            while session.sent[kind] < count:
                # By the clock of the first one: an interval does not grow by the work in it.
                await trio.sleep_until(begun + session.sent[kind] * interval_seconds)
                await _send(datagrams, session, first=False)
            await trio.sleep(wait_seconds)
            nursery.cancel_scope.cancel()


async def _receive(datagrams: Datagrams, take: Callable[[Datagram], object]) -> None:
    while True:
        for message in await datagrams.receive_batch():
            take(message)


async def _send(datagrams: Datagrams, session: ProbeSession, *, first: bool) -> None:
    """Send one round of probes."""
    kind = datagrams.mode
    number = session.next_number(kind)
    try:
        await datagrams.send(session.encode(kind, number, time.monotonic_ns()))
    except OSError:
        if first:
            raise
        session.refused["send_failed"] += 1
    if kind == "unicast" or not session.tallies:
        return
    number = session.next_number("unicast")
    for address in list(session.tallies):
        if isinstance(address, tuple):
            try:
                await datagrams.send(session.encode("unicast", number, time.monotonic_ns()), to=address)
            except OSError:
                session.refused["send_failed"] += 1


def _waited_ns(message: Datagram) -> int:
    """Return how long a message lay in the socket, by the kernel's time stamp.

    Both clocks count here, so a step of the wall clock must not.
    """
    if message.timestamp is None:
        return 0
    waited_ns = time.time_ns() - int(message.timestamp * 1e9)
    return waited_ns if 0 <= waited_ns < 1_000_000_000 else 0


def _answered_all(session: ProbeSession) -> bool:
    return any(tallies["unicast"].received >= session.sent["unicast"] for tallies in session.tallies.values())
