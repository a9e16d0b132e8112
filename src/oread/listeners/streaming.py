"""Send a reply that comes item by item: from an iterator or an async one.

A `PulledReply` asks a sync iterator for one item in each pass of the reactor,
and only while little is pending, so that it neither blocks the others nor
fills memory. An `AwaitedReply` is a job: a runner iterates and waits while too
much is pending. Both run user code isolated and close the iterator in every
way out. The whole reply has one context: for handlers that yield that of
their call, for other iterators a fresh copy of the service's.
Not here: how items become bytes (`streams`, `http_items`).
"""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Iterator
from time import perf_counter
from typing import Any, Protocol

import trio

from oread.dispatch import Entry, Failed, isolate
from oread.dispatch.entry import isolate_call
from oread.dispatch.payload import is_stream
from oread.dispatch.streamed import AsyncItems, Items
from oread.errors import MessageError
from oread.listeners.states import CLOSED, FULL
from oread.listeners.waiter import Waiter
from oread.reactor import TURN_SECONDS, Job, Reactor, RunnerPool


class Outlet(Job, Protocol):
    """The connection, as a streamed reply sees it."""

    flags: int

    def has_little_pending(self) -> bool:
        """Tell whether the peer takes items about as fast as they come."""

    def send_item(self, item: Any) -> None:
        """Encode and send one item; raises MessageError when it can't be sent."""

    def end_stream(self, failed: Failed | None) -> None:
        """Take note that the iterator is through, or what ended it."""

    def report(self, failed: Failed) -> None:
        """Count and log a failure that does not matter for the reply."""


@trio.lowlevel.disable_ki_protection
def _next(items: Iterator[Any]) -> Any:
    return isolate_call(next, items)


@trio.lowlevel.disable_ki_protection
def _close(items: Iterator[Any]) -> Any:
    return isolate_call(items.close) if hasattr(items, "close") else None


async def _await_next(items: AsyncIterator[Any]) -> Any:
    return await anext(items)  # here, because a wrong __anext__ may raise before there is anything to await


@trio.lowlevel.disable_ki_protection
async def _anext(items: AsyncIterator[Any]) -> Any:
    return await isolate(_await_next(items))


@trio.lowlevel.disable_ki_protection
async def _aclose(items: AsyncIterator[Any]) -> Any:
    return await isolate(items.aclose()) if hasattr(items, "aclose") else None


def discard_stream(reply: Any) -> None:
    """Close a sync iterator that nobody will ask for an item.

    An async one can't be closed without waiting; not begun, it holds nothing.
    """
    if is_stream(reply) == "sync":
        _close(reply)


class StreamedReply:
    """One reply under way; made for the job of its connection.

    Args:
        entry: whose handlers returned it.
        wanted: False only closes the iterator, for an answer to HEAD.
        form: how the items go out, for the connection that knows.
    """

    __slots__ = ("_outlet", "_wanted", "begun", "entry", "form", "name", "shield")

    def __init__(self, outlet: Outlet, entry: Entry, *, wanted: bool, form: Any) -> None:
        self._outlet = outlet
        self._wanted = wanted
        self.entry = entry
        self.form = form
        self.name = entry.links[0].name if len(entry.links) == 1 else ""
        self.begun = False
        """Whether something of it was sent: an error can't be told any more."""
        self.shield = entry.shield
        """Whether it goes on when its peer has ended its side."""

    def start(self) -> None:
        """Begin to send, not before the next pass of the reactor."""
        raise NotImplementedError

    def resume(self) -> None:
        """Go on: the peer has taken something."""
        raise NotImplementedError

    def on_closed(self) -> None:
        """End it: its connection is closed."""
        raise NotImplementedError

    def stop(self, failed: Failed | None) -> None:
        """End it from outside."""
        raise NotImplementedError


class SteppedReply(StreamedReply):
    """A reply of which the reactor sends one step in each of its passes."""

    __slots__ = ("_over", "_reactor", "_scheduled")

    def __init__(self, outlet: Outlet, entry: Entry, *, reactor: Reactor, wanted: bool, form: Any) -> None:
        super().__init__(outlet, entry, wanted=wanted, form=form)
        self._reactor = reactor
        self._scheduled = self._over = False

    def start(self) -> None:
        """Make the first step in the next pass."""
        self.resume()

    def resume(self) -> None:
        """Make one more step in the next pass."""
        if not self._scheduled and not self._over:
            self._scheduled = True
            self._reactor.defer(self._step)

    def on_closed(self) -> None:
        """Let go of what it sends, at once or behind the present step."""
        self.stop(None)

    def stop(self, failed: Failed | None) -> None:
        """Let go of what it sends and tell the connection, once."""
        if self._over:
            return
        self._over = True
        self.let_go()
        self._outlet.end_stream(failed)

    def let_go(self) -> None:
        """Close what it sends; called once."""
        raise NotImplementedError

    def step(self) -> None:
        """Send a little, then see to the next step, or stop."""
        raise NotImplementedError

    def _step(self) -> None:
        self._scheduled = False
        if not self._over:
            self.step()


