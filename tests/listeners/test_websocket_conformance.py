"""What a conformant server answers to every kind of frame, right and wrong (RFC 6455 5 to 8).

Each case is sent whole and in single bytes, beside a connection that must not be harmed.
"""

from __future__ import annotations

import struct
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websocket_frames import BINARY, CLOSE, MORE, PING, PONG, TEXT, Socket, close, frame, open_socket

import oread
from listeners.asgi_applications import without_lifespan

LIMIT = 70_000
URL = f"http://:0?message_bytes={LIMIT}&ws_frame_bytes={LIMIT}"
PIECES = 2_000
"""Into so many at most is a long case cut: shorter ones into single bytes."""
ECHOED_CLOSE = (CLOSE, b"1000 ")
GREEK = "κόσμε".encode()

Frames = list[tuple[int, bytes]]


@attrs.frozen
class Case:
    """What a client sends, what it gets back, and what is counted."""

    sent: bytes
    answers: Frames
    """Without the close frame."""
    code: int | None = None
    """Of the close frame; None for a case that ends with the client's own goodbye."""

    @property
    def counted(self) -> dict[str, int]:
        """What the service has counted."""
        return {} if self.code is None else {f"ws_{self.code}": 1}


def length16(opcode: int, size: int, *, fin: bool = True) -> bytes:
    """Write the head of a frame whose length has two bytes, needed or not."""
    return bytes([(0x80 if fin else 0) | opcode, 0xFE]) + struct.pack("!H", size) + bytes(4)


def length64(opcode: int, size: int) -> bytes:
    """Write the head of a frame whose length has eight bytes, needed or not."""
    return bytes([0x80 | opcode, 0xFF]) + struct.pack("!Q", size) + bytes(4)


def sizes(opcode: int, byte: bytes) -> dict[str, Case]:
    """Make messages around each form of the length."""
    return {
        f"{'text' if opcode == TEXT else 'binary'} of {size} bytes": Case(
            frame(opcode, byte * size), [(opcode, byte * size)]
        )
        for size in (0, 1, 125, 126, 127, 128, 65_535, 65_536, LIMIT)
    }


