"""Call by HTTP: one connection kept alive, statuses as errors.

A call is a request whose path is the event. The connection is kept for the
next call where the server allows it; where it does not, the next call opens
another one: the exchange before it was complete, so nothing is in doubt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from urllib.parse import quote

import attrs
import trio

from oread.client.calls import HTTP_LIMITS
from oread.client.channel import Dial, Items, Outcome
from oread.client.payloads import CONTENT_TYPES, Payload
from oread.client.sending import LIMIT_BYTES, BoundedReader, Sent, send, sending
from oread.client.streams import UNLIMITED
from oread.client.target import Target
from oread.errors import (
    BadRequest,
    Busy,
    EndpointError,
    HandlerError,
    MessageError,
    NotAllowed,
    NotFound,
    TimedOut,
    TooLarge,
)
from oread.protocols.event_stream import EventStreamReader
from oread.protocols.http1_client import ClientResponse, HttpClientProtocol, encode_request
from oread.protocols.http1_lines import Refusal
from oread.protocols.server_sent_events import EVENT_STREAM

ERROR_BYTES = 4_096
"""Of an error's body that is looked at."""
REASON_CHARACTERS = 200
"""Of an error's body that an exception repeats."""

PATH_SAFE = "/!$&'()*+,;=:@"
"""Beside letters, digits and `-._~`: what a path may have as it is (RFC 3986 3.3)."""
_ERRORS: dict[int, type[MessageError]] = {404: NotFound, 408: TimedOut, 413: TooLarge, 504: TimedOut}
_BUSY = (429, 503)
_NOT_ALLOWED = 405
_SERVER_ERRORS = 500


class HttpChannel:
    """Requests one after the other on a connection that is kept.

    Args:
        target: its path goes before every event.
        dial: opens a connection.
        nursery: lives as long as the client.
        method: of every request.
        headers: more fields of every request.

    Raises:
        EndpointError: the URL has a query, or method or fields can't be sent.
    """

    tells_apart = False

    def __init__(
        self,
        target: Target,
        dial: Dial,
        nursery: trio.Nursery,
        *,
        method: str,
        headers: Sequence[tuple[str, str]],
    ) -> None:
        self._prefix, mark, _ = target.request_target.partition("?")
        if mark:
            raise EndpointError(
                f"{target.endpoint}: the URL of a client has no query: payloads go in the body"
            )
        self._prefix = self._prefix.rstrip("/")
        self._host_field = target.host_field
        self._dial = dial
        self._nursery = nursery
        self._method = method
        self._headers = tuple(headers)
        self._stream: trio.abc.HalfCloseableStream | None = None
        try:
            self._encode("", Payload(data=b"", kind="bytes"))
        except ValueError as error:
            raise EndpointError(str(error)) from error

    def _encode(self, event: str, payload: Payload, *, close: bool = False) -> bytes:
        path = f"{self._prefix}/{quote(event, safe=PATH_SAFE)}"
        named = any(name.lower() == "content-type" for name, _ in self._headers)
        content_type = () if named or not payload.data else (("Content-Type", CONTENT_TYPES[payload.kind]),)
        return encode_request(
            self._method, path, self._host_field, payload.data, (*self._headers, *content_type), close=close
        )

    async def open(self) -> None:
        """Connect."""
        self._stream = await self._dial()

    async def exchange(self, event: str, payload: Payload) -> Outcome:
        """Send a request, return the body of its response or what its status says."""
        stream = self._stream = self._stream or await self._dial()
        machine, reader = HttpClientProtocol(HTTP_LIMITS, self._method), BoundedReader(stream)
        response: ClientResponse | Refusal | None = None
        async with sending(stream, self._encode(event, payload), half_close=False) as sent:
            while response is None:
                chunk = await reader.read()
                response = machine.receive(chunk) if chunk else machine.receive_eof()
            whole = await sent.is_done()
        if isinstance(response, Refusal):
            raise trio.BrokenResourceError(response.reason)
        if not (response.keep_alive and whole):
            self._stream = None
            await trio.aclose_forcefully(stream)
        return read_status(response) or response.body

    async def notify(self, event: str, payload: Payload) -> MessageError | None:
        """Send a request and wait for its status."""
        outcome = await self.exchange(event, payload)
        return outcome if isinstance(outcome, MessageError) else None

    async def open_items(self, event: str, payload: Payload) -> Items:
        """Give each chunk of a response, or the data of each server-sent event."""
        request = self._encode(event, payload, close=True)
        return HttpItems(await self._dial(), request, self._method, self._nursery)

    async def finish(self) -> None:
        """End the connection in order; a request is always answered."""
        if self._stream is not None:
            await self._stream.aclose()

    async def aclose(self) -> None:
        """Close the connection."""
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)


