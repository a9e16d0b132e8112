"""WebSockets for ASGI applications: the `websocket` scope.

The connection is handed over before the application has agreed: it answers
the handshake, or refuses it with a response. Messages wait for it up to the
water mark of the endpoint; above that nothing more is read.

Source: https://asgi.readthedocs.io/en/latest/specs/www.html#websocket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import MutableMapping, Sequence
from typing import Any

import attrs
import trio

from oread.dispatch import Entry, Failed
from oread.errors import ApplicationError, HandlerError, MessageError
from oread.listeners.asgi import AsgiCall, PeerGoneError, read_fields
from oread.listeners.http_replies import failure_parts
from oread.listeners.http_streams import HttpOwner
from oread.listeners.roles import Socket
from oread.listeners.states import BUSY, CLOSED, CLOSING, FULL, MASKED
from oread.listeners.websocket import QUEUED_BYTES, Upgrade, WebSocketConnection
from oread.protocols.http1_reply import encode_response
from oread.protocols.websocket import ABNORMAL, INTERNAL_ERROR, NORMAL, Incoming
from oread.protocols.websocket_handshake import Handshake, encode_acceptance

_FRAMING = frozenset(("connection", "content-length", "keep-alive", "transfer-encoding"))


class AsgiWebSocket(WebSocketConnection):
    """A WebSocket whose messages an application takes."""

    __slots__ = ("_call",)

    def __init__(
        self, owner: HttpOwner, sock: Socket, upgrade: Upgrade, entry: Entry, handshake: Handshake, said: str
    ) -> None:
        super().__init__(owner, sock, upgrade)
        self._call = AsgiSocketCall(owner, self, upgrade, entry, handshake, said)
        self.flags |= BUSY | MASKED  # it is not read before it is accepted

    def open(self) -> None:
        """Start the application, which accepts the handshake or does not."""
        super().open()
        self._owner.runners.submit(self._call)

    @property
    def has_handler(self) -> bool:
        """Whether the application has not returned yet."""
        return not self._call.over

    @property
    def shielded(self) -> bool:
        """Whether its handler must not be cancelled: it has none of its own."""
        return False

    def accept(self, response: bytes) -> None:
        """Send the 101, and begin to read."""
        self.flags &= ~(BUSY | MASKED)
        self.write(response)
        self.pull()
        self.settle()

    def refuse(self, response: bytes) -> None:
        """Send a response that is no 101, and end the connection."""
        self.flags &= ~(BUSY | MASKED)
        self._close_sent = True
        self.write(response)
        self.finish_writing()

    def take(self, message: Incoming) -> bytes | None:
        """Keep a message for the application."""
        self._owner.messages += 1
        self._served = self._owner.reactor.now
        self._call.put(message)
        if self._is_behind():
            self.flags |= MASKED
            self.watch()
        return None

    def _is_behind(self) -> bool:
        return self._call.waiting_bytes >= self._owner.limits.pending_bytes

    def took(self) -> None:
        """Read on, now that the application has taken something."""
        if self.flags & MASKED and not self.flags & (BUSY | CLOSED | CLOSING) and not self._is_behind():
            self.flags &= ~MASKED
            self.pull()
            self.settle()

    def send_frame(self, data: bytes | str) -> None:
        """Send one message."""
        text = isinstance(data, str)
        payload = data.encode() if isinstance(data, str) else data
        self._served = self._owner.reactor.tick()
        self._owner.replies += 1
        self.write(self._protocol.encode(payload, text=text))

    def end_by_application(self, code: int, reason: str) -> None:
        """Close with the application's code."""
        self.end(code, reason)
        self._come_to_end()
        self.settle()

    def resume(self) -> None:
        """Go on: what was pending is written, or little enough."""
        self._call.resume()
        self.pull()

    # ends

    def end(self, code: int, reason: str = "") -> None:
        """Close with this code; the application is told."""
        if self.flags & BUSY:  # not accepted yet
            self.refuse(self._call.encode_refusal(503, b"the service is stopping\n"))
        else:
            super().end(code, reason)
        self._call.put_end(code, reason)

    def _end_by_peer(self, code: int, reason: str) -> None:
        super()._end_by_peer(code, reason)
        self._call.put_end(code, reason)

    def on_peer_gone(self) -> None:
        """End it: nobody waits for the handshake any more."""
        if self.flags & BUSY:
            self.close()

    def on_reset(self) -> None:
        """Do nothing: closing tells the application."""

    def cancel_handler(self) -> None:
        """Cancel the application, at the end of a drain."""
        self._call.cancel_handler()

    def close(self) -> None:
        """Close now; the application is told."""
        if not self.flags & CLOSED:
            super().close()
            self._call.on_closed()

    def on_closed(self) -> None:
        """Do nothing more: see `close`."""

    def report(self, failed: Failed) -> None:
        """Count and log what the application raised."""
        self._call.report(failed)


@attrs.frozen
class _End:
    code: int
    reason: str


