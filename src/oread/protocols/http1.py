"""Turn the bytes of one HTTP/1.1 connection into events, as a server.

Pull, not lists: one event per call, and the next request is parsed only when
it is asked for. What lies behind stays bytes. A read that is exactly one
request without a body is looked up whole before it is parsed.

Not here: sockets, deadlines, and what to answer (http1_reply.py encodes it).
Source: RFC 9112; h11's shape of a connection.
"""

from __future__ import annotations

import enum

from oread.limits import HttpLimits
from oread.protocols.http1_body import BODY_TOO_LONG, ChunkedBody, LengthBody
from oread.protocols.http1_head import CACHED_BYTES, HeadScanner, RequestHead, parser_for
from oread.protocols.http1_lines import Buffer, MalformedError, Refusal

_LEADING_LINES = 4
"""Empty lines forgiven before a request; RFC 9112 2.2 asks for one at least."""


class End(enum.Enum):
    """Have one member, so that the end of a body is a type of its own."""

    END = "end"


END = End.END
"""The body is complete. A head with length 0 is complete without it."""

Event = RequestHead | bytes | End | Refusal


class State(enum.Enum):
    """Say where in the stream of requests a connection stands."""

    IDLE = "idle"
    """Not a byte of a next request is there."""
    HEAD = "head"
    """Bytes of a next request are there, which may be a whole one not yet asked for."""
    BODY = "body"
    CLOSED = "closed"
    """Refused, or the last request was taken; whatever comes is dropped."""


# A member of an Enum costs 50 ns at each look (CPython 3.11).
_IDLE, _BODY, _CLOSED = State.IDLE, State.BODY, State.CLOSED


