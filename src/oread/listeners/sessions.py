"""Sessions: handlers that own a whole connection, as a Trio stream.

The stream works on the connection's non-blocking socket and waits through the
service's reactor: nothing is handed over, memory transports work alike, and
what was sent before `aclose` is delivered by the connection's staged close.
"""

from __future__ import annotations

import operator
import socket
from collections.abc import Coroutine
from typing import Any

import trio

from oread.dispatch import Failed
from oread.listeners.roles import Socket
from oread.listeners.states import BUSY, CLOSED, CLOSING, INPUT_ENDED, LINGERING, MASKED, PENDING, READ_BYTES
from oread.listeners.streams import EventOwner, StreamConnection
from oread.listeners.waiter import Waiter
from oread.messages import Address, Peer
from oread.reactor import HANGUP
from oread.sockets.exclusive import Exclusive


def _is_broken(error: Exception) -> bool:
    """Tell whether the peer has broken off, which is no failure of the session."""
    if isinstance(error, ExceptionGroup):
        return error.split(trio.BrokenResourceError)[1] is None
    return isinstance(error, trio.BrokenResourceError)


class SessionConnection(StreamConnection):
    """A connection that one session handler owns until it returns."""

    __slots__ = ("_called", "reader", "writer")

    reads_when_full = True

    def __init__(self, owner: EventOwner, sock: Socket) -> None:
        super().__init__(owner, sock)
        self.reader = Waiter()
        self.writer = Waiter()
        self._called = False
        """Whether the session itself is in a call, whose error tells it enough."""

    def open(self) -> None:
        """Start the session; it is read only when the session asks."""
        self.flags = BUSY | MASKED
        self.interest = 0
        super().open()
        self._owner.messages += 1
        self._owner.runners.submit(self)

    def begin(self) -> Coroutine[Any, Any, Any] | None:
        """Call the session with its stream."""
        session = self._owner.slot.entry.session
        if self.flags & CLOSED:
            return None
        if session is None:  # taken back between accept and now
            self.finish(None)
            return None
        coroutine: Coroutine[Any, Any, Any] = session(SessionStream(self))
        return coroutine

    def finish(self, result: Any) -> None:
        """Close in stages; what was sent is delivered."""
        self.flags &= ~(BUSY | MASKED)
        if isinstance(result, Failed) and not _is_broken(result.error):
            self.report(result)
        if self.flags & CLOSED:
            self._owner.release(self)
        self.finish_writing()

    def _on_input(self, ready: int) -> None:
        if self.flags & BUSY and not self.flags & LINGERING:
            woken = self.reader.wake()
            if ready & HANGUP or not woken:
                self.mask(ready)
        else:
            super()._on_input(ready)

    def on_writable(self) -> None:
        """Wake a sender once everything is written."""
        if not self.flags & PENDING:
            self.writer.wake()

    def on_reset(self) -> None:
        """Tell the session: by an error where it waits, else by cancelling it."""
        if self.flags & CLOSING:
            return  # it has closed its stream; what it does now is not for this peer
        error = trio.BrokenResourceError("the peer has reset the connection, or takes nothing any more")
        told = self.reader.wake(error)
        told = self.writer.wake(error) or told
        if not told and not self._called:
            super().on_reset()

    def receive(self, size: int) -> bytes | None:
        """Receive now, or have the poller watch for input and return None."""
        try:
            data = self._recv(size)
        except BlockingIOError:
            if self.flags & MASKED:
                self.flags &= ~MASKED
                self.watch()
            return None
        except OSError as error:
            self._called = True
            self.reset()
            raise trio.BrokenResourceError("the peer has reset the connection") from error
        self.received = self._owner.reactor.tick()
        if not data:
            self.flags |= INPUT_ENDED
            self.watch()
        return data

    def send(self, data: memoryview) -> None:
        """Send what the kernel takes and keep the rest; a reset shows in `flags`."""
        self._called = True
        try:
            self.write(data)
        finally:
            self._called = False

    def end_by_session(self) -> None:
        """Close in stages, because the session has closed its stream."""
        error = trio.ClosedResourceError("this stream was closed by another task")
        self.reader.wake(error)
        self.writer.wake(error)
        self.finish_writing()

    def close(self) -> None:
        """Close now; whoever still waits on the stream is told."""
        super().close()
        error = trio.ClosedResourceError("this stream is closed")
        self.reader.wake(error)
        self.writer.wake(error)


class SessionStream(trio.abc.HalfCloseableStream):
    """The stream that a session owns; closed when its handler returns.

    Cancellation: a cancelled `send_all` may have sent any part of its data.
    """

    def __init__(self, connection: SessionConnection) -> None:
        self._connection = connection
        self._receiving = Exclusive("receiving from")
        self._sending = Exclusive("sending on")
        self._eof_sent = False
        self._closed = False

    @property
    def peer(self) -> Peer:
        """The other side."""
        return self._connection.peer()

    @property
    def local(self) -> Address:
        """The address that the peer connected to."""
        return self._connection.local()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive at least one byte, or `b""` at the end of input."""
        size = READ_BYTES if max_bytes is None else operator.index(max_bytes)
        if size < 1:
            raise ValueError("max_bytes must be >= 1")
        connection = self._connection
        with self._receiving:
            self._check_open()
            await trio.lowlevel.checkpoint()
            while True:
                self._check_open()
                if connection.flags & INPUT_ENDED:
                    return b""
                data = connection.receive(size)
                if data is not None:
                    return data
                if not connection.flags & CLOSED:
                    await connection.reader.wait()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; returns when the kernel has taken it."""
        with self._sending:
            self._check_sendable()
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            with memoryview(data) as view:
                self._connection.send(view)
            await self._written()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until nothing sent earlier is pending."""
        with self._sending:
            self._check_sendable()
            await trio.lowlevel.checkpoint()
            await self._written()

    async def send_eof(self) -> None:
        """Tell the peer that nothing more will be sent; input goes on."""
        with self._sending:
            self._check_open()
            await trio.lowlevel.checkpoint()
            if self._eof_sent:
                return
            await self._written()
            self._eof_sent = True
            while not self._end_sending():
                await self._written()

    def _end_sending(self) -> bool:
        """End that direction; False when the last word of TLS waits for the peer."""
        try:
            self._connection.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            self._connection.keep(b"")
            return False
        except OSError:
            pass  # the peer has closed: it will hear nothing anyway
        return True

    async def aclose(self) -> None:
        """Close; what was sent is still delivered, in the background.

        Cancellation: closes at once; what was not delivered is lost.
        """
        if not self._closed:
            self._closed = True
            self._connection.end_by_session()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self._connection.close()
            raise

    async def _written(self) -> None:
        connection = self._connection
        while connection.flags & PENDING:
            await connection.writer.wait()
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
        if self._connection.flags & CLOSED:
            raise trio.BrokenResourceError("the connection is gone")

    def _check_sendable(self) -> None:
        self._check_open()
        if self._eof_sent:
            raise trio.ClosedResourceError("send_eof was called on this stream")
