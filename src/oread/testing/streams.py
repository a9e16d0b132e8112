"""In-memory stream connections: both ends, and a listening socket."""

from __future__ import annotations

import errno
import socket
from collections import deque

import trio

from oread.listeners.calls import NO_LINGER
from oread.reactor import ERROR, HANGUP, READ_HANGUP, READABLE, WRITABLE
from oread.testing.readiness import Readiness

PIPE_BYTES = 65_536
"""What one direction holds before its sender has to wait."""


class Pipe:
    """One direction of a connection."""

    __slots__ = ("abandoned", "data", "ended", "room")

    def __init__(self, room: int) -> None:
        self.data = bytearray()
        self.ended = False
        self.abandoned = False
        """Its reader has closed: what is sent is answered by a reset."""
        self.room = room

    def put(self, data: bytes | bytearray | memoryview) -> int:
        """Put in what there is room for; BlockingIOError when there is none."""
        taken = min(len(data), self.room - len(self.data))
        if not taken and len(data):
            raise BlockingIOError(errno.EAGAIN, "the pipe is full")
        self.data += data[:taken]
        return taken

    def take(self, size: int) -> bytes:
        """Take out what is there, `b""` at the end; BlockingIOError when nothing is."""
        if not self.data and not self.ended:
            raise BlockingIOError(errno.EAGAIN, "the pipe is empty")
        data = bytes(self.data[:size])
        del self.data[:size]
        return data


class MemorySocket:
    """The service's side of a connection; made by `MemoryNetwork.connect`."""

    def __init__(
        self, network: Readiness, incoming: Pipe, outgoing: Pipe, address: tuple[str, int] | None = None
    ) -> None:
        self._network = network
        self._incoming = incoming
        self._outgoing = outgoing
        self._fd = network.open(self)
        self.peer = address or ("memory", self._fd)
        """The client's address, known after the end too."""
        self.was_reset = False
        self.closed = False
        self._resets = False
        """Closing is a reset, as SO_LINGER asks for."""

    def fileno(self) -> int:
        """Return its number in the network."""
        return self._fd

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 (the signature of socket.socket)
        """Do nothing: it never blocks."""

    def setsockopt(self, level: int, option: int, value: bytes, /) -> None:
        """Have `close` reset the connection: the one option that is used here."""
        if (level, option, value) != (socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER):
            raise OSError(errno.ENOPROTOOPT, "memory has no such option")
        self._resets = True

    def ready(self) -> int:
        """Return the readiness bits, as epoll would."""
        bits = 0
        if self._incoming.data or self._incoming.ended:
            bits |= READABLE
        if len(self._outgoing.data) < self._outgoing.room:
            bits |= WRITABLE
        if self._incoming.ended:
            bits |= READ_HANGUP
            if self._outgoing.ended:
                bits |= HANGUP
        return bits | ERROR | HANGUP if self.was_reset else bits

    def recv(self, size: int, /) -> bytes:
        """Take what has arrived."""
        self._check()
        data = self._incoming.take(size)
        self._network.notify()
        return data

    def send(self, data: bytes | memoryview, /) -> int:
        """Send what there is room for."""
        self._check()
        if self._outgoing.ended:
            raise BrokenPipeError(errno.EPIPE, "shut down")
        if self._outgoing.abandoned:
            self.was_reset = True
            self._check()
        sent = self._outgoing.put(data)
        self._network.notify()
        return sent

    def shutdown(self, how: int, /) -> None:
        """End one direction."""
        self._check()
        pipe = self._incoming if how == socket.SHUT_RD else self._outgoing
        pipe.ended = True
        self._network.notify()

    def close(self) -> None:
        """Close it; unread input, or SO_LINGER, makes that a reset for the client, as in TCP."""
        if not self.closed:
            self.closed = True
            self._outgoing.ended = True
            if self._incoming.data or self._resets:
                self._outgoing.data.clear()
                self.was_reset = True
            self._incoming.ended = True
            self._network.discard(self._fd)

    def getpeername(self) -> tuple[str, int]:
        """Return an address that says where it came from."""
        self._check()
        return self.peer

    def getsockname(self) -> tuple[str, int]:
        """Return an address that says where it came from."""
        return "memory", 0

    def _check(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, "closed")
        if self.was_reset:
            raise ConnectionResetError(errno.ECONNRESET, "reset by the test")


