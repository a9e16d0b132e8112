"""Give a handler the body of its request as it comes.

The handler pulls: what it does not ask for stays in the kernel, but for one
read (64 KiB) that the machine has taken and not yet turned into parts. Its
connection is busy meanwhile and is read for this body alone.

Time counts while the handler waits for its peer, never while the peer waits
for the handler. What goes wrong is raised where the handler reads, so a body
that was cut short never looks complete. What the handler leaves is read away
when it is there already; else the connection ends with the answer.

Source: RFC 9110 10.1.1 (100-continue), RFC 9112 9.3 (unread bodies).
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import trio

from oread.dispatch import Failed, is_stream
from oread.dispatch.parts import Parts
from oread.errors import BadRequest, Busy, CutShort, MessageError, SlowBody, TooLarge
from oread.limits import HttpLimits
from oread.listeners.http_streams import HttpOwner, StreamingHttpConnection
from oread.listeners.roles import Socket
from oread.listeners.states import (
    BUSY,
    CLOSED,
    CLOSING,
    FULL,
    INPUT_ENDED,
    LINGERING,
    MASKED,
    READ_BYTES,
    READING,
    STREAMING,
    UPLOADING,
)
from oread.listeners.waiter import Waiter
from oread.messages import Headers, HttpRequest
from oread.protocols.http1 import END, HttpServerProtocol
from oread.protocols.http1_head import RequestHead
from oread.protocols.http1_lines import Refusal
from oread.protocols.http1_reply import CONTINUE
from oread.reactor import TURN_SECONDS

BODY_GRACE_SECONDS = 5.0
"""How long a body may be slower than `body_rate_bytes`."""

_DISCARDED_PARTS = 16
"""Parts read away behind a handler's answer: 64 KiB each, or 64 chunks (2 µs each) of whatever size."""
_NOT_NOW = INPUT_ENDED | FULL | CLOSING | CLOSED | LINGERING


class RequestBody(Parts):
    """The body of one request, for one task of its handler."""

    __slots__ = (
        "_connection",
        "_error",
        "_part",
        "_trailers",
        "_turn_end",
        "_waited",
        "_waiter",
        "read",
        "since",
    )

    def __init__(self, connection: UploadingConnection) -> None:
        self._connection: UploadingConnection | None = connection
        self._error: Exception | None = None
        self._part = b""
        self._trailers = Headers(())
        self._turn_end = perf_counter() + TURN_SECONDS
        self._waited = 0.0
        self._waiter = Waiter()
        self.read = 0
        """Bytes of the body that have come."""
        self.since: float | None = None
        """When the present wait began, on Trio's clock."""

    def __bytes__(self) -> bytes:
        """Return what a message has of a body that is still to come."""
        return b""

    def trailers(self) -> Headers:
        """Return the trailers; none before the end."""
        return self._trailers

    async def __anext__(self) -> bytes:
        """Return the next part, of one byte or more, waiting for it if it must.

        Raises:
            CutShort, SlowBody, TooLarge, BadRequest: the rest will not come.
            trio.BusyResourceError: another task waits for a part.
            trio.ClosedResourceError: the request has been answered.

        Cancellation: loses nothing; the next call goes on where this one was.
        """
        if self.since is not None:
            raise trio.BusyResourceError("another task waits for this body")
        if perf_counter() >= self._turn_end:
            await trio.lowlevel.checkpoint()
            self._turn_end = perf_counter() + TURN_SECONDS
        while not self._part:
            if self._error is not None:
                raise self._error
            connection = self._connection
            if connection is None:
                raise StopAsyncIteration
            if not self._advance(connection) and not connection.read_body():
                await self._wait(connection)
        part, self._part = self._part, b""
        return part

    def _advance(self, connection: UploadingConnection) -> bool:
        """Take note of the next event of what was received; False when there is none."""
        event = connection.next_body_event()
        if event is None:
            return False
        if isinstance(event, bytes):
            self._part = event
            self.read += len(event)
        elif isinstance(event, Headers):
            self._trailers = event
            self._connection = None
        else:
            self._error = event
        return True

    async def _wait(self, connection: UploadingConnection) -> None:
        self.since = connection.now()
        try:
            connection.begin_reading(self)
            if self._error is None:  # else asking for the body has shown that nobody sends it
                await self._waiter.wait()
        finally:
            self._waited += connection.now() - self.since
            self.since = None
            self._turn_end = perf_counter() + TURN_SECONDS
            if self._connection is not None:
                connection.flags &= ~READING

    # what its connection calls

    def go_on(self) -> None:
        """Wake the handler, if something came that it can use."""
        connection = self._connection
        if connection is not None and (self._error is not None or self._advance(connection)):
            self._rouse()

    def fail(self, error: Exception) -> None:
        """Raise this where the handler reads, behind what has come; the first counts."""
        if self._error is None and self._connection is not None:
            self._error = error
            self._rouse()

    def detach(self) -> Exception | None:
        """Give nothing more; return what had gone wrong."""
        error, self._connection, self._part = self._error, None, b""
        self._error = trio.ClosedResourceError("the request whose body this is has been answered")
        self._waiter.wake()
        return error

    def _rouse(self) -> None:
        if self._connection is not None:
            self._connection.flags &= ~READING  # at once: one read, then the handler's turn
        self._waiter.wake()

    def deadline(self, limits: HttpLimits, received: float) -> float:
        """Return when its peer has been too slow, while the handler waits."""
        assert self.since is not None
        stalled = max(self.since, received) + limits.body_seconds
        if not limits.body_rate_bytes:
            return stalled
        allowed = BODY_GRACE_SECONDS + self.read / limits.body_rate_bytes
        return min(stalled, self.since + allowed - self._waited)


