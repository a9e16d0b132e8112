"""In-memory transports: a service tested with no socket and a mock clock.

    network = MemoryNetwork()
    listening = network.listen()
    async with oread.open_service(registry, oread.Bound(listening, "tcp://:0/echo"), poller=network):
        client = network.connect(listening)
        await client.send_all(b"hello")

The service under test runs as it does on sockets: only readiness and the
bytes come from here. With `trio.testing.MockClock` its deadlines pass at once.
"""

from __future__ import annotations

import errno
import itertools
from collections import deque

import trio

from oread.reactor import ERROR, HANGUP, READ_HANGUP, READABLE, WRITABLE

PIPE_BYTES = 65_536
"""What one direction holds before its sender has to wait."""


class _Pipe:
    """One direction of a connection."""

    __slots__ = ("data", "ended", "room")

    def __init__(self, room: int) -> None:
        self.data = bytearray()
        self.ended = False
        self.room = room

    def put(self, data: bytes | bytearray | memoryview) -> int:
        taken = min(len(data), self.room - len(self.data))
        if not taken and len(data):
            raise BlockingIOError(errno.EAGAIN, "the pipe is full")
        self.data += data[:taken]
        return taken

    def take(self, size: int) -> bytes:
        if not self.data and not self.ended:
            raise BlockingIOError(errno.EAGAIN, "the pipe is empty")
        data = bytes(self.data[:size])
        del self.data[:size]
        return data


class MemorySocket:
    """The service's side of a connection; made by `MemoryNetwork.connect`."""

    def __init__(self, network: MemoryNetwork, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._network = network
        self._incoming = incoming
        self._outgoing = outgoing
        self._fd = network.open(self)
        self.was_reset = False
        self.closed = False

    def fileno(self) -> int:
        """Return its number in the network."""
        return self._fd

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 (the signature of socket.socket)
        """Do nothing: it never blocks."""

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
        sent = self._outgoing.put(data)
        self._network.notify()
        return sent

    def shutdown(self, _how: int, /) -> None:
        """End what is sent."""
        self._check()
        self._outgoing.ended = True
        self._network.notify()

    def close(self) -> None:
        """Close it; unread input makes that a reset for the client, as in TCP."""
        if not self.closed:
            self.closed = True
            self._outgoing.ended = True
            if self._incoming.data:
                self._outgoing.data.clear()
                self.was_reset = True
            self._incoming.ended = True
            self._network.discard(self._fd)

    def getpeername(self) -> tuple[str, int]:
        """Return an address that says where it came from."""
        self._check()
        return "memory", self._fd

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

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network
        self._fd = network.open(self)
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
        """Return an address that says where it came from."""
        return "memory", self._fd

    def close(self) -> None:
        """Close it; what is queued is reset."""
        if not self.closed:
            self.closed = True
            for sock in self._queue:
                sock.close()
            self._network.discard(self._fd)


class MemoryClient(trio.abc.HalfCloseableStream):
    """The client's side of a connection."""

    def __init__(self, network: MemoryNetwork, sock: MemorySocket, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._network = network
        self._sock = sock
        self._incoming = incoming
        self._outgoing = outgoing

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
        """Close, as a socket does: a FIN."""
        self._outgoing.ended = True
        self._network.notify()
        await trio.lowlevel.checkpoint()


class MemoryNetwork:
    """Readiness of in-memory sockets; a `Poller` for `open_service`."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1_000_000)
        self._sockets: dict[int, MemorySocket | MemoryListeningSocket] = {}
        self._interest: dict[int, int] = {}
        self._changed = trio.Event()
        self._woken = False
        self.waker = -1

    # for tests

    def listen(self) -> MemoryListeningSocket:
        """Make a listening socket, to be served as `oread.Bound(it, url)`."""
        return MemoryListeningSocket(self)

    def connect(self, listening: MemoryListeningSocket, *, room: int = PIPE_BYTES) -> MemoryClient:
        """Connect; `room` is what the client's side holds unread."""
        if listening.closed:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")
        to_service, to_client = _Pipe(PIPE_BYTES), _Pipe(room)
        sock = MemorySocket(self, to_service, to_client)
        listening.queue(sock)
        return MemoryClient(self, sock, to_client, to_service)

    @property
    def open_sockets(self) -> int:
        """How many of the service's sockets are open."""
        return len(self._sockets)

    # for the sockets

    def open(self, sock: MemorySocket | MemoryListeningSocket) -> int:
        """Give a socket its number."""
        fd = next(self._numbers)
        self._sockets[fd] = sock
        return fd

    def discard(self, fd: int) -> None:
        """Forget a closed socket."""
        self._sockets.pop(fd, None)
        self.notify()

    def notify(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_change(self) -> None:
        """Wait until something has changed."""
        await self._changed.wait()

    # the contract of a poller

    def add(self, fd: int, interest: int) -> None:
        """Register a socket."""
        assert fd not in self._interest
        self.modify(fd, interest)

    def modify(self, fd: int, interest: int) -> None:
        """Change what is reported."""
        self._interest[fd] = interest
        self.notify()

    def remove(self, fd: int) -> None:
        """Forget a socket."""
        del self._interest[fd]

    def poll(self, _timeout: float, most: int, /) -> list[tuple[int, int]]:
        """Return the ready sockets."""
        ready = [
            (fd, self._sockets[fd].ready() & (interest | ERROR | HANGUP))
            for fd, interest in self._interest.items()
        ]
        return [(fd, bits) for fd, bits in ready if bits][:most]

    async def wait(self) -> None:
        """Wait until a socket is ready."""
        await trio.lowlevel.checkpoint()
        while not self._woken and not self.poll(0, 1):
            await self.wait_change()
        self._woken = False

    def wake(self) -> None:
        """End a wait."""
        self._woken = True
        self.notify()

    def close(self) -> None:
        """Do nothing: there is no descriptor."""
