"""End what takes too long on an HTTP connection, and say which may give way.

Deadlines (seconds in `HttpLimits`): first byte, whole head, body progress and
rate, idle between requests, and the grace of a handler whose peer has ended
its side. The age of a connection ends it after an answer, which is looked at
where answers are made (`http`).
"""

from __future__ import annotations

from oread.listeners.http_bodies import BODY_GRACE_SECONDS
from oread.listeners.http_streams import HttpOwner
from oread.listeners.http_takeovers import TakenConnection
from oread.listeners.roles import Socket
from oread.listeners.states import BUSY, INPUT_ENDED, LINGERING, PEER_GONE, PENDING, READING
from oread.protocols.http1 import State
from oread.protocols.http1_reply import encode_refusal

NEWCOMER_SECONDS = 1.0
"""How long a connection that has not been read yet is safe from giving way to a newer one."""


class TimedConnection(TakenConnection):
    """An HTTP connection as far as time ends it."""

    __slots__ = (
        "_began",
        "_body",
        "_requests",
        "_state",
    )

    def __init__(self, owner: HttpOwner, sock: Socket) -> None:
        super().__init__(owner, sock)
        self._began = self.received
        self._requests = 0
        self._state = State.IDLE
        self._body: bytearray | None = None

    def open(self) -> None:
        """Begin to serve it; asked early, so that a short idle deadline is kept too."""
        super().open()
        limits = self._owner.limits
        soonest = min(limits.first_byte_seconds, limits.keep_alive_seconds, limits.idle_seconds)
        self._owner.reactor.arm(self, self._opened + soonest)

    def on_peer_gone(self) -> None:
        """Give the handler a short while more, for a half-closing client."""
        self._began = self._owner.reactor.now
        self.rearm()

    def in_exchange(self) -> bool:
        """Tell whether a request is being read or answered; a drain waits for it."""
        return super().in_exchange() or (self._state is not State.IDLE and not self.flags & INPUT_ENDED)

    def next_deadline(self) -> float:
        """Return the deadline of the present state."""
        limits = self._owner.limits
        if self.flags & BUSY and self.flags & PEER_GONE and not self.shielded:
            gone = self._began + limits.gone_seconds
            return min(gone, super().next_deadline()) if self.flags & PENDING else gone
        if self.flags & (LINGERING | PENDING | BUSY):
            soonest = super().next_deadline()
            return min(soonest, self.upload_deadline()) if self.flags & READING else soonest
        if self._state is State.HEAD:
            return self._began + limits.head_seconds
        if self._state is State.BODY:
            stalled = self.received + limits.body_seconds
            if not limits.body_rate_bytes:
                return stalled
            read = len(self._body or b"")
            return min(stalled, self._began + BODY_GRACE_SECONDS + read / limits.body_rate_bytes)
        if not self._requests:
            return self._opened + limits.first_byte_seconds
        return self.received + min(limits.keep_alive_seconds, limits.idle_seconds)

    def on_expired(self) -> None:
        """End what has taken too long; what was begun gets a 408."""
        if self._is_abandoned():
            self._owner.count("peer_gone")
            self.cancel_handler()
        elif self.flags & READING and self._owner.reactor.now >= self.upload_deadline():
            self.end_slow_upload()
        elif self.flags & (LINGERING | PENDING):
            super().on_expired()
        elif self._state is State.IDLE:
            self._owner.count("idle" if self._requests else "no_request")
            self.finish_writing()
        else:
            part = "head" if self._state is State.HEAD else "body"
            self._owner.count(f"slow_{part}")
            self.answer_slow(part)

    def answer_slow(self, part: str) -> None:
        """Tell a peer that it took too long, and end the connection."""
        self.write(encode_refusal(408, f"the {part} of the request took too long", self._owner.date()))
        self.finish_writing()

    def _is_abandoned(self) -> bool:
        """Tell whether the grace of a peer that is gone has passed."""
        if not (self.flags & BUSY and self.flags & PEER_GONE) or self.shielded:
            return False
        return self._owner.reactor.now >= self._began + self._owner.limits.gone_seconds

    @property
    def evictable(self) -> bool:
        """Whether it may give way: it waits between requests, or for long."""
        if self.flags or self._state is not State.IDLE:
            return False
        return bool(self._requests) or self._owner.reactor.now - self._opened >= NEWCOMER_SECONDS