class UploadingConnection(StreamingHttpConnection):
    """An HTTP connection as far as a handler takes a body from it."""

    __slots__ = ("_protocol", "_upload", "captures")

    def __init__(self, owner: HttpOwner, sock: Socket) -> None:
        super().__init__(owner, sock)
        self._protocol = HttpServerProtocol(owner.limits)
        self._protocol.length_limit = max(owner.limits.body_bytes, owner.limits.stream_bytes)
        self._upload: RequestBody | None = None
        """Set while `UPLOADING`."""
        self.captures: Mapping[str, str] = {}

    def message(self, data: bytes | memoryview) -> HttpRequest:
        """Make the message of the present request."""
        raise NotImplementedError

    def dispatch_early(self, head: RequestHead) -> bytes | None:
        """Call the handlers before the body has come, or have a runner do so."""
        entry = self._entry
        assert entry is not None
        body = self.begin_upload()
        reply: Any
        if entry.call is not None:
            reply = self._owner.copy_context().run(entry.call, self, body)
        elif entry.gate is not None and entry.gate.running >= entry.gate.limit:
            reply = Failed(Busy("too many calls of this event are at work"))
        else:
            self.submit(entry, body)
            return None
        if is_stream(reply) is None:
            self.end_upload(reply)
            self.flags &= ~BUSY
        return self.encode(head, reply)

    def begin_upload(self) -> RequestBody:
        """Make the body of the present request, for who takes it part by part."""
        self._protocol.body_limit = self._owner.limits.stream_bytes
        body = self._upload = RequestBody(self)
        self.flags |= UPLOADING | BUSY  # in an exchange, whatever is read before its answer is there
        return body

    def end_upload(self, reply: Any) -> None:
        """Read away what the handler left, or have the connection end with the answer."""
        upload = self._upload
        assert upload is not None
        error = upload.detach()
        told = isinstance(reply, Failed) and reply.error is error  # it is counted with the handler's failure
        if isinstance(error, MessageError) and not told and not self.flags & CLOSED:
            self._owner.count(error.reason)
        if error is not None or not self._discard_body():
            self.flags |= CLOSING
        self.flags &= ~(UPLOADING | READING)
        self._upload = None

    def _discard_body(self) -> bool:
        """Read away what is there, in at most 2 ms; tell whether that was all of the body."""
        left = self._owner.limits.linger_bytes
        for _ in range(_DISCARDED_PARTS):
            event = self._protocol.next_event()
            if event is END:
                return True
            if isinstance(event, bytes):
                left -= len(event)
            elif event is not None or not self.read_body():
                return False
            if left < 0:
                return False
        return False

    # what the body calls

    def now(self) -> float:
        """Return Trio's time; a handler is not in a turn of the reactor."""
        return self._owner.reactor.tick()

    def next_body_event(self) -> bytes | Headers | MessageError | None:
        """Return a part, the trailers at the end, or an error; None when more is needed."""
        event = self._protocol.next_event()
        if event is None or isinstance(event, bytes):
            return event
        if event is END:
            self._upload = None
            self.flags &= ~(UPLOADING | READING)
            self.watch()  # from now on the peer's leaving matters
            return Headers(self._protocol.trailers)
        assert isinstance(event, Refusal)
        if self.flags & INPUT_ENDED:
            return CutShort(event.reason)
        return TooLarge(event.reason) if event.status == 413 else BadRequest(event.reason)

    def read_body(self) -> bool:
        """Read once, if something is there; tell whether anything has changed."""
        if self.flags & _NOT_NOW:
            return False
        try:
            data = self._recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            self.reset()
            return True
        if data:
            self.received = self._owner.reactor.now
            self._protocol.feed(data)
        else:
            self.end_input()
        return True

    def begin_reading(self, body: RequestBody) -> None:
        """Read for the handler that waits; ask for the body if that was expected."""
        head = self._head
        assert head is not None
        unasked = not body.read and not self._protocol.buffered and not self.flags & INPUT_ENDED
        if unasked and head.expects_continue and not (self.flags & STREAMING and self.job.begun):
            self.write(CONTINUE)
        if not self.flags & CLOSED:
            self.flags = (self.flags | READING) & ~MASKED
            self.watch()
            self.rearm()

    # what happens to the connection

    def _on_input(self, ready: int) -> None:
        if self.flags & READING and not self.flags & _NOT_NOW:
            upload = self._upload
            assert upload is not None
            self.read_body()
            upload.go_on()
        else:
            super()._on_input(ready)

    def resume(self) -> None:
        """Go on: what was pending is written, or little enough."""
        if self.flags & READING:
            self.flags &= ~MASKED
        super().resume()

    def end_stream(self, failed: Failed | None) -> None:
        """Go on as after any reply."""
        if self.flags & UPLOADING:
            self.end_upload(failed)
        super().end_stream(failed)

    def on_closed(self) -> None:
        """Let go of what is under way: it has just closed."""
        super().on_closed()
        if self._upload is not None:
            self._upload.fail(CutShort("the connection closed within the body"))

    def upload_deadline(self) -> float:
        """Return when the peer has been too slow; asked while `READING`."""
        assert self._upload is not None
        return self._upload.deadline(self._owner.limits, self.received)

    def end_slow_upload(self) -> None:
        """Tell the handler that its peer was too slow."""
        assert self._upload is not None
        self._upload.fail(SlowBody("the body of the request took too long"))