class HttpServerProtocol:
    """Read requests strictly; the same events whatever the cuts.

    `body_limit` is the longest body taken, in bytes, as its chunks come; raised
    after a head it holds for that body, and falls back to the limit of the
    endpoint at the end of each. `length_limit` bounds the Content-Length of
    every head: whoever raises it refuses at the head what is not to be read.

    `trailers` are those of the last body that was read to its end. `fresh` is
    for reading: between two requests, and not a byte of the next is there.
    """

    __slots__ = (
        "_at",
        "_blank_lines",
        "_body",
        "_buffer",
        "_ended",
        "_known",
        "_last",
        "_limits",
        "_parser",
        "_phase",
        "_scanner",
        "_starved",
        "body_limit",
        "fresh",
        "length_limit",
        "trailers",
    )

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._parser = parser_for(limits)
        self._known = self._parser.known
        self.body_limit: float = limits.body_bytes
        self.length_limit: float = limits.body_bytes
        self.trailers: tuple[tuple[str, str], ...] = ()
        self._buffer: Buffer = b""
        self._at = 0
        self._phase = _IDLE
        self.fresh = True
        self._blank_lines = 0
        self._scanner: HeadScanner | None = None
        self._body: LengthBody | ChunkedBody | None = None
        self._last = False
        self._starved = False
        self._ended = False

    @property
    def state(self) -> State:
        """Where the connection stands, as its deadlines need to know."""
        if self._phase is _IDLE and self._at < len(self._buffer):
            return State.HEAD
        return self._phase

    @property
    def buffered(self) -> int:
        """How many bytes are held and not yet turned into events."""
        return len(self._buffer) - self._at

    def unread(self) -> bytes:
        """Return what lies behind the last event."""
        return bytes(self._buffer[self._at :])

    def receive(self, data: bytes) -> Event | None:
        """Take bytes in and return the next event, None when more is needed."""
        # A repeated request costs 0.2 us here instead of 4. Only a machine that holds nothing may look:
        # then the read is the request.
        if self.fresh and len(data) <= CACHED_BYTES and data.endswith(b"\r\n\r\n"):
            head = self._known.get(data)
            if head is not None:
                return head
            head = self._parser.parse_read(data)
            if head is not None:
                # Nothing follows it and nothing was held: all is as it was.
                return head if head.length == 0 and head.keep_alive else self._begin_safely(head)
        self.feed(data)
        return self.next_event()

    def feed(self, data: bytes) -> None:
        """Take bytes in for later; the caller bounds how many it reads ahead."""
        if not data or self._phase is _CLOSED:
            return
        self.fresh = self._starved = False
        if self._at == len(self._buffer):
            self._buffer = data
        elif isinstance(self._buffer, bytearray):
            del self._buffer[: self._at]
            self._buffer += data
        else:
            # bytes would be copied at every byte that comes: quadratic
            self._buffer = bytearray(self._buffer[self._at :])
            self._buffer += data
        self._at = 0

    def next_event(self) -> Event | None:
        """Return the next event of what is there, None when more is needed."""
        if self.fresh or self._phase is _CLOSED:
            return None
        try:
            event = self._next_part() if self._phase is _BODY else self._next_head()
        except MalformedError as fault:
            return self._refuse(fault.refusal)
        if event is None:
            self._starved = True
            if self._ended:
                return self._refuse_short()
        return event

    def receive_eof(self) -> Refusal | None:
        """Take the peer's end of input.

        Returns:
            A refusal when it cuts a request short. Bytes not yet asked for may
            hold whole requests: `next_event` gives them, and then the refusal.
        """
        self._ended = True
        return self._refuse_short() if self._starved else None

    def _refuse_short(self) -> Refusal | None:
        if self.state is _BODY:
            return self._refuse(Refusal(400, "the connection ended within a body"))
        if self.state is State.HEAD:
            return self._refuse(Refusal(400, "the connection ended within a head"))
        return None

    def _refuse(self, refusal: Refusal) -> Refusal:
        self._close()
        return refusal

    def _close(self) -> None:
        self._phase = _CLOSED
        self.fresh = False
        self._buffer = b""
        self._at = 0
        self._scanner = None
        self._body = None

    def _begin_safely(self, head: RequestHead) -> Event:
        try:
            self._begin(head)
        except MalformedError as fault:
            return self._refuse(fault.refusal)
        return head

    def _begin(self, head: RequestHead) -> None:
        self._scanner = None
        self._blank_lines = 0
        self._last = not head.keep_alive
        if head.length == 0:
            self._finish()
            return
        if head.length > self.length_limit:
            raise MalformedError(BODY_TOO_LONG.status, BODY_TOO_LONG.reason)
        self.fresh = self._starved = False
        self._phase = _BODY
        self._body = LengthBody(head.length) if head.length > 0 else ChunkedBody(self._limits)

    def _finish(self) -> None:
        self._body = None
        self.body_limit = self._limits.body_bytes
        if self._last:
            self._close()
            return
        self._phase = _IDLE
        self._consume(self._at)
        self.fresh = not self._buffer

    def _consume(self, at: int) -> None:
        if at == len(self._buffer):
            self._buffer = b""
            at = 0
        self._at = at

    def _next_head(self) -> RequestHead | None:
        if self._scanner is None:
            if self._buffer.startswith(b"\r", self._at):
                self._skip_blank_lines()
            buffer, at = self._buffer, self._at
            end = buffer.find(b"\r\n\r\n", at, at + self._parser.longest_bytes)
            if end >= 0:
                return self._take_head(end + 4)
            if at == len(buffer) or buffer[at:] == b"\r":
                return None
            self._scanner = HeadScanner(self._limits)
        length = self._scanner.scan(self._buffer, self._at)
        return self._take_head(self._at + length) if length >= 0 else None

    def _take_head(self, end: int) -> RequestHead:
        head = self._parser.parse(self._buffer[self._at : end].decode("latin-1"))
        self._consume(end)
        self._begin(head)
        return head

    def _skip_blank_lines(self) -> None:
        while self._buffer.startswith(b"\r\n", self._at):
            self._blank_lines += 1
            if self._blank_lines > _LEADING_LINES:
                raise MalformedError(400, "too many empty lines before a request")
            self._consume(self._at + 2)

    def _next_part(self) -> bytes | End | None:
        body = self._body
        if body is None:
            return None
        if not body.done:
            part, at = body.take(self._buffer, self._at, self.body_limit)
            self._consume(at)
            if part:
                return part
        if body.done:
            self.trailers = body.trailers
            self._finish()
            return END
        return None
