"""Tell an access log of every request, on connections that were made for it.

Where nobody asked for a log, plain connections are made, and nothing is
looked at: the choice is made once for each listener.

Not here: what a line looks like (`oread.protocols.access_log`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs

from oread.dispatch import Failed
from oread.errors import BadRequest
from oread.listeners.http import HttpConnection
from oread.listeners.http_files import FileSending
from oread.listeners.http_upgrade import Acceptance
from oread.listeners.streaming import StreamedReply
from oread.messages import Headers, Peer
from oread.protocols.access_log import AccessRecord
from oread.protocols.http1 import Event
from oread.protocols.http1_head import RequestHead
from oread.protocols.http1_lines import Refusal

LogAccess = Callable[[AccessRecord], object]

_NO_HEADERS = Headers(())


@attrs.define(eq=False)
class Exchange:
    """A request that is not logged yet."""

    head: RequestHead | None
    began: float
    """On Trio's clock."""
    peer: Peer
    status: int | None = None
    sent_bytes: int = 0
    counting: bool = False
    """Whether what is written now belongs to its answer."""

    def note(self, data: bytes | memoryview) -> None:
        """Take note of a piece of its answer; the first one has the head."""
        if self.status is not None:
            self.sent_bytes += len(data)
            return
        answer = bytes(data)
        self.status = int(answer[9:12])
        self.sent_bytes = len(answer) - answer.index(b"\r\n\r\n") - 4


class LoggingConnection(HttpConnection):
    """An HTTP connection whose requests are told.

    It has no slots of its own, so that any other kind can be joined to it.
    """

    _exchange: Exchange | None = None

    def _begin_request(self, head: RequestHead) -> bytes | None:
        # The peer is asked for now: once the connection is gone nobody knows it.
        self._exchange = Exchange(head, self._owner.reactor.tick(), self.peer())
        data = super()._begin_request(head)
        if data is not None and self._exchange is not None:  # a 101 or 426: not encoded as others are
            self._exchange.note(data)
            self._tell(complete=True)
        return data

    def _take(self, event: Event) -> bytes | None:
        data = super()._take(event)
        if type(event) is Refusal and data is not None:
            self._tell_refused(data)
        return data

    def encode(self, head: RequestHead, reply: Any) -> bytes | None:
        """Make the response; one that is whole is told at once."""
        data = super().encode(head, reply)
        exchange = self._exchange
        if data is not None and exchange is not None:
            exchange.status = None  # of a stream that failed before its first item
            exchange.note(data)
            self._tell(complete=True)
        return data

    def write(self, data: bytes | memoryview) -> None:
        """Send, and count what belongs to a streamed answer."""
        if self._exchange is not None and self._exchange.counting and data:
            self._exchange.note(data)
        super().write(data)

    def send_item(self, item: Any) -> None:
        """Send one item, the first behind the head."""
        self._count(lambda: super(LoggingConnection, self).send_item(item))

    def keep_alive(self) -> None:
        """Tell the client of an event stream that it lives."""
        self._count(super().keep_alive)

    def end_stream(self, failed: Failed | None) -> None:
        """Go on as after any reply."""
        if isinstance(self.job, FileSending) and self._exchange is not None and self.job.begun:
            self._exchange.status, self._exchange.sent_bytes = self.job.told()
        super().end_stream(failed)

    def finish_stream(self, stream: StreamedReply, failed: Failed | None) -> None:
        """Complete the reply, or answer with the failure that came before its first item."""
        if failed is not None:
            super().finish_stream(stream, failed)  # which encodes an answer: told there
            return
        self._count(lambda: super(LoggingConnection, self).finish_stream(stream, None))
        self._tell(complete=True)

    def answer_slow(self, part: str) -> None:
        """Tell a peer that it took too long, and end the connection."""
        super().answer_slow(part)
        self._tell_refused(b"HTTP/1.1 408 \r\n\r\n")

    def hand_over(self, upgrade: Acceptance) -> None:
        """Tell of the upgrade, whoever goes on."""
        super().hand_over(upgrade)
        self._tell(complete=True)  # an application answers by itself: with what is not known here

    def close(self) -> None:
        """Close now; what was asked and not answered is told too."""
        super().close()
        self._tell(complete=False)

    def _count(self, write: Callable[[], None]) -> None:
        exchange = self._exchange
        if exchange is None:
            write()
            return
        exchange.counting = True
        try:
            write()
        finally:
            exchange.counting = False

    def _tell_refused(self, data: bytes) -> None:
        """Tell of what the machine or a deadline refused, its head understood or not."""
        if self._exchange is None:
            self._exchange = Exchange(None, self._owner.reactor.tick(), self.peer())
        self._exchange.note(data)
        self._tell(complete=True)

    def _tell(self, *, complete: bool) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        head = exchange.head
        seconds = self._owner.reactor.tick() - exchange.began
        record = AccessRecord(
            began=time.time() - seconds,
            seconds=seconds,
            peer=exchange.peer,
            client=self._client(exchange),
            method=None if head is None else head.method,
            target=None if head is None else head.target,
            version=None if head is None else head.version,
            headers=_NO_HEADERS if head is None else head.headers,
            event="" if head is None else self._event(),
            status=exchange.status,
            sent_bytes=0 if head is not None and head.method == "HEAD" else exchange.sent_bytes,
            complete=complete,
        )
        self._owner.log_access(record)

    def _client(self, exchange: Exchange) -> Peer:
        look, head, peer = self._owner.look_behind, exchange.head, exchange.peer
        if look is None or head is None:
            return peer
        try:
            behind = look(peer.address, head.headers)
        except BadRequest:  # told to whoever asked the request for its client
            return peer
        return peer if behind is None else Peer(behind.address, peer.transport)


def logging_type(kind: type[HttpConnection]) -> type[HttpConnection]:
    """Return the kind of connection that does the same and is logged."""
    if kind is HttpConnection:
        return LoggingConnection
    return type(f"Logging{kind.__name__}", (LoggingConnection, kind), {})