class MemoryListeningSocket:
    """A listening socket; made by `MemoryNetwork.listen`."""

    def __init__(self, network: Readiness, port: int) -> None:
        self._network = network
        self._fd = network.open(self)
        self._port = port
        self._queue: deque[MemorySocket] = deque()
        self.failures: deque[OSError] = deque()
        """Errors that the next accepts raise, for example EMFILE."""
        self.closed = False

    def fileno(self) -> int:
        """Return its number in the network."""
        return self._fd

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 (the signature of socket.socket)
        """Do nothing: it never blocks."""

    def ready(self) -> int:
        """Return the readiness bits, as epoll would."""
        return READABLE if self._queue else 0

    def queue(self, sock: MemorySocket) -> None:
        """Put a connection in the queue."""
        self._queue.append(sock)
        self._network.notify()

    def accept(self) -> tuple[MemorySocket, None]:
        """Take one out of the queue."""
        if not self._queue:
            raise BlockingIOError(errno.EAGAIN, "nothing is queued")
        if self.failures:
            raise self.failures.popleft()
        return self._queue.popleft(), None

    def getsockname(self) -> tuple[str, int]:
        """Return an address that says what it is, with a port as good as any."""
        return "memory", self._port

    def close(self) -> None:
        """Close it; what is queued is reset."""
        if not self.closed:
            self.closed = True
            for sock in self._queue:
                sock.close()
            self._network.discard(self._fd)


class MemoryClient(trio.abc.HalfCloseableStream):
    """The client's side of a connection."""

    def __init__(self, network: Readiness, sock: MemorySocket, incoming: Pipe, outgoing: Pipe) -> None:
        self._network = network
        self._sock = sock
        self._incoming = incoming
        self._outgoing = outgoing

    @property
    def address(self) -> tuple[str, int]:
        """Its address, as the service sees it."""
        return self._sock.peer

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything, waiting for room."""
        await trio.lowlevel.checkpoint()
        view = memoryview(data)
        while view:
            if self._sock.closed or self._sock.was_reset:
                raise trio.BrokenResourceError("the service has closed the connection")
            try:
                view = view[self._outgoing.put(view) :]
            except BlockingIOError:
                await self._network.wait_change()
            self._network.notify()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        await trio.lowlevel.checkpoint()
        while len(self._outgoing.data) >= self._outgoing.room:
            await self._network.wait_change()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what there is, `b""` at the end."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                data = self._incoming.take(max_bytes or PIPE_BYTES)
            except BlockingIOError:
                await self._network.wait_change()
                continue
            if not data and self._sock.was_reset:
                raise trio.BrokenResourceError("reset")
            self._network.notify()
            return data

    async def receive_all(self) -> bytes:
        """Receive until the service ends the connection."""
        received = b""
        while data := await self.receive_some():
            received += data
        return received

    async def send_eof(self) -> None:
        """End what is sent."""
        await trio.lowlevel.checkpoint()
        self._outgoing.ended = True
        self._network.notify()

    def reset(self) -> None:
        """Reset the connection, as a peer that crashed."""
        self._sock.was_reset = True
        self._incoming.ended = True
        self._network.notify()

    async def aclose(self) -> None:
        """Close, as a socket does: a FIN, or a reset when something was not read."""
        if self._incoming.data and not self._sock.closed:
            self.reset()
        self._outgoing.ended = self._incoming.abandoned = True
        self._network.notify()
        await trio.lowlevel.checkpoint()
