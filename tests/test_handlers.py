"""The stock handlers: what each RFC says, and that UDP never amplifies."""

from __future__ import annotations

import base64
import itertools
import json
import time
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import lockstep_stream_one_way_pair, lockstep_stream_pair

import oread
from oread.errors import BadRequest
from oread.handlers import (
    DATAGRAM_CHARACTERS,
    LINE_CHARACTERS,
    STOCK,
    chargen,
    chargen_stream,
    daytime,
    encode_time,
    format_daytime,
    inspect,
    register,
    time_since_1900,
)
from oread.messages import Datagram, HttpRequest, Message, Peer

FAR = Peer(("192.0.2.1", 40_000), "udp")
NEAR = Peer(("127.0.0.1", 40_000), "udp")
HERE = Peer(("127.0.0.1", 40_000), "tcp")


@pytest.fixture
def registry() -> oread.Registry:
    """A registry of the stock handlers alone."""
    registry = oread.Registry()
    register(registry)
    return registry


def datagram(data: bytes, peer: Peer) -> Datagram:
    """Make a datagram as the listener does."""
    return Datagram(event="any", data=data, transport="udp", peer=peer, local=("127.0.0.1", 7))


async def ask_stream(service: oread.Service, at: int, data: bytes, *, half_close: bool = True) -> bytes:
    """Send, half-close and return everything that comes back."""
    async with await trio.open_tcp_stream("127.0.0.1", service.endpoints[at].port) as stream:
        await stream.send_all(data)
        if half_close:
            await stream.send_eof()
        return b"".join([bytes(chunk) async for chunk in stream])


async def ask_datagram(service: oread.Service, at: int, data: bytes) -> bytes:
    """Send one datagram and return the answer."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.connect(("127.0.0.1", service.endpoints[at].port))
        await sock.send(data)
        return bytes(await sock.recv(65_536))


@pytest.mark.parametrize("data", [b"hello", b"\x00\xff\r\n", bytes(1 << 17)])
async def test_echo_returns_what_was_sent(registry: oread.Registry, data: bytes) -> None:
    """Every byte comes back, by stream and by datagram."""
    async with oread.open_service(registry, "tcp://127.0.0.1:0/echo", "udp://127.0.0.1:0/echo") as service:
        assert await ask_stream(service, 0, data) == data
        assert await ask_datagram(service, 1, data[:60_000]) == data[:60_000]


async def test_discard_takes_and_says_nothing(registry: oread.Registry) -> None:
    """What is sent is counted as a message and not answered."""
    async with oread.open_service(registry, "tcp://127.0.0.1:0/discard") as service:
        assert await ask_stream(service, 0, b"x" * 1_000) == b""
        (endpoint,) = service.statistics().endpoints
        assert endpoint.messages >= 1
        assert (endpoint.replies, endpoint.failures) == (0, 0)


async def test_daytime_and_time_speak_on_connect_and_close(registry: oread.Registry) -> None:
    """A client that sends nothing gets the line, or 4 bytes, and the end."""
    urls = ("tcp://127.0.0.1:0/daytime", "tcp://127.0.0.1:0/time")
    before = int(time.time())
    async with oread.open_service(registry, *urls) as service:
        line, seconds = [await ask_stream(service, at, b"", half_close=False) for at in (0, 1)]
    after = int(time.time())
    assert line.decode() in {format_daytime(at) for at in range(before, after + 1)}
    assert seconds in {encode_time(at) for at in range(before, after + 1)}


async def test_what_speaks_on_connect_answers_datagrams(registry: oread.Registry) -> None:
    """Loopback gets the time for an empty datagram, as RFC 867 and 868 have it."""
    urls = ("udp://127.0.0.1:0/daytime", "udp://127.0.0.1:0/time", "udp://127.0.0.1:0/chargen")
    async with oread.open_service(registry, *urls) as service:
        assert (await ask_datagram(service, 0, b"")).endswith(b"-UTC\r\n")
        assert len(await ask_datagram(service, 1, b"")) == 4
        assert len(await ask_datagram(service, 2, b"")) <= DATAGRAM_CHARACTERS


@pytest.mark.parametrize(
    ("epoch_seconds", "since_1900"),
    [
        (0, 2_208_988_800),
        (189_302_400, 2_398_291_200),
        (315_532_800, 2_524_521_600),
        (420_595_200, 2_629_584_000),
    ],
)
def test_time_counts_as_the_rfc_says(epoch_seconds: int, since_1900: int) -> None:
    """The dates that RFC 868 names, 1970 to 1983, have its numbers."""
    assert encode_time(epoch_seconds) == since_1900.to_bytes(4, "big")


def test_time_goes_on_when_its_bits_are_full() -> None:
    """In February 2036 the count starts again from 0, and nothing fails."""
    full = (1 << 32) - 2_208_988_800
    assert encode_time(full - 1) == b"\xff\xff\xff\xff"
    assert encode_time(full) == b"\x00\x00\x00\x00"
    assert format_daytime(full) == "Thursday, February 7, 2036 06:28:16-UTC\r\n"


def test_daytime_is_one_line_of_ascii() -> None:
    """A date is written out in English, in UTC, ended by CRLF."""
    assert format_daytime(0) == "Thursday, January 1, 1970 00:00:00-UTC\r\n"
    assert format_daytime(1_709_210_096.9) == "Thursday, February 29, 2024 12:34:56-UTC\r\n"


def test_chargen_has_the_popular_pattern() -> None:
    """Each line has 72 characters and begins one character later."""
    reply = chargen(Message(event="chargen", data=b"")).data
    lines = reply.split(b"\r\n")
    assert len(reply) == DATAGRAM_CHARACTERS
    assert lines[0] == bytes(range(32, 32 + LINE_CHARACTERS))
    for before, line in itertools.pairwise(lines[:-1]):
        assert line[:-1] == before[1:]
        assert len(line) == LINE_CHARACTERS


async def test_chargen_sends_until_the_peer_closes() -> None:
    """The session ends by itself, with all lines whole until then."""
    client, server = lockstep_stream_pair()
    received = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chargen_stream, server)
        await client.send_all(b"thrown away")
        while len(received) < 20_000:
            received += await client.receive_some(4_096)
        await client.aclose()
    lines = received.split(b"\r\n")[:-1]
    assert {len(line) for line in lines} == {LINE_CHARACTERS}
    assert lines[95] == lines[0]


async def test_chargen_does_not_wait_for_input_to_end() -> None:
    """Once nothing can be sent the session ends, though the peer may still send."""
    sending, lines = lockstep_stream_one_way_pair()
    client, receiving = lockstep_stream_one_way_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chargen_stream, trio.StapledStream(sending, receiving))
        assert await lines.receive_some(1)
        await lines.aclose()
    await client.aclose()


async def test_chargen_takes_a_peer_that_breaks_off_for_its_end(registry: oread.Registry) -> None:
    """Closing with lines unread is how chargen ends; it is no failure."""
    async with oread.open_service(registry, "tcp://127.0.0.1:0/chargen") as service:
        for _ in range(20):
            async with await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port) as stream:
                await stream.receive_some()
        report = await service.drain(5)
        assert report.cancelled == ()
        assert service.statistics().endpoints[0].failures == 0


async def test_chargen_outlives_a_half_close(registry: oread.Registry) -> None:
    """A peer that has only ended its sending side still gets its lines."""
    async with oread.open_service(registry, "tcp://127.0.0.1:0/chargen") as service:
        async with await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port) as stream:
            await stream.send_eof()
            left_bytes = 1 << 20
            while left_bytes > 0:
                chunk = await stream.receive_some()
                assert chunk
                left_bytes -= len(chunk)
        report = await service.drain(5)
        assert report.cancelled == ()
        assert service.statistics().endpoints[0].failures == 0


@given(st.sampled_from(sorted(STOCK)), st.binary(max_size=700))
def test_no_datagram_is_answered_with_more_bytes(event: str, data: bytes) -> None:
    """Another machine gets at most as many bytes as it has sent."""
    handler: Any = STOCK[event].handler
    message = datagram(data, FAR)
    try:
        reply = handler(data if event in ("echo", "discard") else message)
    except BadRequest:
        return
    payload = getattr(reply, "data", reply)
    assert len(payload or b"") <= len(data)


@pytest.mark.parametrize("handler", [daytime, time_since_1900, inspect])
def test_a_long_enough_datagram_is_answered(handler: Any) -> None:
    """A request padded to the answer's length gets it, a shorter one does not."""
    assert handler(datagram(b"\xff" * 700, FAR))
    with pytest.raises(BadRequest, match=r"as long as its answer: [0-9]+ bytes"):
        handler(datagram(b"x", FAR))
    assert handler(datagram(b"", NEAR))