GOOD: dict[str, Case] = {
    **sizes(TEXT, b"*"),
    **sizes(BINARY, b"\xfe"),
    "a mask of zeros": Case(frame(TEXT, b"a", mask=bytes(4)), [(TEXT, b"a")]),
    "many in one segment": Case(frame(TEXT, b"a") * 100, [(TEXT, b"a")] * 100),
    # control frames
    "a ping": Case(frame(PING), [(PONG, b"")]),
    "a ping with a payload": Case(frame(PING, b"\0\xff\xfe"), [(PONG, b"\0\xff\xfe")]),
    "a ping of 125 bytes": Case(frame(PING, b"\xfe" * 125), [(PONG, b"\xfe" * 125)]),
    "pings in a row": Case(
        b"".join(frame(PING, b"%d" % at) for at in range(10)), [(PONG, b"%d" % at) for at in range(10)]
    ),
    "a pong that nobody asked for": Case(frame(PONG, b"x") + frame(PING, b"y"), [(PONG, b"y")]),
    # fragments
    "two fragments": Case(frame(TEXT, b"a", fin=False) + frame(MORE, b"b"), [(TEXT, b"ab")]),
    "empty fragments": Case(frame(TEXT, fin=False) + frame(MORE, fin=False) + frame(MORE), [(TEXT, b"")]),
    "an empty fragment at each end": Case(
        frame(BINARY, fin=False) + frame(MORE, b"a", fin=False) + frame(MORE), [(BINARY, b"a")]
    ),
    "a hundred fragments": Case(
        frame(TEXT, b"a", fin=False) + frame(MORE, b"a", fin=False) * 98 + frame(MORE, b"a"),
        [(TEXT, b"a" * 100)],
    ),
    "the longest message, in fragments": Case(
        frame(BINARY, b"a" * 65_536, fin=False) + frame(MORE, b"b" * (LIMIT - 65_536)),
        [(BINARY, b"a" * 65_536 + b"b" * (LIMIT - 65_536))],
    ),
    "a ping between fragments": Case(
        frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(MORE, b"b"), [(PONG, b"p"), (TEXT, b"ab")]
    ),
    "control frames between all fragments": Case(
        frame(TEXT, b"a", fin=False)
        + frame(PING, b"1")
        + frame(MORE, b"b", fin=False)
        + frame(PONG, b"2")
        + frame(PING, b"3")
        + frame(MORE, b"c")
        + frame(BINARY, b"d"),
        [(PONG, b"1"), (PONG, b"3"), (TEXT, b"abc"), (BINARY, b"d")],
    ),
    # text
    "text in Greek": Case(frame(TEXT, GREEK), [(TEXT, GREEK)]),
    "text cut within its characters": Case(
        b"".join(
            frame(TEXT if not at else MORE, GREEK[at : at + 1], fin=at == len(GREEK) - 1)
            for at in range(len(GREEK))
        ),
        [(TEXT, GREEK)],
    ),
    "the last code point": Case(frame(TEXT, b"\xf4\x8f\xbf\xbf"), [(TEXT, b"\xf4\x8f\xbf\xbf")]),
    "a noncharacter": Case(frame(TEXT, b"\xef\xbf\xbe"), [(TEXT, b"\xef\xbf\xbe")]),
    "a zero": Case(frame(TEXT, b"\0"), [(TEXT, b"\0")]),
}
PEERS_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999)
RESERVED_CODES = (0, 1, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
"""1014, for gateways, came after the RFC (IANA): no client has a use for it, and wsproto does not know it."""

NOT_UTF8 = {
    "a lone continuation byte": b"\x80",
    "a byte that never occurs": b"\xff",
    "an overlong slash": b"\xc0\xaf",
    "an overlong character of three bytes": b"\xe0\x80\x80",
    "a surrogate": b"\xed\xa0\x80",
    "beyond the last code point": b"\xf4\x90",
    "five bytes long": b"\xf8\x88\x80\x80\x80",
    "broken off by a letter": b"\xe2\x82a",
}

BAD: dict[str, Case] = {
    **{f"reserved bits {rsv}": Case(frame(TEXT, b"a", rsv=rsv), [], 1002) for rsv in range(1, 8)},
    **{f"reserved bits {rsv} of a ping": Case(frame(PING, rsv=rsv), [], 1002) for rsv in range(1, 8)},
    **{
        f"opcode {opcode:#x}": Case(frame(opcode, b"a"), [], 1002)
        for opcode in (*range(3, 8), *range(11, 16))
    },
    "reserved bits behind a good message": Case(frame(TEXT, b"a") + frame(TEXT, rsv=1), [(TEXT, b"a")], 1002),
    # masks
    "text without a mask": Case(frame(TEXT, b"a", mask=None), [], 1002),
    "a ping without a mask": Case(frame(PING, mask=None), [], 1002),
    "a close frame without a mask": Case(frame(CLOSE, b"\x03\xe8", mask=None), [], 1002),
    # lengths
    "two bytes of length for 125": Case(length16(TEXT, 125) + bytes(125), [], 1002),
    "two bytes of length for 0": Case(length16(TEXT, 0), [], 1002),
    "eight bytes of length for 65,535": Case(length64(TEXT, 65_535), [], 1002),
    "eight bytes of length for 1": Case(length64(TEXT, 1) + b"a", [], 1002),
    "a negative length": Case(length64(TEXT, 1 << 63), [], 1002),
    "all ones as a length": Case(length64(TEXT, (1 << 64) - 1), [], 1002),
    # control frames
    "a ping of 126 bytes": Case(frame(PING, b"a" * 126), [], 1002),
    "a pong of 126 bytes": Case(frame(PONG, b"a" * 126), [], 1002),
    "a close frame of 126 bytes": Case(close(1000, b"a" * 124), [], 1002),
    "a ping of 64 KiB": Case(length64(PING, 65_536), [], 1002),
    "a ping in fragments": Case(frame(PING, b"a", fin=False) + frame(MORE, b"b"), [], 1002),
    "a pong in fragments": Case(frame(PONG, b"a", fin=False), [], 1002),
    "a close frame in fragments": Case(frame(CLOSE, b"\x03\xe8", fin=False), [], 1002),
    # fragments
    "a continuation of nothing": Case(frame(MORE, b"a"), [], 1002),
    "a continuation that goes on with nothing": Case(frame(MORE, b"a", fin=False), [], 1002),
    "a continuation behind a whole message": Case(
        frame(TEXT, b"a") + frame(MORE, b"b"), [(TEXT, b"a")], 1002
    ),
    "a message within a message": Case(frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), [], 1002),
    "another kind of message within one": Case(
        frame(TEXT, b"a", fin=False) + frame(PING) + frame(BINARY, b"b", fin=False), [(PONG, b"")], 1002
    ),
    # how it closes
    "a close frame of one byte": Case(frame(CLOSE, b"\x03"), [], 1002),
    **{f"close with {code}": Case(close(code), [], 1002) for code in RESERVED_CODES},
    **{
        f"close with a reason that is {name}": Case(close(1000, data), [], 1007)
        for name, data in (NOT_UTF8 | {"cut short": GREEK[:-1]}).items()
    },
    # text: what is wrong is told before the message is complete
    **{f"text with {name}": Case(frame(TEXT, b"a" + data), [], 1007) for name, data in NOT_UTF8.items()},
    **{
        f"a fragment with {name}": Case(frame(TEXT, GREEK + data, fin=False), [], 1007)
        for name, data in NOT_UTF8.items()
    },
    **{
        f"cut by fragments, {name}": Case(
            frame(TEXT, data[:1], fin=False)
            + frame(PING) * (len(data) > 1)
            + frame(MORE, data[1:], fin=False),
            [(PONG, b"")] * (len(data) > 1),
            1007,
        )
        for name, data in NOT_UTF8.items()
        if len(data) > 1 and name not in ("an overlong slash", "five bytes long")
    },
    "the beginning of a frame that is not UTF-8": Case(frame(TEXT, b"\xff" + b"a" * 1_000)[:20], [], 1007),
    "text that ends within a character": Case(frame(TEXT, GREEK[:-1]), [], 1007),
    "fragments that end within a character": Case(frame(TEXT, GREEK[:-1], fin=False) + frame(MORE), [], 1007),
    # limits
    "a frame that is too long, by its head alone": Case(length64(BINARY, LIMIT + 1), [], 1009),
    "a frame of nearly all that can be said": Case(length64(BINARY, (1 << 63) - 1), [], 1009),
    "a message that is too long by its last byte": Case(
        frame(BINARY, b"a" * LIMIT, fin=False) + frame(MORE, b"a", fin=False), [], 1009
    ),
    "a message too long by many fragments": Case(
        frame(TEXT, b"a", fin=False) + frame(MORE, b"a" * 100, fin=False) * 700, [], 1009
    ),
}


