"""WebSockets in memory: dispatch, order, bounds, deadlines, and every way to end."""

from __future__ import annotations

import json
import socket as socket_module
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websocket_frames import (
    BINARY,
    CLOSE,
    MORE,
    PING,
    PONG,
    TEXT,
    Socket,
    close,
    frame,
    open_socket,
    upgrade,
)

import oread

GOING_AWAY = (CLOSE, b"1001 the service is stopping")


async def test_every_message_is_dispatched_to_the_event_of_the_path(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """Text, binary and fragments, by sync and async handlers, with captures; counted as messages."""

    @registry.on("orders/{order_id}")
    async def order(order_id: int, body: dict[str, int], message: oread.Message) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"id": order_id, "sum": sum(body.values()), "by": message.transport}

    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory)
        await socket.send(frame(TEXT, "hellö".encode()), frame(BINARY, b"\xff"))
        assert await socket.receive(2) == [(TEXT, "hellö".encode()), (BINARY, b"\xff")]
        await socket.send(frame(TEXT, b"a", fin=False), frame(PING, b"p"), frame(MORE, b"b"))
        assert await socket.receive(2) == [(PONG, b"p"), (TEXT, b"ab")]
        ordered = await open_socket(memory, "/orders/7?x=1")
        await ordered.send(frame(BINARY, b'{"a": 1, "b": 2}'))
        [(opcode, payload)] = await ordered.receive()
        assert opcode == TEXT
        assert json.loads(payload) == {"id": 7, "sum": 3, "by": "ws"}
        found = memory.service.statistics().endpoints[0]
        assert (found.accepted, found.open, found.replies) == (2, 2, 4)


async def test_handlers_see_the_request_that_opened_it(registry: oread.Registry, serve_memory: Any) -> None:
    """As a WebSocketMessage, and so as an HttpRequest and a Message."""
    seen: list[Any] = []

    @registry.on("see/{name}")
    def see(message: oread.WebSocketMessage) -> None:
        seen.append(message)

    registry.on("see/{name}", lambda request: seen.append(type(request)))

    async with serve_memory("http://:0?subprotocols=v2,v1") as memory:
        socket = await open_socket(memory, "/see/me?q=1", "X-A: b", "Sec-WebSocket-Protocol: v1, v2")
        assert b"Sec-WebSocket-Protocol: v1" in socket.head
        await socket.send(frame(TEXT, b"hi"), frame(BINARY, b"ho"), frame(PING))
        assert await socket.receive() == [(PONG, b"")]
    first, _, second, _ = seen
    assert isinstance(first, oread.HttpRequest)
    assert (first.data, first.text, first.subprotocol, first.transport) == (b"hi", True, "v1", "ws")
    assert (first.method, first.path, first.query, first.headers.get("x-a")) == ("GET", "/see/me", "q=1", "b")
    assert (first.captures, first.peer.transport) == ({"name": "me"}, "http")
    assert (second.data, second.text) == (b"ho", False)


async def test_replies_go_back_as_text_or_binary(registry: oread.Registry, serve_memory: Any) -> None:
    """Text and JSON are text, bytes are as what they answer, unless they are not UTF-8 or say otherwise."""
    registry.on("str", lambda data: "s")
    registry.on("json", lambda data: {"a": 1})
    registry.on("image", lambda data: b"\x89PNG")
    registry.on("named", lambda data: oread.Reply(b"x", "application/octet-stream"))
    registry.on("html", lambda data: oread.HttpResponse(b"<p>", 200, [("Content-Type", "text/html")]))
    registry.on("plain", lambda data: oread.Reply(b"x", "text/plain"))
    registry.on("empty", lambda data: b"")
    expected = {
        "bytes": (TEXT, BINARY),
        "str": (TEXT, TEXT),
        "json": (TEXT, TEXT),
        "image": (BINARY, BINARY),
        "named": (BINARY, BINARY),
        "html": (TEXT, BINARY),
        "plain": (TEXT, TEXT),
        "empty": (TEXT, BINARY),
    }
    async with serve_memory("http://:0") as memory:
        for path, opcodes in expected.items():
            socket = await open_socket(memory, f"/{path}")
            await socket.send(frame(TEXT, b"a"), frame(BINARY, b"a"))
            assert tuple(opcode for opcode, _ in await socket.receive(2)) == opcodes, path


