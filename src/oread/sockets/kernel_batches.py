"""Read and answer many datagrams by one system call: recvmmsg and sendmmsg.

Trains too: where the kernel has UDP_GRO it hands over datagrams of one sender
and one size as one, with that size in a control message, and UDP_SEGMENT sends
as many by one call. What is not a train costs nothing more for it.

On a socket bound to the wildcard the kernel says of each datagram which address
was asked; the very same bytes, less the interface, make the answer leave from
there. So address and control message are remembered as one.

Source: recvmmsg(2), udp(7), Documentation/networking/segmentation-offloads.rst.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import itertools
import os
import socket
import struct
from collections.abc import Hashable, Iterator, Sequence
from typing import cast

from oread.sockets import options, vectors
from oread.sockets.routes import Ancillary
from oread.sockets.vectors import HEAD_BYTES, MOST_AT_ONCE, NAME_BYTES, SLOT_BYTES, SOCKADDR, BatchMemory

Received = tuple[bytes, Hashable]

_CONTROL = struct.Struct("=Qii")
"""struct cmsghdr: length, level, kind."""
_ALIGNMENT = 8
_PKTINFO = {socket.AF_INET: (socket.IPPROTO_IP, options.IP_PKTINFO, 12)}
_PKTINFO[socket.AF_INET6] = (socket.IPPROTO_IPV6, options.IPV6_PKTINFO, 20)
"""Level, kind and bytes of the control message that tells the destination."""
_TRAIN_DATAGRAMS = 64
"""UDP_MAX_SEGMENTS of every kernel; newer ones take 128."""
_TRAIN_BYTES = 65_000
"""Less than the longest datagram of both families."""
_MANY = 8
"""Datagrams of one size from which on they are cut out at once."""
_NO_TRAINS = (errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EMSGSIZE)
"""A device without checksum offload (EIO), an old kernel, or a datagram longer than the MTU."""


class KernelBatch:
    """Many datagrams by one system call, both ways.

    A reply goes to the slot of the datagram that it answers, whose address is
    there already; so what was received last must be answered, or not at all,
    before more is received.

    Args:
        sock: non-blocking and bound to a unicast address or the wildcard.
        most_bytes: the longest datagram that is taken.
        memory: shared with the other sockets of the service.
        asks_destination: whether the kernel was asked for it.
    """

    __slots__ = (
        "_control_bytes",
        "_expected",
        "_fd",
        "_head_bytes",
        "_memory",
        "_name_bytes",
        "_per_slot",
        "_slots",
        "_sock",
        "_trains",
        "full",
        "knows_destination",
        "sends_trains",
    )

    def __init__(
        self, sock: socket.socket, most_bytes: int, memory: BatchMemory, *, asks_destination: bool = False
    ) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._memory = memory
        self._name_bytes = SOCKADDR[sock.family].size
        self._control_bytes = _space(_PKTINFO[sock.family][2]) if asks_destination else 0
        self.knows_destination = asks_destination
        self.full = False
        self.sends_trains = _ask_trains(sock)
        """Until the system refuses one."""
        slot_bytes = 65_536 if self.sends_trains else most_bytes + 1
        self._expected = (slot_bytes, self._name_bytes, self._control_bytes)
        self._head_bytes = NAME_BYTES + self._control_bytes if asks_destination else self._name_bytes
        heads = [slice(at, at + self._head_bytes) for at in range(0, MOST_AT_ONCE * HEAD_BYTES, HEAD_BYTES)]
        self._slots = [(index * SLOT_BYTES, head) for index, head in enumerate(heads)]
        """Where each payload received begins, and the place of its sender's address."""
        self._trains: Sequence[int] = ()
        """Datagrams of each slot, where one has several."""
        self._per_slot = 1

    def receive(self, most: int) -> Sequence[Received]:
        """Return the datagrams that wait, at most so many, but no train is cut."""
        memory = self._memory
        inbox, heads = memory.inbox, memory.heads
        memory.expect(self._expected)
        slots = min(most // self._per_slot or 1, MOST_AT_ONCE)
        count: int = vectors.recvmmsg(self._fd, inbox.at, slots, socket.MSG_DONTWAIT, None)
        self.full = count == slots
        if count < 0:
            error = ctypes.get_errno()
            if error in (errno.EAGAIN, errno.EINTR):
                return ()
            raise OSError(error, os.strerror(error))
        payloads, sizes, controls = (
            inbox.payloads,
            inbox.sizes[:count].tolist(),
            inbox.controls[:count].tolist(),
        )
        inbox.controls[:count] = memory.full[:count]
        if controls.count(self._control_bytes) != count:
            return self._sort(sizes, controls)
        self._trains = ()
        self._per_slot = 1
        keys = _cutter(self._head_bytes, HEAD_BYTES, count).unpack_from(heads)
        if count >= _MANY and sizes.count(sizes[0]) == count:
            return list(zip(_cutter(sizes[0], SLOT_BYTES, count).unpack_from(payloads), keys, strict=True))
        return [
            (payloads[at : at + size], key)
            for size, (at, _), key in zip(sizes, self._slots, keys, strict=False)
        ]

    def _sort(self, sizes: list[int], controls: list[int]) -> list[Received]:
        """Return what was received, trains taken apart."""
        payloads, heads = self._memory.inbox.payloads, self._memory.heads
        received: list[Received] = []
        trains = []
        for size, control, (at, head) in zip(sizes, controls, self._slots, strict=False):
            control_at = head.start + NAME_BYTES
            segment, destination = self._read_control(heads[control_at : control_at + control])
            if self._control_bytes:
                # As if it were the only one, which the answer needs as well.
                heads[control_at : control_at + self._control_bytes] = destination
            key = heads[head]
            before = len(received)
            if 0 < segment < size:
                parts = _train_cutter(segment, size).unpack(payloads[at : at + size])
                received += zip(parts, itertools.repeat(key))
            else:
                received.append((payloads[at : at + size], key))
            trains.append(len(received) - before)
        self._trains = trains
        self._per_slot = max(1, len(received) // len(trains))
        return received

    def _read_control(self, control: bytes) -> tuple[int, bytes]:
        """Return the size of each datagram of a train, 0 for none, and the destination's message."""
        level, kind, size = _PKTINFO[self._sock.family]
        segment, destination, at = 0, bytes(self._control_bytes), 0
        while at + _CONTROL.size <= len(control):
            length, found_level, found_kind = _CONTROL.unpack_from(control, at)
            if length < _CONTROL.size:
                break
            if (found_level, found_kind) == (socket.IPPROTO_UDP, options.UDP_GRO):
                (segment,) = struct.unpack_from("@i", control, at + _CONTROL.size)
            elif (found_level, found_kind) == (level, kind):
                destination = control[at : at + _CONTROL.size + size].ljust(self._control_bytes, b"\0")
            at += (length + _ALIGNMENT - 1) & -_ALIGNMENT
        return segment, destination

    def sockaddr(self, sender: Hashable) -> tuple[str | int, ...]:
        """Tell the address of a sender."""
        assert isinstance(sender, bytes)
        return _sockaddr(self._sock.family, sender)

    def destination(self, sender: Hashable) -> bytes:
        """Tell how the kernel said the sender's datagram came; see `read_route`."""
        assert isinstance(sender, bytes)
        begin = NAME_BYTES + _CONTROL.size
        told = sender[begin : begin + _PKTINFO[self._sock.family][2]]
        return told if any(told) else b""

    def answer(self, replies: Sequence[bytes | memoryview | None]) -> list[int]:
        """Answer the datagrams received last."""
        if self._control_bytes:
            # By whatever interface the way back leads.
            indexes = self._memory.indexes[self._sock.family]
            indexes[:] = _NO_INDEXES
        refused: list[int] = []
        if not self._trains:
            self._answer_slots(replies, refused)
            return refused
        at = 0
        for (_, head), count in zip(self._slots, self._trains, strict=False):
            train = _answered(replies[at : at + count])
            at += count
            if train:
                self._answer_train(self._memory.heads[head], train, refused)
        return refused

    def _answer_slots(self, replies: Sequence[bytes | memoryview | None], refused: list[int]) -> None:
        outbox = self._memory.outbox
        unsent: list[int] = []
        try:
            outbox.lay_out(replies)
        except (TypeError, ValueError):
            unsent = [index for index, reply in enumerate(replies) if not _fits(reply)]
            refused += [errno.EMSGSIZE for index in unsent if replies[index] is not None]
            outbox.lay_out([reply if _fits(reply) else b"" for reply in replies])
        begin = 0
        for index in unsent:
            self._send(begin, index, refused)
            begin = index + 1
        self._send(begin, len(replies), refused)

    def _send(self, begin: int, end: int, refused: list[int]) -> None:
        """Send what is laid out from `begin` to before `end`."""
        outbox = self._memory.outbox
        while begin < end:
            at = outbox.at + begin * outbox.step
            sent = vectors.sendmmsg(self._fd, at, end - begin, socket.MSG_DONTWAIT)
            if sent < 0:
                refused.append(ctypes.get_errno())
                sent = 1  # this one is lost; the ones behind it may go elsewhere
            begin += sent

    def _answer_train(self, key: bytes, replies: Sequence[bytes | memoryview], refused: list[int]) -> None:
        """Send replies to one sender, several of one size by one call."""
        peer = self.sockaddr(key)
        ancillary: Ancillary = []
        if self._control_bytes:
            level, kind, _ = _PKTINFO[self._sock.family]
            ancillary.append((level, kind, self.destination(key)))
        for run in _runs(replies) if self.sends_trains else [[reply] for reply in replies]:
            if len(run) > 1:
                error = self._send_one(b"".join(run), [*ancillary, _segments(len(run[0]))], peer)
                if error not in _NO_TRAINS:
                    refused += [error] * len(run) if error else ()
                    continue
                self.sends_trains = False
            for reply in run:
                error = self._send_one(reply, ancillary, peer)
                refused += (error,) if error else ()

    def _send_one(
        self, payload: bytes | memoryview, ancillary: Ancillary, peer: tuple[str | int, ...]
    ) -> int:
        """Return the errno, or 0."""
        try:
            self._sock.sendmsg((payload,), ancillary, socket.MSG_DONTWAIT, peer)
        except OSError as error:
            return error.errno or errno.EIO
        return 0


def _answered(replies: Sequence[bytes | memoryview | None]) -> Sequence[bytes | memoryview]:
    try:
        sum(map(len, replies))  # type: ignore[arg-type]
    except TypeError:  # one is None; looking at each takes three times as long
        return [reply for reply in replies if reply is not None]
    return cast("Sequence[bytes | memoryview]", replies)


def _fits(reply: bytes | memoryview | None) -> bool:
    return reply is not None and len(reply) <= SLOT_BYTES


_NO_INDEXES = memoryview(bytes(4 * MOST_AT_ONCE)).cast("I")


def _space(size: int) -> int:
    """Return what a control message takes of the room (CMSG_SPACE)."""
    return (_CONTROL.size + size + _ALIGNMENT - 1) & -_ALIGNMENT


@functools.lru_cache(maxsize=1_024)
def _sockaddr(family: socket.AddressFamily, sender: bytes) -> tuple[str | int, ...]:
    port, *rest = SOCKADDR[family].unpack_from(sender)
    if len(rest) == 1:
        return socket.inet_ntop(socket.AF_INET, rest[0]), socket.ntohs(port)
    flow, address, zone = rest
    return socket.inet_ntop(socket.AF_INET6, address), socket.ntohs(port), socket.ntohl(flow), zone


@functools.lru_cache(maxsize=64)
def _segments(size: int) -> tuple[int, int, bytes]:
    return socket.IPPROTO_UDP, options.UDP_SEGMENT, struct.pack("@H", size)


@functools.lru_cache(maxsize=256)
def _cutter(size: int, step: int, count: int) -> struct.Struct:
    """Cut out the beginning of each of so many slots: 20 ns each, slicing takes 70 to 110."""
    return struct.Struct("=" + f"{size}s{step - size}x" * (count - 1) + f"{size}s")


@functools.lru_cache(maxsize=64)
def _train_cutter(segment: int, size: int) -> struct.Struct:
    """Cut a train into its datagrams, all of one size but for the last: 1 µs for 64, slicing takes 8."""
    count, last = divmod(size, segment)
    return struct.Struct(f"={segment}s" + f"{segment}s" * (count - 1) + (f"{last}s" if last else ""))


def _ask_trains(sock: socket.socket) -> bool:
    """Have trains handed over whole; tell whether the kernel has that."""
    try:
        sock.setsockopt(socket.IPPROTO_UDP, options.UDP_GRO, 1)
    except OSError:
        return False
    return True


def _runs(replies: Sequence[bytes | memoryview]) -> Iterator[Sequence[bytes | memoryview]]:
    """Cut into what one call can send: one size, of which only the last may be shorter."""
    first = len(replies[0])
    if first > 0 and len(replies) <= _TRAIN_DATAGRAMS and first * len(replies) <= _TRAIN_BYTES:
        sizes = set(map(len, replies[:-1]))  # as most trains are: looked at in C
        if sizes <= {first} and 0 < len(replies[-1]) <= first:
            yield replies
            return
    run: list[bytes | memoryview] = []
    for reply in replies:
        size = len(reply)
        fits = run and 0 < size <= len(run[-1]) == len(run[0])
        if run and not (
            fits and len(run) < _TRAIN_DATAGRAMS and len(run[0]) * (len(run) + 1) <= _TRAIN_BYTES
        ):
            yield run
            run = []
        run.append(reply)
    yield run
