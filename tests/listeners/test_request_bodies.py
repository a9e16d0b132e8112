"""Request bodies part by part: back-pressure, limits, deadlines, ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import h11
import pytest
import trio
from http_exchanges import exchange, read_events, receive_now
from trio.testing import MockClock, wait_all_tasks_blocked

import oread

HEAD = b"POST /%b HTTP/1.1\r\nHost: a\r\n%b\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Uploads:
    """What the handlers have seen, and when they may go on."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.errors: list[Exception] = []
        self.go_on = trio.Event()
        self.begun = trio.Event()


@pytest.fixture
def uploads(registry: oread.Registry) -> Uploads:
    """Handlers that take their body part by part."""
    seen = Uploads()

    @registry.on("sum")
    async def total(body: AsyncIterator[bytes]) -> str:
        try:
            async for part in body:
                seen.parts.append(part)
        except Exception as error:
            seen.errors.append(error)
            raise
        return str(sum(map(len, seen.parts)))

    @registry.on("upper")
    async def upper(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for part in body:
            yield part.upper()

    @registry.on("later")
    async def later(body: AsyncIterator[bytes]) -> bytes:
        seen.begun.set()
        await seen.go_on.wait()
        return b"".join([part async for part in body])

    @registry.on("ignores")
    async def ignores(body: AsyncIterator[bytes]) -> bytes:
        return b"seen enough"

    @registry.on("trailers")
    async def trailers(body: AsyncIterator[bytes], request: oread.HttpRequest) -> list[Any]:
        before = len(request.trailers)
        async for _ in body:
            pass
        return [before, request.trailers.pairs, "x-sum" in request.headers]

    return seen


def answer(data: bytes, *, ended: bool = True) -> tuple[int, dict[bytes, bytes], bytes, Any]:
    """Read one response with h11; the last is the state of its connection."""
    connection = h11.Connection(h11.CLIENT)
    connection.receive_data(data)
    if ended:
        connection.receive_data(b"")
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    head, body = read_events(connection)
    return head.status_code, dict(head.headers), body, connection.their_state


async def ask(memory: Any, data: bytes) -> tuple[int, dict[bytes, bytes], bytes, Any]:
    """Send, half-close, read the one response."""
    return answer(await exchange(memory.client, data))


async def test_a_handler_begins_at_the_head_and_gets_parts_as_they_come(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any
) -> None:
    """Each part is there before the next is sent; the reply counts all."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(HEAD % (b"sum", b"Content-Length: 6\r\n"))
        for part in (b"ab", b"c", b"def"):
            await client.send_all(part)
            await wait_all_tasks_blocked()
            assert uploads.parts[-1] == part
        await client.send_eof()
        status, _, body, _ = answer(await client.receive_all())
        assert (status, body) == (200, b"6")


@pytest.mark.parametrize("step", [1, 3, 1000])
async def test_the_parts_are_the_body_whatever_the_cuts(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any, step: int
) -> None:
    """Chunked and by length, the next request behind each body is answered too."""
    chunks = b"3;x=1\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n"
    wire = HEAD % (b"sum", CHUNKED) + chunks + HEAD % (b"upper", b"Content-Length: 5\r\n") + b"vwxyz"
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        for at in range(0, len(wire), step):
            await client.send_all(wire[at : at + step])
            await wait_all_tasks_blocked()
        await client.send_eof()
        received = await client.receive_all()
        assert b"".join(uploads.parts) == b"abcde"
        assert received.startswith(b"HTTP/1.1 200 ")
        assert received.count(b"HTTP/1.1 200 ") == 2
        assert sorted(each for each in b"VWXYZ" if each in received.partition(b"chunked")[2]) == list(
            b"VWXYZ"
        )


async def test_what_the_handler_does_not_take_is_not_read(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any
) -> None:
    """One read of 64 KiB at most leaves the peer's pipe; then it has to wait."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        sent = 0
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                nonlocal sent
                await client.send_all(HEAD % (b"later", b"Content-Length: %d\r\n" % (1 << 20)))
                while sent < 1 << 20:
                    await client.send_all(b"x" * 1024)
                    sent += 1024

            nursery.start_soon(send)
            await uploads.begun.wait()
            await wait_all_tasks_blocked()
            held = sent
            assert held <= 65_536 + oread.testing.streams.PIPE_BYTES
            uploads.go_on.set()
        await client.send_eof()
        status, _, body, _ = answer(await client.receive_all())
        assert (status, len(body)) == (200, 1 << 20)


async def test_a_reply_is_streamed_while_the_body_comes(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any
) -> None:
    """Each part is answered before the next one is sent."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(HEAD % (b"upper", CHUNKED))
        for part in (b"ab", b"cd"):
            await client.send_all(b"2\r\n%b\r\n" % part)
            assert (await receive_now(client)).endswith(b"2\r\n%b\r\n" % part.upper())
        await client.send_all(b"0\r\n\r\n")
        assert await receive_now(client) == b"0\r\n\r\n"
        await client.send_all(HEAD % (b"bytes", b"Content-Length: 1\r\n") + b"x")
        assert (await receive_now(client)).endswith(b"\r\n\r\nx")


async def test_continue_is_sent_when_the_handler_first_reads(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any
) -> None:
    """Not at the head, not twice, and not when the body is there or is not wanted."""
    expects = b"Content-Length: 4\r\nExpect: 100-continue\r\n"
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(HEAD % (b"later", expects))
        assert await receive_now(client) == b""
        uploads.go_on.set()
        assert await receive_now(client) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send_all(b"ab")
        assert await receive_now(client) == b""
        await client.send_all(b"cd")
        assert (await receive_now(client)).endswith(b"\r\n\r\nabcd")
        await client.send_all(HEAD % (b"sum", expects) + b"abcd")
        assert (await receive_now(client)).startswith(b"HTTP/1.1 200 ")
        await client.send_all(HEAD % (b"ignores", expects))
        status, headers, body, _ = answer(await client.receive_all())
        assert (status, headers[b"connection"], body) == (200, b"close", b"seen enough")


@pytest.mark.parametrize(("rest", "framing"), [(b"x" * 9, b"Content-Length: 10\r\n"), (b"8\r\nabc", CHUNKED)])
async def test_a_body_cut_short_raises_and_never_ends(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any, rest: bytes, framing: bytes
) -> None:
    """What came is given, then CutShort; the answer is a 400 and the end."""
    async with serve_memory("http://:0") as memory:
        status, headers, _, _ = await ask(memory, HEAD % (b"sum", framing) + rest)
        assert (status, headers[b"connection"]) == (400, b"close")
        assert [type(error) for error in uploads.errors] == [oread.CutShort]
        assert memory.refused == {"cut_short": 1, "http_400": 1}


async def test_a_reply_begun_is_broken_off_when_its_body_is_cut_short(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any
) -> None:
    """No last chunk: the peer can tell."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(HEAD % (b"upper", CHUNKED) + b"2\r\nab\r\n")
        await client.send_eof()
        assert (await client.receive_all()).endswith(b"2\r\nAB\r\n")
        assert memory.refused == {"cut_short": 1}


async def test_a_reset_cancels_the_handler_that_reads(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any
) -> None:
    """It does not hang, and its end is reported as a cancel."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(HEAD % (b"sum", CHUNKED) + b"2\r\nab\r\n")
        await wait_all_tasks_blocked()
        client.reset()
        await wait_all_tasks_blocked()
        assert memory.refused == {"cancelled": 1}
        assert memory.service.statistics().endpoints[0].open == 0


async def test_a_shielded_handler_is_told_of_a_reset(registry: oread.Registry, serve_memory: Any) -> None:
    """Nobody cancels it, so its body has to raise."""
    told: list[type[Exception]] = []

    @registry.on("keeps", shield=True)
    async def keeps(body: AsyncIterator[bytes]) -> None:
        try:
            async for _ in body:
                pass
        except oread.CutShort as error:
            told.append(type(error))

    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(HEAD % (b"keeps", CHUNKED) + b"2\r\nab\r\n")
        await wait_all_tasks_blocked()
        client.reset()
        await wait_all_tasks_blocked()
        assert told == [oread.CutShort]


@pytest.mark.parametrize(
    ("rest", "status", "reason"),
    [
        (b"2\r\nab\r\nzz\r\n", 400, "bad_request"),
        (b"2\r\nab\r\n" + b"f\r\n" + b"x" * 15 + b"\r\n", 413, "too_large"),
    ],
)
async def test_a_bad_rest_raises_behind_the_good_parts(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any, rest: bytes, status: int, reason: str
) -> None:
    """The handler has what was good; the answer says what was not."""
    async with serve_memory("http://:0?stream_bytes=10&body_bytes=5") as memory:
        code, headers, _, _ = await ask(memory, HEAD % (b"sum", CHUNKED) + rest)
        assert (code, headers[b"connection"], uploads.parts) == (status, b"close", [b"ab"])
        assert memory.refused == {reason: 1, f"http_{status}": 1}


async def test_streamed_bodies_have_a_limit_of_their_own(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any
) -> None:
    """A length over it is refused at the head; other handlers keep the smaller one."""
    async with serve_memory("http://:0?stream_bytes=10&body_bytes=5") as memory:
        wire = HEAD % (b"sum", b"Content-Length: 10\r\n") + b"x" * 10
        assert (await ask(memory, wire))[::2] == (200, b"10")
        assert (await ask(memory, HEAD % (b"sum", b"Content-Length: 11\r\n")))[0] == 413
        assert (await ask(memory, HEAD % (b"bytes", b"Content-Length: 6\r\n") + b"x" * 6))[0] == 413
        assert (await ask(memory, HEAD % (b"bytes", b"Content-Length: 5\r\n") + b"x" * 5))[0] == 200
        assert (await ask(memory, HEAD % (b"bytes", CHUNKED) + b"6\r\nabcdef\r\n0\r\n\r\n"))[0] == 413
        assert memory.refused == {"http_413": 3}


async def test_a_stalled_body_is_a_408_while_the_handler_waits(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """Raised where the handler reads; the peer is told."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(HEAD % (b"sum", b"Content-Length: 10\r\n") + b"ab")
        begun = trio.current_time()
        status, headers, _, _ = answer(await client.receive_all())
        assert (status, headers[b"connection"]) == (408, b"close")
        assert 5 <= trio.current_time() - begun <= 6.5  # slower than the least rate, before it is no progress
        assert [type(error) for error in uploads.errors] == [oread.SlowBody]
        assert memory.refused == {"slow_body": 1, "http_408": 1}


async def test_no_time_counts_while_the_handler_works(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """A peer that has to wait for its server is not slow."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(HEAD % (b"later", b"Content-Length: 4\r\n") + b"ab")
        await trio.sleep(1000)
        uploads.go_on.set()
        await client.send_all(b"cd")
        await client.send_eof()
        assert answer(await client.receive_all())[2] == b"abcd"


async def test_a_fin_behind_a_body_not_yet_taken_is_no_leaving(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """A client that half-closes behind its body is answered, however late that is read."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(HEAD % (b"later", b"Content-Length: 4\r\n") + b"abcd")
        await client.send_eof()
        await trio.sleep(100)
        uploads.go_on.set()
        assert answer(await client.receive_all())[2] == b"abcd"


async def test_what_a_handler_leaves_is_read_away_or_ends_the_connection(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any
) -> None:
    """All there within the linger limit: kept alive; else closed behind the answer."""
    small = HEAD % (b"ignores", b"Content-Length: 1000\r\n") + b"x" * 1000
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(small + HEAD % (b"bytes", b"Content-Length: 1\r\n") + b"x")
        received = await receive_now(client)
        assert received.count(b"HTTP/1.1 200 ") == 2
        assert b"close" not in received
        await client.aclose()
        for rest in (b"x" * 999, b""):
            client = memory.client()
            await client.send_all(HEAD % (b"ignores", b"Content-Length: 1000\r\n") + rest)
            status, headers, body, _ = answer(await client.receive_all())
            assert (status, headers[b"connection"], body) == (200, b"close", b"seen enough")


async def test_a_flood_of_tiny_chunks_is_not_read_away(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any
) -> None:
    """What a handler leaves is dropped within a bound of work, not only of bytes."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        chunks = b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n"
        await client.send_all(HEAD % (b"ignores", CHUNKED) + chunks)
        status, headers, body, _ = answer(await client.receive_all())
        assert (status, headers[b"connection"], body) == (200, b"close", b"seen enough")


@pytest.mark.parametrize("event", [b"ignores", b"refuses", b"yields"])
async def test_an_answer_does_not_wait_for_a_body_that_is_cut_short(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any, event: bytes
) -> None:
    """Of a handler that does not read it, inline or not; and of none, where there is no place."""

    @registry.on("refuses", limit=1)
    async def refuses(body: AsyncIterator[bytes]) -> None:
        await uploads.go_on.wait()

    @registry.on("yields")
    async def yields(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        yield b"seen enough"

    async with serve_memory("http://:0") as memory:
        await memory.client().send_all(HEAD % (b"refuses", b"Content-Length: 4\r\n"))
        await wait_all_tasks_blocked()
        status, _, body, _ = await ask(memory, HEAD % (event, b"Content-Length: 4\r\n") + b"ab")
        assert (status, body) == ((503, body) if event == b"refuses" else (200, b"seen enough"))


async def test_trailers_are_given_apart_behind_the_end(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any
) -> None:
    """Also to a handler that takes the body whole; never among the fields, never those of another request."""

    @registry.on("whole")
    def whole(body: bytes, request: oread.HttpRequest) -> list[Any]:
        return [request.trailers.pairs, "x-sum" in request.headers]

    chunks = b"1\r\na\r\n0\r\nX-Sum: 7\r\nX-Host: evil\r\n\r\n"
    async with serve_memory("http://:0") as memory:
        wire = HEAD % (b"trailers", CHUNKED) + chunks
        assert (await ask(memory, wire))[2] == b'[0,[["x-sum","7"],["x-host","evil"]],false]'
        client = memory.client()
        await client.send_all(HEAD % (b"whole", CHUNKED) + chunks)
        assert (await receive_now(client)).endswith(b'[[["x-sum","7"],["x-host","evil"]],false]')
        await client.send_all(HEAD % (b"whole", CHUNKED) + b"1\r\na\r\n0\r\n\r\n")
        assert (await receive_now(client)).endswith(b"[[],false]")
        await client.send_all(HEAD % (b"whole", b"Content-Length: 1\r\n") + b"x")
        assert (await receive_now(client)).endswith(b"[[],false]")


async def test_middleware_deadline_and_limit_hold(registry: oread.Registry, serve_memory: Any) -> None:
    """The layers see the head's message; 504 and 503 as for other handlers."""
    seen: list[tuple[str, bytes]] = []

    async def watch(message: oread.Message, call_next: Any) -> Any:
        seen.append((message.event, message.data))
        return await call_next()

    registry.use(watch)

    @registry.on("slow", deadline=0.01, limit=1)
    async def slow(body: AsyncIterator[bytes]) -> bytes:
        return b"".join([part async for part in body])

    async with serve_memory("http://:0") as memory:
        first, second = memory.client(), memory.client()
        await first.send_all(HEAD % (b"slow", b"Content-Length: 4\r\n"))
        await wait_all_tasks_blocked()
        await second.send_all(HEAD % (b"slow", b"Content-Length: 4\r\n"))
        assert answer(await second.receive_all())[0] == 503
        assert answer(await first.receive_all())[0] == 504
        assert (await ask(memory, HEAD % (b"slow", b"Content-Length: 4\r\n") + b"abcd"))[2] == b"abcd"
        assert seen == [("slow", b"")] * 2


async def test_a_cancelled_read_loses_nothing(registry: oread.Registry, serve_memory: Any) -> None:
    """A handler may give up waiting, and go on later."""

    @registry.on("patient")
    async def patient(body: AsyncIterator[bytes]) -> bytes:
        got = b""
        while True:
            with trio.move_on_after(0.001):
                try:
                    got += await anext(body)
                except StopAsyncIteration:
                    return got

    async with serve_memory("http://:0") as memory:
        client = memory.client()
        wire = HEAD % (b"patient", CHUNKED) + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        for at in range(len(wire)):
            await client.send_all(wire[at : at + 1])
            await trio.sleep(0.002)
        await client.send_eof()
        assert answer(await client.receive_all())[2] == b"abc"


async def test_a_body_is_for_one_task_and_for_its_request(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any
) -> None:
    """A second reader is refused, and so is one behind the answer."""
    kept: list[AsyncIterator[bytes]] = []

    @registry.on("keeps")
    async def keeps(body: AsyncIterator[bytes]) -> None:
        kept.append(body)
        await uploads.go_on.wait()

    async with serve_memory("http://:0") as memory, trio.open_nursery() as nursery:
        client = memory.client()
        await client.send_all(HEAD % (b"keeps", b"Content-Length: 4\r\n"))
        await wait_all_tasks_blocked()
        closed: list[trio.ClosedResourceError] = []

        async def read() -> None:
            try:
                await anext(kept[0])
            except trio.ClosedResourceError as error:
                closed.append(error)

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(kept[0])
        uploads.go_on.set()
        assert answer(await client.receive_all())[0] == 204
        await wait_all_tasks_blocked()
        assert len(closed) == 1
        await read()
        assert len(closed) == 2


async def test_a_get_has_no_parts(registry: oread.Registry, uploads: Uploads, serve_memory: Any) -> None:
    """Its body is framed and dropped; so is none at all."""
    async with serve_memory("http://:0") as memory:
        wire = b"GET /sum HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
        assert (await ask(memory, wire))[2] == b"0"
        assert (await ask(memory, HEAD % (b"sum", b"Content-Length: 0\r\n")))[2] == b"0"


async def test_every_other_transport_gives_one_part(registry: oread.Registry, uploads: Uploads) -> None:
    """emit, lines, length, raw, UDP and JSON-RPC call the same handler."""
    for transport in oread.testing.TRANSPORTS:
        async with oread.testing.open_client(registry, transport) as client:
            uploads.parts.clear()
            assert await client.call("sum", b"abc") == b"3"
            assert uploads.parts == [b"abc"]
    uploads.parts.clear()
    assert await registry.emit("sum", b"") == ["0"]
    async with oread.testing.open_client(registry, "jsonrpc") as client:
        assert await client.call("sum", "abc", reply=str) == "3"


async def test_a_drain_waits_for_the_upload(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """What has begun is read to its end and answered."""
    async with serve_memory("http://:0") as memory, trio.open_nursery() as nursery:
        client = memory.client()
        await client.send_all(HEAD % (b"sum", b"Content-Length: 4\r\n") + b"ab")
        await wait_all_tasks_blocked()
        nursery.start_soon(memory.service.drain, 10)
        await wait_all_tasks_blocked()
        await client.send_all(b"cd")
        status, headers, body, _ = answer(await client.receive_all())
        assert (status, headers[b"connection"], body) == (200, b"close", b"4")


async def test_the_end_of_a_drain_cancels_the_upload(
    registry: oread.Registry, uploads: Uploads, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """The handler is told off, and nothing stays open."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(HEAD % (b"sum", b"Content-Length: 4\r\n") + b"ab")
        await wait_all_tasks_blocked()
        report = await memory.service.drain(1)
        assert len(report.cancelled) == 1
        assert answer(await client.receive_all())[0] == 503
