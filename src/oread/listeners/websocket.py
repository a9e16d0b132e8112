"""The mechanics of one WebSocket: reading, pings, and how it ends.

It goes on where an HTTP connection has agreed to the upgrade, on the same
socket. What a message means is a subclass's business. Unlike other
connections it is read while a handler works, so that pings are answered and
a close frame is seen; what is read ahead waits in a queue, and above the water
mark of the endpoint nothing more is read.

How it ends, beside what every connection knows:

* the peer's close frame, or its FIN: what has arrived before is still worked
  off, for `gone_seconds` at most; then the close frame is answered;
* we close: our close frame goes out, and the peer's is waited for;
* what breaks the rules or a limit: a close frame with its code, and no wait.

Source: RFC 6455 5.5 and 7.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import attrs

from oread.listeners.calls import CallingConnection
from oread.listeners.http_streams import HttpOwner
from oread.listeners.roles import Socket
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
)
from oread.protocols.http1_head import RequestHead
from oread.protocols.websocket import (
    ABNORMAL,
    GOING_AWAY,
    INTERNAL_ERROR,
    NORMAL,
    Event,
    Fault,
    Incoming,
    PeerClosed,
    Ping,
    WebSocketProtocol,
)
from oread.reactor import WRITABLE

EVENTS_PER_LOOK = 16
"""Messages and pings that are taken between two looks at the clock."""
QUEUED_BYTES = 128
"""What a message that waits costs beside its data, so that empty ones are bounded too."""

_HELD_UP = DEFERRED | FULL | CLOSING | CLOSED


@attrs.frozen
class Ending:
    """How a connection is going to end."""

    code: int
    reason: str
    by_peer: bool
    """Whether the peer has ended it, or broken it: nothing of it is waited for."""


@attrs.frozen(kw_only=True)
class Upgrade:
    """What an HTTP connection hands over with its socket."""

    head: RequestHead
    captures: Mapping[str, str]
    subprotocol: str | None
    protocol: WebSocketProtocol
    pending: bytearray | None
    """Output that the peer has not taken yet."""
    unread: bytes
    """What came behind the head in the same read."""


class WebSocketConnection(CallingConnection):
    """One WebSocket, on a socket that was an HTTP connection's."""

    __slots__ = (
        "_backlog",
        "_close_sent",
        "_deaf",
        "_ending",
        "_head",
        "_pinged",
        "_protocol",
        "_queue",
        "_served",
        "_since",
        "captures",
        "subprotocol",
    )

    watches_peer = True
    _owner: HttpOwner

    def __init__(self, owner: HttpOwner, sock: Socket, upgrade: Upgrade) -> None:
        super().__init__(owner, sock)
        self._head = upgrade.head
        self._protocol = upgrade.protocol
        self._protocol.feed(upgrade.unread)
        self.captures = upgrade.captures
        self.subprotocol = upgrade.subprotocol
        self._queue: deque[Incoming] = deque()
        self._backlog = 0
        self._ending: Ending | None = None
        self._close_sent = False
        self._deaf = False
        """Whether the peer's close frame was seen: nothing may be sent but ours."""
        self._pinged = self._since = math.inf
        self._served = self.received
        if upgrade.pending is not None:
            self.pending = upgrade.pending
            self.flags |= PENDING
            self.interest |= WRITABLE

    def open(self) -> None:
        """Go on with the socket, and with what came behind the handshake."""
        super().open()
        self.pull()
        self.settle()

    # what a subclass says

    def take(self, message: Incoming) -> bytes | None:
        """Take the next message in its turn; return what answers it at once."""
        raise NotImplementedError

    # input

    def on_data(self, data: bytes) -> None:
        """Serve what one read made complete."""
        self._pinged = math.inf
        if self._close_sent:
            self.discarded += len(data)
            if self.discarded > self._owner.limits.linger_bytes:
                self.finish_writing()  # it goes on instead of closing
                return
        self._protocol.feed(data)
        self.pull()

    def on_writable(self) -> None:
        """Go on with what waits, unless something holds it up."""
        self.pull()

    def resume(self) -> None:
        """Go on: what was pending is written, or little enough."""
        super().resume()
        self.pull()

    def on_input_end(self) -> None:
        """Take note of a peer that went without a close frame; half a message is dropped."""
        if self._protocol.within_message:
            self._owner.count("cut_short")
        if self._close_sent:
            self.finish_writing()
        else:
            self._end_by_peer(ABNORMAL, "")
            self.pull()

    def pull(self) -> None:
        """Take messages and pings, until something has to end first."""
        replies: list[bytes] = []
        size = count = 0
        while not self.flags & _HELD_UP:
            reply, more = self._step()
            if reply is not None:
                replies.append(reply)
                size += len(reply)
            if not more:
                break
            count += 1
            look = reply is not None or self._protocol.paused or not count % EVENTS_PER_LOOK
            if size >= READ_BYTES or (look and self._owner.reactor.turn_is_over()):
                self._defer()
                break
        if replies:
            self.write(b"".join(replies))
        self._come_to_end()

    def _step(self) -> tuple[bytes | None, bool]:
        """Do one thing; return what it sends, and whether there may be more to do."""
        if self._queue and not self.flags & BUSY:
            message = self._queue.popleft()
            self._backlog -= len(message.data) + QUEUED_BYTES
            return self.take(message), True
        if self._is_behind():
            return None, False
        event = self._protocol.next_event()
        return (None, self._protocol.paused) if event is None else (self._take(event), True)

    def _take(self, event: Event) -> bytes | None:
        if isinstance(event, Incoming):
            if self._ending is not None:
                self._owner.count("ws_closing")
            elif self.flags & BUSY:
                self._queue.append(event)
                self._backlog += len(event.data) + QUEUED_BYTES
            else:
                return self.take(event)
        elif isinstance(event, Ping):
            return None if self._close_sent else self._protocol.pong(event.payload)
        elif isinstance(event, PeerClosed):
            self._deaf = True
            self.flags |= INPUT_ENDED  # nothing follows: so closing provokes no reset
            self._end_by_peer(event.code, event.reason)
        elif isinstance(event, Fault):
            self._owner.count(f"ws_{event.code}")
            self._end_by_peer(event.code, event.reason)
        return None

    def _is_behind(self) -> bool:
        """Tell whether so much waits for the handler that nothing more is read."""
        return self._backlog >= self._owner.limits.pending_bytes

    def _on_input(self, ready: int) -> None:
        flags = self.flags
        if flags & (CLOSED | LINGERING):
            super()._on_input(ready)
        elif flags & (INPUT_ENDED | FULL | CLOSING | DEFERRED) or self._is_behind() or self._protocol.over:
            self.mask(ready)
        else:
            self.read()

    def _defer(self) -> None:
        self.flags |= DEFERRED
        self._owner.reactor.defer(self._go_on)

    def _go_on(self) -> None:
        self.flags &= ~(DEFERRED | MASKED)
        self.pull()
        self.settle()

    # ending

    def end(self, code: int, reason: str = "") -> None:
        """Close with this code, once the present message is worked off; the first one counts."""
        if self._ending is None:
            self._ending = Ending(code, reason, by_peer=False)

    def drop_queue(self) -> None:
        """Forget what waits: nothing of it will be worked off."""
        for _ in self._queue:
            self._owner.count("ws_closing")
        self._queue.clear()
        self._backlog = 0

    def _end_by_peer(self, code: int, reason: str) -> None:
        if self._close_sent:
            self.finish_writing()
        elif self._ending is None or not self._ending.by_peer:
            self._ending = Ending(code, reason, by_peer=True)
            self._since = self._owner.reactor.tick()
            self.rearm()

    def _come_to_end(self) -> None:
        """Send the close frame, once what has arrived before is worked off."""
        ending = self._ending
        waits = self._queue or self.flags & (BUSY | DEFERRED | FULL | CLOSED)
        if ending is None or self._close_sent or waits:
            return
        self._close_sent = True
        if ending.code != ABNORMAL:
            self.write(self._protocol.close(ending.code, ending.reason))
        if ending.by_peer:
            self.finish_writing()
        else:
            self._since = self._owner.reactor.tick()
            self.rearm()

    def in_exchange(self) -> bool:
        """Tell whether a message is worked on, or the peer's close frame is waited for."""
        if super().in_exchange() or self._queue:
            return True
        return self._close_sent and not self.flags & INPUT_ENDED

    def drain(self) -> None:
        """Work off what has arrived by now, then close: 1001, going away."""
        if not self.flags & (BUSY | FULL | CLOSING | CLOSED | LINGERING | DEFERRED | MASKED | INPUT_ENDED):
            self.read()
        self.flags |= DRAINING
        self.end(GOING_AWAY, "the service is stopping")
        self.pull()
        self.settle()

    def on_peer_gone(self) -> None:
        """Give what is under way a short while more."""
        self._since = self._owner.reactor.now
        self.rearm()

    # deadlines

    def next_deadline(self) -> float:
        """Return the deadline of the present state."""
        flags, limits = self.flags, self._owner.limits
        if flags & LINGERING:
            return super().next_deadline()
        stalled = self.progress + limits.stall_seconds if flags & PENDING else math.inf
        if self._close_sent:
            return min(stalled, self._since + limits.ws_close_seconds)
        if self._has_left():
            return min(stalled, self._since + limits.gone_seconds) if not self.shielded else stalled
        if flags & (PENDING | MASKED | DEFERRED | INPUT_ENDED):
            return stalled  # it is not read: whether the peer answers would not be seen
        if self._pinged != math.inf:
            return self._pinged + limits.ws_pong_seconds
        idle = math.inf if flags & BUSY else self._served + limits.idle_seconds
        return min(idle, self.received + limits.ws_ping_seconds)

    def _has_left(self) -> bool:
        """Tell whether the peer has gone, and something still works for it."""
        gone = self.flags & PEER_GONE or (self._ending is not None and self._ending.by_peer)
        return bool(gone and (self.flags & BUSY or self._queue))

    def on_expired(self) -> None:
        """End what has taken too long, or ask for a sign of life."""
        flags, limits, now = self.flags, self._owner.limits, self._owner.reactor.now
        if flags & LINGERING or (flags & PENDING and now >= self.progress + limits.stall_seconds):
            super().on_expired()
        elif self._close_sent:
            self._owner.count("ws_no_close")
            self.finish_writing()
        elif self._has_left():
            self._owner.count("peer_gone")
            self.drop_queue()
            self._end_by_peer(ABNORMAL, "")
            if flags & BUSY:
                self.cancel_handler()
            else:
                self.pull()
        elif self._pinged != math.inf:
            self._owner.count("ws_no_pong")
            self._give_up(INTERNAL_ERROR, "no answer to a ping")
        elif not flags & BUSY and now >= self._served + limits.idle_seconds:
            self._owner.count("idle")
            self.end(NORMAL, "idle")
            self._come_to_end()
        else:
            self._pinged = now
            self.write(self._protocol.ping())
            self.rearm()

    def _give_up(self, code: int, reason: str) -> None:
        """End it without the peer, which does not seem to be there."""
        self.drop_queue()
        self._close_sent = True
        self.write(self._protocol.close(code, reason))
        self.on_reset()
        self.finish_writing()

    # sending

    def send_message(self, data: bytes) -> None:
        """Send a message that is encoded; drop it when the peer takes none any more."""
        if self.takes_messages:
            self.write(data)
        else:
            self._owner.count("ws_closing")

    @property
    def takes_messages(self) -> bool:
        """Whether a message may still be sent."""
        return not (self._close_sent or self._deaf or self.flags & CLOSED)

    def report(self, failed: Any) -> None:
        """Count and log what a handler raised."""
        raise NotImplementedError
