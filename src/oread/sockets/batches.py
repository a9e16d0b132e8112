"""Read and answer the datagrams of one UDP socket, several by one system call.

Two ways behind one interface, chosen when a socket is served: `KernelBatch`
by recvmmsg(2) and sendmmsg(2), which the standard library does not have, where
the system has them; else `PlainBatch`, one call a datagram. Which of them
reads can't be told from what handlers see and what is counted; the tests run
on both.

Only for sockets that are bound to one unicast address: the control messages
that say how a datagram came are not read.

Not here: which datagrams are heard and answered (`oread.listeners.receiver`).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from oread.sockets import options

MOST_AT_ONCE = 64
"""Datagrams of one batch; more gain nothing measurable, and a turn has 1 ms."""

Sockaddr = tuple[Any, ...]
"""What `recvfrom` says of a sender: (host, port), for IPv6 with flow and zone."""
Received = tuple[bytes, Hashable]
"""A payload, and what names its sender; `Batch.sockaddr` tells who that is."""


class Batch(Protocol):
    """How one socket is read and answered."""

    def receive(self, most: int) -> Sequence[Received]:
        """Return the datagrams that wait, at most so many; none is an empty list.

        One that is longer than the limit is returned with a byte more.

        Raises:
            OSError: news of a datagram sent earlier; told once.
        """

    def sockaddr(self, sender: Hashable) -> Sockaddr:
        """Tell the address of a sender."""

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

    __slots__ = ("_most_bytes", "_received", "_recvfrom", "_sendto")

    def __init__(self, sock: socket.socket, most_bytes: int) -> None:
        self._recvfrom, self._sendto = sock.recvfrom, sock.sendto
        self._most_bytes = most_bytes
        self._received: list[tuple[bytes, Sockaddr]] = []

    def receive(self, most: int) -> Sequence[Received]:
        """Return the datagrams that wait, at most so many."""
        received: list[tuple[bytes, Sockaddr]] = []
        recvfrom, most_bytes = self._recvfrom, self._most_bytes + 1
        try:
            for _ in range(most):
                received.append(recvfrom(most_bytes))  # noqa: PERF401 (what came before an error is kept)
        except BlockingIOError:
            pass
        except OSError:
            if not received:
                raise  # behind others it is told at the next call
        self._received = received
        return received

    def sockaddr(self, sender: Hashable) -> Sockaddr:
        """Tell the address of a sender."""
        assert isinstance(sender, tuple)
        return sender

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


class _Header(ctypes.Structure):
    """`struct msghdr` (recvmsg(2))."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_bytes", ctypes.c_uint),
        ("parts", ctypes.c_void_p),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_bytes", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """`struct mmsghdr` (sendmmsg(2))."""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


class _Part(ctypes.Structure):
    """`struct iovec` (readv(2))."""

    _fields_ = (("base", ctypes.c_void_p), ("bytes", ctypes.c_size_t))


_WORD = 4
_NAME_BYTES = 32
"""Room for a sockaddr_in (16) or sockaddr_in6 (28)."""
_SLOT_BYTES = 65_536 + 64
"""The longest datagram and one byte; 64 more, or all slots would share one set of a cache."""
_SOCKADDR = {socket.AF_INET: struct.Struct("=2xH4s8x"), socket.AF_INET6: struct.Struct("=2xHI16sI")}
"""sockaddr_in, sockaddr_in6 (ip(7), ipv6(7)): port, flow, address, zone."""


class _Vector:
    """The headers of one direction, each with a slot for the payload."""

    __slots__ = ("at", "lengths", "messages", "parts", "payloads", "sizes", "step")

    def __init__(self, names_at: int) -> None:
        self.payloads = mmap.mmap(-1, MOST_AT_ONCE * _SLOT_BYTES)
        """Memory that is not touched is not taken, and a slice of it is bytes."""
        self.messages = (_Message * MOST_AT_ONCE)()
        self.parts = (_Part * MOST_AT_ONCE)()
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.payloads))
        parts_at = ctypes.addressof(self.parts)
        for index, (message, part) in enumerate(zip(self.messages, self.parts, strict=True)):
            header = message.header
            part.base = base + index * _SLOT_BYTES
            header.name = names_at + index * _NAME_BYTES
            header.parts = parts_at + index * ctypes.sizeof(_Part)
            header.part_count = 1
        self.at = ctypes.addressof(self.messages)
        self.step = ctypes.sizeof(_Message)
        words = memoryview(self.messages).cast("B").cast("I")
        self.sizes = words[_Message.length.offset // _WORD :: self.step // _WORD]
        """The bytes of each message, as the kernel tells them."""
        self.lengths = memoryview(self.parts).cast("B").cast("Q")[1::2]
        """The bytes of each slot, as the kernel takes them."""


class BatchMemory:
    """The memory of batches: one for all sockets of a service, used by one at a time.

    About 8 MiB of address space; what small datagrams touch of it is 0.5 MiB.
    """

    __slots__ = ("expected", "inbox", "names", "outbox")

    def __init__(self) -> None:
        self.names = mmap.mmap(-1, MOST_AT_ONCE * _NAME_BYTES)
        names_at = ctypes.addressof(ctypes.c_char.from_buffer(self.names))
        self.inbox = _Vector(names_at)
        self.outbox = _Vector(names_at)
        self.expected = (0, 0)

    def expect(self, expected: tuple[int, int]) -> None:
        """Have each slot take so many bytes of a payload and of an address.

        The kernel writes over the latter, with the same as long as all
        addresses are of one family.
        """
        self.expected = most_bytes, name_bytes = expected
        for index in range(MOST_AT_ONCE):
            self.inbox.lengths[index] = most_bytes
            for vector in (self.inbox, self.outbox):
                vector.messages[index].header.name_bytes = name_bytes


class KernelBatch:
    """Many datagrams by one system call, both ways.

    A reply goes to the slot of the datagram that it answers, whose address is
    there already; so what was received last must be answered, or not at all,
    before more is received.

    Args:
        sock: non-blocking and bound.
        most_bytes: the longest datagram that is taken.
        memory: shared with the other sockets of the service.
    """

    __slots__ = ("_expected", "_fd", "_memory", "_name_bytes", "_slots", "_unpack")

    def __init__(self, sock: socket.socket, most_bytes: int, memory: BatchMemory) -> None:
        self._fd = sock.fileno()
        self._memory = memory
        self._unpack = _SOCKADDR[sock.family].unpack
        self._name_bytes = _SOCKADDR[sock.family].size
        self._expected = (most_bytes + 1, self._name_bytes)
        names = [slice(at, at + self._name_bytes) for at in range(0, len(memory.names), _NAME_BYTES)]
        self._slots = [(index * _SLOT_BYTES, name) for index, name in enumerate(names)]
        """Where each payload begins, and the place of its sender's address."""

    def receive(self, most: int) -> Sequence[Received]:
        """Return the datagrams that wait, at most so many."""
        memory = self._memory
        inbox, names = memory.inbox, memory.names
        if memory.expected != self._expected:
            memory.expect(self._expected)
        count = _recvmmsg(self._fd, inbox.at, min(most, MOST_AT_ONCE), socket.MSG_DONTWAIT, None)
        if count < 0:
            error = ctypes.get_errno()
            if error in (errno.EAGAIN, errno.EINTR):
                return ()
            raise OSError(error, os.strerror(error))
        payloads = inbox.payloads
        return [
            (payloads[at : at + size], names[name])
            for size, (at, name) in zip(inbox.sizes[:count].tolist(), self._slots, strict=False)
        ]

    def sockaddr(self, sender: Hashable) -> Sockaddr:
        """Tell the address of a sender."""
        assert isinstance(sender, bytes)
        port, *rest = self._unpack(sender)
        if len(rest) == 1:
            return socket.inet_ntop(socket.AF_INET, rest[0]), socket.ntohs(port)
        flow, address, zone = rest
        return socket.inet_ntop(socket.AF_INET6, address), socket.ntohs(port), socket.ntohl(flow), zone

    def answer(self, replies: Sequence[bytes | memoryview | None]) -> list[int]:
        """Answer the datagrams received last."""
        outbox = self._memory.outbox
        payloads, lengths = outbox.payloads, outbox.lengths
        refused: list[int] = []
        begin = index = at = 0
        for index, reply in enumerate(replies):
            if reply is None or len(reply) > _SLOT_BYTES:
                if reply is not None:
                    refused.append(errno.EMSGSIZE)
                self._send(begin, index, refused)
                begin = index + 1
            else:
                size = len(reply)
                payloads[at : at + size] = reply
                lengths[index] = size
            at += _SLOT_BYTES
        self._send(begin, index + 1, refused)
        return refused

    def _send(self, begin: int, end: int, refused: list[int]) -> None:
        """Send what stands in the slots from `begin` to before `end`."""
        outbox = self._memory.outbox
        while begin < end:
            sent = _sendmmsg(self._fd, outbox.at + begin * outbox.step, end - begin, socket.MSG_DONTWAIT)
            if sent < 0:
                refused.append(ctypes.get_errno())
                sent = 1  # this one is lost; the ones behind it may go elsewhere
            begin += sent


def _find(name: str, *arguments: Any) -> Any:
    """Return a function of the C library; None where there is none, or other layouts than the above."""
    if not options.LINUX or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        function.argtypes, function.restype = arguments, ctypes.c_int
    return function


_VECTOR_ARGUMENTS = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_recvmmsg = _find("recvmmsg", *_VECTOR_ARGUMENTS, ctypes.c_void_p)
_sendmmsg = _find("sendmmsg", *_VECTOR_ARGUMENTS)


def open_batch(sock: socket.socket, most_bytes: int, memory: BatchMemory) -> Batch:
    """Return the best way to read a bound socket that this system has.

    A socket that is not the system's (in memory) is read one by one.
    """
    known = isinstance(sock, socket.socket) and sock.family in _SOCKADDR
    if not known or _recvmmsg is None or _sendmmsg is None:
        return PlainBatch(sock, most_bytes)
    return KernelBatch(sock, most_bytes, memory)