async def test_messages_of_one_connection_are_answered_in_their_order(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """A slow handler first, a quick one behind it; pings are answered meanwhile."""
    running = 0

    @registry.on("sleep")
    async def sleep(seconds: float) -> str:
        nonlocal running
        running += 1
        assert running == 1, "one at a time"
        await trio.sleep(seconds)
        running -= 1
        return f"{seconds:g}"

    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, "/sleep")
        await socket.send(frame(TEXT, b"5"), frame(TEXT, b"1"), frame(TEXT, b"0.5"), frame(PING, b"?"))
        assert await socket.receive() == [(PONG, b"?")]
        assert await socket.receive(3) == [(TEXT, b"5"), (TEXT, b"1"), (TEXT, b"0.5")]


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_items_of_a_streamed_reply_are_messages(
    registry: oread.Registry, serve_memory: Any, kind: str
) -> None:
    """Each item is one message; what comes behind is answered when the last is sent."""
    if kind == "sync":

        @registry.on("stream")
        def stream(data: bytes) -> Iterator[Any]:
            yield from (data, None, "text", {"a": 1}, oread.ServerSentEvent("event", id="7"))
    else:

        @registry.on("stream")
        async def stream_async(data: bytes) -> AsyncIterator[Any]:
            for item in (data, None, "text", {"a": 1}, oread.ServerSentEvent("event", id="7")):
                await trio.lowlevel.checkpoint()
                yield item

    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, "/stream")
        await socket.send(frame(BINARY, b"1"), frame(TEXT, b"2"))
        rest = [(TEXT, b"text"), (TEXT, b'{"a":1}'), (TEXT, b"event")]
        assert await socket.receive(8) == [(BINARY, b"1"), *rest, (TEXT, b"2"), *rest]
        found = memory.service.statistics().endpoints[0]
        assert (found.messages, found.replies) == (3, 2)


async def test_handlers_that_change_take_the_next_message(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """Of a connection that is open; without any it is closed."""
    registration = registry.on("now", lambda data: b"one")
    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, "/now")
        await socket.send(frame(TEXT))
        assert await socket.receive() == [(TEXT, b"one")]
        registration.remove()
        with registry.on("now", lambda data: b"two"):
            await socket.send(frame(TEXT))
            assert await socket.receive() == [(TEXT, b"two")]
        await socket.send(frame(TEXT))
        assert await socket.receive() == [(CLOSE, b"1008 nothing is served at /now")]


# the handshake


async def test_bytes_behind_the_handshake_are_not_lost(registry: oread.Registry, serve_memory: Any) -> None:
    """Frames in the segment of the head, behind requests that are still being answered."""
    async with serve_memory("http://:0") as memory:
        socket = Socket(memory.client())
        pipelined = b"POST /waits HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
        await socket.stream.send_all(pipelined + upgrade("/echo") + frame(TEXT, b"a")[:3])
        received = b""
        while received.count(b"\r\n\r\n") < 2:
            received += await socket.stream.receive_some()
        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"x" + b"HTTP/1.1 101 " in received
        await socket.send(frame(TEXT, b"a")[3:])
        assert await socket.receive() == [(TEXT, b"a")]


