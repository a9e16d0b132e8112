"""The loop: one task that serves every ready socket before it yields.

A Trio task switch costs more than a small message, so all sockets of a
service share one task. What keeps that fair:

* a turn is bounded by time (1 ms), then every other Trio task gets its turn;
* a batch is always finished: its tail would otherwise starve, because the
  kernel reports the same head again;
* a callback does bounded work and defers the rest.

A callback that raises ends the reactor, and with it the service: handlers'
failures are isolated by dispatch, so what arrives here is our own error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

import trio

from oread.reactor.deadlines import Deadlines, Source, Timer
from oread.reactor.poller import READABLE, Poller
from oread.reactor.turns import TURN_SECONDS

MOST_EVENTS = 256
"""Events asked for at once, when their callbacks are seen to fit into a turn.

With 1,000 connections busy 64 are 4 % slower: what epoll reported last it looks at once more.
"""
FIRST_EVENTS = 64
"""As long as nothing is known of them: what one burst has cost says nothing of the next."""


SPIN_SECONDS = 0.00005
"""How long an idle reactor polls on before it waits: a round trip on one machine takes about this."""
MOST_SKIPPED = 255


class _Spin:
    """Whether to poll again before waiting, learnt from whether that has paid.

    Waiting costs two epolls and a task switch, 30 µs of CPU; with a peer that
    answers within a few µs polling on is cheaper and faster. Each time it has
    not paid, it is left out for twice as many turns.
    """

    __slots__ = ("_failed", "_skip", "_until")

    def __init__(self) -> None:
        self._failed = 0
        self._skip = 0
        self._until = 0.0

    def goes_on(self, events: int, now: float) -> bool:
        """Tell whether to poll on, after a poll that gave so few events."""
        if events:
            if self._until:
                self._failed = 0
            elif self._skip:
                self._skip -= 1
                return False
            self._until = now + SPIN_SECONDS
            return True
        if now < self._until:
            return True
        if self._until:
            self._until = 0.0
            self._failed = self._skip = min(2 * self._failed + 1, MOST_SKIPPED)
        return False


class Closeable(Protocol):
    """A socket as far as the reactor is concerned."""

    def fileno(self) -> int:
        """Return its descriptor."""

    def close(self) -> None:
        """Close it."""


def _ignore(_ready: int) -> None:
    """Stand in for a descriptor that is not registered, or was removed while its batch is served."""


class Reactor:
    """Readiness callbacks for many descriptors under one Trio task.

    Args:
        poller: closed by whoever opened it, after the reactor has ended and
            every source is closed.
    """

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._callbacks: list[Callable[[int], None]] = [_ignore] * (poller.waker + 1)
        """By descriptor, which is always the lowest free number: so a list, less and quicker than a dict."""
        self._closing: list[Closeable] = []
        self._deferred: deque[Callable[[], None]] = deque()
        self._serving = False
        self._turn_end = 0.0
        self._waiting = False
        self._spin = _Spin()
        self.deadlines = Deadlines()
        self.now = trio.current_time()
        """Trio's time at the beginning of this turn; older between turns, see `tick`."""

    # registering

    def add(self, fd: int, on_ready: Callable[[int], None], interest: int = READABLE) -> None:
        """Call `on_ready(bits)` whenever the descriptor is ready."""
        self._poller.add(fd, interest)
        callbacks = self._callbacks
        if fd >= len(callbacks):
            callbacks.extend([_ignore] * (fd + 1 - len(callbacks)))
        callbacks[fd] = on_ready

    def set(self, fd: int, interest: int) -> None:
        """Change what a registered descriptor is watched for."""
        self._poller.modify(fd, interest)

    def remove(self, fd: int) -> None:
        """Watch it no more; an event of it later in this batch is ignored."""
        self._poller.remove(fd)
        self._callbacks[fd] = _ignore

    def close(self, sock: Closeable) -> None:
        """Unregister at once, close after the batch.

        Only then can its number be used again, so no event of this batch can
        reach whoever gets the number next.
        """
        fd = sock.fileno()
        if 0 <= fd < len(self._callbacks) and self._callbacks[fd] is not _ignore:
            self.remove(fd)
        if self._serving:
            self._closing.append(sock)
        else:
            sock.close()

    # time

    def defer(self, callback: Callable[[], None]) -> None:
        """Call it in the next pass, behind the other ready sockets."""
        self._deferred.append(callback)
        if self._waiting:
            self._waiting = False
            self._poller.wake()

    def tick(self) -> float:
        """Bring `now` up to date; for what does not run in a turn of the reactor."""
        self.now = trio.current_time()
        return self.now

    @property
    def serving_since(self) -> float | None:
        """When the present turn began, on `perf_counter`; None between batches. For any thread."""
        return self._turn_end - TURN_SECONDS if self._serving else None

    def turn_is_over(self) -> bool:
        """Tell whether this turn has used up its time."""
        return perf_counter() >= self._turn_end

    def arm(self, source: Source, when: float) -> None:
        """See `Deadlines.arm`."""
        self.deadlines.arm(source, when)

    def disarm(self, source: Source) -> None:
        """See `Deadlines.disarm`."""
        self.deadlines.disarm(source)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """See `Deadlines.call_at`."""
        return self.deadlines.call_at(when, callback)

    # the loop

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            Exception: what a callback raised, which is an error of oread's.
        """
        while True:
            await self._wait()
            self.now = trio.current_time()
            self._turn_end = perf_counter() + TURN_SECONDS
            await self._serve_ready()

    async def _wait(self) -> None:
        if self._deferred:
            await trio.lowlevel.checkpoint()
            return
        self._waiting = True
        await self._poller.wait()
        self._waiting = False

    async def _serve_ready(self) -> None:
        """Poll and serve until nothing is ready, yielding after each turn."""
        poll, most = self._poller.poll, FIRST_EVENTS
        while True:
            begun = perf_counter()
            events = poll(0, most)
            deferred_seconds = self._serve(events)
            ended = perf_counter()
            if ended >= self._turn_end:
                await trio.lowlevel.checkpoint()
                self.now = trio.current_time()
                count = len(events) or 1
                spent = ended - begun - deferred_seconds
                most = max(1, min(MOST_EVENTS, int(TURN_SECONDS * count / spent)))
                self._turn_end = perf_counter() + TURN_SECONDS
            elif len(events) < 2 and not self._deferred and not self._spin.goes_on(len(events), ended):
                return

    def _serve(self, events: list[tuple[int, int]]) -> float:
        """Serve a batch, then what was deferred before it; return the seconds spent on the latter."""
        callbacks, deferred = self._callbacks, len(self._deferred)
        self._serving = True
        try:
            for fd, ready in events:
                callbacks[fd](ready)
            if deferred:  # not what this batch has deferred
                return self._serve_deferred(deferred)
        finally:
            self._serving = False
            if self._closing:
                for sock in self._closing:
                    sock.close()
                self._closing.clear()
        return 0.0

    def _serve_deferred(self, most: int) -> float:
        """Call what is deferred, at least one, until the turn is over; the rest keeps its place."""
        begun = now = perf_counter()
        for _ in range(most):
            self._deferred.popleft()()
            now = perf_counter()
            if now >= self._turn_end:
                break
        return now - begun
