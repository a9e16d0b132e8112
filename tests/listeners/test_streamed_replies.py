"""Replies that come item by item: on streams, by HTTP, and never by UDP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import trio
from http_exchanges import exchange, get, read_responses
from trio.testing import MockClock, wait_all_tasks_blocked

import oread

MIB = 1 << 20
SPOKEN = ContextVar("spoken", default=0)


class Closing:
    """What iterators were closed, of those a test has made."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def sync(self, *items: Any, name: str = "sync") -> Iterator[Any]:
        """Yield items; an exception among them is raised."""
        try:
            for item in items:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed.append(name)

    async def slowly(self, *items: Any, name: str = "async") -> AsyncIterator[Any]:
        """Yield items; an exception among them is raised, a number is waited for."""
        try:
            for item in items:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, float):
                    await trio.sleep(item)
                else:
                    yield item
        finally:
            self.closed.append(name)


@pytest.fixture
def closing() -> Closing:
    return Closing()


KINDS = ["sync", "slowly", "async sync", "async slowly"]
"""A sync or an async handler that returns a sync or an async iterator."""


def register(registry: oread.Registry, closing: Closing, kind: str, *items: Any) -> None:
    """Register a handler of `stream` that returns such an iterator."""
    make = getattr(closing, kind.rpartition(" ")[2])
    if kind.startswith("async "):

        @registry.on("stream")
        async def handler(data: bytes) -> Any:
            await trio.lowlevel.checkpoint()
            return make(*items)
    else:
        registry.on("stream", lambda data: make(*items))


async def ask(memory: Any, data: bytes, method: bytes = b"GET") -> tuple[int, dict[bytes, bytes], bytes]:
    """Send, half-close, read the response."""
    return read_responses(await exchange(memory.client, data), [method])[0]


# streams


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("framing", "asked", "answered"),
    [
        ("raw", b"x", b"onetwo"),
        ("lines", b"x\r\n", b"one\r\ntwo\r\n"),
        ("length", b"\0\0\0\1x", b"\0\0\0\3one\0\0\0\3two"),
    ],
)
async def test_items_are_framed_messages(
    registry: oread.Registry,
    serve_memory: Any,
    closing: Closing,
    kind: str,
    framing: str,
    asked: bytes,
    answered: bytes,
) -> None:
    """Each item is a message of its own, then the next request is answered."""
    register(registry, closing, kind, b"one", None, oread.ServerSentEvent("two", id="7"))
    async with serve_memory(f"tcp://:0/stream?framing={framing}") as memory:
        client = memory.client()
        for _ in range(2):
            await client.send_all(asked)
            received = b""
            while len(received) < len(answered):
                received += await client.receive_some()
            assert received == answered
            await wait_all_tasks_blocked()
        found = memory.service.statistics().endpoints[0]
        assert (found.messages, found.replies, found.open) == (2, 2, 1)
    assert len(closing.closed) == 2


@pytest.mark.parametrize("kind", ["sync", "slowly"])
async def test_generator_functions_are_handlers(
    registry: oread.Registry, serve_memory: Any, kind: str
) -> None:
    """A function that yields is called as it is, with its payload."""
    if kind == "sync":

        @registry.on("count")
        def count(data: str) -> Iterator[str]:
            yield from data
    else:

        @registry.on("count")
        async def count_slowly(data: str) -> AsyncIterator[str]:
            for letter in data:
                yield letter

    async with serve_memory("tcp://:0/count?framing=lines") as memory:
        client = memory.client()
        await client.send_all(b"abc\nde\n")
        await client.send_eof()
        assert await client.receive_all() == b"a\nb\nc\nd\ne\n"


@pytest.mark.parametrize("kind", KINDS)
async def test_pipelined_requests_wait_for_the_items(
    registry: oread.Registry, serve_memory: Any, closing: Closing, kind: str
) -> None:
    """What lies behind a streamed reply is answered behind it, also after a FIN."""
    register(registry, closing, kind, b"one", b"two")
    async with serve_memory("tcp://:0/stream?framing=lines") as memory:
        client = memory.client()
        await client.send_all(b"a\nb\nc\n")
        await client.send_eof()
        assert await client.receive_all() == b"one\ntwo\n" * 3