class PulledReply(SteppedReply):
    """The items of a sync iterator."""

    __slots__ = ("_context", "_inside", "_items")

    def __init__(
        self,
        outlet: Outlet,
        entry: Entry,
        items: Iterator[Any],
        *,
        reactor: Reactor,
        context: contextvars.Context,
        wanted: bool,
        form: Any,
    ) -> None:
        super().__init__(outlet, entry, reactor=reactor, wanted=wanted, form=form)
        self._items, self._context = items, context
        if isinstance(items, Items):
            self._items, self._context = items.items, items.context
        self._inside = False

    def let_go(self) -> None:
        """Close the iterator, or have it closed when it has given its item."""
        if not self._inside:  # a generator that runs can't be closed
            self._close()

    def _close(self) -> None:
        result = self._context.run(_close, self._items)
        if isinstance(result, Failed):
            self._outlet.report(Failed(result.error, self.name))

    def step(self) -> None:
        """Ask for one item."""
        if not self._wanted:
            self.stop(None)
            return
        if self._outlet.has_little_pending():
            self._pull()  # else `resume` comes with what the peer takes

    def _pull(self) -> None:
        self._inside = True
        item = self._context.run(_next, self._items)
        self._inside = False
        if self._over:  # the iterator has ended its own connection
            self._close()
        elif isinstance(item, Failed):
            self.stop(None if isinstance(item.error, StopIteration) else Failed(item.error, self.name))
        else:
            self._send(item)

    def _send(self, item: Any) -> None:
        try:
            self._outlet.send_item(item)
        except MessageError as error:
            self.stop(Failed(error, self.name))
            return
        self.begun = True
        self.resume()


class AwaitedReply(StreamedReply):
    """The items of an async iterator."""

    __slots__ = ("_context", "_items", "_runners", "_waiter")

    def __init__(
        self,
        outlet: Outlet,
        entry: Entry,
        items: AsyncIterator[Any],
        *,
        runners: RunnerPool,
        wanted: bool,
        form: Any,
    ) -> None:
        super().__init__(outlet, entry, wanted=wanted, form=form)
        self._items = items
        self._context: contextvars.Context | None = None
        if isinstance(items, AsyncItems):
            self._items, self._context = items.items, items.context
        self._runners = runners
        self._waiter = Waiter()

    def start(self) -> None:
        """Have a runner iterate."""
        self._runners.submit(self._outlet)

    def resume(self) -> None:
        """Let the runner go on, once little enough is pending."""
        if not self._outlet.flags & FULL:
            self._waiter.wake()

    def on_closed(self) -> None:
        """Have the runner see it; with `shield` nothing else ends the wait."""
        self._waiter.wake()

    def stop(self, _failed: Failed | None) -> None:
        """Cancel its runner, which tells the connection."""
        self._runners.cancel(self._outlet)

    async def run(self) -> Failed | None:
        """Send every item; the value is what the iterator failed with.

        Cancellation: closes the iterator; its own clean-up is cancelled too,
        where it has no shield.
        """
        if self._context is not None:
            for variable, value in self._context.items():
                variable.set(value)  # in the context of this job, which is nobody else's
        try:
            return await self._iterate() if self._wanted else None
        finally:
            closed = await _aclose(self._items)
            if isinstance(closed, Failed):
                self._outlet.report(Failed(closed.error, self.name))

    async def _iterate(self) -> Failed | None:
        outlet, turn_end = self._outlet, perf_counter() + TURN_SECONDS
        while not outlet.flags & CLOSED:
            item = await _anext(self._items)
            if isinstance(item, Failed):
                return None if isinstance(item.error, StopAsyncIteration) else Failed(item.error, self.name)
            if outlet.flags & CLOSED:
                break
            try:
                outlet.send_item(item)
            except MessageError as error:
                return Failed(error, self.name)
            self.begun = True
            while outlet.flags & FULL and not outlet.flags & CLOSED:
                await self._waiter.wait()
            if perf_counter() >= turn_end:
                await trio.lowlevel.checkpoint()
                turn_end = perf_counter() + TURN_SECONDS
        return None
