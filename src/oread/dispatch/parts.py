"""Give a handler its payload part by part, whatever it came by.

HTTP has parts that come one after the other (`oread.listeners.http_bodies`);
what came whole, by any other transport, is one part. So a handler annotated
`AsyncIterator[bytes]` is called the same way by every socket.

Not here: reading, and bounding what is read (the listeners).
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, get_args, get_origin

PARTS = "parts"
"""The kind of payload: how a plan says it."""


class Parts(AsyncIterator[bytes]):
    """A payload as an async iterator; no part of it is empty."""

    __slots__ = ()


class OnePart(Parts):
    """A payload that has come whole; an empty one has no parts."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = bytes(data)

    async def __anext__(self) -> bytes:
        """Return all of it, once."""
        data, self._data = self._data, b""
        if not data:
            raise StopAsyncIteration
        return data


def is_parts(annotation: Any) -> bool:
    """Tell whether a parameter asks for parts.

    Raises:
        TypeError: for parts of another type than bytes.
    """
    if get_origin(annotation) not in (AsyncIterator, AsyncIterable):
        return annotation in (AsyncIterator, AsyncIterable)
    if get_args(annotation) != (bytes,):
        raise TypeError("the parts of a payload are bytes: AsyncIterator[bytes]")
    return True


def as_parts(data: Any) -> Parts:
    """Return a payload as an iterator of its parts."""
    return data if isinstance(data, Parts) else OnePart(data)
