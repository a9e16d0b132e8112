"""In-memory UDP: the service's socket, and peers with the addresses they claim.

The socket answers the calls that a UDP listener makes, control messages
included. As on a real network what has no room is dropped, and nobody is told.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque

import trio

from oread.reactor import READABLE, WRITABLE
from oread.sockets import options
from oread.sockets.interfaces import read_interfaces
from oread.testing.readiness import Readiness

LOOPBACK = "127.0.0.1"
QUEUED_DATAGRAMS = 1_024
"""What a socket or a peer holds unread; more is dropped."""
MOST_BYTES = 65_507
"""Payload of the longest IPv4 datagram."""
TTL = 64

Address = tuple[str, int]
Ancillary = list[tuple[int, int, bytes]]


class MemoryDatagramSocket:
    """The service's UDP socket; made by `MemoryNetwork.bind`. IPv4 only."""

    family = socket.AF_INET
    type = socket.SOCK_DGRAM

    def __init__(self, network: Readiness, address: Address) -> None:
        self._network = network
        self._fd = network.open(self)
        self._address = address
        self._queue: deque[tuple[bytes, Address]] = deque()
        self._peers: dict[Address, MemoryPeer] = {}
        self._asked: set[tuple[int, int]] = set()
        loopback = min(read_interfaces().loopback_indexes, default=1)
        host = socket.inet_aton(address[0])
        own = socket.inet_aton(LOOPBACK) if _is_group(host) else host
        self._destination = struct.pack("@i", loopback) + own + host
        self.closed = False
        self.dropped = 0
        """Datagrams for which it had no room."""

    def fileno(self) -> int:
        """Return its number in the network."""
        return self._fd

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 (the signature of socket.socket)
        """Do nothing: it never blocks."""

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Note which control messages are wanted; the rest means nothing here."""
        if value:
            self._asked.add((level, option))

    def getsockopt(self, _level: int, _option: int) -> int:
        """Return a receive buffer that is always large enough."""
        return 1 << 30

    def getsockname(self) -> Address:
        """Return what it is bound to."""
        return self._address

    @property
    def queued(self) -> int:
        """How many datagrams have not been read."""
        return len(self._queue)

    def ready(self) -> int:
        """Return the readiness bits, as epoll would."""
        return WRITABLE | (READABLE if self._queue else 0)

    def arrive(self, data: bytes, sender: Address) -> None:
        """Queue a datagram of a peer."""
        if self.closed:
            return
        if len(self._queue) >= QUEUED_DATAGRAMS:
            self.dropped += 1
            return
        self._queue.append((data, sender))
        self._network.notify()

    def meet(self, peer: MemoryPeer) -> None:
        """Send from now on what is for this peer's address to it."""
        self._peers[peer.address] = peer

    def part(self, peer: MemoryPeer) -> None:
        """Send nothing more to it."""
        if self._peers.get(peer.address) is peer:
            del self._peers[peer.address]

    def recvfrom(self, size: int, /) -> tuple[bytes, Address]:
        """Take a datagram, cut to the size."""
        self._check()
        if not self._queue:
            raise BlockingIOError(errno.EAGAIN, "nothing is queued")
        data, sender = self._queue.popleft()
        self._network.notify()
        return data[:size], sender

    def recvmsg(self, size: int, _control_bytes: int, /) -> tuple[bytes, Ancillary, int, Address]:
        """Take a datagram with the control messages that were asked for."""
        data, sender = self.recvfrom(size)
        ancillary: Ancillary = []
        if (socket.IPPROTO_IP, options.IP_PKTINFO) in self._asked:
            ancillary.append((socket.IPPROTO_IP, options.IP_PKTINFO, self._destination))
        if (socket.IPPROTO_IP, options.IP_RECVTTL) in self._asked:
            ancillary.append((socket.IPPROTO_IP, options.IP_TTL_CONTROL, struct.pack("@i", TTL)))
        return data, ancillary, 0, sender

    def sendto(self, data: bytes | memoryview, address: Address, /) -> int:
        """Send to the peer that has this address; nobody else hears it."""
        self._check()
        if len(data) > MOST_BYTES:
            raise OSError(errno.EMSGSIZE, "too long for a datagram")
        peer = self._peers.get((address[0], address[1]))
        if peer is not None:
            peer.arrive(bytes(data))
        return len(data)

    def sendmsg(
        self,
        buffers: tuple[bytes | memoryview, ...],
        _ancillary: Ancillary,
        _flags: int,
        address: Address,
        /,
    ) -> int:
        """Send as `sendto` does."""
        return self.sendto(b"".join(buffers), address)

    def close(self) -> None:
        """Close it; what is queued is lost."""
        if not self.closed:
            self.closed = True
            self._queue.clear()
            self._network.discard(self._fd)

    def _check(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, "closed")


class MemoryPeer:
    """Whoever sends datagrams to one socket; made by `MemoryNetwork.peer`."""

    def __init__(self, network: Readiness, sock: MemoryDatagramSocket, address: Address) -> None:
        self._network = network
        self._sock = sock
        self._queue: deque[bytes] = deque()
        self.address = address
        """Its address, as the service sees it."""
        self.dropped = 0
        """Replies for which it had no room."""
        sock.meet(self)

    def send(self, data: bytes) -> None:
        """Send one datagram.

        Raises:
            OSError: EMSGSIZE, it is too long for one.
        """
        if len(data) > MOST_BYTES:
            raise OSError(errno.EMSGSIZE, "too long for a datagram")
        self._sock.arrive(bytes(data), self.address)

    def arrive(self, data: bytes) -> None:
        """Queue a reply of the service's."""
        if len(self._queue) >= QUEUED_DATAGRAMS:
            self.dropped += 1
            return
        self._queue.append(data)
        self._network.notify()

    async def receive(self) -> bytes:
        """Return the next reply."""
        await self.wait_reply()
        return self._queue.popleft()

    async def wait_reply(self) -> None:
        """Wait until there is a reply to receive."""
        await trio.lowlevel.checkpoint()
        while not self._queue:
            await self._network.wait_change()

    def receive_nowait(self) -> bytes | None:
        """Return the next reply if it is there."""
        return self._queue.popleft() if self._queue else None

    async def wait_read(self) -> None:
        """Wait until the service has read everything that was sent to its socket."""
        await trio.lowlevel.checkpoint()
        while self._sock.queued:
            await self._network.wait_change()

    def close(self) -> None:
        """Hear nothing more."""
        self._sock.part(self)


def _is_group(host: bytes) -> bool:
    return host[0] >> 4 == 0xE
