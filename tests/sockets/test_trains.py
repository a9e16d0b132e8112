"""Trains of datagrams, and the address that was asked: what only the kernel's batches know."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from oread.sockets import options
from oread.sockets.batches import open_batch
from oread.sockets.kernel_batches import KernelBatch
from oread.sockets.vectors import MOST_AT_ONCE, BatchMemory

LIMIT_SECONDS = 10
MOST_BYTES = 65_535
SO_NO_CHECK = 11
"""Without checksums the kernel refuses to send trains (asm-generic/socket.h)."""
FAMILIES = {"IPv4": (socket.AF_INET, "127.0.0.1", "0.0.0.0"), "IPv6": (socket.AF_INET6, "::1", "::")}


def has_trains() -> bool:
    """Tell whether this kernel has UDP_GRO, and recvmmsg is found."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.setsockopt(socket.IPPROTO_UDP, options.UDP_GRO, 1)
        except OSError:
            return False
        return isinstance(open_batch(probe, MOST_BYTES, BatchMemory()), KernelBatch)


pytestmark = pytest.mark.skipif(not has_trains(), reason="this system has no UDP_GRO")


@pytest.fixture
def open_socket() -> Iterator[Callable[..., socket.socket]]:
    """Open bound sockets, and close them."""
    opened: list[socket.socket] = []

    def make(family: str = "IPv4", *, wildcard: bool = False) -> socket.socket:
        kind, loopback, everywhere = FAMILIES[family]
        sock = socket.socket(kind, socket.SOCK_DGRAM)
        opened.append(sock)
        if wildcard and family == "IPv4":
            sock.setsockopt(socket.IPPROTO_IP, options.IP_PKTINFO, 1)
        elif wildcard:
            sock.setsockopt(socket.IPPROTO_IPV6, options.IPV6_RECVPKTINFO, 1)
        sock.bind((everywhere if wildcard else loopback, 0))
        sock.settimeout(LIMIT_SECONDS)
        return sock

    yield make
    for sock in opened:
        sock.close()


def send_train(sock: socket.socket, payloads: list[bytes], target: tuple[object, ...]) -> None:
    """Send datagrams of one size, the last may be shorter, by one call."""
    control = [(socket.IPPROTO_UDP, options.UDP_SEGMENT, struct.pack("@H", len(payloads[0])))]
    sock.sendmsg([b"".join(payloads)], control, 0, target)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wildcard", [False, True])
@pytest.mark.parametrize("last", [b"whole", b"cut"])
def test_a_train_is_received_as_its_datagrams(
    open_socket: Callable[..., socket.socket], family: str, wildcard: bool, last: bytes
) -> None:
    """Guard 22: each datagram with its sender, and what is no train between two of them."""
    service, peer = open_socket(family, wildcard=wildcard), open_socket(family)
    service.setblocking(False)
    batch = KernelBatch(service, MOST_BYTES, BatchMemory(), asks_destination=wildcard)
    target = (FAMILIES[family][1], service.getsockname()[1])
    train = [b"11111", b"22222", last]
    send_train(peer, train, target)
    peer.sendto(b"alone", target)
    send_train(peer, train, target)

    received = batch.receive(64)

    assert [payload for payload, _ in received] == [*train, b"alone", *train]
    assert {batch.sockaddr(sender) for _, sender in received} == {peer.getsockname()}
    replies: list[bytes | memoryview | None] = [b"a", b"b", b"c", b"d", b"longer", None, b""]
    assert batch.answer(replies) == []
    assert [peer.recv(100) for _ in range(6)] == [b"a", b"b", b"c", b"d", b"longer", b""]


@pytest.mark.parametrize("family", FAMILIES)
def test_replies_to_a_train_leave_from_the_address_asked(
    open_socket: Callable[..., socket.socket], family: str
) -> None:
    """Guard 13: on the wildcard, for trains and for what is none."""
    service, peer = open_socket(family, wildcard=True), open_socket(family)
    service.setblocking(False)
    batch = KernelBatch(service, MOST_BYTES, BatchMemory(), asks_destination=True)
    asked = "127.0.0.9" if family == "IPv4" else "::1"
    target = (asked, service.getsockname()[1])

    for is_train in (False, True, False):
        if is_train:
            send_train(peer, [b"x"] * 3, target)
        else:
            peer.sendto(b"x", target)
        received = batch.receive(64)
        assert batch.answer([payload for payload, _ in received]) == []
        for _ in received:
            reply, sender = peer.recvfrom(10)
            assert (reply, sender[0]) == (b"x", asked)


def test_long_trains_are_sent_by_several_calls(open_socket: Callable[..., socket.socket]) -> None:
    """More bytes than one call can send arrive all the same, in their order."""
    service, peer = open_socket(), open_socket()
    service.setblocking(False)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    batch = KernelBatch(service, MOST_BYTES, BatchMemory())
    send_train(peer, [b"%03d" % number for number in range(MOST_AT_ONCE)], service.getsockname())

    received = batch.receive(1)
    replies = [payload * 1_000 for payload, _ in received]

    assert len(received) == MOST_AT_ONCE
    assert batch.answer([*replies]) == []
    assert [peer.recv(4_000) for _ in replies] == replies


def test_socket_that_can_not_send_trains_sends_one_by_one(open_socket: Callable[..., socket.socket]) -> None:
    """Guard 23: the first refusal is the last try; every reply arrives, none is counted as refused."""
    service, peer = open_socket(), open_socket()
    service.setblocking(False)
    service.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    batch = KernelBatch(service, MOST_BYTES, BatchMemory())
    for _ in range(2):
        send_train(peer, [b"one", b"two"], service.getsockname())
        assert batch.answer([payload for payload, _ in batch.receive(10)]) == []
        assert [peer.recv(10), peer.recv(10)] == [b"one", b"two"]
        assert not batch.sends_trains


def test_refused_replies_of_a_train_are_told(open_socket: Callable[..., socket.socket]) -> None:
    """Each that is too long for a datagram is one errno; its neighbours arrive."""
    service, peer = open_socket(), open_socket()
    service.setblocking(False)
    batch = KernelBatch(service, MOST_BYTES, BatchMemory())
    send_train(peer, [b"1", b"2", b"3"], service.getsockname())
    batch.receive(10)

    assert batch.answer([b"a", b"x" * 70_000, b"c"]) == [errno.EMSGSIZE]
    assert [peer.recv(10), peer.recv(10)] == [b"a", b"c"]


def test_destination_is_found_among_other_control_messages(
    open_socket: Callable[..., socket.socket],
) -> None:
    """A socket that was asked for TTL and time as well is read and answered the same."""
    service, peer = open_socket(wildcard=True), open_socket()
    service.setblocking(False)
    service.setsockopt(socket.IPPROTO_IP, options.IP_RECVTTL, 1)
    service.setsockopt(socket.SOL_SOCKET, options.SO_TIMESTAMPNS, 1)
    batch = KernelBatch(service, MOST_BYTES, BatchMemory(), asks_destination=True)
    peer.sendto(b"x", ("127.0.0.9", service.getsockname()[1]))

    [(payload, sender)] = batch.receive(4)

    assert batch.destination(sender)[8:12] == socket.inet_aton("127.0.0.9")
    assert batch.answer([payload]) == []
    assert peer.recvfrom(10)[1][0] == "127.0.0.9"