async def test_cut_into_single_bytes_nothing_changes(registry: oread.Registry, serve_memory: Any) -> None:
    """Handshake and frames, one byte at a time."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        for byte in upgrade("/echo") + frame(TEXT, b"a", fin=False) + frame(MORE, b"b") + close(1000):
            await client.send_all(bytes([byte]))
        received = await client.receive_all()
        assert received.endswith(b"\x81\x02ab\x88\x02\x03\xe8")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (upgrade("/missing"), b"404"),
        (upgrade("/echo", method="POST"), b"200"),
        (upgrade("/bytes", version="1.0"), b"200"),
        (upgrade("/bytes", "Upgrade: h2c", "HTTP2-Settings: x", drop="Upgrade"), b"200"),
        (upgrade("/bytes", drop="Sec-WebSocket-Key"), b"400"),
        (upgrade("/bytes", "Origin: http://evil.example"), b"403"),
        (upgrade("/posted"), b"405"),
        (upgrade("/session"), b"404"),
        (upgrade("/openapi.json"), b"200"),
    ],
)
async def test_what_is_not_agreed_to_has_its_status(
    registry: oread.Registry, serve_memory: Any, data: bytes, status: bytes
) -> None:
    """No 101; the connection goes on as HTTP where it can."""
    registry.on("posted", lambda data: data, methods=("POST",))
    async with serve_memory("http://:0?openapi=true") as memory:
        client = memory.client()
        await client.send_all(data + b"GET /bytes HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = await client.receive_all()
        assert received.startswith(b"HTTP/1.1 " + status)
        assert b" 101 " not in received


async def test_another_version_is_told_which_one_is_spoken(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """426 with Upgrade and Sec-WebSocket-Version (RFC 6455 4.4, RFC 9110 15.5.22)."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        odd = upgrade("/echo", "Sec-WebSocket-Version: 8", drop="Sec-WebSocket-Version")
        await client.send_all(odd + b"GET /bytes HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = await client.receive_all()
        assert received.startswith(b"HTTP/1.1 426 ")
        assert b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" in received
        assert received.count(b"HTTP/1.1 200 ") == 1
        assert memory.refused == {"ws_version": 1}


async def test_pages_of_other_sites_open_none_unless_they_are_named(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """A page of the same host may, one of another may when `origins` names it."""
    async with serve_memory("http://:0") as memory:
        await open_socket(memory, "/echo", "Origin: http://a")
        refused = Socket(memory.client())
        await refused.open("/echo", "Origin: null")
        assert refused.head.startswith(b"HTTP/1.1 403 ")
        assert memory.refused == {"http_403": 1}
    async with serve_memory("http://:0?origins=https://app.example") as memory:
        await open_socket(memory, "/echo", "Origin: https://app.example")


async def test_compression_is_off_unless_it_is_asked_for(registry: oread.Registry, serve_memory: Any) -> None:
    """`ws_deflate=true` agrees to what a client offers."""
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    async with serve_memory("http://:0") as memory:
        assert b"Extensions" not in (await open_socket(memory, "/echo", offer)).head
    async with serve_memory("http://:0?ws_deflate=true") as memory:
        socket = await open_socket(memory, "/echo", offer)
        assert b"Sec-WebSocket-Extensions: permessage-deflate; " in socket.head
        await socket.send(frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4))  # RFC 7692 7.2.3.1
        assert await socket.receive() == [(TEXT, b"Hello")]


# failures


@pytest.mark.parametrize(
    ("path", "sent", "answer"),
    [
        ("/fails", b"x", b"1011 the handler failed"),
        ("/number", b"x", b"1007 JSON is malformed: invalid character (byte 0)"),
        ("/busy", b"x", b"1013 later"),
        ("/large", b"x", b"1009 the file"),
        ("/missing", b"x", b"1008 gone"),
        ("/late", b"x", b"1011 "),
        ("/unsendable", b"x", b"1011 the handler failed"),
    ],
)
async def test_a_failure_closes_its_own_connection_with_a_code(
    registry: oread.Registry, serve_memory: Any, path: str, sent: bytes, answer: bytes
) -> None:
    """Code and reason say whose fault it was; what waits behind is dropped and counted; others go on."""

    def raising(error: Exception) -> Any:
        def handler(data: bytes) -> None:
            raise error

        return handler

    @registry.on("number")
    def number(value: int) -> int:
        return value

    @registry.on("late", deadline=0.01)
    async def late(data: bytes) -> None:
        await trio.sleep_forever()

    registry.on("busy", raising(oread.Busy("later")))
    registry.on("large", raising(oread.TooLarge("the file")))
    registry.on("missing", raising(oread.NotFound("gone")))
    registry.on("unsendable", lambda data: object())
    async with serve_memory("http://:0") as memory:
        other = await open_socket(memory)
        socket = await open_socket(memory, path)
        await socket.send(frame(TEXT, sent), frame(TEXT, b"behind"))
        [(opcode, payload)] = await socket.receive()
        assert opcode == CLOSE
        assert payload.startswith(answer[:20])
        await socket.send(close(1000))
        assert await socket.receive_rest() == []
        assert memory.refused.get("ws_closing") == 1
        await other.send(frame(TEXT, b"still here"))
        assert await other.receive() == [(TEXT, b"still here")]


async def test_a_failure_in_the_middle_of_a_reply_closes_too(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """What was sent before it arrives; then 1011."""

    @registry.on("breaks")
    def breaks(data: bytes) -> Iterator[bytes]:
        yield b"one"
        raise LookupError("on purpose")

    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, "/breaks")
        await socket.send(frame(TEXT), frame(TEXT))
        assert await socket.receive(2) == [
            (TEXT, b"one"),
            (CLOSE, b"1011 the handler failed in the middle of its reply"),
        ]
        assert memory.service.statistics().endpoints[0].failures == 1


async def test_a_failure_ends_the_service_where_the_endpoint_says_so(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """`failure=stop`."""
    with pytest.raises(LookupError, match="on purpose"):
        async with serve_memory("http://:0?failure=stop") as memory:
            socket = await open_socket(memory, "/fails")
            await socket.send(frame(TEXT))
            await trio.sleep_forever()


async def test_limited_events_let_messages_wait(registry: oread.Registry, serve_memory: Any) -> None:
    """`limit=1`: the second connection's message waits for the first one's handler."""
    free = trio.Event()

    @registry.on("one", limit=1)
    async def one(data: bytes) -> bytes:
        await free.wait()
        return data

    async with serve_memory("http://:0") as memory:
        first, second = await open_socket(memory, "/one"), await open_socket(memory, "/one")
        await first.send(frame(TEXT, b"1"))
        await wait_all_tasks_blocked()
        await second.send(frame(TEXT, b"2"), frame(PING))
        assert await second.receive() == [(PONG, b"")]
        free.set()
        assert await second.receive() == [(TEXT, b"2")]


# how it ends


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (close(1000, b"bye"), b"1000 bye"),
        (close(), b""),
        (close(4_000), b"4000 "),
        (frame(TEXT, b"a", mask=None), b"1002 server received unexpected unmasked frame"),
        (frame(TEXT, b"\xff"), b"1007 "),
        (frame(BINARY, b"x" * 101), b"1009 a frame or a message is too long"),
        (
            frame(BINARY, b"x" * 99, fin=False) + frame(MORE, b"x" * 99, fin=False),
            b"1009 a message is longer than 100 bytes",
        ),
    ],
)
async def test_the_peers_end_and_its_faults_are_answered(
    registry: oread.Registry, serve_memory: Any, sent: bytes, answered: bytes
) -> None:
    """Good messages before it are answered, then a close frame goes out and the connection ends."""
    async with serve_memory("http://:0?message_bytes=100&ws_frame_bytes=100") as memory:
        socket = await open_socket(memory)
        await socket.send(frame(TEXT, b"good"), sent)
        await socket.stream.send_eof()
        first, (opcode, payload) = await socket.receive_rest()
        assert first == (TEXT, b"good")
        assert opcode == CLOSE
        assert payload.startswith(answered)
        await wait_all_tasks_blocked()
        assert memory.service.statistics().endpoints[0].open == 0


