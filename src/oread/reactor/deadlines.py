"""Deadlines of many sources as data, kept by one task on Trio's clock.

Most deadlines are pushed forward long before they pass. So a source stores
only when it last moved, and is armed once, in a bucket of 0.25 s; when the
bucket expires the source looks at its own time and arms itself again. Closing
takes it out of its bucket at once: nothing keeps a closed connection alive.

`call_at` is for the few that must be exact, such as a delayed reply.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

import attrs
import trio

from oread.reactor.turns import TURN_SECONDS

GRAIN_SECONDS = 0.25
"""Deadlines of sources are rounded up to a multiple of this."""


_order = itertools.count()


class Source(Protocol):
    """Something with deadlines: a connection, an acceptor."""

    armed: float
    """When it will be asked, `math.inf` when not armed; written by `Deadlines` only."""

    def on_deadline(self, now: float) -> None:
        """Look whether one of its deadlines has passed; arm again if not."""


@attrs.define(eq=False)
class Timer:
    """One exact call; see `Deadlines.call_at`."""

    when: float
    callback: Callable[[], None] | None

    def cancel(self) -> None:
        """Do not call; harmless when it was called already."""
        self.callback = None


class Deadlines:
    """The deadlines of one reactor."""

    def __init__(self) -> None:
        self._buckets: dict[float, set[Source]] = {}
        self._heap: list[tuple[float, int, Timer | None]] = []
        self._alarm = trio.CancelScope()

    def arm(self, source: Source, when: float) -> None:
        """Ask `source.on_deadline` at `when`, unless it is asked earlier anyway."""
        if when >= source.armed:
            return
        bucket = math.ceil(when / GRAIN_SECONDS) * GRAIN_SECONDS
        if bucket >= source.armed:
            return
        self.disarm(source)
        members = self._buckets.get(bucket)
        if members is None:
            members = self._buckets[bucket] = set()
            self._push(bucket, None)
        members.add(source)
        source.armed = bucket

    def disarm(self, source: Source) -> None:
        """Ask it no more; harmless when it is not armed."""
        if source.armed != math.inf:
            self._buckets[source.armed].discard(source)
            source.armed = math.inf

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call at `when` on Trio's clock; returns what can cancel it."""
        timer = Timer(when, callback)
        self._push(when, timer)
        return timer

    def _push(self, when: float, timer: Timer | None) -> None:
        heapq.heappush(self._heap, (when, next(_order), timer))
        if when < self._alarm.deadline:
            self._alarm.deadline = when

    @trio.lowlevel.enable_ki_protection
    async def keep(self, clock: Callable[[], float] = trio.current_time) -> None:
        """Call what is due, until cancelled; `clock` is read at each wake."""
        while True:
            with self._alarm:
                self._alarm.deadline = self._heap[0][0] if self._heap else math.inf
                await trio.sleep_forever()
            self._alarm = trio.CancelScope()
            while self._expire(clock()):
                await trio.lowlevel.checkpoint()

    def _expire(self, now: float) -> bool:
        """Call what is due until the turn is over; tell whether there is more."""
        turn_end = perf_counter() + TURN_SECONDS
        while self._heap and self._heap[0][0] <= now:
            when, order, timer = heapq.heappop(self._heap)
            if timer is None:
                members = self._buckets[when]
                while members:  # one may disarm others of its bucket
                    source = members.pop()
                    source.armed = math.inf
                    source.on_deadline(now)
                    if members and perf_counter() >= turn_end:
                        heapq.heappush(self._heap, (when, order, None))
                        return True
                del self._buckets[when]
            elif timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()
        return False
