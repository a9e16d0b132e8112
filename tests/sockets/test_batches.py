"""Both ways to read and answer datagrams, which nobody may be able to tell apart."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator

import pytest

from oread.sockets.batches import Batch, PlainBatch, open_batch
from oread.sockets.kernel_batches import KernelBatch
from oread.sockets.vectors import MOST_AT_ONCE, BatchMemory

LIMIT_SECONDS = 10
MOST_BYTES = 60_000
FAMILIES = {"IPv4": (socket.AF_INET, "127.0.0.1"), "IPv6": (socket.AF_INET6, "::1")}

MakeBatch = Callable[[socket.socket], Batch]


@pytest.fixture(params=["plain", "kernel"])
def make_batch(request: pytest.FixtureRequest) -> MakeBatch:
    """One of the two ways; those of the kernel share their memory."""
    if request.param == "plain":
        return lambda sock: PlainBatch(sock, MOST_BYTES)
    memory = BatchMemory()
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with probe:
        if not isinstance(open_batch(probe, MOST_BYTES, memory), KernelBatch):
            pytest.skip("recvmmsg is not there")
    return lambda sock: KernelBatch(sock, MOST_BYTES, memory)


@pytest.fixture
def open_socket() -> Iterator[Callable[..., socket.socket]]:
    """Open bound sockets, and close them."""
    opened: list[socket.socket] = []

    def make(family: str = "IPv4") -> socket.socket:
        kind, host = FAMILIES[family]
        sock = socket.socket(kind, socket.SOCK_DGRAM)
        opened.append(sock)
        sock.bind((host, 0))
        sock.settimeout(LIMIT_SECONDS)
        return sock

    yield make
    for sock in opened:
        sock.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_payloads_come_with_their_senders_and_replies_go_to_them(
    make_batch: MakeBatch, open_socket: Callable[..., socket.socket], family: str
) -> None:
    """Empty, small and large ones; the one without a reply gets none."""
    service, peers = open_socket(family), [open_socket(family) for _ in range(4)]
    service.setblocking(False)
    batch = make_batch(service)
    payloads = [b"", b"one", b"x" * MOST_BYTES, b"last"]
    for peer, payload in zip(peers, payloads, strict=True):
        peer.sendto(payload, service.getsockname())

    received = batch.receive(10)

    assert [payload for payload, _ in received] == payloads
    assert [batch.sockaddr(sender) for _, sender in received] == [peer.getsockname() for peer in peers]
    assert batch.answer([b"a", None, b"y" * MOST_BYTES, memoryview(b"b")]) == []
    assert [peers[at].recv(70_000) for at in (0, 2, 3)] == [b"a", b"y" * MOST_BYTES, b"b"]
    peers[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        peers[1].recv(10)
    assert list(batch.receive(10)) == []


def test_what_is_too_long_is_told_by_one_byte_more(
    make_batch: MakeBatch, open_socket: Callable[..., socket.socket]
) -> None:
    """A datagram over the limit is cut behind it if at all, never at it."""
    service, peer = open_socket(), open_socket()
    service.setblocking(False)
    batch = make_batch(service)
    peer.sendto(b"x" * (MOST_BYTES + 2), service.getsockname())

    [(payload, _)] = batch.receive(1)

    assert len(payload) in (MOST_BYTES + 1, MOST_BYTES + 2)


def test_no_more_are_taken_than_asked_for(
    make_batch: MakeBatch, open_socket: Callable[..., socket.socket]
) -> None:
    """The rest waits in the kernel, in its order."""
    service, peer = open_socket(), open_socket()
    service.setblocking(False)
    batch = make_batch(service)
    for number in range(MOST_AT_ONCE + 2):
        peer.sendto(bytes([number]), service.getsockname())

    taken = [len(batch.receive(2)), len(batch.receive(MOST_AT_ONCE))]

    assert taken == [2, MOST_AT_ONCE]
    assert list(batch.receive(1)) == []


def test_a_reply_that_can_not_be_sent_does_not_keep_the_others(
    make_batch: MakeBatch, open_socket: Callable[..., socket.socket]
) -> None:
    """Too long for a datagram: its errno is told, its neighbours arrive."""
    service, peers = open_socket(), [open_socket() for _ in range(4)]
    service.setblocking(False)
    batch = make_batch(service)
    for peer in peers:
        peer.sendto(b"?", service.getsockname())
    batch.receive(10)

    refused = batch.answer([b"a", b"x" * 65_520, b"b", b"x" * 70_000])

    assert refused == [errno.EMSGSIZE, errno.EMSGSIZE]
    assert [peers[0].recv(10), peers[2].recv(10)] == [b"a", b"b"]


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_each_gets_its_own_reply_whatever_the_sizes_were_before(
    make_batch: MakeBatch, open_socket: Callable[..., socket.socket], family: str
) -> None:
    """Payloads of one size, and of many; batches that grow, shrink and leave some unanswered."""
    service, peers = open_socket(family), [open_socket(family) for _ in range(12)]
    service.setblocking(False)
    batch = make_batch(service)
    rounds: list[list[tuple[int, int | None]]] = [
        [(7, 7)] * 12,
        [(7, 7)] * 9,
        [(at + 1, 7) for at in range(12)],
        [(9, at * 100) for at in range(12)],
        [(9, at * 100) for at in range(5)],
        [(9, 0 if at % 3 else None) for at in range(12)],
        [(0, 1)] * 10,
    ]
    for sizes in rounds:
        for at, (peer, (size, _)) in enumerate(zip(peers, sizes, strict=False)):
            peer.sendto(bytes([at]) * size, service.getsockname())

        received = batch.receive(64)
        replies = [None if size is None else bytes([65 + at]) * size for at, (_, size) in enumerate(sizes)]

        assert [payload for payload, _ in received] == [
            bytes([at]) * size for at, (size, _) in enumerate(sizes)
        ]
        assert [batch.sockaddr(sender) for _, sender in received] == [
            peer.getsockname() for peer in peers[: len(sizes)]
        ]
        assert batch.answer(replies) == []
        for peer, reply in zip(peers, replies, strict=False):
            assert reply is None or peer.recv(70_000) == reply


def test_replies_that_are_all_too_long_are_refused_one_by_one(
    make_batch: MakeBatch, open_socket: Callable[..., socket.socket]
) -> None:
    """More bytes than all datagrams of a batch can have: each is told, and the one that fits is sent."""
    service, peer = open_socket(), open_socket()
    service.setblocking(False)
    batch = make_batch(service)
    for _ in range(3):
        peer.sendto(b"?", service.getsockname())
    batch.receive(10)

    refused = batch.answer([bytes(5_000_000), b"fits", bytes(70_000)])

    assert refused == [errno.EMSGSIZE, errno.EMSGSIZE]
    assert peer.recv(10) == b"fits"


def test_sockets_of_both_families_take_turns(
    make_batch: MakeBatch, open_socket: Callable[..., socket.socket]
) -> None:
    """The shared memory is set for each anew."""
    services = [open_socket("IPv4"), open_socket("IPv6")]
    peers = [open_socket("IPv4"), open_socket("IPv6")]
    batches = [make_batch(service) for service in services]
    for service in services:
        service.setblocking(False)
    for _ in range(3):
        for service, peer, batch in zip(services, peers, batches, strict=True):
            peer.sendto(b"ping", service.getsockname())
            [(payload, sender)] = batch.receive(4)
            assert (payload, batch.sockaddr(sender)) == (b"ping", peer.getsockname())
            assert batch.answer([b"pong"]) == []
            assert peer.recv(10) == b"pong"


def test_news_of_an_earlier_datagram_is_an_error_once(
    make_batch: MakeBatch, open_socket: Callable[..., socket.socket]
) -> None:
    """A connected socket learns that nobody listens; then it goes on."""
    service, gone = open_socket(), open_socket()
    service.connect(gone.getsockname())
    gone.close()
    service.setblocking(False)
    batch = make_batch(service)
    service.send(b"x")

    with pytest.raises(ConnectionRefusedError):
        batch.receive(4)

    assert list(batch.receive(4)) == []