class HttpItems:
    """The body of one response, piece by piece.

    Args:
        stream: is closed by `aclose`.
        request: sent beside the reading.
        method: of the request.
        nursery: in which is sent.
    """

    def __init__(
        self, stream: trio.abc.HalfCloseableStream, request: bytes, method: str, nursery: trio.Nursery
    ) -> None:
        self._stream = stream
        self._reader = BoundedReader(stream, UNLIMITED)
        self._machine = HttpClientProtocol(HTTP_LIMITS, method, in_pieces=True)
        self._events: EventStreamReader | None = None
        self._begun = False
        self._refusal: Refusal | None = None
        self._items: deque[bytes] = deque()
        self._ended = False
        nursery.start_soon(send, stream, request, False, Sent())

    async def next_item(self) -> bytes | None:
        """Return the next chunk or event."""
        while not self._items and not self._ended:
            await self._receive()
        return self._items.popleft() if self._items else None

    async def _receive(self) -> None:
        machine = self._machine
        response = await self._read()
        if machine.head is not None and not self._begun:
            self._begun = True
            if not 200 <= machine.head.status < 300:
                raise await self._read_error(machine.head, response)
            if _media_type(machine.head) == EVENT_STREAM:
                self._events = EventStreamReader(LIMIT_BYTES)
        for piece in machine.take_pieces():
            self._items += [piece] if self._events is None else _read_events(self._events, piece)
        if isinstance(response, Refusal) and not self._items:  # else raised when they have been taken
            raise trio.BrokenResourceError(response.reason)
        self._ended = isinstance(response, ClientResponse)

    async def _read(self) -> ClientResponse | Refusal | None:
        if self._refusal is None:
            chunk = await self._reader.read()
            response = self._machine.receive(chunk) if chunk else self._machine.receive_eof()
            if not isinstance(response, Refusal):
                return response
            self._refusal = response
        return self._refusal

    async def _read_error(
        self, head: ClientResponse, response: ClientResponse | Refusal | None
    ) -> MessageError:
        """Return what the status says, with the beginning of its body."""
        body = b"".join(self._machine.take_pieces())
        while response is None and len(body) < ERROR_BYTES:
            response = await self._read()
            body += b"".join(self._machine.take_pieces())
        error = read_status(attrs.evolve(head, body=body))
        assert error is not None
        return error

    async def aclose(self) -> None:
        """Close the connection."""
        await trio.aclose_forcefully(self._stream)


def _media_type(head: ClientResponse) -> str:
    return (head.headers.get("content-type") or "").partition(";")[0].strip().lower()


def _read_events(events: EventStreamReader, piece: bytes) -> list[bytes]:
    try:
        return events.receive(piece)
    except BadRequest as error:
        raise trio.BrokenResourceError(str(error)) from error


def read_status(response: ClientResponse) -> MessageError | None:
    """Return the error that a status means, None for success.

    A redirect is an error too: it is not followed.
    """
    status = response.status
    if 200 <= status < 300:
        return None
    text = response.body[:ERROR_BYTES].decode("utf-8", "replace").strip()[:REASON_CHARACTERS]
    words = f"{status} {response.reason}{': ' if text else ''}{text}"
    if status == _NOT_ALLOWED:
        allowed = (method.strip() for method in (response.headers.get("allow") or "").split(","))
        return NotAllowed(tuple(method for method in allowed if method))
    if status in _BUSY:
        seconds = response.headers.get("retry-after") or ""
        known = seconds.isascii() and seconds.isdigit() and len(seconds) < 10
        return Busy(words, retry_seconds=int(seconds) if known else 1)
    other = HandlerError if status >= _SERVER_ERRORS else BadRequest
    return _ERRORS.get(status, other)(words)
