"""The items of a streamed reply in HTTP's words: chunks, or server-sent events.

The head goes out with the first item, so that what fails before it is still
answered with its proper status. The first item may be an `HttpResponse`, whose
status and fields are the reply's: with a `Content-Length` among them the
items are sent as they are, never more than it says. JSON-able items go one a
line. An event stream is kept alive by comments while nothing comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from oread.dispatch.payload import JSON_TYPE, encode_payload
from oread.errors import HandlerError
from oread.listeners.http_replies import response_parts
from oread.messages import Reply, ServerSentEvent
from oread.protocols.http1_head import RequestHead
from oread.protocols.http1_reply import LAST_CHUNK, encode_chunk, encode_stream_head, take_length
from oread.protocols.server_sent_events import EVENT_STREAM, KEEP_ALIVE, asks_for_events, encode_event
from oread.reactor import Reactor, Timer

LINES_TYPE = "application/x-ndjson"
"""JSON values, one a line: what most call it (it is not registered)."""
KEEP_ALIVE_SECONDS = 15.0
"""Silence after which an event stream gets a comment (the HTML standard's advice to authors)."""

_EVENT_FIELDS = (("Cache-Control", "no-cache"),)
_CHOSEN_BY_ACCEPT = ("Vary", "Accept")
"""A cache must not give chunks to who asks for events, nor the reverse (RFC 9110 12.5.5)."""


class Line(Protocol):
    """The connection, as far as keeping it alive is concerned."""

    def keep_alive(self) -> None:
        """Send a comment."""


class HttpItems:
    """How one streamed reply goes out.

    Args:
        head: the request it answers.
        close: whether the connection ends with it.
        date: returns the Date field's value.
    """

    __slots__ = (
        "_begun",
        "_closing",
        "_date",
        "_due",
        "_head",
        "_timer",
        "chunked",
        "close",
        "events",
        "left",
    )

    def __init__(self, head: RequestHead, *, close: bool, date: Callable[[], bytes]) -> None:
        self._head = head
        self._date = date
        self._begun = False
        self._timer: Timer | None = None
        self._due = 0.0
        self.events = asks_for_events(head.headers.get_all("accept"))
        self.chunked = head.version != "1.0"
        self._closing = close
        self.close = close or not self.chunked
        self.left: int | None = None
        """Bytes that are missing to the declared length; None when none is declared."""

    def encode(self, item: Any) -> bytes:
        """Return an item, behind the head if it is the first; None and nothing are no item.

        Raises:
            HandlerError: it can't be sent.
        """
        if item is None:
            return b""
        if self.events:
            return self._put(_event(item), 200, _EVENT_FIELDS, EVENT_STREAM)
        if isinstance(item, ServerSentEvent):
            item = item.data
        status, body, fields, content_type = response_parts(item)
        if content_type == JSON_TYPE and not isinstance(item, Reply):
            body, content_type = body + b"\n", LINES_TYPE
        return self._put(body, status, fields, content_type)

    def comment(self) -> bytes:
        """Return what tells a client that the event stream lives."""
        return self._put(KEEP_ALIVE, 200, _EVENT_FIELDS, EVENT_STREAM)

    def end(self) -> bytes:
        """Return what completes the reply; a whole one when there was no item."""
        fields, content_type = (_EVENT_FIELDS, EVENT_STREAM) if self.events else ((), None)
        start = b"" if self._begun else self._put(b"", 200, fields, content_type)
        return start + LAST_CHUNK if self.chunked and self._head.method != "HEAD" else start

    def _put(
        self, body: bytes, status: int, fields: Sequence[tuple[str, str]], content_type: str | None
    ) -> bytes:
        start = b"" if self._begun else self._start(status, fields, content_type)
        if self.left is not None:
            if len(body) > self.left:
                raise HandlerError("the items of a reply are longer than its declared length")
            self.left -= len(body)
        self._begun = True
        return start + (encode_chunk(body) if self.chunked else body)

    def _start(self, status: int, fields: Sequence[tuple[str, str]], content_type: str | None) -> bytes:
        fields, length = take_length(fields)
        if length is not None:
            self.left, self.chunked, self.close = length, False, self._closing
        return encode_stream_head(
            status,
            (*fields, _CHOSEN_BY_ACCEPT),
            head_request=self._head,
            close=self.close,
            date=self._date(),
            content_type=content_type,
            length=length,
        )

    # silence

    def start_watch(self, reactor: Reactor, line: Line) -> None:
        """Send a comment whenever nothing has come for long."""

        def look() -> None:
            now = reactor.tick()
            if now >= self._due:
                line.keep_alive()
                if self._timer is None:
                    return  # the peer is gone, as the comment has shown
                self._due = now + KEEP_ALIVE_SECONDS
            self._timer = reactor.call_at(self._due, look)

        self.note_item(reactor.tick())
        self._timer = reactor.call_at(self._due, look)

    def note_item(self, now: float) -> None:
        """Take note that something was sent."""
        self._due = now + KEEP_ALIVE_SECONDS

    def stop_watch(self) -> None:
        """Send no comment any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _event(item: Any) -> bytes:
    if not isinstance(item, ServerSentEvent):
        return encode_event(bytes(encode_payload(item) or b""))
    data = bytes(encode_payload(item.data) or b"")
    return encode_event(data, event=item.event, event_id=item.id, retry=item.retry)
