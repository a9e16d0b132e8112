"""Accept connections from one listening socket, within the cap.

The cap is looked at before each accept, so that what is over it waits in the
kernel's queue: back-pressure costs nothing. Out of descriptors the queue
stays readable, so accepting pauses instead of spinning.

Source: accept(2), ERRORS.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Protocol

from oread.listeners.roles import Socket
from oread.listeners.runtime import log
from oread.reactor import READABLE, Reactor, Timer

ACCEPTS_PER_TURN = 16
PAUSE_SECONDS = 0.1
"""How long accepting rests when there are no descriptors (as ranch and nginx do)."""

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_GIVEN_UP = {
    *(errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENOPROTOOPT, errno.EOPNOTSUPP),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
}
"""Errors of one connection in the queue, not of the listening socket (accept(2), Error handling)."""


class ListeningSocket(Protocol):
    """What an acceptor needs of its socket; memory sockets have it too."""

    def fileno(self) -> int:
        """See socket(7) for each of these."""

    def accept(self) -> tuple[Any, Any]:
        """Raise BlockingIOError instead of waiting."""

    def getsockname(self) -> Any:
        """Return its own address."""

    def close(self) -> None:
        """Close it."""


class Acceptor:
    """One listening socket.

    Args:
        has_room: False at the connection cap.
        make_room: at the cap, while somebody waits: True when another gave way.
        on_accept: is given each accepted socket, non-blocking.
        count: counts something refused, by reason.
    """

    __slots__ = (
        "_closed",
        "_complained",
        "_count",
        "_has_room",
        "_make_room",
        "_on_accept",
        "_paused",
        "_reactor",
        "_timer",
        "socket",
    )

    def __init__(
        self,
        reactor: Reactor,
        sock: ListeningSocket,
        *,
        has_room: Callable[[], bool],
        make_room: Callable[[], bool],
        on_accept: Callable[[Socket], None],
        count: Callable[[str], None],
    ) -> None:
        self.socket = sock
        self._reactor = reactor
        self._has_room = has_room
        self._make_room = make_room
        self._on_accept = on_accept
        self._count = count
        self._paused = False
        self._complained = False
        self._closed = False
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin to accept."""
        self._reactor.add(self.socket.fileno(), self.on_ready, READABLE)

    def on_ready(self, _ready: int) -> None:
        """Accept a few; the others' turn comes before the rest."""
        self.accept(ACCEPTS_PER_TURN)

    def accept(self, most: int) -> None:
        """Accept at most so many of the queued connections."""
        for turn in range(most):
            if self._closed:
                return  # by a handler of a connection just accepted
            if not self._has_room():
                if turn:
                    return  # another gives way only for one who waits, which the next readiness tells
                if not self._make_room():
                    self._pause_for(PAUSE_SECONDS)  # a busy connection may be idle by then, and give way
                    return
            try:
                sock, _address = self.socket.accept()
            except BlockingIOError:
                self._complained = False
                return
            except OSError as error:
                if error.errno not in _GIVEN_UP:
                    self._rest(error)
                    return
                self._count("accept_failed")  # the next in the queue may be fine
                continue
            sock.setblocking(False)
            self._on_accept(sock)

    def resume(self) -> None:
        """Accept again: a connection has closed, or the pause is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._paused and not self._closed:
            self._paused = False
            self._reactor.set(self.socket.fileno(), READABLE)

    def close(self) -> None:
        """Stop accepting; harmless when it has stopped."""
        if not self._closed:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            self._reactor.close(self.socket)

    def _pause_for(self, seconds: float) -> None:
        if not self._paused:
            self._paused = True
            self._reactor.set(self.socket.fileno(), 0)
            self._timer = self._reactor.call_at(self._reactor.tick() + seconds, self._wake)

    def _rest(self, error: OSError) -> None:
        self._count("out_of_descriptors" if error.errno in _OUT_OF_RESOURCES else "accept_failed")
        if not self._complained:
            self._complained = True
            log.warning("accepting rests for %g s at a time: %s", PAUSE_SECONDS, error)
        self._pause_for(PAUSE_SECONDS)

    def _wake(self) -> None:
        self._timer = None
        self.resume()
