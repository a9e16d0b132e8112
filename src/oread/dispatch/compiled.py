"""What dispatch is compiled from and to: links in, entries out.

Not here: the compiling (`entry`) and the registering (the registry).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

import attrs

from oread.dispatch.gate import Gate
from oread.dispatch.signature import Plan
from oread.errors import NotAllowed
from oread.messages import Message

NEVER_BY_DEFAULT = ("CONNECT", "TRACE")
"""Methods that no handler serves unless it names them (RFC 9110 9.3.6, 9.3.8)."""


class Origin(Protocol):
    """Where a message came from; makes the `Message` when a handler asks."""

    @property
    def captures(self) -> Mapping[str, str]:
        """What the pattern captured."""

    def message(self, data: bytes | memoryview) -> Message:
        """Make the message with its context."""

    def report(self, failed: Failed) -> None:
        """Count and log a failure that is not the outcome of the exchange."""


@attrs.frozen(eq=False)
class Failed:
    """The outcome of a handler that raised."""

    error: Exception
    handler: str = ""


class Spent(Exception):  # noqa: N818 - it is no error: nobody sees it
    """A `once` handler has had its call: it is passed over."""


Application = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI 3 application: `await app(scope, receive, send)`."""
Call = Callable[[Origin, Any], Any]
Start = Callable[[Origin, Any], Coroutine[Any, Any, Any]]


@attrs.frozen(kw_only=True)
class Link:
    """One registered handler as the compiler sees it."""

    handler: Callable[..., Any]
    name: str
    plan: Plan
    methods: tuple[str, ...] | None = None
    exposed: bool = True
    take: Callable[[], bool] | None = None
    """For `once`: True the first time it is asked, then never again.

    It is asked when the arguments are there: a message that is refused does not use the handler up.
    """
    limit: int | None = None
    """Calls of its event at a time."""
    shield: bool = False
    application: Application | None = None
    """What is called instead of the handler, by HTTP and WebSocket."""


@attrs.frozen(kw_only=True)
class Layer:
    """One middleware as the compiler sees it."""

    kind: str
    """`context`, `async context`, `wrapping` or `async wrapping`."""
    function: Callable[..., Any]
    name: str

    @property
    def is_async(self) -> bool:
        """Whether it makes an event async."""
        return self.kind.startswith("async")


@attrs.frozen(kw_only=True, eq=False)
class Entry:
    """The compiled handlers of one event; swapped, never mutated."""

    event: str
    call: Call | None
    """`call(origin, data) -> value or Failed`; None when a handler is async."""
    start: Start | None = None
    """`start(origin, data) -> coroutine`, set exactly when `call` is None."""
    wants_message: bool = False
    """Some handler asks for the message: its context must be collected."""
    takes_json: bool = False
    """Some handler has its payload decoded from JSON."""
    links: tuple[Link, ...] = ()
    by_method: Mapping[str, Entry] | None = None
    """Set when a handler is limited to HTTP methods; see `entry_for_method`."""
    session: Callable[[Any], Coroutine[Any, Any, Any]] | None = None
    """`session(stream) -> coroutine`, whose value is None or `Failed`."""
    gate: Gate | None = None
    """Set when `start` is and calls are limited: take a place first, give it back when the job is done."""
    layers: tuple[Layer, ...] = ()
    """Middleware around the handlers, the outermost first."""
    shield: bool = False
    """Some handler must not be cancelled because its peer is gone."""
    takes_parts: bool = False
    """One handler takes its payload as `Parts`, no other takes it: it may be given before it has come."""

    application: Application | None = None
    """An ASGI application that takes whole exchanges."""

    def entry_for_method(self, method: str) -> Entry:
        """Return the entry that serves one HTTP method of this event.

        Raises:
            NotAllowed: no handler serves this method.
        """
        if self.by_method is None:
            if method in NEVER_BY_DEFAULT:
                raise NotAllowed(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
            return self
        entry = self.by_method.get(method)
        if entry is None and method == "HEAD":
            entry = self.by_method.get("GET")
        if entry is None and method not in NEVER_BY_DEFAULT:
            entry = self.by_method.get("*")
        if entry is None:
            allowed = set(self.by_method) - {"*"}
            raise NotAllowed(tuple(sorted(allowed | {"OPTIONS"} | ({"HEAD"} if "GET" in allowed else set()))))
        return entry
