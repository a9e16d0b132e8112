"""`tcp` and `unix`: where a chunk or a framed piece becomes a message.

`RawConnection` is the hot path: one read, one call, one send, in one frame.
`FramedConnection` pulls messages from a sans-I/O machine and sends the replies
of one read together. Both answer in order: while an async handler runs,
nothing behind its message is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from oread.dispatch import Entry, Failed, encode_payload
from oread.errors import HandlerError, MessageError
from oread.listeners.calls import CallingConnection
from oread.listeners.connection import Connection
from oread.listeners.roles import Owner, Socket
from oread.listeners.states import (
    BUSY,
    CLOSED,
    CLOSING,
    DEFERRED,
    FULL,
    MASKED,
    READ_BYTES,
    SMALL_BYTES,
)
from oread.listeners.streaming import StreamedReply
from oread.messages import Message, ServerSentEvent
from oread.protocols.framing import Framing
from oread.reactor import READABLE
from oread.registry import Slot

MESSAGES_PER_LOOK = 16
"""Messages of one read that are served between two looks at the clock (0.04 µs each)."""


class EventOwner(Owner, Protocol):
    """The listener of one fixed event, as its connections see it."""

    slot: Slot
    """The event, always with its present entry."""


class StreamConnection(CallingConnection):
    """A connection whose event is the endpoint's; the origin of its messages."""

    __slots__ = ()
    _owner: EventOwner

    @property
    def captures(self) -> Mapping[str, str]:
        """What the endpoint's event captured."""
        return self._owner.slot.captures

    def message(self, data: bytes | memoryview) -> Message:
        """Make the message of one payload."""
        owner = self._owner
        return Message(
            event=owner.slot.event,
            data=bytes(data),
            transport=owner.endpoint.scheme,
            captures=owner.slot.captures,
            received=self.received,
            peer=self.peer,
            local=self.local,
            transport_info=self.transport_info,
        )

    def report(self, failed: Failed) -> None:
        """Count and log what a handler raised."""
        self._owner.report(self._owner.slot.event, failed, self.peer())

    def call(self, entry: Entry, data: bytes) -> Any:
        """Call the sync handlers of an entry, in a context of their own."""
        assert entry.call is not None
        return self._owner.copy_context().run(entry.call, self, data)

    def settle_reply(self, reply: Any) -> bytes | memoryview | None:
        """Return the bytes to send; None for no reply, and after a failure.

        A stream has no place for an error: what fails closes the connection,
        after the replies that are owed already: the caller settles that.
        """
        if not isinstance(reply, Failed):
            try:
                payload = encode_payload(reply)
                if payload is None:
                    return None
                framed = self.encode(payload)
            except MessageError as error:
                if self.begin_stream(self.job[0] if self.job else self._owner.slot.entry, reply):
                    return None
                reply = Failed(error)
            else:
                self._owner.replies += 1
                return framed
        self.fail(reply)
        return None

    def fail(self, failed: Failed) -> None:
        """Report what failed; the connection ends once the replies owed are sent."""
        self.report(failed)
        self.flags |= CLOSING

    def answer(self, result: Any) -> None:
        """Send the reply; close after a failure."""
        payload = self.settle_reply(result)
        if payload is not None:
            self.write(payload)
        elif self.flags & CLOSING:
            self.settle()

    def encode(self, payload: bytes | memoryview) -> bytes | memoryview:
        """Frame one reply."""
        return payload

    def send_item(self, item: Any) -> None:
        """Send one item as a message of its own; None is no item."""
        payload = encode_payload(item.data if isinstance(item, ServerSentEvent) else item)
        if payload is not None:
            self.write(self.encode(payload))

    def finish_stream(self, _stream: StreamedReply, failed: Failed | None) -> None:
        """Count a complete reply; one that failed before it began is answered as a failure."""
        if failed is None:
            self._owner.replies += 1
        else:
            self.fail(failed)