class AsgiSocketCall(AsgiCall):
    """The application's side of one WebSocket."""

    def __init__(
        self,
        owner: HttpOwner,
        connection: AsgiWebSocket,
        upgrade: Upgrade,
        entry: Entry,
        handshake: Handshake,
        said: str,
    ) -> None:
        super().__init__(owner, connection, upgrade.head, entry, upgrade.captures)
        self._connection = connection
        self._handshake = handshake
        self._extensions_said = said
        self._inbox: deque[Incoming] = deque()
        self._news = trio.Event()
        self._end: _End | None = None
        self._connected = self._accepted = self._refused = self._closed = self.over = False
        self._response: tuple[int, list[tuple[str, str]], bytearray] | None = None
        self.waiting_bytes = 0
        """What waits for the application, with its overhead."""

    def make_scope(self) -> dict[str, Any]:
        """Return the `websocket` scope."""
        scope = self.common_scope("websocket", {"http": "ws", "https": "wss"})
        scope["subprotocols"] = list(self._handshake.subprotocols)
        scope["extensions"] = {"websocket.http.response": {}}
        return scope

    # what the connection calls

    def put(self, message: Incoming) -> None:
        """Keep a message until the application asks for it."""
        self._inbox.append(message)
        self.waiting_bytes += len(message.data) + QUEUED_BYTES
        self._tell()

    def put_end(self, code: int, reason: str) -> None:
        """Take note of how the connection ends; the first one counts."""
        if self._end is None:
            self._end = _End(code, reason)
        self._tell()

    def on_closed(self) -> None:
        """Take note that the connection has closed."""
        if not self.over:
            self.put_end(ABNORMAL, "")
            self.let_go()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    # receiving

    async def receive(self) -> dict[str, Any]:
        """Return that the client has connected, then its messages, then how it ended."""
        await trio.lowlevel.checkpoint()
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        while not self._inbox:
            if self._end is not None:
                self.told = True
                return {"type": "websocket.disconnect", "code": self._end.code, "reason": self._end.reason}
            await self._news.wait()
        message = self._inbox.popleft()
        self.waiting_bytes -= len(message.data) + QUEUED_BYTES
        self._connection.took()
        if message.text:
            return {"type": "websocket.receive", "text": message.data.decode()}
        return {"type": "websocket.receive", "bytes": message.data}

    # sending

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Take what the application says.

        Raises:
            PeerGoneError: the peer is gone, or has said goodbye.
            ApplicationError, HandlerError: out of order, or nothing that can be sent.
        """
        await trio.lowlevel.checkpoint()
        kind, connection = message["type"], self._connection
        if self._closed or self._refused:
            raise ApplicationError(f"{kind!r} was sent behind the end")
        if not connection.takes_messages:
            self.told = True
            raise PeerGoneError("the peer is gone")
        if not self._accepted:
            self._answer(kind, message)
        elif kind == "websocket.send":
            self._send_message(message)
            while connection.flags & FULL and not connection.flags & CLOSED:
                await self.wait_room()
        elif kind == "websocket.close":
            self._closed = True
            connection.end_by_application(
                int(message.get("code") or NORMAL), str(message.get("reason") or "")
            )
        else:
            raise ApplicationError(f"{kind!r} is nothing that can be sent here")

    def _send_message(self, message: MutableMapping[str, Any]) -> None:
        data, text = message.get("bytes"), message.get("text")
        if (data is None) == (text is None):
            raise ApplicationError("a message of a WebSocket has either bytes or text")
        self._connection.send_frame(str(text) if data is None else bytes(data))

    def _answer(self, kind: str, message: MutableMapping[str, Any]) -> None:
        """Take the answer to the handshake."""
        if kind == "websocket.accept" and self._response is None:
            self._accept(message.get("subprotocol"), read_fields(message.get("headers", ())))
        elif kind == "websocket.close" and self._response is None:
            self._refuse(403, (), b"")
        elif kind == "websocket.http.response.start" and self._response is None:
            fields = read_fields(message.get("headers", ()))
            self._response = int(message["status"]), fields, bytearray()
        elif kind == "websocket.http.response.body" and self._response is not None:
            status, fields, body = self._response
            body += message.get("body", b"")
            if len(body) > self._owner.limits.body_bytes:
                raise HandlerError("the response to a handshake is too long")
            if not message.get("more_body", False):
                self._refuse(status, fields, bytes(body))
        else:
            raise ApplicationError(f"{kind!r} is nothing that can be sent before the handshake is answered")

    def _accept(self, subprotocol: str | None, fields: list[tuple[str, str]]) -> None:
        if subprotocol is not None and subprotocol not in self._handshake.subprotocols:
            raise ApplicationError(f"subprotocol {subprotocol!r} was not offered by the client")
        response = encode_acceptance(
            self._handshake, subprotocol=subprotocol, extensions=self._extensions_said, headers=fields
        )
        self._accepted = True
        self._connection.subprotocol = subprotocol
        self._connection.accept(response)

    def _refuse(self, status: int, fields: Sequence[tuple[str, str]], body: bytes) -> None:
        response = self.encode_refusal(status, body, fields)
        self._refused = True
        self._owner.count(f"http_{status}")
        self._connection.refuse(response)

    def encode_refusal(self, status: int, body: bytes, fields: Sequence[tuple[str, str]] = ()) -> bytes:
        """Return a response that ends the connection.

        Raises:
            HandlerError: it can't be sent.
        """
        return encode_response(
            status,
            body,
            [pair for pair in fields if pair[0].lower() not in _FRAMING],
            head_request=self._head,
            close=True,
            date=self._owner.date(),
            content_type=None,
        )

    # ends

    def conclude(self, failed: Failed | None) -> None:
        """End what the application has left open."""
        self.over = True
        if failed is not None:
            self.report(failed)
        connection = self._connection
        if self._closed or self._refused or not connection.takes_messages:
            return
        if self._accepted:
            code, words = (NORMAL, "") if failed is None else (INTERNAL_ERROR, "the application failed")
            connection.end_by_application(code, words)
            return
        error = HandlerError("it did not answer") if failed is None else failed.error
        status, reason, _ = failure_parts(error if isinstance(error, MessageError) else HandlerError(""))
        if failed is None:
            self.report(Failed(HandlerError("an application returned before it had answered the handshake")))
        self._refuse(status, (), f"{reason}\n".encode())
