"""The mechanics of one accepted connection: reading and ending.

What the bytes mean is a subclass's business (`streams`, `sessions`, `http`),
and how they are written is told in `writing`.
A connection is a source of the reactor and makes no system call that blocks.

How it ends:

* the peer's FIN ends the input; replies still owed are sent, then we close;
* a reset or a socket error cancels its handler and closes at once;
* we close in stages: what is pending is sent, writing is shut down, input is
  read away for `linger_seconds`, then the socket is closed. Without that the
  kernel answers unread input with a reset, which can destroy replies in flight;
* `close` closes at once.

Source: DESIGN.md, Traps of such a reactor; RFC 9112 9.6 for the staged close.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar

from oread.listeners.roles import Owner, Socket, read_address
from oread.listeners.states import (
    BUSY,
    CLOSED,
    CLOSING,
    DEFERRED,
    DRAINING,
    FULL,
    INPUT_ENDED,
    LINGERING,
    MASKED,
    PEER_GONE,
    PENDING,
    READ_BYTES,
    SMALL_BYTES,
    UNWATCHED,
    UPLOADING,
)
from oread.listeners.writing import WritingConnection
from oread.messages import Address, Peer
from oread.reactor import ERROR, HANGUP, READ_HANGUP, READABLE, WRITABLE, Runner
from oread.sockets.streams import tcp_info
from oread.sockets.tls_socket import TlsSocket

_NO_READ = INPUT_ENDED | FULL | CLOSING | MASKED | DEFERRED


class Connection(WritingConnection):
    """One accepted stream connection."""

    __slots__ = (
        "_recv",
        "armed",
        "discarded",
        "fd",
        "interest",
        "job",
        "received",
        "room",
        "runner",
        "socket",
    )

    watches_peer: ClassVar[bool] = False
    """Whether the peer's FIN matters while a handler runs (HTTP)."""

    def __init__(self, owner: Owner, sock: Socket) -> None:
        super().__init__(owner, sock)
        self.socket = sock
        self.fd = sock.fileno()
        self._recv: Callable[[int], bytes] = sock.recv
        self.interest = READABLE
        self.armed = math.inf
        self.received = self.progress
        self.discarded = 0
        self.room = SMALL_BYTES
        """What is asked for at once: little, as long as little comes."""
        self.job: Any = None
        self.runner: Runner | None = None

    def open(self) -> None:
        """Begin to serve it."""
        self._owner.reactor.add(self.fd, self.on_ready, self.interest)
        self.rearm()

    # where it is connected

    def peer(self) -> Peer:
        """Return the other side; the address is None once it is forgotten."""
        return Peer(read_address(self.socket.getpeername), self._owner.endpoint.scheme)

    def local(self) -> Address:
        """Return the address that the peer connected to."""
        return read_address(self.socket.getsockname)

    def transport_info(self) -> Mapping[str, Any]:
        """Return what the kernel, and TLS, know of the connection."""
        sock = self.socket
        return sock.info() if isinstance(sock, TlsSocket) else tcp_info(sock)

    # what a subclass says

    def on_data(self, data: bytes) -> None:
        """Take what was read."""
        raise NotImplementedError

    def on_input_end(self) -> None:
        """Take note of the peer's FIN; what is owed is still sent."""

    def on_writable(self) -> None:
        """Go on: what was pending is written, or little enough."""

    def on_peer_gone(self) -> None:
        """Take note of the peer's FIN while a handler works for it."""

    def on_reset(self) -> None:
        """Cancel the handler that works for a peer that is gone."""
        if self.flags & BUSY:
            self._owner.runners.cancel(self)

    def on_closed(self) -> None:
        """Let go of what is under way: it has just closed."""

    def resume(self) -> None:
        """Go on: see `on_writable`."""
        self.on_writable()

    def give_place(self) -> None:
        """Give back what its call holds of a limited event."""

    @property
    def has_handler(self) -> bool:
        """Whether something works for it."""
        return bool(self.flags & BUSY)

    def cancel_handler(self) -> None:
        """Cancel what works for it, at the end of a drain."""
        self._owner.runners.cancel(self)

    @property
    def evictable(self) -> bool:
        """Whether it may give way at the cap."""
        return False

    def in_exchange(self) -> bool:
        """Tell whether a message that has begun to come is not yet answered."""
        return bool(self.flags & (BUSY | DEFERRED))

    def next_deadline(self) -> float:
        """Return when it has to do something else, on Trio's clock."""
        flags, limits = self.flags, self._owner.limits
        if flags & LINGERING:
            return self.progress + limits.linger_seconds
        if flags & PENDING:
            return self.progress + limits.stall_seconds
        if flags & BUSY:
            return math.inf
        return self.received + limits.idle_seconds

    def on_expired(self) -> None:
        """End it: its deadline has passed."""
        if self.flags & LINGERING:
            self.close()
        elif self.flags & PENDING:
            self._owner.count("stalled")
            self.on_reset()
            self.close()
        else:
            self._owner.count("idle")
            self.finish_writing()

    # job of the runner pool

    def begin(self) -> Coroutine[Any, Any, Any] | None:
        """Make the coroutine; None when the peer was reset while it was queued."""
        raise NotImplementedError

    def finish(self, result: Any) -> None:
        """Take what the handler came to."""
        raise NotImplementedError

    # readiness

    def on_ready(self, ready: int) -> None:
        """Serve what the poller reports."""
        if ready == READABLE and not self.flags:
            self.read()
            return
        if ready & ERROR:
            self.reset()
            return
        if ready & WRITABLE:
            self.flush()
        if ready & (READABLE | READ_HANGUP | HANGUP):
            self._on_input(ready)

    def _on_input(self, ready: int) -> None:
        flags = self.flags
        if flags & CLOSED:
            return
        if flags & LINGERING:
            self._discard()
        elif flags & (BUSY | _NO_READ):
            self.mask(ready)
        else:
            self.read()

    def read(self) -> None:
        """Read once and hand on what came."""
        room = self.room
        try:
            data = self._recv(room)
        except BlockingIOError:
            return
        except OSError:
            self.reset()
            return
        if data:
            if len(data) >= SMALL_BYTES:
                if room == SMALL_BYTES:
                    data = self.read_on(data)
            elif room != SMALL_BYTES:
                self.room = SMALL_BYTES
            self.received = self._owner.reactor.now
            self.on_data(data)
        else:
            self.end_input()

    def read_on(self, data: bytes) -> bytes:
        """Return it with what lies behind: a small read was filled, so the next is a large one."""
        self.room = READ_BYTES
        try:
            return data + self._recv(READ_BYTES - SMALL_BYTES)
        except OSError:
            return data  # nothing is there yet; or a reset, which is reported again

    def end_input(self) -> None:
        """The peer will send nothing more."""
        self.flags |= INPUT_ENDED
        self.on_input_end()
        self.settle()

    def mask(self, ready: int) -> None:
        """Watch for nothing that can't be served now: that would spin."""
        if ready & HANGUP:
            self._owner.reactor.remove(self.fd)
            self.flags |= UNWATCHED | MASKED
            return
        if ready & READ_HANGUP and not self.flags & (PEER_GONE | UPLOADING):
            self.flags |= PEER_GONE
            self.on_peer_gone()
        self.flags |= MASKED
        self.watch()

    def watch(self) -> None:
        """Tell the poller what the present state waits for."""
        flags = self.flags
        if flags & CLOSED:
            return
        interest = 0
        if flags & LINGERING or not flags & _NO_READ:
            interest = READABLE
        elif flags & BUSY and self.watches_peer and not flags & (PEER_GONE | INPUT_ENDED | UPLOADING):
            interest = READ_HANGUP
        if flags & PENDING:
            interest |= WRITABLE
        if flags & UNWATCHED:
            if interest:
                self.flags &= ~UNWATCHED
                self._owner.reactor.add(self.fd, self.on_ready, interest)
        elif interest != self.interest:
            self._owner.reactor.set(self.fd, interest)
        self.interest = interest

    # ending

    def settle(self) -> None:
        """Do what the state asks for after something has ended."""
        flags = self.flags
        if flags & CLOSED:
            return
        ended = flags & CLOSING or (flags & (INPUT_ENDED | DRAINING) and not self.in_exchange())
        if ended and not flags & (PENDING | LINGERING):
            self._shut_down()
        else:
            self.watch()
            self.rearm()

    def finish_writing(self) -> None:
        """Serve nothing more: send what is pending, then close in stages."""
        self.flags = (self.flags | CLOSING) & ~DEFERRED
        self.settle()

    def drain(self) -> None:
        """Serve what has arrived by now, end it after its present exchange."""
        if not self.flags & (BUSY | _NO_READ | CLOSED | LINGERING):
            self.read()
        self.flags |= DRAINING
        self.settle()

    def _shut_down(self) -> None:
        if self.flags & INPUT_ENDED and not isinstance(self.socket, TlsSocket):
            self.close()  # nothing can be unread, so no reset is provoked
            return
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            self.keep(b"")  # the last word of TLS waits for the peer
            return
        except OSError:
            self.close()  # the peer has reset it meanwhile
            return
        if self.flags & INPUT_ENDED:
            self.close()
            return
        self.flags = (self.flags | LINGERING) & ~MASKED
        self.progress = self._owner.reactor.tick()
        self.watch()
        self.rearm()

    def _discard(self) -> None:
        try:
            data = self._recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # reset: nothing more to wait for
        self.discarded += len(data)
        if not data or self.discarded > self._owner.limits.linger_bytes:
            self.close()

    def reset(self) -> None:
        """The peer is gone: cancel its handler and close."""
        if not self.flags & CLOSED:
            self.on_reset()
            self.close()

    def close(self) -> None:
        """Close now; harmless when it is closed."""
        if self.flags & CLOSED:
            return
        self.flags |= CLOSED
        if self.flags & BUSY:
            self.on_closed()
        self.pending = None
        self._owner.reactor.disarm(self)
        self._owner.reactor.close(self.socket)
        self._owner.forget(self)

    def let_go(self) -> bytearray | None:
        """End it without closing the socket, which another connection goes on with.

        Returns:
            What is pending, for that one to send.
        """
        pending, self.pending = self.pending, None
        if not self.flags & UNWATCHED:
            self._owner.reactor.remove(self.fd)
        self.flags |= CLOSED
        self._owner.reactor.disarm(self)
        return pending

    # deadlines

    def rearm(self) -> None:
        """Have the reactor ask at the next deadline."""
        when = self.next_deadline()
        if when < self.armed:
            self._owner.reactor.arm(self, when)

    def on_deadline(self, now: float) -> None:
        """Look whether a deadline has passed."""
        if now >= self.next_deadline():
            self.on_expired()
        else:
            self.rearm()
