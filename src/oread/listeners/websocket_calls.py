"""WebSocket messages for handlers: each is dispatched to the event of the path.

In their order, one at a time: while an async handler runs or waits for its
place, what comes behind waits. A reply is one message, a streamed reply one
for each item.

A failure closes the connection: there is no number by which a peer could tell
to which of its messages an error belongs. The close code says whose fault it
is, its reason what happened, as far as the peer may know.
"""

from __future__ import annotations

from typing import Any

from oread.dispatch import Entry, Failed
from oread.dispatch.payload import JSON_TYPE, encode_payload
from oread.errors import BadRequest, Busy, HandlerCancelled, HandlerError, MessageError, TooLarge
from oread.listeners.http_replies import failure_parts
from oread.listeners.http_streams import HttpOwner
from oread.listeners.roles import Socket
from oread.listeners.streaming import StreamedReply
from oread.listeners.websocket import Upgrade, WebSocketConnection
from oread.messages import HttpResponse, Reply, ServerSentEvent, WebSocketMessage
from oread.protocols.websocket import (
    GOING_AWAY,
    INTERNAL_ERROR,
    INVALID_PAYLOAD,
    POLICY,
    TOO_BIG,
    TRY_AGAIN,
    Incoming,
)

_CODES: tuple[tuple[type[MessageError], int], ...] = (
    (BadRequest, INVALID_PAYLOAD),
    (TooLarge, TOO_BIG),
    (Busy, TRY_AGAIN),
    (HandlerCancelled, GOING_AWAY),
)
_SERVER_ERRORS = 500


class HandlerWebSocket(WebSocketConnection):
    """A WebSocket whose messages handlers answer; the origin of the present one."""

    __slots__ = ("_entry", "_text")

    def __init__(self, owner: HttpOwner, sock: Socket, upgrade: Upgrade, entry: Entry) -> None:
        super().__init__(owner, sock, upgrade)
        self._entry = entry
        self._text = False

    # the origin of a message

    def message(self, data: bytes | memoryview) -> WebSocketMessage:
        """Make the present message, with the request that opened the connection."""
        head = self._head
        return WebSocketMessage(
            event=self._entry.event,
            data=bytes(data),
            transport="wss" if self._owner.endpoint.scheme == "https" else "ws",
            captures=self.captures,
            received=self.received,
            peer=self.peer,
            local=self.local,
            method=head.method,
            target=head.target,
            path=head.path,
            query=head.query,
            headers=head.headers,
            version=head.version,
            look_behind=self._owner.look_behind,
            text=self._text,
            subprotocol=self.subprotocol,
        )

    def report(self, failed: Failed) -> None:
        """Count and log what a handler raised."""
        self._owner.report(self._entry.event, failed, self.peer())

    # one message

    def take(self, message: Incoming) -> bytes | None:
        """Call the handlers that the event has by now, or have a runner call them."""
        owner = self._owner
        owner.messages += 1
        self._text = message.text
        self._served = owner.reactor.now
        try:
            self._entry, self.captures = owner.find(self._head)
        except MessageError as error:  # the last handler was taken back
            self.fail(Failed(error))
            return None
        entry = self._entry
        if entry.call is None:
            self.submit(entry, message.data)
            return None
        return self.settle_reply(owner.copy_context().run(entry.call, self, message.data))

    def answer(self, result: Any) -> None:
        """Send the reply; what has ended counts as a sign of life."""
        self._served = self._owner.reactor.tick()
        reply = self.settle_reply(result)
        if reply is not None:
            self.send_message(reply)

    def go_on(self) -> None:
        """Serve what arrived meanwhile; a reply that has ended counts as a sign of life."""
        self._served = self._owner.reactor.tick()
        super().go_on()

    # replies

    def settle_reply(self, reply: Any) -> bytes | None:
        """Return the frame to send; None for no reply, for a streamed one and after a failure."""
        if not isinstance(reply, Failed):
            try:
                frame = self._encode(reply)
            except MessageError as error:
                if self.begin_stream(self.job[0] if self.job else self._entry, reply):
                    return None
                reply = Failed(error)
            else:
                if frame is not None:
                    self._owner.replies += 1
                return frame
        self.fail(reply)
        return None

    def _encode(self, reply: Any) -> bytes | None:
        data = encode_payload(reply)
        if data is None:
            return None
        if not self.takes_messages:
            self._owner.count("ws_closing")
            return None
        text = is_text(reply, asked_by_text=self._text)
        try:
            return self._protocol.encode(data, text=text is not False)
        except UnicodeDecodeError as error:
            if text:
                raise HandlerError(f"a handler returned text that is not UTF-8: {error}") from error
            return self._protocol.encode(data, text=False)

    def send_item(self, item: Any) -> None:
        """Send one item as a message of its own; None is no item."""
        frame = self._encode(item.data if isinstance(item, ServerSentEvent) else item)
        if frame is not None:
            self.send_message(frame)

    def finish_stream(self, _stream: StreamedReply, failed: Failed | None) -> None:
        """Count a complete reply; one that failed before it began is a failure as any."""
        if failed is None:
            self._owner.replies += 1
        else:
            self.fail(failed)

    def break_off(self, _stream: StreamedReply) -> None:
        """Close in the middle of a reply: its failure was reported."""
        self.drop_queue()
        self.end(INTERNAL_ERROR, "the handler failed in the middle of its reply")
        self.go_on()

    def fail(self, failed: Failed) -> None:
        """Report what failed, and close with the code that says whose fault it is."""
        self.report(failed)
        self.drop_queue()
        self.end(*_close_parts(failed.error))


def is_text(reply: Any, *, asked_by_text: bool) -> bool | None:
    """Tell how a reply goes back: as text, as binary, or (None) as text where it is UTF-8.

    Text and JSON are text. Bytes go back as what they answer came, but never
    as text that is not UTF-8. A `Reply` with a content type says it itself.
    """
    if isinstance(reply, Reply) and reply.content_type is not None:
        return reply.content_type.startswith(("text/", JSON_TYPE))
    if isinstance(reply, (bytes, bytearray, memoryview, Reply, HttpResponse)):
        return None if asked_by_text else False
    return True


def _close_parts(error: Exception) -> tuple[int, str]:
    """Return code and reason; a handler's own words stay inside."""
    status, words, _ = failure_parts(error)
    by_status = POLICY if status < _SERVER_ERRORS else INTERNAL_ERROR
    return next((code for kind, code in _CODES if isinstance(error, kind)), by_status), words
