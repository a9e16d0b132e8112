"""The machine of WebSocket frames: messages, faults and bounds, whatever the cuts."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websocket_frames import BINARY, CLOSE, MORE, PING, PONG, TEXT, close, frame

from oread.protocols.websocket import Event, Fault, Incoming, PeerClosed, Ping, Pong, WebSocketProtocol
from oread.protocols.websocket_deflate import BoundedDeflate, choose_offer

LIMIT = 1_000


def make(*, deflate: bool = False) -> WebSocketProtocol:
    """Make a server's machine with small bounds."""
    extension = BoundedDeflate(LIMIT) if deflate else None
    return WebSocketProtocol(message_bytes=LIMIT, frame_bytes=LIMIT, extension=extension)


def events_of(pieces: Sequence[bytes], *, deflate: bool = False) -> list[Event]:
    """Feed pieces and return all events."""
    machine = make(deflate=deflate)
    found = []
    for piece in pieces:
        event = machine.receive(piece)
        while event is not None or machine.paused:
            found += [event] if event is not None else []
            event = machine.next_event()
    return found


def squeeze(data: bytes) -> bytes:
    """Compress one message as RFC 7692 has it."""
    deflater = zlib.compressobj(wbits=-15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


SAMPLES: dict[str, tuple[bytes, list[Event]]] = {
    "text": (frame(TEXT, "ä".encode()), [Incoming("ä".encode(), True)]),
    "binary": (frame(BINARY, b"\xff\0"), [Incoming(b"\xff\0", False)]),
    "empty": (frame(TEXT), [Incoming(b"", True)]),
    "two": (frame(TEXT, b"a") + frame(BINARY, b"b"), [Incoming(b"a", True), Incoming(b"b", False)]),
    "medium": (frame(BINARY, b"x" * 600), [Incoming(b"x" * 600, False)]),
    "fragments": (
        frame(TEXT, b"a", fin=False) + frame(MORE, b"", fin=False) + frame(MORE, b"b"),
        [Incoming(b"ab", True)],
    ),
    "a character over fragments": (
        frame(TEXT, b"\xc3", fin=False) + frame(MORE, b"\xa4"),
        [Incoming("ä".encode(), True)],
    ),
    "control frames between fragments": (
        frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(PONG, b"q") + frame(MORE, b"b"),
        [Ping(b"p"), Pong(b"q"), Incoming(b"ab", True)],
    ),
    "close": (close(1000, b"bye") + frame(TEXT, b"late"), [PeerClosed(1000, "bye")]),
    "close without a code": (close(), [PeerClosed(1005, "")]),
    "close with a code of the application": (close(4_321), [PeerClosed(4_321, "")]),
}

FAULTS: dict[str, tuple[bytes, int]] = {
    "no mask": (frame(TEXT, b"a", mask=None), 1002),
    "reserved bit 1 without compression": (frame(TEXT, b"a", rsv=4), 1002),
    "reserved bit 2": (frame(TEXT, b"a", rsv=2), 1002),
    "reserved bit 3": (frame(TEXT, b"a", rsv=1), 1002),
    "unknown opcode": (frame(0x3, b"a"), 1002),
    "unknown control opcode": (frame(0xB, b"a"), 1002),
    "fragmented ping": (frame(PING, b"a", fin=False), 1002),
    "long ping": (frame(PING, b"a" * 126), 1002),
    "continuation of nothing": (frame(MORE, b"a"), 1002),
    "a message within a message": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    "a length in two bytes too many": (b"\x81\xfe\0\x01\0\0\0\0a", 1002),
    "a length in eight bytes too many": (b"\x81\xff" + struct.pack("!Q", 65_535) + b"\0\0\0\0", 1002),
    "a length with the highest bit": (b"\x81\xff" + struct.pack("!Q", 1 << 63) + b"\0\0\0\0", 1002),
    "close with one byte": (frame(CLOSE, b"\x03"), 1002),
    "close with code 999": (close(999), 1002),
    "close with 1004": (close(1_004), 1002),
    "close with 1005": (close(1_005), 1002),
    "close with 1006": (close(1_006), 1002),
    "close with 1015": (close(1_015), 1002),
    "close with 2999": (close(2_999), 1002),
    "close with 5000": (close(5_000), 1002),
    "close with a reason that is not UTF-8": (close(1_000, b"\xff"), 1007),
    "text that is not UTF-8": (frame(TEXT, b"\xff"), 1007),
    "text that ends in a character": (frame(TEXT, b"\xc3"), 1007),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "not UTF-8 in a fragment": (frame(TEXT, b"a", fin=False) + frame(MORE, b"\xff", fin=False), 1007),
    "a frame that says it is too long": (frame(BINARY, b"x" * (LIMIT + 1))[:8], 1009),
    "a message too long by its fragments": (
        frame(BINARY, b"x" * 600, fin=False) + frame(MORE, b"x" * 600, fin=False),
        1009,
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_messages_are_read_whatever_the_cuts(name: str) -> None:
    """Whole, and byte by byte."""
    data, expected = SAMPLES[name]
    assert events_of([data]) == expected
    assert events_of([data[at : at + 1] for at in range(len(data))]) == expected


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_told_with_their_code_and_end_the_parsing(name: str) -> None:
    """The last event is the fault, whatever the cuts; good frames behind it are not seen."""
    data, code = FAULTS[name]
    good = frame(TEXT, b"good")
    for pieces in ([data, good], [data + good], [data[at : at + 1] for at in range(len(data))]):
        *before, last = events_of(pieces)
        assert not before
        assert isinstance(last, Fault)
        assert last.code == code


@given(st.lists(st.sampled_from(sorted(SAMPLES)), max_size=4), st.data())
def test_cuts_do_not_matter(names: list[str], data: st.DataObject) -> None:
    """Any samples in a row, cut anywhere, give what they give whole."""
    whole = b"".join(SAMPLES[name][0] for name in names)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    edges = [0, *cuts, len(whole)]
    pieces = [whole[start:end] for start, end in itertools.pairwise(edges)]
    assert events_of(pieces) == events_of([whole])


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_end_in_events(data: bytes, deflate: bool) -> None:
    """No bytes raise, and at most one end comes out of them."""
    found = events_of([data], deflate=deflate)
    ends = [event for event in found if isinstance(event, Fault | PeerClosed)]
    assert len(ends) <= 1
    assert not ends or found[-1] is ends[0]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_what_one_side_sends_the_other_reads(size: int) -> None:
    """Sizes around the forms of the length, both ways."""
    bounds = {"message_bytes": 1 << 20, "frame_bytes": 1 << 20}
    server = WebSocketProtocol(**bounds)
    client = WebSocketProtocol(**bounds, client=True)
    for data, text in ((b"\xff" * size, False), (b"a" * size, True)):
        assert client.receive(server.encode(data, text=text)) == Incoming(data, text)
        assert server.receive(client.encode(data, text=text)) == Incoming(data, text)
    assert server.receive(client.ping()) == Ping(b"")
    assert client.receive(server.pong(b"x")) == Pong(b"x")
    assert client.receive(server.close(1011, "ä" * 100)) == PeerClosed(1011, "ä" * 61)
    assert server.receive(client.close(1005)) == PeerClosed(1005, "")


def test_fragments_are_looked_at_a_few_at_a_time() -> None:
    """Those of a whole read would hold everybody up: between a few of them the caller has its say."""
    machine = make()
    assert (
        machine.receive(frame(BINARY, fin=False) + frame(MORE, fin=False) * 1_000 + frame(MORE, b"x")) is None
    )
    calls = 1
    while machine.paused:
        event = machine.next_event()
        calls += 1
    assert event == Incoming(b"x", False)
    assert calls > 60


def test_tiny_fragments_cost_no_more_than_their_size() -> None:
    """A message in fragments of one byte is not kept as as many objects."""
    machine = WebSocketProtocol(message_bytes=1 << 20, frame_bytes=1 << 20)
    machine.receive(frame(BINARY, fin=False))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(2_000):
        machine.receive(frame(MORE, b"x", fin=False))
    assert tracemalloc.get_traced_memory()[0] - before < 10_000
    tracemalloc.stop()


# compression


def test_compressed_messages_are_read() -> None:
    """Whole, in fragments with a ping between them, beside one that is not compressed; cut anywhere."""
    packed = squeeze(b"x" * 900)
    data = (
        frame(BINARY, packed, rsv=4)
        + frame(BINARY, packed[:3], rsv=4, fin=False)
        + frame(PING, b"p")
        + frame(MORE, packed[3:])
        + frame(TEXT, b"plain")
        + frame(TEXT, b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", rsv=4)  # RFC 7692 7.2.3.5: a final block
    )
    expected = [
        Incoming(b"x" * 900, False),
        Ping(b"p"),
        Incoming(b"x" * 900, False),
        Incoming(b"plain", True),
        Incoming(b"Hello", True),
    ]
    assert events_of([data], deflate=True) == expected
    assert events_of([data[at : at + 1] for at in range(len(data))], deflate=True) == expected


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(BINARY, squeeze(b"x" * (LIMIT + 1)), rsv=4), 1009),
        (frame(BINARY, squeeze(b"x" * 400_000), rsv=4), 1009),
        (frame(BINARY, b"\xff\xff\xff", rsv=4), 1007),
        (frame(BINARY, b"\xf3\x48\xcd\xc9\xc9\x07\x00behind the end", rsv=4), 1007),
        (frame(PING, b"a", rsv=4), 1002),
        (frame(BINARY, squeeze(b"ab"), rsv=4, fin=False) + frame(MORE, b"", rsv=4), 1002),
        (frame(TEXT, squeeze(b"\xff"), rsv=4), 1007),
    ],
)
def test_compression_is_bounded_and_strict(data: bytes, code: int) -> None:
    """A bomb stops at the limit; rubbish, and bits where none may be, are faults."""
    [fault] = events_of([data], deflate=True)
    assert isinstance(fault, Fault)
    assert fault.code == code


def test_a_bomb_is_not_inflated() -> None:
    """64 KiB that would become 64 MiB give no more than the limit, and one byte."""
    inflated = BoundedDeflate(LIMIT)
    packed = squeeze(b"\0" * (1 << 26))
    machine = WebSocketProtocol(message_bytes=1 << 30, frame_bytes=1 << 30, extension=inflated)
    fault = machine.receive(frame(BINARY, packed, rsv=4))
    assert isinstance(fault, Fault)
    assert inflated._left == -1


def test_long_messages_are_sent_compressed() -> None:
    """What is sent compressed is shorter, and the other side reads it."""
    bounds = {"message_bytes": 1 << 20, "frame_bytes": 1 << 20}
    server = WebSocketProtocol(**bounds, extension=BoundedDeflate(1 << 20, 10))
    client = WebSocketProtocol(**bounds, extension=BoundedDeflate(1 << 20), client=True)
    for data in (b"short", b"long" * 1_000):
        sent = server.encode(data, text=True)
        assert len(sent) < len(data) + 10
        assert client.receive(sent) == Incoming(data, True)
    assert len(sent) < 200


ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        ("permessage-deflate", (ANSWER, 15)),
        ("x-unknown, permessage-deflate; client_max_window_bits", (ANSWER, 15)),
        ("permessage-deflate; client_max_window_bits=8", (ANSWER, 15)),
        ('permessage-deflate; server_max_window_bits="10"', (f"{ANSWER}; server_max_window_bits=10", 10)),
        ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", (ANSWER, 15)),
        ("permessage-deflate; what=1, permessage-deflate", (ANSWER, 15)),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=abc", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; client_no_context_takeover=1", None),
        ("permessage-deflate; client_no_context_takeover; client_no_context_takeover", None),
        ("permessage-deflate; x=99999999999999999999", None),
        ("x-webkit-deflate-frame", None),
        ("", None),
    ],
)
def test_offers_of_compression_are_read_strictly(offers: str, answer: tuple[str, int] | None) -> None:
    """The first that is understood whole is taken."""
    assert choose_offer(offers) == answer
