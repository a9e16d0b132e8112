"""What a client asks of a transport, whatever the transport.

A channel makes one exchange at a time; who calls it sees to that. When an
exchange raises, or is cancelled, nobody knows any more what the next bytes
belong to: the channel is to be closed. An answer that says no (a 404, a
JSON-RPC error) is an outcome like any other: it is returned, not raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from oread.client.payloads import Payload
from oread.errors import MessageError

Dial = Callable[[], Awaitable[trio.abc.HalfCloseableStream]]
"""Opens one more connection to the peer; the caller of it closes that."""

Outcome = bytes | MessageError
"""What came of an exchange that went well on the wire."""


class Items(Protocol):
    """The items of one answer, on a connection of their own."""

    async def next_item(self) -> bytes | None:
        """Return the next item, None at the end of the answer.

        Raises:
            MessageError: the peer refused, or sends too much.
            trio.BrokenResourceError: the answer was cut short.
        """

    async def aclose(self) -> None:
        """Close the connection."""


class Channel(Protocol):
    """One way of asking, over one transport."""

    @property
    def tells_apart(self) -> bool:
        """Whether `notify` has a connection of its own, so that it need not wait for an exchange."""

    async def open(self) -> None:
        """Connect, so that a peer that is not there is known at once."""

    async def exchange(self, event: str, payload: Payload) -> Outcome:
        """Ask, and return the answer."""

    async def notify(self, event: str, payload: Payload) -> MessageError | None:
        """Tell without waiting for an answer, unless the transport always gives one."""

    async def open_items(self, event: str, payload: Payload) -> Items:
        """Ask on a connection of its own, for an answer item by item."""

    async def finish(self) -> None:
        """Say goodbye: what was told is to arrive. Bounded in time."""

    async def aclose(self) -> None:
        """Close everything at once, without waiting for the peer."""


class Closeable(Protocol):
    """What is closed without waiting."""

    async def aclose(self) -> None:
        """Close it."""


async def close_at_once(*resources: Closeable) -> None:
    """Close all of these, even while being cancelled: none waits for its peer."""
    with trio.CancelScope(shield=True):
        for resource in resources:
            await resource.aclose()
