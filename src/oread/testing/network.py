"""A network in memory: stream and datagram sockets, and who readies them."""

from __future__ import annotations

import errno
import itertools

from oread.testing.datagrams import LOOPBACK, MemoryDatagramSocket, MemoryPeer
from oread.testing.readiness import Readiness
from oread.testing.streams import PIPE_BYTES, MemoryClient, MemoryListeningSocket, MemorySocket, Pipe

FIRST_SERVED_PORT = 20_000
"""Below the ports that systems hand to clients (32,768 on Linux, 49,152 on macOS), so never a peer's."""
FIRST_PEER_PORT = 50_000
"""Within them, so that the guards of UDP see an ordinary client."""
PORTS = 10_000


class MemoryNetwork(Readiness):
    """Sockets in memory, and the `Poller` for `open_service` that knows them."""

    def __init__(self) -> None:
        super().__init__()
        self._served_ports = itertools.cycle(range(FIRST_SERVED_PORT, FIRST_SERVED_PORT + PORTS))
        self._peer_ports = itertools.cycle(range(FIRST_PEER_PORT, FIRST_PEER_PORT + PORTS))

    def listen(self) -> MemoryListeningSocket:
        """Make a listening socket, to be served as `oread.Bound(it, url)`."""
        return MemoryListeningSocket(self, next(self._served_ports))

    def connect(
        self,
        listening: MemoryListeningSocket,
        *,
        room: int = PIPE_BYTES,
        address: tuple[str, int] | None = None,
    ) -> MemoryClient:
        """Connect to a listening socket.

        Args:
            listening: from `listen`.
            room: what the client's side holds unread.
            address: what the service sees as its peer; None makes one up.

        Raises:
            ConnectionRefusedError: it is closed.
        """
        if listening.closed:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")
        to_service, to_client = Pipe(PIPE_BYTES), Pipe(room)
        sock = MemorySocket(self, to_service, to_client, address)
        listening.queue(sock)
        return MemoryClient(self, sock, to_client, to_service)

    def bind(self, host: str = LOOPBACK, port: int = 0) -> MemoryDatagramSocket:
        """Make a UDP socket, to be served as `oread.Bound(it, url)`.

        Args:
            host: what it is bound to; a group's address makes it hear that group.
            port: 0 picks one.
        """
        return MemoryDatagramSocket(self, (host, port or next(self._served_ports)))

    def peer(self, sock: MemoryDatagramSocket, address: tuple[str, int] | None = None) -> MemoryPeer:
        """Make a sender of datagrams to a socket.

        Args:
            sock: from `bind`.
            address: what it claims to send from; None is a client on loopback.
        """
        return MemoryPeer(self, sock, address or (LOOPBACK, next(self._peer_ports)))
