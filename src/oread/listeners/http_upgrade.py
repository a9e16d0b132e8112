"""From a request that asks for a WebSocket to the connection that it becomes.

Judged at the head, as everything about a request: what asks in a wrong way,
by another version or from a page of another site is refused; the others get
their 101, and the socket goes to its next owner.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from oread.dispatch import Entry
from oread.errors import Busy
from oread.listeners.asgi_websocket import AsgiWebSocket
from oread.listeners.connection import Connection
from oread.listeners.http_streams import HttpOwner
from oread.listeners.roles import Socket
from oread.listeners.websocket import Upgrade
from oread.listeners.websocket_calls import HandlerWebSocket
from oread.protocols.http1_head import RequestHead
from oread.protocols.websocket import WebSocketProtocol
from oread.protocols.websocket_deflate import BoundedDeflate, choose_offer
from oread.protocols.websocket_handshake import (
    Handshake,
    check_origin,
    choose_subprotocol,
    encode_acceptance,
    read_handshake,
)


@attrs.frozen(kw_only=True)
class Acceptance:
    """An upgrade that was agreed to."""

    head: RequestHead
    entry: Entry
    captures: Mapping[str, str]
    handshake: Handshake
    extensions: str
    """What the 101 says of them."""
    response: bytes
    """The 101; empty where an application answers."""
    subprotocol: str | None
    protocol: WebSocketProtocol

    def make_connection(
        self, owner: HttpOwner, sock: Socket, *, pending: bytearray | None, unread: bytes
    ) -> Connection:
        """Make what goes on with the socket."""
        upgrade = Upgrade(
            head=self.head,
            captures=self.captures,
            subprotocol=self.subprotocol,
            protocol=self.protocol,
            pending=pending,
            unread=unread,
        )
        if self.entry.application is not None:
            return AsgiWebSocket(owner, sock, upgrade, self.entry, self.handshake, self.extensions)
        return HandlerWebSocket(owner, sock, upgrade, self.entry)


def accept_upgrade(
    owner: HttpOwner, head: RequestHead, entry: Entry, captures: Mapping[str, str]
) -> Acceptance | None:
    """Agree to an upgrade; None when there is none that could be agreed to.

    Raises:
        BadRequest, WebSocketVersionError, CrossOriginError: how it is asked for.
        Busy: the service is stopping.
    """
    if not entry.links or owner.is_own(head):
        return None  # there is no event to dispatch messages to
    handshake = read_handshake(head)
    if handshake is None:
        return None
    endpoint, limits = owner.endpoint, owner.limits
    check_origin(handshake, head.host, endpoint.origins)
    if owner.draining:
        raise Busy("the service is stopping")
    offer = choose_offer(handshake.extensions) if endpoint.ws_deflate else None
    extensions, extension = "", None
    if offer is not None:
        extensions, extension = offer[0], BoundedDeflate(limits.message_bytes, offer[1])
    subprotocol, response = None, b""
    if entry.application is None:
        subprotocol = choose_subprotocol(handshake, endpoint.subprotocols)
        response = encode_acceptance(handshake, subprotocol=subprotocol, extensions=extensions)
    return Acceptance(
        head=head,
        entry=entry,
        captures=captures,
        handshake=handshake,
        extensions=extensions,
        response=response,
        subprotocol=subprotocol,
        protocol=WebSocketProtocol(
            message_bytes=limits.message_bytes, frame_bytes=limits.ws_frame_bytes, extension=extension
        ),
    )
