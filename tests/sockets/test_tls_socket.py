"""The socket that speaks TLS, over a transport that takes what it is told to."""

from __future__ import annotations

import socket
import ssl
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oread.endpoints import Endpoint
from oread.sockets.tls_contexts import make_client_context, make_server_context
from oread.sockets.tls_machine import TlsMachine
from oread.sockets.tls_socket import CONTROL_BYTES, PLAINTEXT_BYTES, TlsSocket


class Transport:
    """One side of a connection whose room the test sets."""

    def __init__(self) -> None:
        self.incoming = bytearray()
        self.ended = False
        self.sent = bytearray()
        self.room = 1 << 30
        self.shut: list[int] = []
        self.closed = False

    def recv(self, size: int) -> bytes:
        if not self.incoming and not self.ended:
            raise BlockingIOError
        data = bytes(self.incoming[:size])
        del self.incoming[:size]
        return data

    def send(self, data: bytes) -> int:
        if not self.room:
            raise BlockingIOError
        taken = min(self.room, len(data))
        self.sent += data[:taken]
        self.room -= taken
        return taken

    def shutdown(self, how: int) -> None:
        self.shut.append(how)

    def close(self) -> None:
        self.closed = True


class Side:
    """A server's socket, and the client's machine at the other end."""

    def __init__(self, client: TlsMachine, server: TlsMachine) -> None:
        self.client = client
        self.transport = Transport()
        self.refused: Counter[str] = Counter()
        while not (server.handshake(client.take()) & client.handshake(server.take())):
            pass
        self.sock = TlsSocket(
            self.transport, server, unsent=b"", count=lambda reason: self.refused.update([reason])
        )
        self.kept: list[bytes] = []
        self.sock.keep = self.kept.append
        self.client.decrypt(server.take())

    def arrived(self) -> bytes:
        """Decrypt what the transport has sent."""
        data, self.transport.sent = bytes(self.transport.sent), bytearray()
        return self.client.decrypt(data)


@pytest.fixture
def make_side(loopback_pem: str, tls_files: Any) -> Any:
    context = make_client_context(cafile=tls_files.ca)
    server_context = make_server_context(Endpoint.parse(f"tls://127.0.0.1:0/e?cert={loopback_pem}"))

    def make() -> Side:
        client = TlsMachine(context, server_name="localhost")
        client.handshake()
        return Side(client, TlsMachine(server_context, server_side=True))

    return make


@pytest.fixture
def side(make_side: Any) -> Side:
    side: Side = make_side()
    return side


def test_plaintext_counts_when_all_its_ciphertext_is_taken(side: Side) -> None:
    """Until then it is to be given again, and is not encrypted twice."""
    side.transport.room = 10
    assert side.sock.send(b"hello") == 0
    with pytest.raises(BlockingIOError):
        side.sock.send(b"hello")
    side.transport.room = 5
    assert side.sock.send(b"hello") == 0  # some was taken: that is progress
    side.transport.room = 1 << 20
    assert side.sock.send(b"hello, world") == 5
    assert side.sock.send(b", world") == 7
    assert side.arrived() == b"hello, world"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50)
@given(rooms=st.lists(st.integers(0, 3_000), max_size=60), size=st.integers(1, 3 * PLAINTEXT_BYTES))
def test_any_room_gives_the_same_stream(make_side: Any, rooms: list[int], size: int) -> None:
    """However little is taken at a time, the peer gets all of it once."""
    side = make_side()
    data = bytes(index * 31 % 251 for index in range(size))
    left = memoryview(data)
    received = b""
    for room in (*rooms, *[1 << 20] * 10):
        side.transport.room = room
        try:
            left = left[side.sock.send(left) :]
        except BlockingIOError:
            assert room == 0
        received += side.arrived()
    assert not left
    assert received == data


def test_the_end_waits_for_room(side: Side) -> None:
    """It is said whole, once, and only then the transport is shut down."""
    side.transport.room = 3
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            side.sock.shutdown(socket.SHUT_WR)
    assert side.transport.shut == []
    side.transport.room = 1 << 20
    assert side.sock.send(b"") == 0
    side.sock.shutdown(socket.SHUT_WR)
    assert side.transport.shut == [socket.SHUT_WR]
    assert side.arrived() == b""
    assert side.client.ended


