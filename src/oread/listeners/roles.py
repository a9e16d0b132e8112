"""What a connection needs of its socket and of its listener."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, Protocol

from oread.dispatch import Failed
from oread.endpoints import Endpoint
from oread.limits import StreamLimits
from oread.messages import Address, Peer
from oread.reactor import Reactor, RunnerPool


class Socket(Protocol):
    """What a connection needs of its socket; memory sockets have it too."""

    def fileno(self) -> int:
        """See socket(7) for each of these."""

    def recv(self, size: int, /) -> bytes:
        """Raise BlockingIOError instead of waiting; `b""` is the end of input."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Raise BlockingIOError instead of waiting."""

    def setsockopt(self, level: int, option: int, value: bytes, /) -> None:
        """Set one option: SO_LINGER, by which closing resets."""

    def shutdown(self, how: int, /) -> None:
        """End one direction."""

    def close(self) -> None:
        """Close it."""

    def getpeername(self) -> Any:
        """Raise OSError once the kernel has forgotten the peer."""

    def getsockname(self) -> Any:
        """Return its own address."""


class Owner(Protocol):
    """The listener, as its connections see it."""

    endpoint: Endpoint
    reactor: Reactor
    runners: RunnerPool
    copy_context: Callable[[], contextvars.Context]
    fresh_context: contextvars.Context
    """What the next inline call runs in, by whoever replaces it when it is not empty afterwards.

    A copy for each call (DESIGN.md, Isolation) that is made only when it shows: an empty context that
    is still empty was not written to. 0.2 µs of 6.
    """
    messages: int
    replies: int
    answered: int
    """Messages answered at once on the hot path: each counts as a message and a reply."""

    @property
    def limits(self) -> StreamLimits:
        """The bounds of the endpoint."""

    def report(self, event: str, failed: Failed, peer: Peer) -> None:
        """Count and log what a handler raised."""

    def count(self, reason: str) -> None:
        """Count something refused or dropped, by reason."""

    def forget(self, connection: Any) -> None:
        """Take note that a connection has closed; its handler may still run."""

    def release(self, connection: Any) -> None:
        """Take note that the handler of a closed connection has ended."""


def read_address(ask: Callable[[], Any]) -> Address:
    """Return what `getpeername` or `getsockname` says; None when it is forgotten."""
    try:
        address = ask()
    except OSError:
        return None
    if isinstance(address, bytes):  # a name in Linux's abstract namespace (unix(7))
        return "@" + address[1:].decode(errors="replace")
    return address[:2] if isinstance(address, tuple) else address or None
