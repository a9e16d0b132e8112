"""The memory of recvmmsg(2) and sendmmsg(2), laid out as the kernel has it.

Each datagram of a batch has a slot for its payload and a head: the address of
its sender, and behind it the control messages. Sizes are views with a step
into the headers, so that a whole batch is read, or set back, by one operation.

Not here: who asks for what (`oread.sockets.kernel_batches`).
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import socket
import struct
from array import array
from collections.abc import Sequence
from typing import Any, Literal

from oread.sockets import options

MOST_AT_ONCE = 64
"""Datagrams of one batch; more gain nothing measurable, and a turn has 1 ms."""
NAME_BYTES = 32
"""Room for a sockaddr_in (16) or sockaddr_in6 (28)."""
CONTROL_BYTES = 192
"""Room for PKTINFO (40), UDP_GRO, TTL, fragments (24 each) and time (32), with their headers."""
HEAD_BYTES = NAME_BYTES + CONTROL_BYTES
SLOT_BYTES = 65_536 + 64
"""The longest datagram and one byte; 64 more, or all slots would share one set of a cache."""
SOCKADDR = {socket.AF_INET: struct.Struct("=2xH4s8x"), socket.AF_INET6: struct.Struct("=2xHI16sI")}
"""sockaddr_in, sockaddr_in6 (ip(7), ipv6(7)): port, flow, address, zone."""


INDEX_OFFSETS = {socket.AF_INET: 16, socket.AF_INET6: 32}
"""Where a PKTINFO control message has the interface: before and behind the address."""


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


class _Vector:
    """The headers of one direction, each with a slot for the payload."""

    __slots__ = ("at", "controls", "lengths", "messages", "name_sizes", "parts", "payloads", "sizes", "step")

    def __init__(self, heads_at: int) -> None:
        self.payloads = mmap.mmap(-1, MOST_AT_ONCE * SLOT_BYTES)
        """Memory that is not touched is not taken, and a slice of it is bytes."""
        self.messages = (_Message * MOST_AT_ONCE)()
        self.parts = (_Part * MOST_AT_ONCE)()
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.payloads))
        parts_at = ctypes.addressof(self.parts)
        for index, (message, part) in enumerate(zip(self.messages, self.parts, strict=True)):
            header = message.header
            part.base = base + index * SLOT_BYTES
            header.name = heads_at + index * HEAD_BYTES
            header.control = header.name + NAME_BYTES
            header.parts = parts_at + index * ctypes.sizeof(_Part)
            header.part_count = 1
        self.at = ctypes.addressof(self.messages)
        self.step = ctypes.sizeof(_Message)
        self.sizes = _view(self.messages, "I", _Message.length.offset, self.step)
        """The bytes of each message, as the kernel tells them."""
        self.controls = _view(self.messages, "Q", _Header.control_bytes.offset, self.step)
        """The bytes of the control messages; in received ones as the kernel tells them."""
        self.name_sizes = _view(self.messages, "I", _Header.name_bytes.offset, self.step)
        self.lengths = _view(self.parts, "Q", _Part.bytes.offset, ctypes.sizeof(_Part))
        """The bytes of each slot, as the kernel takes them."""


class _Outbox(_Vector):
    """What is sent: one payload behind the other, so that they are copied at once."""

    __slots__ = ("_bases", "_laid_out", "_starts")

    def __init__(self, heads_at: int) -> None:
        super().__init__(heads_at)
        self._starts = self.parts[0].base
        self._bases = _view(self.parts, "Q", _Part.base.offset, ctypes.sizeof(_Part))
        self._laid_out: list[int] = []
        """The sizes that `lengths` and `bases` are right for: mostly those of the batch before."""

    def lay_out(self, payloads: Sequence[bytes | memoryview | None]) -> None:
        """Have message after message send a payload.

        Raises:
            TypeError: one is None.
            ValueError: together they are longer than as many datagrams can be.
        """
        sizes = list(map(len, payloads))  # type: ignore[arg-type]
        count, size = len(sizes), sum(sizes)
        if size > len(self.payloads):
            raise ValueError(f"{size} bytes in {count} datagrams")
        self.payloads[:size] = b"".join(payloads)  # type: ignore[arg-type]
        if sizes != self._laid_out[:count]:
            self.lengths[:count] = memoryview(array("Q", sizes))
            starts = array("Q", itertools.accumulate(sizes, initial=self._starts))
            self._bases[:count] = memoryview(starts)[:count]
            self._laid_out = sizes


def _view(of: Any, kind: Literal["I", "Q"], offset: int, step: int) -> memoryview:
    """Return one number of each structure of an array."""
    size = struct.calcsize(kind)
    return memoryview(of).cast("B").cast(kind)[offset // size :: step // size]


class BatchMemory:
    """The memory of batches: one for all sockets of a service, used by one at a time.

    About 8 MiB of address space; what small datagrams touch of it is 0.5 MiB.
    """

    __slots__ = ("_expected", "full", "heads", "inbox", "indexes", "outbox")

    def __init__(self) -> None:
        self.heads = mmap.mmap(-1, MOST_AT_ONCE * HEAD_BYTES)
        heads_at = ctypes.addressof(ctypes.c_char.from_buffer(self.heads))
        self.inbox = _Vector(heads_at)
        self.outbox = _Outbox(heads_at)
        self.indexes = {
            family: _view(self.heads, "I", NAME_BYTES + offset, HEAD_BYTES)
            for family, offset in INDEX_OFFSETS.items()
        }
        """The interface of the destination, where that is the only control message."""
        self.full = memoryview(array("Q", [CONTROL_BYTES] * MOST_AT_ONCE))
        self.inbox.controls[:] = self.full
        self._expected = (0, 0, 0)

    def expect(self, expected: tuple[int, int, int]) -> None:
        """Have each slot take so many bytes of a payload and of an address.

        The third is how many bytes of control messages go with an answer. The
        kernel writes over the second, with the same as long as all addresses
        are of one family.
        """
        if expected == self._expected:
            return
        self._expected = most_bytes, name_bytes, control_bytes = expected
        self.inbox.lengths[:] = memoryview(array("Q", [most_bytes] * MOST_AT_ONCE))
        self.outbox.controls[:] = memoryview(array("Q", [control_bytes] * MOST_AT_ONCE))
        name_sizes = memoryview(array("I", [name_bytes] * MOST_AT_ONCE))
        for vector in (self.inbox, self.outbox):
            vector.name_sizes[:] = name_sizes
        self.heads[:] = bytes(len(self.heads))  # what another family left there is no part of an address


def _find(name: str, *arguments: Any) -> Any:
    """Return a function of the C library; None where there is none, or other layouts than the above."""
    if not options.LINUX or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is not None:
        function.argtypes, function.restype = arguments, ctypes.c_int
    return function


_VECTOR_ARGUMENTS = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
recvmmsg = _find("recvmmsg", *_VECTOR_ARGUMENTS, ctypes.c_void_p)
sendmmsg = _find("sendmmsg", *_VECTOR_ARGUMENTS)