def test_a_part_of_what_tls_says_leaves_it_waiting(side: Side) -> None:
    """A connection that has nothing else to send goes on watching for room."""
    side.sock._unsent = b"answer"
    side.transport.room = 3
    with pytest.raises(BlockingIOError):
        side.sock.send(b"")
    side.transport.room = 3
    assert side.sock.send(b"") == 0
    assert side.transport.sent == b"answer"


def test_closing_says_nothing(side: Side) -> None:
    """What is not shut down before is a truncation for the peer."""
    side.sock.send(b"part")
    side.sock.close()
    assert side.transport.closed
    assert side.arrived() == b"part"
    assert not side.client.ended


def test_an_incomplete_record_is_nothing_yet(side: Side) -> None:
    """Byte by byte, it blocks until the last one."""
    ciphertext = side.client.encrypt(b"hello")
    for byte in ciphertext[:-1]:
        side.transport.incoming.append(byte)
        with pytest.raises(BlockingIOError):
            side.sock.recv(100)
    side.transport.incoming += ciphertext[-1:]
    assert side.sock.recv(100) == b"hello"


def test_what_a_small_read_leaves_comes_without_the_transport(side: Side) -> None:
    """A session that asks for little gets the rest by asking again."""
    side.transport.incoming += side.client.encrypt(b"hello") + side.client.end()
    assert [side.sock.recv(2) for _ in range(4)] == [b"he", b"ll", b"o", b""]


def test_one_read_never_leaves_plaintext_behind_64_kib(side: Side) -> None:
    """However records are cut, a connection that reads 65,536 at a time has it all."""
    side.transport.incoming += side.client.encrypt(b"x" * 1_000_000)
    received = 0
    while side.transport.incoming:
        received += len(side.sock.recv(65_536))
        assert side.sock._plaintext == b""
    assert received == 1_000_000


def test_the_end_makes_the_descriptor_readable(side: Side) -> None:
    """Receiving is shut down, so that a poller tells of an end that was read with data."""
    side.transport.incoming += side.client.encrypt(b"last") + side.client.end()
    assert side.sock.recv(100) == b"last"
    assert side.transport.shut == [socket.SHUT_RD]
    assert side.sock.recv(100) == b""
    assert side.refused == {}


def test_a_truncation_is_an_error_and_counted(side: Side) -> None:
    """An end of the transport is not the end of the stream."""
    side.transport.incoming += side.client.encrypt(b"part")
    side.transport.ended = True
    assert side.sock.recv(100) == b"part"
    with pytest.raises(ConnectionResetError):
        side.sock.recv(100)
    assert side.refused == {"tls_truncated": 1}


def test_a_peer_that_just_closes_after_our_end_is_not_counted(side: Side) -> None:
    """Many do; a session that still reads gets the error all the same."""
    side.sock.shutdown(socket.SHUT_WR)
    side.transport.ended = True
    with pytest.raises(ConnectionResetError):
        side.sock.recv(100)
    assert side.refused == {}


def test_a_broken_record_is_answered_by_an_alert(side: Side) -> None:
    """What was whole before it is still returned."""
    good, bad = side.client.encrypt(b"good"), bytearray(side.client.encrypt(b"bad"))
    bad[-1] ^= 1
    side.transport.incoming += good + bad
    assert side.sock.recv(100) == b"good"
    assert side.transport.shut == [socket.SHUT_RD]
    for _ in range(2):
        with pytest.raises(ssl.SSLError):
            side.sock.recv(100)
    assert side.refused == {"tls_error": 1}
    with pytest.raises(ssl.SSLError, match="ALERT"):
        side.arrived()


def test_an_answer_of_the_protocol_waits_as_a_reply_of_no_bytes(side: Side) -> None:
    """What the transport does not take makes the connection watch for room."""
    side.transport.room = 0
    side.sock._unsent = b"answer"
    side.sock._answer()
    assert side.kept == [b""]
    side.transport.room = 100
    assert side.sock.send(b"") == 0
    assert side.transport.sent == b"answer"


def test_answers_that_nobody_reads_are_bounded(side: Side) -> None:
    """A peer that asks for ever without reading is ended."""
    side.transport.room = 0
    side.sock._unsent = b"x" * (PLAINTEXT_BYTES + CONTROL_BYTES + 1)
    with pytest.raises(ConnectionAbortedError):
        side.sock._answer()
    assert side.refused == {"tls_flood": 1}
