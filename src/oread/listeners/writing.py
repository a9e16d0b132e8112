"""Write to a connection without ever waiting for its peer.

What the kernel does not take at once is kept, and sent as the peer takes it.
Above the water mark `pending_bytes` the connection is FULL: nothing more is
read or served for it, until half of that is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from oread.listeners.roles import Owner, Socket
from oread.listeners.states import CLOSED, FULL, LINGERING, PENDING


class WritingConnection:
    """A connection as far as it is written to."""

    __slots__ = ("_owner", "_send", "flags", "pending", "progress")

    reads_when_full: ClassVar[bool] = False
    """Whether input goes on above the water mark of output (sessions: they see to both)."""

    def __init__(self, owner: Owner, sock: Socket) -> None:
        self._owner = owner
        self._send: Callable[[bytes | memoryview], int] = sock.send
        self.flags = 0
        self.pending: bytearray | None = None
        self.progress = owner.reactor.now
        """When the peer last took something of what is pending."""

    # what a subclass says

    def resume(self) -> None:
        """Go on: what was pending is written, or little enough."""
        raise NotImplementedError

    def settle(self) -> None:
        """Do what the state asks for after something has ended."""
        raise NotImplementedError

    def reset(self) -> None:
        """The peer is gone: cancel its handler and close."""
        raise NotImplementedError

    def watch(self) -> None:
        """Tell the poller what the present state waits for."""
        raise NotImplementedError

    def rearm(self) -> None:
        """Have the reactor ask at the next deadline."""
        raise NotImplementedError

    # what it calls

    def write(self, data: bytes | memoryview) -> None:
        """Send now what the kernel takes; keep a copy of the rest."""
        if self.flags & (PENDING | CLOSED | LINGERING):
            if not self.flags & (CLOSED | LINGERING):
                self.keep(data)
            return
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.reset()
            return
        if sent != len(data):
            self.keep(memoryview(data)[sent:])

    def keep(self, rest: bytes | memoryview) -> None:
        """Keep what could not be sent, and wait for the peer to take it."""
        if self.pending is None:
            self.pending = bytearray(rest)
            self.flags |= PENDING
            self.progress = self._owner.reactor.tick()
            self.rearm()
        else:
            self.pending += rest
        if len(self.pending) >= self._owner.limits.pending_bytes and not self.reads_when_full:
            self.flags |= FULL
        self.watch()

    def flush(self) -> None:
        """Send of what is pending as much as the kernel takes."""
        if self.pending is None:
            return
        try:
            with memoryview(self.pending) as view:
                sent = self._send(view)
        except BlockingIOError:
            return
        except OSError:
            self.reset()
            return
        del self.pending[:sent]
        self.progress = self._owner.reactor.now
        if not self.pending:
            self.pending = None
            self.flags &= ~PENDING
        if self.flags & FULL and (
            self.pending is None or len(self.pending) < self._owner.limits.pending_bytes // 2
        ):
            self.flags &= ~FULL
        if not self.flags & FULL:
            self.resume()
        self.settle()
