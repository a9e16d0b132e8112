"""HTTP requests for ASGI applications: the `http` scope.

The body is read when the application asks for it, and 100-continue is sent
then. What is sent goes out as it comes, and waits while the peer takes
nothing. A body is as long as the application says or not sent at all: one that
is cut short ends the connection.

Source: https://asgi.readthedocs.io/en/latest/specs/www.html#http.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from time import perf_counter
from typing import Any, Protocol

import trio

from oread.dispatch import Entry, Failed
from oread.errors import ApplicationError, HandlerError, MessageError
from oread.listeners.asgi import AsgiCall, PeerGoneError, Wire, read_fields
from oread.listeners.http_bodies import RequestBody
from oread.listeners.http_streams import HttpOwner
from oread.listeners.states import CLOSED, FULL
from oread.protocols.http1_head import RequestHead
from oread.protocols.http1_reply import (
    LAST_CHUNK,
    encode_chunk,
    encode_response,
    encode_stream_head,
    take_length,
)
from oread.reactor import TURN_SECONDS

_FRAMING = frozenset(("connection", "keep-alive", "transfer-encoding"))
"""Fields that an application may give; the engine's own take their place."""
_BODILESS = frozenset((204, 205, 304))


class Exchange(Wire, Protocol):
    """The connection, as the call of a request sees it."""

    flags: int

    def send_item(self, item: Any) -> None:
        """Send a part of the response."""

    def ends_with(self, head: RequestHead) -> bool:
        """Tell whether the connection is to end with this response."""

    def end_stream(self, failed: Failed | None) -> None:
        """Complete the response, or break it off; then go on."""


class ResponseForm:
    """How one response goes out; what `StreamingHttpConnection` asks of a form."""

    __slots__ = ("_owner", "_rest", "chunked", "close", "events", "left")

    def __init__(self, owner: HttpOwner) -> None:
        self._owner = owner
        self._rest = b""
        """What completes it."""
        self.chunked = self.close = False
        self.events = False
        self.left: int | None = None
        """Bytes that are missing to the declared length."""

    def encode(self, item: bytes) -> bytes:
        """Return it: a part is encoded before it is sent."""
        return item

    def end(self) -> bytes:
        """Return what completes it."""
        return self._rest

    def stop_watch(self) -> None:
        """Do nothing: its silence is the application's."""

    def whole(self, head: RequestHead, status: int, fields: Sequence[tuple[str, str]], body: bytes) -> None:
        """Take a response that is complete.

        Raises:
            HandlerError: it can't be sent, or is not as long as it says.
        """
        fields, length = take_length(fields)
        if head.method == "HEAD" and length is not None and status not in _BODILESS:
            self._rest = self._start(head, status, fields, length)
            return
        if length not in (None, len(body)) and status not in _BODILESS:
            raise HandlerError(f"a body of {len(body)} bytes was declared to have {length}")
        self._rest = encode_response(
            status,
            body,
            fields,
            head_request=head,
            close=self.close,
            date=self._owner.date(),
            content_type=None,
        )

    def begin(self, head: RequestHead, status: int, fields: Sequence[tuple[str, str]], body: bytes) -> bytes:
        """Return the head of a response whose body comes in parts, and the first of them.

        Raises:
            HandlerError: it can't be sent.
        """
        fields, length = take_length(fields)
        self.chunked = length is None and head.version != "1.0" and head.method != "HEAD"
        self.close = self.close or (length is None and head.version == "1.0")
        start = self._start(head, status, fields, length)
        if head.method == "HEAD":
            return start
        self.left = length
        self._rest = LAST_CHUNK if self.chunked else b""
        return start + self.part(body)

    def _start(
        self, head: RequestHead, status: int, fields: Sequence[tuple[str, str]], length: int | None
    ) -> bytes:
        return encode_stream_head(
            status,
            fields,
            head_request=head,
            close=self.close,
            date=self._owner.date(),
            content_type=None,
            length=length,
        )

    def part(self, body: bytes) -> bytes:
        """Return a part of the body as it goes out.

        Raises:
            HandlerError: more than was declared.
        """
        if self.left is not None:
            if len(body) > self.left:
                raise HandlerError("a body is longer than it was declared to be")
            self.left -= len(body)
        return encode_chunk(body) if self.chunked else body


