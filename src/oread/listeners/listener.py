"""The part of every stream listener: accept connections and hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import trio

from oread.dispatch import Failed
from oread.endpoints import Endpoint
from oread.errors import MessageError
from oread.limits import StreamLimits
from oread.listeners.acceptor import Acceptor, ListeningSocket
from oread.listeners.connection import Connection
from oread.listeners.handshake import Handshake
from oread.listeners.roles import Socket
from oread.listeners.runtime import EndpointStatistics, Runtime, is_refusal
from oread.messages import Peer
from oread.reactor import READABLE
from oread.sockets.streams import path_inode, remove_unix_path
from oread.sockets.tls_contexts import Credentials
from oread.sockets.tls_socket import TlsSocket

QUEUED_AT_MOST = 4_096
"""Connections taken out of the kernel's queue when a drain begins (net.core.somaxconn's default)."""

MOST_LEAVING = 1_000
"""Beyond it no application is called: a keep-alive connection could start any number of background tasks."""


class Leaving(Protocol):
    """What still runs for a connection that is closed, or free again."""

    def peer(self) -> Peer:
        """Return who it runs for."""

    def cancel_handler(self) -> None:
        """Cancel it, at the end of a drain."""

    def give_place(self) -> None:
        """Give back what it holds of a limited event."""


class ConnectionListener:
    """The listening sockets of one stream endpoint, with what they accepted.

    Args:
        endpoint: as bound, with its real port.
        sockets: non-blocking listening sockets; the listener closes them.

    Raises:
        EndpointError: of `tls` and `https`: a certificate is missing or of no use.
    """

    def __init__(self, runtime: Runtime, endpoint: Endpoint, sockets: Sequence[ListeningSocket]) -> None:
        assert isinstance(endpoint.limits, StreamLimits)
        self.runtime = runtime
        self.endpoint = endpoint
        self.limits: StreamLimits = endpoint.limits
        self.reactor = runtime.reactor
        self.runners = runtime.runners
        self.copy_context = runtime.context.copy
        self.fresh_context = self.copy_context()
        self.drained = trio.Event()
        self.messages = self.replies = self.answered = self.accepted = self.failures = 0
        self.refused: Counter[str] = Counter()
        self.connections: set[Connection] = set()
        self.leaving: set[Leaving] = set()
        """Closed ones whose handler still runs (shielded, or cleaning up), and applications beside theirs."""
        self.draining = False
        self.credentials: Credentials | None = None
        if endpoint.is_secure:
            self.credentials = Credentials(endpoint, runtime.tls, self.count)
        self._unix_inode = path_inode(endpoint.host) if endpoint.scheme == "unix" else None
        self._acceptors = [
            Acceptor(
                self.reactor,
                sock,
                has_room=self.has_room,
                make_room=self.make_room,
                on_accept=self._accept,
                count=self.count,
            )
            for sock in sockets
        ]

    # what a subclass says

    def make_connection(self, sock: Socket) -> Connection:
        """Make the connection of an accepted socket."""
        raise NotImplementedError

    def has_room(self) -> bool:
        """Tell whether one more connection may be accepted."""
        return (
            len(self.connections) + len(self.leaving) < self.limits.connections
            and self.runtime.connections < self.runtime.room
        )

    def evict(self) -> bool:
        """Close a connection that may give way; False when there is none."""
        return False

    def make_room(self) -> bool:
        """Have another connection give way to one that waits; False when none can.

        At the cap of the process, one of any endpoint: idle HTTP peers must
        not keep the others from being served.
        """
        if len(self.connections) + len(self.leaving) >= self.limits.connections:
            return self.evict()
        return any(evict() for evict in tuple(self.runtime.evictors))

    # the contract of a listener

    def start(self) -> None:
        """Begin to accept."""
        self.runtime.waiting.add(self._resume)
        self.runtime.evictors.add(self.evict)
        for acceptor in self._acceptors:
            acceptor.start()

    def begin_drain(self) -> None:
        """Accept what is queued, then end each connection after its exchange."""
        if self.draining:
            return
        for acceptor in self._acceptors:
            acceptor.accept(QUEUED_AT_MOST)  # closing the socket would lose what waits in its queue
        self.draining = True
        self._stop_accepting()
        for connection in list(self.connections):
            connection.drain()
        self._look_whether_drained()

    def cancel_handlers(self) -> list[str]:
        """Cancel the handlers that still run; return one line for each."""
        busy = [connection for connection in self.connections if connection.has_handler]
        lines = [f"{self.endpoint}: handler for {each.peer()}" for each in (*busy, *self.leaving)]
        for connection in busy:
            connection.cancel_handler()
        for left in list(self.leaving):
            left.cancel_handler()
        return lines

    def abort(self) -> None:
        """Close every socket now."""
        self.draining = True
        self._stop_accepting()
        for connection in list(self.connections):
            connection.close()
            connection.give_place()  # its runner may have ended without a word: a hard cancel
        for left in self.leaving:
            left.give_place()
        self.leaving.clear()
        self._look_whether_drained()

    def statistics(self) -> EndpointStatistics:
        """Return the counters as they are now."""
        return EndpointStatistics(
            endpoint=str(self.endpoint),
            open=len(self.connections),
            accepted=self.accepted,
            messages=self.messages + self.answered,
            replies=self.replies + self.answered,
            failures=self.failures,
            refused=dict(self.refused),
        )

    # what its connections call

    def report(self, event: str, failed: Failed, peer: Peer) -> None:
        """Count and log what a handler raised."""
        if isinstance(failed.error, MessageError) and is_refusal(failed.error):
            self.count(failed.error.reason)
        else:
            self.failures += 1
            if self.endpoint.failure == "stop":
                self.runtime.stop(failed)
        self.runtime.failures.report(event, failed, peer)

    def count(self, reason: str) -> None:
        """Count something refused or dropped, by reason."""
        self.refused[reason] += 1

    def forget(self, connection: Connection) -> None:
        """Take a closed connection out; there is room for another."""
        self.connections.discard(connection)
        self.runtime.connections -= 1
        if connection.runner is not None:
            self.leaving.add(connection)
        self._has_left()

    def secured(self, handshake: Handshake, sock: TlsSocket) -> None:
        """Serve what a handshake has made of its socket."""
        connection = self.make_connection(sock)
        self.replace(handshake, connection)
        if sock.begin():
            connection.on_ready(READABLE)  # the poller does not know of what is decrypted already

    def replace(self, connection: Connection, successor: Connection) -> None:
        """Let another connection go on with the socket of one."""
        self.connections.discard(connection)
        if isinstance(successor.socket, TlsSocket):
            successor.socket.keep = successor.keep
        self.connections.add(successor)
        successor.open()

    def leave(self, left: Leaving) -> None:
        """Take note of what runs on without its connection."""
        self.leaving.add(left)

    def has_room_beside(self) -> bool:
        """Tell whether one more may run on without its connection, in the end."""
        return len(self.leaving) < MOST_LEAVING

    def release(self, left: Leaving) -> None:
        """Forget what has ended."""
        self.leaving.discard(left)
        self._has_left()

    def _has_left(self) -> None:
        if self.draining:
            self._look_whether_drained()
        for resume in self.runtime.waiting:
            resume()

    def _resume(self) -> None:
        for acceptor in self._acceptors:
            acceptor.resume()

    def _accept(self, sock: Socket) -> None:
        self.accepted += 1
        self.runtime.connections += 1
        secure = self.credentials is not None
        connection = Handshake(self, sock) if secure else self.make_connection(sock)
        self.connections.add(connection)
        connection.open()

    def _stop_accepting(self) -> None:
        self.runtime.waiting.discard(self._resume)
        self.runtime.evictors.discard(self.evict)
        for acceptor in self._acceptors:
            acceptor.close()
        if self._unix_inode is not None:
            remove_unix_path(self.endpoint.host, self._unix_inode)
            self._unix_inode = None

    def _look_whether_drained(self) -> None:
        if not self.connections and not self.leaving:
            self.drained.set()