@pytest.mark.parametrize("kind", KINDS)
async def test_failure_before_the_first_item_is_a_failure_of_the_handler(
    registry: oread.Registry, serve_memory: Any, closing: Closing, kind: str, caplog: Any
) -> None:
    """It is counted and logged once, and closes the connection behind the replies owed."""
    register(registry, closing, kind, LookupError("on purpose"))
    registry.on("stream", lambda data: None)
    async with serve_memory("tcp://:0/stream?framing=lines") as memory:
        client = memory.client()
        await client.send_all(b"a\nb\n")
        assert await client.receive_all() == b""
        assert memory.service.statistics().endpoints[0].failures == 1
    assert "LookupError: on purpose" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("item", [LookupError("on purpose"), object(), b"a newline\n"])
async def test_failure_after_an_item_resets(
    registry: oread.Registry, serve_one: Any, closing: Closing, kind: str, item: Any
) -> None:
    """A peer of a raw or framed stream can tell that something is missing: by a reset."""
    register(registry, closing, kind, b"one", item)
    async with serve_one("tcp://127.0.0.1:0/stream?framing=lines") as service:
        stream = await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port)
        async with stream:
            await stream.send_all(b"x\n")
            with pytest.raises(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        assert service.statistics().endpoints[0].failures == 1
    assert len(closing.closed) == 1


async def test_handler_name_is_in_the_log(registry: oread.Registry, serve_memory: Any, caplog: Any) -> None:
    """What a generator raises is logged under the name of its handler."""

    @registry.on("stream")
    def breaks_off(data: bytes) -> Any:
        return iter(1 // 0 for _ in (1,))

    async with serve_memory("tcp://:0/stream?framing=lines") as memory:
        client = memory.client()
        await client.send_all(b"x\n")
        await client.receive_all()
    assert "breaks_off failed" in caplog.text


@pytest.mark.parametrize("kind", ["sync", "slowly"])
async def test_peer_that_does_not_read_stops_its_iterator_only(
    registry: oread.Registry, serve_memory: Any, kind: str, autojump_clock: MockClock
) -> None:
    """Items are made up to the mark, another peer is served, the stall deadline closes the iterator."""
    made = []
    closed = []

    def sync() -> Iterator[bytes]:
        try:
            while True:
                made.append(1)
                yield bytes(1024)
        finally:
            closed.append(1)

    async def slowly() -> AsyncIterator[bytes]:
        try:
            while True:
                made.append(1)
                yield bytes(1024)
        finally:
            closed.append(1)

    @registry.on("endless")
    def endless(data: bytes) -> Any:
        return b"fine" if data == b"short" else sync() if kind == "sync" else slowly()

    async with serve_memory("tcp://:0/endless?pending_bytes=8192&stall_seconds=5") as memory:
        greedy = memory.client(room=2048)
        await greedy.send_all(b"x")
        await wait_all_tasks_blocked()
        assert 4 <= len(made) <= 12
        other = memory.client()
        await other.send_all(b"short")
        assert await other.receive_some() == b"fine"
        await trio.sleep(6)
        assert closed == [1]
        assert memory.refused["stalled"] == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_slow_reader_gets_everything(
    registry: oread.Registry, serve_one: Any, closing: Closing, kind: str
) -> None:
    """A MiB in pieces arrives whole on a real socket, whoever is faster."""
    pieces = [bytes([number]) * 4096 for number in range(256)]
    register(registry, closing, kind, *pieces)
    async with serve_one("tcp://127.0.0.1:0/stream?pending_bytes=8192") as service:
        stream = await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port)
        async with stream:
            await stream.send_all(b"x")
            await stream.send_eof()
            received = b""
            async for chunk in stream:
                received += chunk
                await trio.lowlevel.checkpoint()
    assert received == b"".join(pieces)


@pytest.mark.parametrize("kind", ["slowly", "async slowly"])
async def test_reset_cancels_and_closes_an_async_iterator(
    registry: oread.Registry, serve_memory: Any, closing: Closing, kind: str
) -> None:
    """At once, wherever it waits."""
    register(registry, closing, kind, b"one", 1e9)
    async with serve_memory("tcp://:0/stream?framing=lines") as memory:
        client = memory.client()
        await client.send_all(b"x\n")
        assert await client.receive_some() == b"one\n"
        await wait_all_tasks_blocked()
        client.reset()
        await wait_all_tasks_blocked()
        assert closing.closed == ["async"]


async def test_reset_closes_a_sync_iterator(
    registry: oread.Registry, serve_memory: Any, closing: Closing
) -> None:
    """It is closed when its peer goes while it waits for room."""
    register(registry, closing, "sync", *[bytes(1024)] * 100)
    async with serve_memory("tcp://:0/stream?pending_bytes=4096") as memory:
        client = memory.client(room=1024)
        await client.send_all(b"x")
        await wait_all_tasks_blocked()
        assert closing.closed == []
        client.reset()
        await wait_all_tasks_blocked()
        assert closing.closed == ["sync"]


async def test_fin_does_not_end_a_raw_stream(
    registry: oread.Registry, serve_memory: Any, closing: Closing, autojump_clock: MockClock
) -> None:
    """On raw streams a FIN is the normal end of a request, however long the reply takes."""
    register(registry, closing, "slowly", b"one", 100.0, b"two")
    async with serve_memory("tcp://:0/stream") as memory:
        client = memory.client()
        await client.send_all(b"x")
        await client.send_eof()
        assert await client.receive_all() == b"onetwo"


@pytest.mark.parametrize("kind", KINDS)
async def test_hard_cancel_closes_iterators(
    registry: oread.Registry, serve_memory: Any, closing: Closing, kind: str
) -> None:
    """Leaving the service closes what was being iterated."""
    register(registry, closing, kind, *[bytes(1024)] * 100)
    async with serve_memory("tcp://:0/stream?pending_bytes=4096") as memory:
        client = memory.client(room=1024)
        await client.send_all(b"x")
        await wait_all_tasks_blocked()
        assert closing.closed == []
    assert len(closing.closed) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_drain_waits_for_the_items_until_its_deadline(
    registry: oread.Registry, serve_memory: Any, closing: Closing, kind: str, autojump_clock: MockClock
) -> None:
    """A peer that reads gets its reply whole; one that does not is cancelled and named."""
    register(registry, closing, kind, *[bytes(1024)] * 100)
    async with serve_memory("tcp://:0/stream?pending_bytes=4096") as memory:
        good, bad = memory.client(room=1024), memory.client(room=1024)
        for client in (good, bad):
            await client.send_all(b"x")
        await wait_all_tasks_blocked()
        received: list[bytes] = []

        async def read() -> None:
            received.append(await good.receive_all())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            report = await memory.service.drain(5)
        assert len(received[0]) == 102_400
        assert len(report.cancelled) == 1
    assert len(closing.closed) == 2


async def test_async_iterator_that_never_waits_lets_others_run(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """Another peer is answered while one stream yields without end."""
    ended = False

    @registry.on("spin")
    async def spin(data: bytes) -> AsyncIterator[bytes | None]:
        while not ended:
            yield None

    @registry.on("stop")
    def stop(data: bytes) -> bytes:
        nonlocal ended
        ended = True
        return b"stopped"

    async with serve_memory("http://:0") as memory:
        spinning, other = memory.client(), memory.client()
        await spinning.send_all(get("/spin"))
        with trio.fail_after(10):
            await other.send_all(get("/stop"))
            assert b"stopped" in await other.receive_some()
            assert b"0\r\n\r\n" in await spinning.receive_some()


@pytest.mark.parametrize("kind", ["sync", "slowly"])
async def test_items_share_a_context_of_their_own(
    registry: oread.Registry, serve_memory: Any, kind: str
) -> None:
    """What a generator sets it finds again at its next item, and no other call does."""

    def sync(data: bytes) -> Iterator[str]:
        for _ in range(3):
            SPOKEN.set(SPOKEN.get() + 1)
            yield str(SPOKEN.get())

    async def slowly(data: bytes) -> AsyncIterator[str]:
        for item in sync(data):
            await trio.lowlevel.checkpoint()
            yield item

    registry.on("stream", sync if kind == "sync" else slowly)
    async with serve_memory("tcp://:0/stream?framing=lines") as memory:
        client = memory.client()
        await client.send_all(b"a\nb\n")
        await client.send_eof()
        assert await client.receive_all() == b"1\n2\n3\n" * 2
    assert SPOKEN.get() == 0


@pytest.mark.parametrize("kind", ["sync", "async sync", "slowly"])
async def test_generator_sees_what_middleware_has_set(
    registry: oread.Registry, serve_memory: Any, kind: str
) -> None:
    """Its body runs after the call, but in the context of the call."""

    def sync(data: bytes) -> Iterator[str]:
        yield str(SPOKEN.get())
        yield str(SPOKEN.get())

    async def slowly(data: bytes) -> AsyncIterator[str]:
        for item in sync(data):
            await trio.lowlevel.checkpoint()
            yield item

    def before(message: oread.Message, call_next: Any) -> Any:
        SPOKEN.set(7)
        return call_next()

    async def before_async(message: oread.Message, call_next: Any) -> Any:
        SPOKEN.set(7)
        return await call_next()

    registry.on("stream", slowly if kind == "slowly" else sync)
    registry.use(before_async if kind.startswith("async") else before, "stream")
    async with serve_memory("tcp://:0/stream?framing=lines") as memory:
        client = memory.client()
        await client.send_all(b"a\nb\n")
        await client.send_eof()
        assert await client.receive_all() == b"7\n7\n" * 2
    assert SPOKEN.get() == 0


class Broken:
    """An iterator whose clean-up fails."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        raise StopIteration

    def close(self) -> None:
        raise OSError("cannot close")


async def test_clean_up_that_fails_is_reported_only(
    registry: oread.Registry, serve_memory: Any, caplog: Any
) -> None:
    """The reply is complete, the failure is logged."""
    registry.on("stream", lambda data: Broken())
    async with serve_memory("http://:0") as memory:
        status, _, body = await ask(memory, get("/stream"))
        assert (status, body) == (200, b"")
    assert "cannot close" in caplog.text


# HTTP


@pytest.mark.parametrize("kind", KINDS)
async def test_http_sends_chunks_and_keeps_the_connection(
    registry: oread.Registry, serve_memory: Any, closing: Closing, kind: str
) -> None:
    """One chunk an item, empty ones left out; the next request is answered on the same connection."""
    register(registry, closing, kind, "one", b"", "two")
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(get("/stream") + get("/bytes"))
        await client.send_eof()
        received = await client.receive_all()
    head, _, rest = received.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert b"Content-Type: text/plain; charset=utf-8" in head
    assert b"Vary: Accept" in head
    assert b"Content-Length" not in head
    assert rest.startswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\nHTTP/1.1 200")


@pytest.mark.parametrize("kind", KINDS)
async def test_http_1_0_ends_the_body_by_closing(
    registry: oread.Registry, serve_memory: Any, closing: Closing, kind: str
) -> None:
    """No chunks for a client that does not know them."""
    register(registry, closing, kind, b"one", b"two")
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(get("/stream", "Connection: keep-alive", version="1.0"))
        received = await client.receive_all()
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    assert b"Transfer-Encoding" not in head
    assert body == b"onetwo"


@pytest.mark.parametrize("kind", KINDS)
async def test_head_runs_no_iterator(
    registry: oread.Registry, serve_memory: Any, closing: Closing, kind: str
) -> None:
    """Its answer is a head, and nothing was asked of the iterator."""
    asked = []

    class Items:
        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            asked.append(1)
            raise StopIteration

        def close(self) -> None:
            closing.closed.append("sync")

    class AsyncItems:
        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            asked.append(1)
            raise StopAsyncIteration

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()
            closing.closed.append("async")

    registry.on("stream", lambda data: Items() if kind.endswith("sync") else AsyncItems())
    async with serve_memory("http://:0") as memory:
        status, _, body = await ask(memory, get("/stream", method="HEAD"), b"HEAD")
    assert (status, body, asked) == (200, b"", [])
    assert len(closing.closed) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_http_failure_before_the_first_item_has_its_status(
    registry: oread.Registry, serve_memory: Any, closing: Closing, kind: str
) -> None:
    """As if the handler had raised it; the connection goes on."""
    register(registry, closing, kind, oread.NotFound("no such order"))
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(get("/stream") + get("/bytes"))
        await client.send_eof()
        received = await client.receive_all()
        assert received.startswith(b"HTTP/1.1 404")
        assert b"no such order" in received
        assert b"HTTP/1.1 200" in received
        assert memory.service.statistics().endpoints[0].replies == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("item", [LookupError("on purpose"), object()])
async def test_http_failure_after_an_item_has_no_last_chunk(
    registry: oread.Registry, serve_memory: Any, closing: Closing, kind: str, item: Any, caplog: Any
) -> None:
    """The body is visibly incomplete, the failure counted and logged."""
    register(registry, closing, kind, b"one", item)
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(get("/stream"))
        received = await client.receive_all()
        assert received.endswith(b"3\r\none\r\n")
        found = memory.service.statistics().endpoints[0]
        assert (found.failures, found.replies) == (1, 0)
    assert "failed for" in caplog.text


async def test_first_item_may_say_status_and_fields(
    registry: oread.Registry, serve_memory: Any, closing: Closing
) -> None:
    """An HttpResponse as the first item is the head; its body is the first chunk."""
    first = oread.HttpResponse("a", 202, [("X-Tea", "green"), ("Content-Type", "text/csv")])
    register(registry, closing, "sync", first, "b")
    async with serve_memory("http://:0") as memory:
        status, fields, body = await ask(memory, get("/stream"))
    assert (status, fields[b"x-tea"], fields[b"content-type"], body) == (202, b"green", b"text/csv", b"ab")


async def test_status_without_body_is_refused(
    registry: oread.Registry, serve_memory: Any, closing: Closing
) -> None:
    """A 204 has nothing to stream: that is the handler's failure, told as one."""
    register(registry, closing, "sync", oread.HttpResponse(status=204), "b")
    async with serve_memory("http://:0") as memory:
        status, _, _ = await ask(memory, get("/stream"))
    assert status == 500


async def test_json_items_are_lines(registry: oread.Registry, serve_memory: Any, closing: Closing) -> None:
    """Values follow each other, one a line, so that a client can tell them apart."""
    register(registry, closing, "sync", {"n": 1}, [2], 3)
    async with serve_memory("http://:0") as memory:
        status, fields, body = await ask(memory, get("/stream"))
    assert (status, fields[b"content-type"]) == (200, b"application/x-ndjson")
    assert body == b'{"n":1}\n[2]\n3\n'


async def test_no_item_at_all_is_an_empty_body(
    registry: oread.Registry, serve_memory: Any, closing: Closing
) -> None:
    """An iterator that ends at once is a reply, of nothing."""
    register(registry, closing, "sync")
    async with serve_memory("http://:0") as memory:
        status, _, body = await ask(memory, get("/stream"))
    assert (status, body) == (200, b"")


@pytest.mark.parametrize("kind", KINDS)
async def test_server_sent_events_when_asked_for(
    registry: oread.Registry, serve_memory: Any, closing: Closing, kind: str
) -> None:
    """Each item is an event; lines of its data are split; a value may say more."""
    event = oread.ServerSentEvent({"n": 1}, event="tick", id="7", retry=500)
    register(registry, closing, kind, "one\r\ntwo", event, b"")
    async with serve_memory("http://:0") as memory:
        status, fields, body = await ask(memory, get("/stream", "Accept: text/html, Text/Event-Stream;q=0.5"))
    assert (status, fields[b"content-type"], fields[b"cache-control"], fields[b"vary"]) == (
        200,
        b"text/event-stream",
        b"no-cache",
        b"Accept",
    )
    assert body == (b'data: one\ndata: two\n\nevent: tick\nid: 7\nretry: 500\ndata: {"n":1}\n\ndata: \n\n')


async def test_event_stream_is_kept_alive_by_comments(
    registry: oread.Registry, serve_memory: Any, closing: Closing, autojump_clock: MockClock
) -> None:
    """A comment each 15 s of silence, the first with the head; none while items come, none afterwards."""
    register(registry, closing, "slowly", 20.0, "one", 10.0, "two", 31.0, "three")
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(get("/stream", "Accept: text/event-stream"))
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += await client.receive_some()
        await trio.sleep(40)
        await client.send_eof()
        assert await client.receive_all() == b""
    words = [
        word
        for line in received.partition(b"\r\n\r\n")[2].splitlines()
        for word in (b"keep-alive", b"one", b"two", b"three")
        if word in line
    ]
    assert words == [b"keep-alive", b"one", b"two", b"keep-alive", b"keep-alive", b"three"]


async def test_failure_after_a_comment_is_abrupt(
    registry: oread.Registry, serve_memory: Any, closing: Closing, autojump_clock: MockClock
) -> None:
    """Once the head is out there is no other status."""
    register(registry, closing, "slowly", 20.0, LookupError("on purpose"))
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(get("/stream", "Accept: text/event-stream"))
        received = await client.receive_all()
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b": keep-alive\n\n\r\n")


@pytest.mark.parametrize("kind", ["slowly", "async slowly"])
async def test_http_fin_ends_the_stream_after_a_grace(
    registry: oread.Registry, serve_memory: Any, closing: Closing, kind: str, autojump_clock: MockClock
) -> None:
    """Within the grace items still go out; after it the iterator is cancelled and closed."""
    register(registry, closing, kind, "one", 0.5, "two", 1e6, "three")
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(get("/stream"))
        await client.send_eof()
        received = await client.receive_all()
        assert received.endswith(b"3\r\ntwo\r\n")
        assert memory.refused["peer_gone"] == 1
        assert trio.current_time() < 1e5
    assert closing.closed == ["async"]


@pytest.mark.parametrize("kind", KINDS)
async def test_grace_holds_while_output_is_pending(
    registry: oread.Registry, serve_memory: Any, closing: Closing, kind: str, autojump_clock: MockClock
) -> None:
    """A peer that has sent its FIN and reads nothing is gone after the grace, not at the stall deadline."""
    register(registry, closing, kind, *[bytes(1024)] * 100)
    async with serve_memory("http://:0?pending_bytes=4096&stall_seconds=100") as memory:
        client = memory.client(room=1024)
        await client.send_all(get("/stream"))
        await client.send_eof()
        await trio.sleep(3)
        assert len(closing.closed) == 1
        assert memory.refused["peer_gone"] == 1


@pytest.mark.parametrize("url", ["tcp://:0/stream?framing=lines", "tcp://:0/stream", "http://:0"])
async def test_memory_resets_as_a_socket_does(
    registry: oread.Registry, serve_memory: Any, closing: Closing, url: str
) -> None:
    """So a test without sockets sees that a reply was broken off."""
    register(registry, closing, "slowly", "one", 0.001, LookupError("on purpose"))
    async with serve_memory(url) as memory:
        client = memory.client()
        await client.send_all(get("/stream", version="1.0") if url.startswith("http") else b"x\n")
        with pytest.raises(trio.BrokenResourceError, match="reset"):
            await client.receive_all()


async def test_foreign_client_reads_chunks(
    registry: oread.Registry, serve_one: Any, closing: Closing
) -> None:
    """The standard library's client reads a streamed reply on a real socket."""
    import http.client

    register(registry, closing, "slowly", *["a" * 1000] * 100)
    async with serve_one("http://127.0.0.1:0") as service:

        def fetch() -> bytes:
            connection = http.client.HTTPConnection("127.0.0.1", service.endpoints[0].port, timeout=10)
            try:
                connection.request("GET", "/stream")
                return connection.getresponse().read()
            finally:
                connection.close()

        assert await trio.to_thread.run_sync(fetch) == b"a" * 100_000


async def test_close_delimited_reply_that_fails_resets(
    registry: oread.Registry, serve_one: Any, closing: Closing
) -> None:
    """Without chunks only a reset tells a client of HTTP/1.0 that something is missing."""
    register(registry, closing, "slowly", "one", 0.01, LookupError("on purpose"))
    async with serve_one("http://127.0.0.1:0") as service:
        stream = await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port)
        async with stream:
            await stream.send_all(get("/stream", version="1.0"))
            with pytest.raises(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass


# UDP


@pytest.mark.parametrize("kind", ["sync", "slowly"])
async def test_udp_refuses_generator_functions_at_start(registry: oread.Registry, kind: str) -> None:
    """A reply by UDP is one datagram; that is said before anything is served."""

    def sync(data: bytes) -> Iterator[bytes]:
        yield data

    async def slowly(data: bytes) -> AsyncIterator[bytes]:
        yield data

    registry.on("stream", sync if kind == "sync" else slowly)
    with pytest.raises(oread.RegistrationError, match="one datagram"):
        async with oread.open_service(registry, "udp://127.0.0.1:0/stream"):
            pytest.fail("served")


@pytest.mark.parametrize("kind", KINDS)
async def test_udp_counts_an_iterator_as_a_failure(
    registry: oread.Registry, closing: Closing, kind: str, client: Any
) -> None:
    """What only shows at run time is the handler's failure: nothing is sent, nothing stays open."""
    register(registry, closing, kind, b"one")
    registry.on("after", lambda data: data)
    async with oread.open_service(registry, "udp://127.0.0.1:0/stream", "udp://127.0.0.1:0/after") as service:
        await client.send(b"x", service.endpoints[0].port)
        assert await client.ask(b"y", service.endpoints[1].port) == b"y"
        while not service.statistics().endpoints[0].failures:
            await trio.lowlevel.checkpoint()
        assert client.received_nothing()


def test_events_take_one_line_only() -> None:
    """A name or id with a line end would be another event."""
    for wrong in ({"event": "a\nb"}, {"id": "a\rb"}, {"id": "a\0b"}, {"retry": -1}, {"retry": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            oread.ServerSentEvent("x", **wrong)
