"""What takes an exchange, or the whole connection, out of HTTP's hands.

An ASGI application takes an exchange with its body; a WebSocket takes the
socket. Both are decided at the head of a request (`oread.listeners.http`).
"""

from __future__ import annotations

from oread.dispatch import Entry
from oread.errors import Busy, TooLarge
from oread.listeners.asgi_http import AsgiExchange
from oread.listeners.http_files import FileConnection
from oread.listeners.http_streams import HttpOwner
from oread.listeners.http_upgrade import Acceptance
from oread.listeners.roles import Socket
from oread.listeners.states import BUSY, CLOSED, CLOSING, DRAINING, STREAMING
from oread.protocols.http1_body import BODY_TOO_LONG
from oread.protocols.http1_head import RequestHead


class TakenConnection(FileConnection):
    """An HTTP connection as far as others go on with what it has begun."""

    __slots__ = ("_aged", "_opened", "_upgrade")

    def __init__(self, owner: HttpOwner, sock: Socket) -> None:
        super().__init__(owner, sock)
        self._opened = self.received
        self._aged = self._opened + owner.limits.age_seconds
        """When it is so old that it ends after its next answer."""
        self._upgrade: Acceptance | None = None

    def begin_application(self, head: RequestHead, entry: Entry) -> None:
        """Have an application take the exchange, its body included.

        Raises:
            TooLarge, Busy: it is refused at the head.
        """
        owner = self._owner
        if head.length > owner.limits.stream_bytes:
            raise TooLarge(BODY_TOO_LONG.reason)
        if not owner.has_room_beside():
            raise Busy("too many calls of applications run on behind their responses")
        body = self.begin_upload() if head.length else None
        exchange = AsgiExchange(owner, self, head, entry, self.captures, body)
        self.job = exchange
        self.flags |= BUSY | STREAMING
        owner.runners.submit(exchange)

    def ends_with(self, head: RequestHead) -> bool:
        """Tell whether the connection is to end with the response to a request."""
        return bool(self.flags & (CLOSING | DRAINING)) or not head.keep_alive or self.received >= self._aged

    def hand_over(self, upgrade: Acceptance) -> None:
        """Let the WebSocket go on with the socket."""
        if not self.flags & CLOSED:
            pending = self.let_go()
            successor = upgrade.make_connection(
                self._owner, self.socket, pending=pending, unread=self._protocol.unread()
            )
            self._owner.replace(self, successor)