def test_inspect_leaves_data_out_rather_than_amplify() -> None:
    """By UDP another machine learns the length of its data only."""
    seen = json.loads(inspect(datagram(b"\xff" * 700, FAR)).data)
    assert (seen["data"], seen["encoding"], seen["data_bytes"]) == (None, "left out", 700)


def test_inspect_says_how_data_is_written() -> None:
    """UTF-8 is text, anything else base64, and it says which."""
    text = json.loads(inspect(Message(event="inspect", data="für".encode(), peer=HERE)).data)
    assert (text["data"], text["encoding"], text["data_bytes"]) == ("für", "utf-8", 4)
    other = json.loads(inspect(Message(event="inspect", data=b"\xff\x00", peer=HERE)).data)
    assert (base64.b64decode(other["data"]), other["encoding"]) == (b"\xff\x00", "base64")


def test_inspect_tells_the_start_line_and_fields() -> None:
    """By HTTP the request stands there as it was sent."""
    request = HttpRequest(
        event="inspect",
        data=b"",
        transport="http",
        peer=HERE,
        method="GET",
        target="/inspect?a=1",
        path="/inspect",
        query="a=1",
        headers=oread.Headers((("host", "x"), ("accept", "*/*"))),
    )
    seen = json.loads(inspect(request).data)
    assert (seen["method"], seen["target"], seen["path"], seen["query"]) == (
        "GET",
        "/inspect?a=1",
        "/inspect",
        "a=1",
    )
    assert seen["headers"] == [["host", "x"], ["accept", "*/*"]]
    assert "tcp_info" not in seen


async def test_inspect_sees_real_sockets(registry: oread.Registry) -> None:
    """By TCP it has the kernel's TCP_INFO, by UDP interface, TTL and time."""
    urls = ("tcp://127.0.0.1:0/inspect", "udp://127.0.0.1:0/inspect")
    async with oread.open_service(registry, *urls) as service:
        by_tcp = json.loads(await ask_stream(service, 0, b"hello"))
        by_udp = json.loads(await ask_datagram(service, 1, b"hello"))
        assert by_tcp["local"] == f"127.0.0.1:{service.endpoints[0].port}"
        assert by_tcp["peer"].startswith("127.0.0.1:")
        assert by_tcp["data"] == by_udp["data"] == "hello"
        assert by_udp["mode"] == "unicast"
        assert by_udp["interface"] in ("lo", "lo0")
        if trio.socket.__dict__.get("TCP_INFO") is not None:
            assert by_tcp["tcp_info"]["snd_mss"] > 0
