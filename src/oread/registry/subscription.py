"""Messages of an event as an async iterator, bounded.

A subscription is a handler that keeps each message and answers nothing. What
happens when nobody takes them is chosen by `overflow`: only `block` makes the
event wait, and so async; the others stay inline.

Not here: the registering; the scope of a subscription is the registry's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Self, get_args

import attrs
import trio

from oread.errors import RegistrationError, SubscriptionOverflow
from oread.messages import Message

Overflow = Literal["block", "drop_oldest", "drop_newest", "error"]


@attrs.frozen(kw_only=True)
class SubscriptionStatistics:
    """A snapshot of one subscription's counters."""

    received: int
    """Messages taken in, those dropped later among them."""
    dropped: int
    """Messages that nobody will see: it was full."""
    waiting: int
    """Messages that wait to be taken."""
    blocked: int
    """Calls that wait for room."""
    capacity: int


@attrs.define(eq=False)
class Subscription:
    """The messages of one event; for one task, which iterates."""

    event: str
    capacity: int
    overflow: Overflow
    dropped: int = 0
    """Messages that nobody will see: it was full."""
    _received: int = 0
    _overflown: bool = False
    _iterating: bool = False
    _into: trio.MemorySendChannel[Message] = attrs.field(init=False)
    _out: trio.MemoryReceiveChannel[Message] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Refuse what is not bounded, and what can't be meant.

        Raises:
            RegistrationError: with the value and what is allowed.
        """
        if type(self.capacity) is not int or self.capacity < 1:
            raise RegistrationError(f"capacity={self.capacity!r}: a whole number, 1 or more")
        if self.overflow not in get_args(Overflow):
            raise RegistrationError(f"overflow={self.overflow!r}: one of {', '.join(get_args(Overflow))}")
        self._into, self._out = trio.open_memory_channel[Message](self.capacity)

    @property
    def handler(self) -> Callable[[Message], Awaitable[None] | None]:
        """What is to be registered."""
        handlers: Mapping[str, Callable[[Message], Awaitable[None] | None]] = {
            "block": self._receive_or_wait,
            "drop_oldest": self._receive_dropping_oldest,
            "drop_newest": self._receive_dropping_newest,
            "error": self._receive_or_fail,
        }
        return handlers[self.overflow]

    def statistics(self) -> SubscriptionStatistics:
        """Return the counters as they are now."""
        channel = self._out.statistics()
        return SubscriptionStatistics(
            received=self._received,
            dropped=self.dropped,
            waiting=channel.current_buffer_used,
            blocked=channel.tasks_waiting_send,
            capacity=self.capacity,
        )

    def end(self) -> None:
        """Take nothing in any more; what is here can still be taken."""
        self._into.close()

    def close(self) -> None:
        """End, and drop what is here; calls that wait for room go on."""
        self._into.close()
        self._out.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Take the next message.

        Raises:
            StopAsyncIteration: it was removed, and all messages were taken.
            SubscriptionOverflow: `overflow="error"` and it was full; raised
                once the messages from before have been taken.
            trio.BusyResourceError: another task iterates.
        """
        if self._iterating:
            raise trio.BusyResourceError(f"another task takes the messages of {self.event!r}")
        self._iterating = True
        try:
            return await self._out.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            if self._overflown:
                raise SubscriptionOverflow(self.event, self.capacity) from None
            raise StopAsyncIteration from None
        finally:
            self._iterating = False

    # as a handler, in four ways

    async def _receive_or_wait(self, message: Message) -> None:
        try:
            await self._into.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # closed while this call was under way: nobody listens any more
        self._received += 1

    def _receive_dropping_newest(self, message: Message) -> None:
        if not self._put(message):
            self.dropped += 1

    def _receive_dropping_oldest(self, message: Message) -> None:
        if not self._put(message):
            self._out.receive_nowait()
            self.dropped += 1
            self._put(message)

    def _receive_or_fail(self, message: Message) -> None:
        if self._overflown:
            self.dropped += 1
        elif not self._put(message):
            self.dropped += 1
            self._overflown = True
            self.end()

    def _put(self, message: Message) -> bool:
        """Take one in without waiting; False when it is full."""
        try:
            self._into.send_nowait(message)
        except trio.WouldBlock:
            return False
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return True  # closed while this call was under way: as if it had come later
        self._received += 1
        return True