class AsgiExchange(AsgiCall):
    """One request, and what answers it; the `job` of its connection meanwhile."""

    def __init__(
        self,
        owner: HttpOwner,
        connection: Exchange,
        head: RequestHead,
        entry: Entry,
        captures: Mapping[str, str],
        body: RequestBody | None,
    ) -> None:
        super().__init__(owner, connection, head, entry, captures)
        self._connection: Exchange | None = connection
        self._body = body
        self._reading = trio.Lock()
        self._read = False
        """Whether the application was told of the end of the body."""
        self._started: tuple[int, list[tuple[str, str]]] | None = None
        self._bodiless = self._done = False
        self._error: Exception | None = None
        """Why the body could not be read, for a response that never starts."""
        self._turn_end = perf_counter() + TURN_SECONDS
        self.form = ResponseForm(owner)
        self.name = entry.links[0].name
        self.shield = False
        self.begun = False
        """Whether something of the response was sent."""

    def make_scope(self) -> dict[str, Any]:
        """Return the `http` scope."""
        scope = self.common_scope("http", {"http": "http", "https": "https"})
        scope["method"] = self._head.method
        scope["extensions"] = {}
        return scope

    # receiving

    async def receive(self) -> dict[str, Any]:
        """Return a part of the body, or, behind its end, that the peer is gone or has its response."""
        async with self._reading:
            if not self._read and not self.gone.is_set():
                message = await self._read_body()
                if message is not None:
                    return message
            await self.gone.wait()
            self.told = not self._done
            return {"type": "http.disconnect"}

    async def _read_body(self) -> dict[str, Any] | None:
        part: bytes | None = None
        try:
            part = None if self._body is None else await anext(self._body, None)
        except MessageError as error:
            self._error = error
            self._read = True
            return None if self.gone.is_set() else {"type": "http.disconnect"}
        except trio.ClosedResourceError:
            return None  # the response was complete before the body
        self._read = part is None
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    # sending

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Take the start, or a part, of the response.

        Raises:
            PeerGoneError: the peer is gone.
            ApplicationError, HandlerError: out of order, or nothing that can be sent.
        """
        connection = self._connection
        if self._done:
            raise ApplicationError("the response is complete")
        if connection is None or connection.flags & CLOSED:
            self.told = True
            await trio.lowlevel.checkpoint()
            raise PeerGoneError("the peer is gone")
        kind = message["type"]
        if kind == "http.response.start":
            self._take_start(message)
        elif kind == "http.response.body":
            self._take_body(connection, bytes(message.get("body", b"")), more=message.get("more_body", False))
        else:
            raise ApplicationError(f"{kind!r} is nothing that can be sent here")
        await self._give_way(connection)

    def _take_start(self, message: MutableMapping[str, Any]) -> None:
        if self._started is not None or self.begun:
            raise ApplicationError("the response has started already")
        if message.get("trailers"):
            raise ApplicationError("trailers of a response are not served")
        self._started = int(message["status"]), read_fields(message.get("headers", ()))

    def _take_body(self, connection: Exchange, body: bytes, *, more: bool) -> None:
        if self._started is None:
            raise ApplicationError("the body of a response was sent before its start")
        if not self.begun:
            self._begin(connection, *self._started, body, more=more)
        elif self._bodiless:
            pass  # its head has no body, and went out with the first part
        elif self._head.method != "HEAD":
            part = self.form.part(body)
            if part:
                connection.send_item(part)
        if not more:
            self._complete(None)

    def _begin(
        self, connection: Exchange, status: int, given: list[tuple[str, str]], body: bytes, *, more: bool
    ) -> None:
        fields = [pair for pair in given if pair[0].lower() not in _FRAMING]
        says_close = any(name.lower() == "connection" and "close" in value.lower() for name, value in given)
        self.form.close = connection.ends_with(self._head) or says_close
        self._bodiless = status in _BODILESS
        if not more or self._bodiless:
            self.form.whole(self._head, status, fields, body)
        else:
            connection.send_item(self.form.begin(self._head, status, fields, body))
        self.begun = True

    def _complete(self, failed: Failed | None) -> None:
        connection = self._connection
        if connection is not None:
            self._connection = None
            self._done = True
            self.let_go()
            connection.end_stream(failed)

    async def _give_way(self, connection: Exchange) -> None:
        """Wait while the peer takes nothing, and now and then for the others."""
        while self._connection is not None and connection.flags & FULL and not connection.flags & CLOSED:
            await self.wait_room()
        if perf_counter() >= self._turn_end:
            await trio.lowlevel.checkpoint()
            self._turn_end = perf_counter() + TURN_SECONDS

    # ends

    def conclude(self, failed: Failed | None) -> None:
        """Answer 500 for a response that was never sent; break off one that is not complete."""
        if self._connection is None:
            if failed is not None:
                self.report(failed)
            return
        if self._error is not None:
            failed = Failed(self._error, self.name)
        elif failed is None:
            failed = Failed(
                HandlerError("an application returned before its response was complete"), self.name
            )
        self._complete(failed)

    def on_closed(self) -> None:
        """Take note that the connection has closed."""
        self._connection = None
        self.let_go()

    def stop(self, _failed: Failed | None) -> None:
        """Close the connection; the application hears of it."""
        if self._connection is not None:
            self._connection.close()
