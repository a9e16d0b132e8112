"""Answer with a file: the conditions, the part, and the sending of it.

The kernel sends it where it can (sendfile(2)), a bounded piece in each pass of
the reactor; where it can't, pieces are read and written. Reading may wait for
the disk, for one piece at a time. The descriptor is closed in every way out.
A file that was cut while it is sent ends its connection: what was promised
can't be kept.

Not here: what may be opened (`oread.dispatch.files`).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import ClassVar

from oread.dispatch import Entry, Failed
from oread.dispatch.files import OpenFile, content_type_of, open_file
from oread.errors import HandlerError, MessageError
from oread.listeners.connection import Connection
from oread.listeners.http_bodies import UploadingConnection
from oread.listeners.states import BUSY, CLOSING, PENDING, STREAMING
from oread.listeners.streaming import SteppedReply
from oread.messages import FileReply
from oread.protocols.http1_head import RequestHead
from oread.protocols.http1_reply import encode_response, encode_stream_head, field_names, http_date
from oread.protocols.http_conditions import Validator, Verdict, judge
from oread.reactor import Reactor

PIECE_BYTES = 262_144
"""Sent by the kernel in one step: about 0.1 ms to loopback, a few from a disk."""
READ_PIECE_BYTES = 65_536
"""Read and written in one step where the kernel can't send it."""

_NOT_BY_KERNEL = (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP)
"""This file, or this socket, is none that sendfile(2) takes."""
_OWN_FIELDS = frozenset(("accept-ranges", "content-range", "etag", "last-modified"))
_TOLD = {304: b"", 412: b"the precondition failed\n", 416: b"the range is not there\n"}


class FileForm:
    """What is promised of a file on its way, as of any streamed reply."""

    __slots__ = ("close", "left", "length")

    chunked: ClassVar[bool] = False
    events: ClassVar[bool] = False

    def __init__(self, *, length: int, close: bool) -> None:
        self.left = self.length = length
        """Bytes that were promised and not yet sent."""
        self.close = close

    def end(self) -> bytes:
        """Return what completes it: nothing."""
        return b""

    def stop_watch(self) -> None:
        """Do nothing: silence is not watched."""


class FileSending(SteppedReply):
    """One file, or a part of it, on its way.

    Args:
        connection: whose request it answers.
        head: what goes before it, and so not before earlier answers.
        opened: is closed by this.
        verdict: which bytes of it.
        close: whether the connection ends with it.
    """

    __slots__ = ("_by_kernel", "_connection", "_file", "_head", "_offset")

    def __init__(
        self,
        connection: FileConnection,
        entry: Entry,
        *,
        reactor: Reactor,
        head: bytes,
        opened: OpenFile,
        verdict: Verdict,
        close: bool,
    ) -> None:
        form = FileForm(length=verdict.length, close=close)
        super().__init__(connection, entry, reactor=reactor, wanted=True, form=form)
        self._connection: Connection = connection
        self._head = head
        self._file = opened
        self._offset = verdict.start
        self.shield = True  # a peer that only ended its side still waits for the rest of its file
        self._by_kernel = isinstance(connection.socket, socket.socket)

    def told(self) -> tuple[int, int]:
        """Return the status of its head, and how much of the file was sent."""
        return int(self._head[9:12]), self.form.length - self.form.left

    def let_go(self) -> None:
        """Close the file."""
        self._file.close()

    def step(self) -> None:
        """Send one piece."""
        if not self.begun:
            self.begun = True
            self._connection.write(self._head)
            if self._over:
                return
        if self._by_kernel:
            if not self._connection.flags & PENDING:  # else `resume` comes once that is written
                self._send_piece()
        elif self._outlet.has_little_pending():
            self._write_piece()

    def _send_piece(self) -> None:
        try:
            sent = os.sendfile(
                self._connection.fd, self._file.fd, self._offset, min(self.form.left, PIECE_BYTES)
            )
        except BlockingIOError:
            self._connection.keep(b"")  # nothing, but it waits for room, and the stall deadline counts
        except OSError as error:
            if error.errno in _NOT_BY_KERNEL:
                self._by_kernel = False
                self.resume()
            elif error.errno == errno.EIO:
                self.stop(Failed(HandlerError(f"a file can't be read: {error}")))
            else:
                self._connection.reset()
        else:
            self._note_sent(sent)

    def _write_piece(self) -> None:
        try:
            piece = os.pread(self._file.fd, min(self.form.left, READ_PIECE_BYTES), self._offset)
        except OSError as error:
            self.stop(Failed(HandlerError(f"a file can't be read: {error}")))
            return
        self._connection.write(piece)
        if not self._over:
            self._note_sent(len(piece))

    def _note_sent(self, sent: int) -> None:
        self._offset += sent
        self.form.left -= sent
        if self.form.left and sent:
            self.resume()
        else:  # with something left it was cut: `end_stream` says so
            self.stop(None)


class FileConnection(UploadingConnection):
    """An HTTP connection as far as files are sent on it."""

    __slots__ = ()

    def answer_file(self, head: RequestHead, reply: FileReply) -> bytes | Failed | None:
        """Return the whole answer, or what speaks against it; None once it is being sent."""
        assert self._entry is not None
        try:
            opened = open_file(reply)
        except MessageError as error:
            return Failed(error)
        close = bool(self.flags & CLOSING)
        try:
            data, verdict = self._encode_file(head, reply, opened, close=close)
        except HandlerError as error:
            opened.close()
            return Failed(error)
        if head.method == "HEAD" or not verdict.length:
            opened.close()
            return data
        self._owner.replies -= 1  # counted when it is complete
        self.job = FileSending(
            self,
            self._entry,
            reactor=self._owner.reactor,
            head=data,
            opened=opened,
            verdict=verdict,
            close=close,
        )
        self.flags = (self.flags | BUSY | STREAMING) & ~CLOSING  # until the last byte is sent
        self.job.start()
        return None

    def _encode_file(
        self, head: RequestHead, reply: FileReply, opened: OpenFile, *, close: bool
    ) -> tuple[bytes, Verdict]:
        """Return the head, or the whole of an answer without the file, and what is sent of it."""
        own = _OWN_FIELDS & field_names(reply.headers)
        if own:
            raise HandlerError(f"the field {min(own)} of a FileReply is made from its file")
        validator = Validator(etag=opened.etag, modified=opened.modified, is_strong=opened.is_settled)
        verdict = judge(head.method, head.headers, validator, opened.size)
        fields: Sequence[tuple[str, str]] = (
            *reply.headers,
            ("ETag", opened.etag),
            ("Last-Modified", http_date(opened.modified).decode()),
        )
        date = self._owner.date()
        if verdict.status in _TOLD:
            if verdict.status == 416:
                fields = (*fields, ("Content-Range", f"bytes */{opened.size}"))
            data = encode_response(
                verdict.status,
                _TOLD[verdict.status],
                fields,
                head_request=head,
                close=close,
                date=date,
                content_type=None if verdict.status == 304 else "text/plain; charset=utf-8",
            )
            return data, verdict
        fields = (*fields, ("Accept-Ranges", "bytes"))
        if verdict.status == 206:
            last = verdict.start + verdict.length - 1
            fields = (*fields, ("Content-Range", f"bytes {verdict.start}-{last}/{opened.size}"))
        data = encode_stream_head(
            verdict.status,
            fields,
            head_request=head,
            close=close,
            date=date,
            content_type=reply.content_type or content_type_of(reply.path),
            length=verdict.length,
        )
        return data, verdict