class RawConnection(StreamConnection):
    """Every chunk is a message."""

    __slots__ = ()

    def on_ready(self, ready: int) -> None:  # noqa: C901 (see below)
        """Read, call, send: the hot path, when open with nothing pending.

        Written out instead of calling `read`, `call`, `settle_reply` and
        `write`: 0.5 µs of 7. What an attribute holds is called by a local name
        because CPython 3.11 specializes `self.send(...)` for methods only: 0.3 µs.
        """
        if ready != READABLE or self.flags:
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
        owner = self._owner
        self.received = owner.reactor.now
        entry = owner.slot.entry
        call = entry.call
        if call is None:
            owner.messages += 1
            self.submit(entry, data)
            return
        context = owner.fresh_context
        reply = context.run(call, self, data)
        if context:
            owner.fresh_context = owner.copy_context()
        if type(reply) is not bytes:
            owner.messages += 1
            if reply is not None:
                self.answer(reply)
            return
        owner.answered += 1
        send = self._send
        try:
            sent = send(reply)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.reset()
            return
        if sent != len(reply):
            self.keep(memoryview(reply)[sent:])

    def answer(self, result: Any) -> None:
        """Send the reply; close after a failure."""
        if type(result) is bytes:
            self._owner.replies += 1
            self.write(result)
        else:
            super().answer(result)

    def on_data(self, data: bytes) -> None:
        """Serve one chunk, off the hot path: something is pending or draining."""
        owner = self._owner
        owner.messages += 1
        entry = owner.slot.entry
        if entry.call is None:
            self.submit(entry, data)
            return
        self.answer(self.call(entry, data))


class FramedConnection(StreamConnection):
    """Messages are cut by a sans-I/O machine."""

    __slots__ = ("_framing",)

    def __init__(self, owner: EventOwner, sock: Socket, framing: Framing) -> None:
        super().__init__(owner, sock)
        self._framing = framing

    def on_data(self, data: bytes) -> None:
        """Serve the messages of one read."""
        self._pull(lambda: self._framing.receive(data))

    def on_writable(self) -> None:
        """Serve what lies behind the last message, unless something holds it up."""
        if not self.flags & (BUSY | DEFERRED | FULL | CLOSING | CLOSED):
            self._pull(self._framing.next_message)

    def on_input_end(self) -> None:
        """Serve an unterminated last line."""
        self._pull(self._framing.receive_eof)

    def encode(self, payload: bytes | memoryview) -> bytes:
        """Frame one reply."""
        return self._framing.encode(payload)

    def _pull(self, first: Callable[[], bytes | None]) -> None:
        """Serve from the first message on, until one is incomplete or must wait."""
        replies: list[bytes] = []
        try:
            self._serve(first(), replies)
        except HandlerError as error:  # a reply that can't be framed
            self.fail(Failed(error))
        except MessageError as error:
            self._owner.count(error.reason)
            self.flags |= CLOSING
        if replies:
            self._owner.replies += len(replies)
            self.write(b"".join(replies))
        if self.flags & CLOSING:
            self.settle()

    def _serve(self, message: bytes | None, replies: list[bytes]) -> None:  # noqa: C901 (see below)
        """Call the handlers of each message; what they return is framed into `replies`.

        Written out instead of calling `call` and `settle_reply`: 0.4 µs of 1.3.
        """
        owner, next_message, encode = self._owner, self._framing.next_message, self._framing.encode
        slot, context = owner.slot, owner.fresh_context
        count = size = 0
        try:
            while message is not None:
                count += 1
                entry = slot.entry
                call = entry.call
                if call is None:
                    self.submit(entry, message)
                    return
                reply = context.run(call, self, message)
                if context:
                    context = owner.fresh_context = owner.copy_context()
                if reply is not None:
                    if type(reply) is not bytes:
                        if isinstance(reply, Failed):
                            self.fail(reply)
                            return
                        try:
                            reply = encode_payload(reply)
                        except HandlerError:
                            if self.begin_stream(entry, reply):
                                return
                            raise
                    replies.append(encode(reply))
                    size += len(reply)
                if size >= READ_BYTES:
                    self._defer()  # let `write` see whether the peer takes it
                    return
                if count % MESSAGES_PER_LOOK == 1 and owner.reactor.turn_is_over():
                    self._defer()
                    return
                message = next_message()
        finally:
            owner.messages += count

    def _defer(self) -> None:
        self.flags |= DEFERRED
        self._owner.reactor.defer(self._go_on)

    def _go_on(self) -> None:
        self.flags &= ~(DEFERRED | MASKED)
        self.on_writable()
        self.settle()