async def talk(memory: Any, case: Case, *, cut: bool, path: str = "/bytes") -> tuple[Frames, bool]:
    """Send a case; return all that came back, and whether no time passed until the close frame."""
    socket = await open_socket(memory, path)
    assert socket.head.startswith(b"HTTP/1.1 101 ")
    data = case.sent if case.code is not None or path == "/app" else case.sent + close(1000)
    begun, size = trio.current_time(), -(-len(data) // PIECES) if cut else len(data)
    received: Frames = []
    in_time = False

    async def send() -> None:
        try:
            for at in range(0, len(data), size):
                await socket.send(data[at : at + size])
        except trio.BrokenResourceError:
            assert case.code is not None, "only what is wrong is cut off"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        if path == "/app" and case.code is None:
            received += await socket.receive(len(case.answers))
            await socket.send(close(1000))  # an application has not answered yet when it comes too early
        while not received or received[-1][0] != CLOSE:
            received += await socket.receive()
        in_time = trio.current_time() == begun
    assert await socket.receive_rest() == []
    return received, in_time


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("name", [*GOOD, *BAD])
async def test_every_kind_of_frame_has_its_answer(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock, name: str, cut: bool
) -> None:
    """The right messages, pongs and close code, at once; others go on, and what was wrong is counted."""
    case = (GOOD | BAD)[name]
    async with serve_memory(URL) as memory:
        other = Socket(memory.client())
        await other.open("/echo")
        received, in_time = await talk(memory, case, cut=cut)
        *answers, (opcode, payload) = received
        assert answers == case.answers
        assert opcode == CLOSE
        assert payload.split(b" ", 1)[0] == b"%d" % (case.code or 1000)
        assert in_time, "nothing is waited for"
        assert memory.refused == case.counted
        await other.send(frame(TEXT, b"still here"))
        assert await other.receive() == [(TEXT, b"still here")]
        while memory.service.statistics().endpoints[0].open > 1:
            await trio.sleep(1)
        assert memory.network.open_sockets == 2


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("name", [*GOOD, *BAD])
async def test_applications_get_the_same(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock, name: str, cut: bool
) -> None:
    """The same messages, whole and right; what is wrong is a disconnect with the code, and no failure."""
    case = (GOOD | BAD)[name]
    ends: list[int] = []

    async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send(message | {"type": "websocket.send"})
        ends.append(message["code"])

    registry.mount_asgi("app", without_lifespan(echo))
    async with serve_memory(URL) as memory:
        received, in_time = await talk(memory, case, cut=cut, path="/app")
        *answers, (_, payload) = received
        if case.code is None:
            assert answers == case.answers
        else:
            assert [each for each in answers if each[0] == PONG] == [
                each for each in case.answers if each[0] == PONG
            ]
        assert payload.split(b" ", 1)[0] == b"%d" % (case.code or 1000)
        assert in_time, "nothing is waited for"
        while memory.service.statistics().endpoints[0].open:
            await trio.sleep(1)
        await wait_all_tasks_blocked()
        found = memory.service.statistics().endpoints[0]
        counted = dict(found.refused)
        if ends:
            assert ends == [case.code or 1000]
        else:  # it was answering when its peer had broken the rules, and was told so
            assert counted.pop("peer_gone") == 1
        assert (counted, found.failures) == (case.counted, 0)


@pytest.mark.parametrize("code", PEERS_CODES)
async def test_codes_that_peers_may_give_are_given_back(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock, code: int
) -> None:
    """With their reason, as long as there is room for; nothing behind them is looked at."""
    async with serve_memory(URL) as memory:
        for reason in (b"", GREEK, b"r" * 123):
            socket = Socket(memory.client())
            await socket.open("/bytes")
            await socket.send(close(code, reason), frame(TEXT, b"late"), frame(PING), frame(0x3), b"\xff" * 9)
            assert await socket.receive_rest() == [(CLOSE, b"%d %b" % (code, reason))]
        assert memory.refused == {}


@pytest.mark.parametrize("behind", [b"", frame(TEXT, b"late"), frame(0xF, b"x")])
async def test_a_close_frame_without_a_code_is_answered_by_one(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock, behind: bytes
) -> None:
    """1005 is never sent (7.4.1)."""
    async with serve_memory(URL) as memory:
        socket = Socket(memory.client())
        await socket.open("/bytes")
        await socket.send(close(), behind)
        assert await socket.receive_rest() == [(CLOSE, b"")]


@pytest.mark.parametrize(
    ("half", "counted"),
    [
        (b"", {}),
        (frame(TEXT, b"abc")[:1], {}),
        (frame(TEXT, b"abc")[:4], {}),
        (frame(TEXT, b"abc")[:8], {"cut_short": 1}),
        (frame(TEXT, b"abc", fin=False), {"cut_short": 1}),
        (frame(TEXT, b"", fin=False) + frame(PING)[:3], {"cut_short": 1}),
        (frame(TEXT, b"abc") + frame(TEXT, "ä".encode(), fin=False), {"cut_short": 1}),
    ],
)
async def test_peers_that_stop_half_way_are_dropped(
    registry: oread.Registry,
    serve_memory: Any,
    autojump_clock: MockClock,
    half: bytes,
    counted: dict[str, int],
) -> None:
    """By a FIN at once; when they fall silent, once a ping was not answered; by a reset too."""
    async with serve_memory(URL) as memory:
        for way in ("fin", "silence", "reset"):
            socket = Socket(memory.client())
            await socket.open("/bytes")
            await socket.send(half)
            begun, before = trio.current_time(), dict(memory.refused)
            if way == "reset":
                await wait_all_tasks_blocked()
                socket.stream.reset()
                await wait_all_tasks_blocked()
            else:
                if way == "fin":
                    await socket.stream.send_eof()
                frames = [each for each in await socket.receive_rest() if each[0] != TEXT]
                ended = [(PING, b""), (CLOSE, b"1011 no answer to a ping")] if way == "silence" else []
                assert frames == ended
                assert way == "silence" or trio.current_time() == begun
            now = {name: count - before.get(name, 0) for name, count in memory.refused.items()}
            now = {name: count for name, count in now.items() if count}
            assert now == ({"ws_no_pong": 1} if way == "silence" else counted if way == "fin" else {})
            await trio.sleep(3)  # what a silent peer may still send is read away
            assert memory.service.statistics().endpoints[0].open == 0


async def test_a_flood_of_pings_is_bounded(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """Of a peer that takes no pongs nothing more is read; it is aborted at the stall deadline."""
    async with serve_memory(URL) as memory:
        other, socket = Socket(memory.client()), Socket(memory.client(room=1_000))
        await other.open("/echo")
        await socket.open("/echo")
        sent = 0
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await socket.send(frame(PING, b"p" * 125) * 10)
                sent += 1_310
                if sent < 300_000:
                    await other.send(frame(TEXT, b"still here"))
                    assert await other.receive() == [(TEXT, b"still here")]
        assert sent < 500_000
        assert memory.refused["stalled"] == 1


async def test_fragments_without_an_end_hold_nobody_up(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """Between those of one read the others have their turn; they cost no memory."""
    async with serve_memory(URL) as memory:
        other, socket = Socket(memory.client()), Socket(memory.client())
        await other.open("/echo")
        await socket.open("/echo")
        await socket.send(frame(TEXT, fin=False) + frame(MORE, fin=False) * 9_000)
        await other.send(frame(TEXT, b"still here"))
        assert await other.receive() == [(TEXT, b"still here")]
        [busy] = [each for each in memory.service._listeners[0].connections if each._protocol.paused]
        await socket.send(frame(MORE, b"at last"))
        assert await socket.receive() == [(TEXT, b"at last")]
        assert not busy._protocol.paused