async def test_a_handler_has_a_short_while_once_its_peer_has_closed(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """What ends within `gone_seconds` does its work, also if it waited; what does not is cancelled."""
    done: list[str] = []

    @registry.on("work")
    async def work(text: str) -> str:
        try:
            await trio.sleep(float(text))
        except trio.Cancelled:
            done.append(f"{text} cancelled")
            raise
        done.append(text)
        return text

    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, "/work")
        await socket.send(frame(TEXT, b"0.4"), frame(TEXT, b"0.3"), frame(TEXT, b"9"), frame(TEXT, b"8"))
        await socket.send(close(1000))
        assert await socket.receive_rest() == [(CLOSE, b"1000 ")]
        assert done == ["0.4", "0.3", "9 cancelled"]
        assert memory.refused["peer_gone"] == 1
        assert memory.refused["ws_closing"] == 3, "two replies, and a message that was never worked off"


@pytest.mark.parametrize("shield", [False, True])
async def test_a_reset_cancels_a_handler_unless_it_is_shielded(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock, shield: bool
) -> None:
    """At once; a shielded one comes to its end, which nobody hears."""
    ends: list[str] = []

    @registry.on("work", shield=shield)
    async def work(data: bytes) -> bytes:
        try:
            await trio.sleep(5)
        except trio.Cancelled:
            ends.append("cancelled")
            raise
        ends.append("ended")
        return data

    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, "/work")
        await socket.send(frame(TEXT))
        await wait_all_tasks_blocked()
        socket.stream.reset()
        await trio.sleep(6)
        assert ends == ["ended" if shield else "cancelled"]


