"""`http`: where a request becomes a message, and a reply a response.

The sans-I/O machine yields a head, body parts, the end; the handler is found
at the head, so that 404, 405 and 100-continue are decided before a body is
read. Requests are answered strictly in order: the next is asked for when the
exchange before it has finished.

Not here: how long all of it may take (`http_deadlines`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oread.dispatch import Failed, is_stream
from oread.dispatch.payload import BYTES_TYPE
from oread.errors import Busy, CutShort, HandlerCancelled, HandlerError, MessageError, TooLarge
from oread.listeners.connection import Connection
from oread.listeners.http_bodies import RequestBody
from oread.listeners.http_deadlines import TimedConnection
from oread.listeners.http_replies import failure_parts, response_parts
from oread.listeners.http_upgrade import accept_upgrade
from oread.listeners.runtime import is_refusal
from oread.listeners.states import (
    BUSY,
    CLOSED,
    CLOSING,
    DEFERRED,
    FULL,
    MASKED,
    PEER_GONE,
    READ_BYTES,
    SMALL_BYTES,
    STREAMING,
    UPLOADING,
)
from oread.messages import FileReply, Headers, HttpRequest
from oread.protocols.http1 import END, Event, State
from oread.protocols.http1_body import BODY_TOO_LONG
from oread.protocols.http1_head import RequestHead
from oread.protocols.http1_lines import Refusal
from oread.protocols.http1_reply import CONTINUE, encode_refusal, encode_response
from oread.protocols.websocket_handshake import WebSocketVersionError, encode_upgrade_required
from oread.reactor import READABLE

EVENTS_PER_LOOK = 16
"""Parts of a body that are taken between two looks at the clock."""
_NO_TRAILERS = Headers(())

# A member of an Enum costs 50 ns at each look (CPython 3.11).
_IDLE = State.IDLE


class HttpConnection(TimedConnection):
    """One HTTP/1.1 connection; the origin of its present request's message."""

    __slots__ = ()

    watches_peer = True

    # the origin of a message

    def message(self, data: bytes | memoryview) -> HttpRequest:
        """Make the message of the present request."""
        head = self._head
        assert head is not None
        return HttpRequest(
            event=self._event(),
            data=bytes(data),
            transport=self._owner.endpoint.scheme,
            captures=self.captures,
            received=self.received,
            peer=self.peer,
            local=self.local,
            transport_info=self.transport_info,
            method=head.method,
            target=head.target,
            path=head.path,
            query=head.query,
            headers=head.headers,
            version=head.version,
            trailers=_NO_TRAILERS if head.length >= 0 else self._trailers(data),
            look_behind=self._owner.look_behind,
        )

    def _trailers(self, data: object) -> Headers | Callable[[], Headers]:
        return data.trailers if isinstance(data, RequestBody) else Headers(self._protocol.trailers)

    def report(self, failed: Failed) -> None:
        """Count and log what a handler raised."""
        self._owner.report(self._event(), failed, self.peer())

    def _event(self) -> str:
        return self._entry.event if self._entry is not None else ""

    # input

    def on_ready(self, ready: int) -> None:  # noqa: C901 (see below)
        """Serve a request that comes whole and alone: the hot path, when open with nothing pending.

        Written out as in `RawConnection`, instead of calling `read`, `on_data` and `_serve`: 0.2 µs of 7.
        """
        if ready != READABLE or self.flags != 0:
            Connection.on_ready(self, ready)
            return
        recv, room = self._recv, self.room
        try:
            data = recv(room)
        except BlockingIOError:
            return
        except OSError:
            self.reset()
            return
        if len(data) >= SMALL_BYTES:
            if room == SMALL_BYTES:
                data = self.read_on(data)
        elif not data:
            self.end_input()
            return
        elif room != SMALL_BYTES:
            self.room = SMALL_BYTES
        self.received = self._owner.reactor.now
        protocol = self._protocol
        event = protocol.receive(data)
        if type(event) is not RequestHead or not protocol.fresh:
            self._serve(event)
            return
        reply = self._begin_request(event)
        if reply is not None:
            self.write(reply)
        if self.flags:
            self._end_turn()

    def on_data(self, data: bytes) -> None:
        """Serve what one read made complete, off the hot path: something is pending or draining."""
        self._serve(self._protocol.receive(data))

    def on_writable(self) -> None:
        """Serve what lies behind the last request, unless something holds it up."""
        if not self.flags & (BUSY | DEFERRED | FULL | CLOSING | CLOSED):
            self._serve(self._protocol.next_event())

    def on_input_end(self) -> None:
        """Drop a request that was cut short: its body is never passed on."""
        refusal = self._protocol.receive_eof()
        if self._upload is not None:
            self._upload.fail(CutShort("the connection ended within the body"))
        elif refusal is not None:
            self._owner.count("cut_short")
            self.flags |= CLOSING

    def _serve(self, event: Event | None) -> None:
        """Serve events until one is missing, or something has to end first."""
        owner = self._owner
        protocol = self._protocol
        replies: list[bytes] = []
        size = count = 0
        while event is not None:
            count += 1
            reply = self._begin_request(event) if type(event) is RequestHead else self._take(event)
            if reply is not None:
                replies.append(reply)
                size += len(reply)
            if self.flags & (BUSY | CLOSING | CLOSED):
                break
            if protocol.fresh and self._state is _IDLE:
                break  # nothing more is there, and nothing is begun: saves 0.6 us of 3.4
            look = reply is not None or not count % EVENTS_PER_LOOK
            if size >= READ_BYTES or (look and owner.reactor.turn_is_over()):
                self._defer()
                break
            event = protocol.next_event()
        else:
            if self._await_more():
                replies.append(CONTINUE)
        if replies:
            self.write(replies[0] if len(replies) == 1 else b"".join(replies))
        self._end_turn()

    def _end_turn(self) -> None:
        """Do what the last request asks for beside its response."""
        if self.flags & BUSY and self._upgrade is not None:
            self.hand_over(self._upgrade)
        elif self.flags & CLOSING:
            self.settle()

    def _take(self, event: Event) -> bytes | None:
        """Take one event; return the response that it brings about."""
        if event is END:
            body, self._body = self._body, None
            return self._dispatch(bytes(body or b""))
        if type(event) is Refusal:
            self.flags |= CLOSING
            self._owner.count(f"http_{event.status}")
            return encode_refusal(event.status, event.reason, self._owner.date())
        assert isinstance(event, bytes)
        assert self._body is not None
        self._body += event
        return None

    def _begin_request(self, head: RequestHead) -> bytes | None:
        self._head = head
        self._state = _IDLE
        self._requests += 1
        self._owner.messages += 1
        try:
            self._entry, self.captures = self._owner.find(head)
            if head.upgrade:
                self._upgrade = accept_upgrade(self._owner, head, self._entry, self.captures)
            if self._entry.application is not None and self._upgrade is None:
                self.begin_application(head, self._entry)
                return None
        except MessageError as error:
            self._entry = None
            return self._refuse(head, error)
        if self._upgrade is not None:
            self.flags |= BUSY  # what lies behind is not HTTP any more
            return self._upgrade.response or None
        if head.length == 0:
            return self._dispatch(b"")
        in_parts = self._entry.takes_parts and head.method not in ("GET", "HEAD")
        limits = self._owner.limits
        if head.length > (limits.stream_bytes if in_parts else limits.body_bytes):
            self._entry = None
            return self._refuse(head, TooLarge(BODY_TOO_LONG.reason))
        if in_parts:
            return self.dispatch_early(head)
        self._body = bytearray()
        self._began = self._owner.reactor.now
        return None

    def _refuse(self, head: RequestHead, error: MessageError) -> bytes | None:
        """Answer at the head; a body that would follow is not read."""
        if head.length:
            self.flags |= CLOSING
        if isinstance(error, WebSocketVersionError):
            self._owner.count(error.reason)
            close = bool(self.flags & CLOSING) or not head.keep_alive
            return encode_upgrade_required(str(error), self._owner.date(), close=close)
        return self.encode(head, Failed(error))

    def _await_more(self) -> bool:
        """Note what more bytes are needed for; tell whether to ask for them by a 100."""
        state = self._protocol.state
        if state is self._state:
            return False
        self._state = state
        if state is State.HEAD:
            self._began = self.received
        self.rearm()
        head = self._head
        expected = state is State.BODY and head is not None and head.expects_continue
        return expected and not self._body and not self._protocol.buffered

    # handlers

    def _dispatch(self, body: bytes) -> bytes | None:
        """Call the handlers of the present request, or have a runner call them."""
        head, entry = self._head, self._entry
        assert head is not None
        assert entry is not None
        if body and head.method in ("GET", "HEAD"):
            body = b""  # RFC 9110 9.3.1: content of a GET has no meaning; it was framed and read
        if entry.call is None:
            if entry.gate is not None and entry.gate.running >= entry.gate.limit:
                return self.encode(head, Failed(Busy("too many calls of this event are at work")))
            self.submit(entry, body)
            return None
        owner = self._owner
        context = owner.fresh_context
        reply = context.run(entry.call, self, body)
        if context:
            owner.fresh_context = owner.copy_context()
        return self.encode(head, reply)

    def finish(self, result: Any) -> None:
        """Answer, then go on with what arrived meanwhile."""
        before = self.flags
        if before & (STREAMING | UPLOADING):
            if before & STREAMING:
                self.end_stream(result)
                return
            if before & CLOSED or is_stream(result) is None:
                self.end_upload(result)
                before = self.flags
        cancelled = isinstance(result, Failed) and isinstance(result.error, HandlerCancelled)
        if before & CLOSED or (before & PEER_GONE and cancelled):
            self.end_unheard(result)
            self.close()
            return
        self.received = self._owner.reactor.tick()
        assert self._head is not None
        response = self.encode(self._head, result)
        if response is None:
            return  # an iterator: what it gives is the answer
        self.end_call()
        self.write(response)
        if not self.flags & (CLOSED | CLOSING):
            self.on_writable()
        self.settle()

    def encode(self, head: RequestHead, reply: Any) -> bytes | None:
        """Make the response, None for a streamed one; note whether the connection ends with it."""
        owner = self._owner
        # Of a connection with no flags the rest is looked at here: 0.1 us of 1.8.
        if (self.flags or not head.keep_alive or self.received >= self._aged) and self.ends_with(head):
            self.flags |= CLOSING
        close = bool(self.flags & CLOSING)
        owner.replies += 1
        if not isinstance(reply, Failed):
            try:
                status, body, headers, content_type = (
                    (200, reply, (), BYTES_TYPE) if type(reply) is bytes else response_parts(reply)
                )
                if (
                    not (headers or close)
                    and status == 200
                    and head.version == "1.1"
                    and head.method != "HEAD"
                ):
                    return b"%b%d\r\n\r\n%b" % (owner.response_start(content_type), len(body), body)
                return encode_response(
                    status,
                    body,
                    headers,
                    head_request=head,
                    close=close,
                    date=owner.date(),
                    content_type=content_type,
                )
            except MessageError as error:
                # Looked for here, so that what can be sent as it is pays nothing.
                if isinstance(reply, FileReply):
                    response = self.answer_file(head, reply)
                    if not isinstance(response, Failed):
                        return response
                    reply = response
                elif self.stream(head, reply):
                    return None
                else:
                    reply = Failed(error)
        return self._encode_failure(head, reply, close=close)

    def _encode_failure(self, head: RequestHead, reply: Failed, *, close: bool) -> bytes:
        owner = self._owner
        if owner.endpoint.failure == "close" and not is_refusal(reply.error):
            self.flags |= CLOSING
            close = True
        if self._entry is not None:
            self.report(reply)
        status, reason, headers = failure_parts(reply.error)
        owner.count(f"http_{status}")
        try:
            return encode_refusal(status, reason, owner.date(), headers, head_request=head, close=close)
        except HandlerError:  # an error class of the user's with a status or fields that can't be sent
            return encode_refusal(500, "the handler failed", owner.date(), head_request=head, close=close)

    def _defer(self) -> None:
        self.flags |= DEFERRED
        self._owner.reactor.defer(self._go_on)

    def _go_on(self) -> None:
        self.flags &= ~(DEFERRED | MASKED)
        self.on_writable()
        self.settle()
