"""Keep the context of a call for the iterator that it returned.

The body of a generator runs after the call, when its items are asked for. What
middleware or the handler itself has set in context variables by then is still
seen there, as in any function that is called.

Compiled in for handlers that yield only: others pay nothing.
"""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

import attrs

from oread.dispatch.compiled import Call, Origin, Start
from oread.dispatch.payload import is_stream


@attrs.define(eq=False)
class Items(Iterator[Any]):
    """A sync iterator with the context it belongs to."""

    items: Any
    context: contextvars.Context

    def __next__(self) -> Any:
        """Return the next item."""
        return next(self.items)

    def close(self) -> None:
        """Close the iterator, if it can be closed."""
        if hasattr(self.items, "close"):
            self.items.close()


@attrs.define(eq=False)
class AsyncItems(AsyncIterator[Any]):
    """An async iterator with the context it belongs to."""

    items: Any
    context: contextvars.Context

    def __anext__(self) -> Awaitable[Any]:
        """Return what gives the next item."""
        awaitable: Awaitable[Any] = anext(self.items)
        return awaitable

    async def aclose(self) -> None:
        """Close the iterator, if it can be closed."""
        if hasattr(self.items, "aclose"):
            await self.items.aclose()


def _keep(reply: Any) -> Any:
    kind = is_stream(reply)
    if kind is None:
        return reply
    context = contextvars.copy_context()
    return Items(reply, context) if kind == "sync" else AsyncItems(reply, context)


def keep_context(call: Call) -> Call:
    """Wrap a compiled sync call whose handlers may yield."""

    def streaming(origin: Origin, data: Any) -> Any:
        return _keep(call(origin, data))

    return streaming


def keep_async_context(start: Start) -> Start:
    """Wrap a compiled async call whose handlers may yield."""

    async def streaming(origin: Origin, data: Any) -> Any:
        return _keep(await start(origin, data))

    return streaming
