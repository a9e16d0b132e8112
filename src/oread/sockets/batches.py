"""Read and answer the datagrams of one UDP socket, several by one system call.

Two ways behind one interface, chosen when a socket is served: `KernelBatch`
by recvmmsg(2) and sendmmsg(2), which the standard library does not have, where
the system has them; else `PlainBatch`, one call a datagram. Which of them
reads can't be told from what handlers see and what is counted; the tests run
on both.

For sockets that are bound to a unicast address. On the wildcard only
`KernelBatch` tells the destination.

Not here: which datagrams are heard and answered (`oread.listeners.receiver`).
"""

from __future__ import annotations

import socket
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from oread.sockets import vectors
from oread.sockets.kernel_batches import KernelBatch, Received
from oread.sockets.vectors import BatchMemory

Sockaddr = tuple[Any, ...]
"""What `recvfrom` says of a sender: (host, port), for IPv6 with flow and zone."""


class Batch(Protocol):
    """How one socket is read and answered.

    What names a sender is hashable; `sockaddr` tells who it is.
    """

    full: bool
    """Whether `receive` took all that it was to take, so that more may wait."""
    knows_destination: bool

    def receive(self, most: int) -> Sequence[Received]:
        """Return the datagrams that wait, at most so many; none is an empty list.

        One that is longer than the limit is returned longer than that. A train
        of the kernel's is not cut, and may be more than asked for.

        Raises:
            OSError: news of a datagram sent earlier; told once.
        """

    def sockaddr(self, sender: Hashable) -> Sockaddr:
        """Tell the address of a sender."""

    def destination(self, sender: Hashable) -> bytes:
        """Tell what the kernel said of the way; see `oread.sockets.routes.read_route`."""

    def answer(self, replies: Sequence[bytes | memoryview | None]) -> list[int]:
        """Answer the datagrams received last, in their order; None is no reply.

        Returns:
            The errno of each reply that the system did not take.
        """


class PlainBatch:
    """One system call a datagram: for every system.

    Args:
        sock: non-blocking and bound.
        most_bytes: the longest datagram that is taken.
    """

    __slots__ = ("_most_bytes", "_received", "_recvfrom", "_sendto", "full")

    knows_destination = False

    def __init__(self, sock: socket.socket, most_bytes: int) -> None:
        self._recvfrom, self._sendto = sock.recvfrom, sock.sendto
        self._most_bytes = most_bytes
        self._received: list[tuple[bytes, Sockaddr]] = []
        self.full = False

    def receive(self, most: int) -> Sequence[Received]:
        """Return the datagrams that wait, at most so many."""
        received: list[tuple[bytes, Sockaddr]] = []
        recvfrom, most_bytes = self._recvfrom, self._most_bytes + 1
        try:
            for _ in range(min(most, vectors.MOST_AT_ONCE)):
                received.append(recvfrom(most_bytes))  # noqa: PERF401 (what came before an error is kept)
        except BlockingIOError:
            pass
        except OSError:
            if not received:
                raise  # behind others it is told at the next call
        self._received = received
        self.full = len(received) == min(most, vectors.MOST_AT_ONCE)
        return received

    def sockaddr(self, sender: Hashable) -> Sockaddr:
        """Tell the address of a sender."""
        assert isinstance(sender, tuple)
        return sender

    def destination(self, sender: Hashable) -> bytes:  # noqa: ARG002 (the other way needs it)
        """Tell nothing."""
        return b""

    def answer(self, replies: Sequence[bytes | memoryview | None]) -> list[int]:
        """Answer the datagrams received last."""
        refused = []
        for (_, sockaddr), reply in zip(self._received, replies, strict=True):
            if reply is not None:
                try:
                    self._sendto(reply, sockaddr)
                except OSError as error:
                    refused.append(error.errno or 0)
        return refused


def open_batch(
    sock: socket.socket, most_bytes: int, memory: BatchMemory, *, asks_destination: bool = False
) -> Batch:
    """Return the best way to read a bound socket that this system has.

    A socket that is not the system's (in memory) is read one by one.

    Args:
        sock: non-blocking and bound.
        most_bytes: the longest datagram that is taken.
        memory: shared with the other sockets of the service.
        asks_destination: whether it was set to tell the destination.
    """
    known = isinstance(sock, socket.socket) and sock.family in vectors.SOCKADDR
    if not known or vectors.recvmmsg is None or vectors.sendmmsg is None:
        return PlainBatch(sock, most_bytes)
    return KernelBatch(sock, most_bytes, memory, asks_destination=asks_destination)