async def test_a_peer_that_half_closes_gets_its_answer(registry: oread.Registry, serve_memory: Any) -> None:
    """A FIN without a close frame: what was asked before is answered, then the connection ends."""
    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, "/waits")
        await socket.send(frame(TEXT, b"a"))
        await socket.stream.send_eof()
        assert await socket.receive_rest() == [(TEXT, b"a")]


async def test_a_drain_says_going_away_and_waits_for_the_goodbye(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """Idle ones at once, busy ones behind their replies; later messages are dropped and counted."""

    @registry.on("sleep")
    async def sleep(data: bytes) -> bytes:
        await trio.sleep(1)
        return data

    async with serve_memory("http://:0") as memory:
        idle, busy = await open_socket(memory), await open_socket(memory, "/sleep")
        await busy.send(frame(TEXT, b"a"), frame(TEXT, b"b"))
        await wait_all_tasks_blocked()
        reports = []
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                reports.append(await memory.service.drain(10))

            nursery.start_soon(drain)
            assert await idle.receive() == [GOING_AWAY]
            await idle.send(frame(TEXT, b"late"), close(1001))
            assert await idle.receive_rest() == []
            assert await busy.receive(3) == [(TEXT, b"a"), (TEXT, b"b"), GOING_AWAY]
            await busy.send(close(1001))
            assert await busy.receive_rest() == []
        assert reports[0].cancelled == ()
        assert reports[0].closed == 0
        assert memory.refused == {"ws_closing": 1}


async def test_a_drain_cancels_at_its_deadline(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """The handler is named, and the peer hears 1001."""
    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, "/forever")
        await socket.send(frame(TEXT))
        await wait_all_tasks_blocked()
        report = await memory.service.drain(1)
        assert len(report.cancelled) == 1
        assert await socket.receive() == [GOING_AWAY]


async def test_no_websocket_is_opened_while_draining(registry: oread.Registry, serve_one: Any) -> None:
    """What asks for one, and is in the socket when the drain begins, is answered 503."""
    async with serve_one("http://127.0.0.1:0") as service:
        with socket_module.create_connection(("127.0.0.1", service.endpoints[0].port)) as client:
            client.sendall(upgrade("/echo"))
            client.shutdown(socket_module.SHUT_WR)
            await service.drain(5)
            assert client.recv(1_000).startswith(b"HTTP/1.1 503 ")


# deadlines


async def test_silence_is_met_with_a_ping_and_more_silence_with_the_end(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """A pong keeps it open; without one it is 1011, and counted."""
    async with serve_memory("http://:0?ws_ping_seconds=20&ws_pong_seconds=10") as memory:
        socket = await open_socket(memory)
        for _ in range(3):
            begun = trio.current_time()
            assert await socket.receive() == [(PING, b"")]
            assert 20 <= trio.current_time() - begun <= 21
            await socket.send(frame(PONG))
        assert await socket.receive() == [(PING, b"")]
        begun = trio.current_time()
        assert await socket.receive_rest() == [(CLOSE, b"1011 no answer to a ping")]
        assert 10 <= trio.current_time() - begun <= 11
        assert memory.refused == {"ws_no_pong": 1}


async def test_a_peer_that_is_gone_is_found_while_its_handler_works(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """Pings go out while a handler runs; without an answer it is cancelled."""
    cancelled = trio.Event()

    @registry.on("long")
    async def long(data: bytes) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, "/long")
        await socket.send(frame(TEXT))
        await cancelled.wait()
        assert await socket.receive_rest() == [(PING, b""), (CLOSE, b"1011 no answer to a ping")]


async def test_an_idle_one_is_closed_where_the_endpoint_says_so(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """`idle_seconds` counts from the last message: pongs are none."""
    async with serve_memory("http://:0?idle_seconds=50") as memory:
        socket = await open_socket(memory)
        for _ in range(2):
            assert await socket.receive() == [(PING, b"")]
            await socket.send(frame(PONG))
        assert await socket.receive() == [(CLOSE, b"1000 idle")]
        await socket.send(close(1000))
        assert await socket.receive_rest() == []
        assert memory.refused == {"idle": 1}


async def test_a_goodbye_that_is_not_answered_is_not_waited_for(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """`ws_close_seconds` after our close frame the connection ends without the peer's."""
    async with serve_memory("http://:0?ws_close_seconds=3") as memory:
        socket = await open_socket(memory, "/fails")
        begun = trio.current_time()
        await socket.send(frame(TEXT))
        assert await socket.receive_rest() == [(CLOSE, b"1011 the handler failed")]
        assert 3 <= trio.current_time() - begun <= 4
        assert memory.refused["ws_no_close"] == 1


async def test_a_flood_behind_our_goodbye_is_bounded(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """`linger_bytes` are read away, then the connection ends."""
    async with serve_memory("http://:0?linger_bytes=100000&ws_close_seconds=1000") as memory:
        socket = await open_socket(memory, "/fails")
        await socket.send(frame(TEXT))
        await socket.receive()
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
            while True:
                await socket.send(frame(BINARY, b"x" * 50_000))


# bounds


async def test_a_peer_that_takes_nothing_ends_at_the_stall_deadline(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """Replies and pongs pile up to the water mark; then nothing is read, and 30 s later it is aborted."""
    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, room=1_000)
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    while True:
                        await socket.send(frame(BINARY, b"x" * 10_000), frame(PING, b"y" * 100))

            nursery.start_soon(flood)
        assert memory.refused == {"stalled": 1}
        assert memory.service.statistics().endpoints[0].messages < 50


async def test_what_is_read_ahead_of_a_handler_is_bounded(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """Messages wait in the peer's socket, not here; all are answered in the end."""
    free = trio.Event()

    @registry.on("hold")
    async def hold(data: bytes) -> int:
        await free.wait()
        return len(data)

    async with serve_memory("http://:0?ws_ping_seconds=inf") as memory:
        socket = await open_socket(memory, "/hold")
        sent = 0
        with trio.move_on_after(0.5):
            while True:
                await socket.send(frame(BINARY, b"x" * 10_000))
                sent += 1
        assert 6 <= sent <= 30
        free.set()
        assert await socket.receive(sent) == [(TEXT, b"10000")] * sent


async def test_empty_messages_that_wait_are_bounded_too(registry: oread.Registry, serve_memory: Any) -> None:
    """A read full of empty messages is not turned into objects all at once."""
    free = trio.Event()

    @registry.on("hold")
    async def hold(data: bytes) -> bytes:
        await free.wait()
        return data

    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, "/hold")
        await socket.send(frame(BINARY) * 5_000)
        await wait_all_tasks_blocked()
        [connection] = memory.service._listeners[0].connections
        assert len(connection._queue) <= 520
        free.set()
        assert len(await socket.receive(5_000)) == 5_000


async def test_cancelling_the_service_leaves_nothing_open(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """While handlers run, while frames are half read, while a goodbye is waited for."""
    async with serve_memory("http://:0") as memory:
        busy, half = await open_socket(memory, "/forever"), await open_socket(memory)
        closing, failed = await open_socket(memory), await open_socket(memory, "/fails")
        await busy.send(frame(TEXT), frame(TEXT))
        await half.send(frame(TEXT, b"abc")[:4])
        await closing.send(close(1000)[:3])
        await failed.send(frame(TEXT))
        await wait_all_tasks_blocked()
