"""`framing=jsonrpc` on `tcp` and `unix`: one JSON document a line, any event.

Documents are answered in their order: while a call runs or waits for a place,
nothing behind its document is looked at. What is no JSON is answered with
-32700, and the next line is a new document. A line over `message_bytes` is
answered with -32600 and ends the connection: where the next would begin is
not known. Empty lines are passed over.

Source: https://github.com/ndjson/ndjson-spec, which JSON-RPC over TCP uses.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from oread.dispatch import Failed
from oread.endpoints import Endpoint
from oread.errors import HandlerCancelled, TooLarge
from oread.listeners.acceptor import ListeningSocket
from oread.listeners.connection import Connection
from oread.listeners.jsonrpc import NO_EVENT, Methods, Work
from oread.listeners.listener import ConnectionListener
from oread.listeners.roles import Owner, Socket
from oread.listeners.runtime import Runtime
from oread.listeners.states import BUSY, CLOSED, CLOSING, DEFERRED, FULL, MASKED, PEER_GONE, READ_BYTES
from oread.messages import Message
from oread.protocols.framing import Lines
from oread.protocols.jsonrpc import INVALID_REQUEST, NULL, Fault, encode_error


class JsonRpcListener(ConnectionListener):
    """The open sockets of one stream endpoint of JSON-RPC, and what came in."""

    def __init__(self, runtime: Runtime, endpoint: Endpoint, sockets: Sequence[ListeningSocket]) -> None:
        super().__init__(runtime, endpoint, sockets)
        self.methods = Methods(runtime.registry, self.copy_context)

    def make_connection(self, sock: Socket) -> Connection:
        """Make a connection whose lines are documents."""
        return JsonRpcConnection(self, sock)


class JsonRpcOwner(Owner, Protocol):
    """The listener of JSON-RPC, as its connections see it."""

    @property
    def methods(self) -> Methods:
        """What may be called."""


class JsonRpcConnection(Connection):
    """A connection of JSON-RPC: the host of one document after the other."""

    __slots__ = ("_lines", "_work")

    answers_errors: ClassVar[bool] = True
    waits_for_place: ClassVar[bool] = True
    _owner: JsonRpcOwner

    def __init__(self, owner: JsonRpcOwner, sock: Socket) -> None:
        super().__init__(owner, sock)
        self._lines = Lines(owner.limits.message_bytes)
        self._work: Work | None = None

    # as the host of a document

    def make_message(self, event: str, captures: Mapping[str, str], data: bytes | memoryview) -> Message:
        """Make the message of one call."""
        return Message(
            event=event,
            data=bytes(data),
            transport=self._owner.endpoint.scheme,
            captures=captures,
            received=self.received,
            peer=self.peer,
            local=self.local,
            transport_info=self.transport_info,
        )

    def report_call(self, event: str, failed: Failed) -> None:
        """Count and log why one call failed."""
        self._owner.report(event, failed, self.peer())

    def submit_call(self) -> None:
        """Have a runner begin the present call."""
        self._owner.runners.submit(self)

    # as a job

    def begin(self) -> Coroutine[Any, Any, Any] | None:
        """Make the coroutine of the present call; None when the peer is gone."""
        return None if self._work is None else self._work.begin()

    def finish(self, result: Any) -> None:
        """Go on with the document; when it is done answer, and go on with the next."""
        work = self._work
        if work is None or not work.take(result):
            return
        self._work = None
        self._apply_policy(work)
        self.flags &= ~(BUSY | MASKED | PEER_GONE)
        if self.flags & CLOSED:
            self._owner.release(self)
            return
        self.received = self._owner.reactor.tick()
        response = work.response()
        if response is not None:
            self._owner.replies += 1
            self.write(self._lines.encode(response))
        self.on_writable()
        self.settle()

    # input

    def on_data(self, data: bytes) -> None:
        """Serve the documents of one read."""
        self._pull(lambda: self._lines.receive(data))

    def on_writable(self) -> None:
        """Serve what lies behind the last document, unless something holds it up."""
        if not self.flags & (BUSY | DEFERRED | FULL | CLOSING | CLOSED):
            self._pull(self._lines.next_message)

    def on_input_end(self) -> None:
        """Serve an unterminated last line."""
        self._pull(self._lines.receive_eof)

    def _pull(self, first: Callable[[], bytes | None]) -> None:
        """Serve from the first line on, until one is incomplete or must wait."""
        replies: list[bytes] = []
        try:
            self._serve(first(), replies)
        except TooLarge as error:
            self.report_call(NO_EVENT, Failed(error))
            fault = Fault(INVALID_REQUEST, "Invalid Request", str(error))
            replies.append(self._lines.encode(encode_error(NULL, fault)))
            self.flags |= CLOSING
        if replies:
            self._owner.replies += len(replies)
            self.write(b"".join(replies))
        if self.flags & CLOSING:
            self.settle()

    def _serve(self, line: bytes | None, replies: list[bytes]) -> None:
        owner, size = self._owner, 0
        while line is not None:
            if line and not line.isspace():
                owner.messages += 1
                work = self._work = Work(owner.methods, self, line)
                if not work.run():
                    self.flags |= BUSY
                    return
                self._work = None
                self._apply_policy(work)
                response = work.response()
                if response is not None:
                    replies.append(self._lines.encode(response))
                    size += len(response)
            if self.flags & (CLOSED | CLOSING):
                return  # a handler, or a policy, has ended it
            if size >= READ_BYTES or owner.reactor.turn_is_over():
                self.flags |= DEFERRED
                owner.reactor.defer(self._go_on)
                return
            line = self._lines.next_message()

    def _go_on(self) -> None:
        self.flags &= ~(DEFERRED | MASKED)
        self.on_writable()
        self.settle()

    # ends

    def _apply_policy(self, work: Work) -> None:
        if work.failed and self._owner.endpoint.failure == "close":
            self.flags |= CLOSING

    def on_reset(self) -> None:
        """Cancel the call that runs for a peer that is gone, unless it is shielded."""
        if self._work is not None and not self._work.shield:
            super().on_reset()

    def on_closed(self) -> None:
        """Let go of what waits; what runs ends by itself."""
        if self._work is not None:
            self._work.abandon()

    def give_place(self) -> None:
        """Give back what the present call holds of a limited event."""
        if self._work is not None:
            self._work.give_place()

    def cancel_handler(self) -> None:
        """Cancel the present call, and with it the rest of its document."""
        if self._work is None:
            return
        self._work.give_up()
        if self._work.waits:
            self.finish(Failed(HandlerCancelled("cancelled")))
        else:
            super().cancel_handler()
