"""Send a streamed reply by HTTP: when its items go out, and how it ends.

How the items are written is `http_items`; when they are made, `streaming`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from oread.dispatch import Entry, Failed
from oread.errors import HandlerError
from oread.limits import HttpLimits
from oread.listeners.calls import CallingConnection
from oread.listeners.connection import Connection
from oread.listeners.http_items import HttpItems
from oread.listeners.lifespan import Applications
from oread.listeners.roles import Owner, Socket
from oread.listeners.states import CLOSED, CLOSING
from oread.listeners.streaming import StreamedReply
from oread.messages import Address, Forwarded, Headers
from oread.protocols.access_log import AccessRecord
from oread.protocols.http1_head import RequestHead


class HttpOwner(Owner, Protocol):
    """The listener of an `http` endpoint, as its connections see it."""

    draining: bool
    """Whether nothing new is begun."""

    @property
    def applications(self) -> Applications:
        """The ASGI applications of the service."""

    def has_room_beside(self) -> bool:
        """Tell whether one more may run on without its connection, in the end."""

    def leave(self, left: Any) -> None:
        """Take note of what runs on without its connection."""

    @property
    def limits(self) -> HttpLimits:
        """The bounds of the endpoint."""

    look_behind: Callable[[Address, Headers], Forwarded | None] | None
    """Tells what trusted proxies say of a request; None where none is trusted."""

    def find(self, head: RequestHead) -> tuple[Entry, Mapping[str, str]]:
        """Return the entry of a request and what its path captured; raises MessageError."""

    def is_own(self, head: RequestHead) -> bool:
        """Tell whether a request is for what the listener answers itself."""

    def date(self) -> bytes:
        """Return the value of the Date field."""

    def response_start(self, content_type: str | None) -> bytes:
        """Return what a plain response begins with, up to its length; raises HandlerError."""

    def log_access(self, record: AccessRecord) -> None:
        """Hand on a record, where an access log was asked for."""

    def replace(self, connection: Connection, successor: Connection) -> None:
        """Let another connection go on with the socket of one."""


class StreamingHttpConnection(CallingConnection):
    """An HTTP connection as far as replies are streamed on it."""

    __slots__ = ("_entry", "_head")

    _owner: HttpOwner

    def __init__(self, owner: HttpOwner, sock: Socket) -> None:
        super().__init__(owner, sock)
        self._head: RequestHead | None = None
        self._entry: Entry | None = None

    def encode(self, head: RequestHead, reply: Any) -> bytes | None:
        """Make the response, None for a streamed one; note whether the connection ends with it."""
        raise NotImplementedError

    def stream(self, head: RequestHead, reply: Any) -> bool:
        """Begin to stream an iterator's items; False when the reply is none."""
        assert self._entry is not None
        form = HttpItems(head, close=bool(self.flags & CLOSING), date=self._owner.date)
        if not self.begin_stream(self._entry, reply, wanted=head.method != "HEAD", form=form):
            return False
        self._owner.replies -= 1  # counted when it is complete
        self.flags &= ~CLOSING  # until the last item is sent
        if form.events:
            form.start_watch(self._owner.reactor, self)
        return True

    def send_item(self, item: Any) -> None:
        """Send one item, the first behind the head."""
        form = self.job.form
        data = form.encode(item)
        if data:
            if form.events:
                form.note_item(self._owner.reactor.tick())  # a runner is not in a turn of the reactor
            self.write(data)

    def keep_alive(self) -> None:
        """Tell the client of an event stream that it lives."""
        self.job.begun = True
        self.write(self.job.form.comment())

    def finish_stream(self, stream: StreamedReply, failed: Failed | None) -> None:
        """Complete the reply, or answer with the failure that came before its first item."""
        assert self._head is not None
        if stream.form.close:
            self.flags |= CLOSING
        if failed is None:
            self._owner.replies += 1
            end = stream.form.end()
            if end:
                self.write(end)
        else:
            self.write(self.encode(self._head, failed) or b"")

    def end_stream(self, failed: Failed | None) -> None:
        """Go on as after any reply; the silence is watched no more."""
        form = self.job.form
        form.stop_watch()
        if failed is None and form.left and not self.flags & CLOSED:
            failed = Failed(HandlerError(f"a reply ends {form.left} bytes before its declared length"))
        super().end_stream(failed)

    def break_off(self, stream: StreamedReply) -> None:
        """Close without the last chunk, or short of the length; by a reset where there is neither."""
        if stream.form.chunked or stream.form.left is not None:
            self.close()
        else:
            super().break_off(stream)
