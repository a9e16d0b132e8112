"""What is received by UDP, decoded; and how much of it there was."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Generic, Self, TypeVar

import attrs

from oread.errors import HandlerError
from oread.messages import Datagram

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Received(Generic[T]):
    """A message, and what its payload says."""

    value: T
    message: Datagram


@attrs.frozen(kw_only=True)
class DatagramCounters:
    """A snapshot of what was sent, received and dropped."""

    sent: int
    received: int
    refused: Mapping[str, int]
    """What was not passed on, by reason."""


class Values(Generic[T]):
    """The payloads of what is received; made by `Datagrams.values`."""

    def __init__(
        self, receive: Callable[[], Awaitable[Datagram]], read: Callable[[bytes], T], refused: Counter[str]
    ) -> None:
        self._receive = receive
        self._read = read
        self._refused = refused

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received[T]:
        """Wait for the next message of the type; raises as `Datagrams.receive`."""
        while True:
            message = await self._receive()
            with counting_unreadable(self._refused):
                return Received(value=self._read(message.data), message=message)


@contextlib.contextmanager
def counting_unreadable(refused: Counter[str]) -> Iterator[None]:
    """Count what can't be decoded, instead of raising."""
    try:
        yield
    except HandlerError:
        refused["unreadable"] += 1
