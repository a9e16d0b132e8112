"""`connect`: one client for every transport, typed, and honest after a fault."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel

import oread
from oread.client import LIMIT_BYTES, connect_by, parse_target

ServePeer = Callable[[Callable[[trio.SocketStream], Awaitable[None]]], AbstractAsyncContextManager[int]]

KEPT = ("tcp://127.0.0.1:0/{}?framing=lines", "tcp://127.0.0.1:0/{}?framing=length", "http://127.0.0.1:0")
"""Endpoints on which a connection serves several calls."""
ALL = ("tcp://127.0.0.1:0/{}", *KEPT, "udp://127.0.0.1:0/{}", "unix://{path}/oread.sock?event={}")


@attrs.frozen
class Order:
    """What is asked for."""

    item: str
    count: int


@attrs.frozen
class Receipt:
    """What comes back."""

    total: int


@pytest.fixture
def registry() -> oread.Registry:
    """Handlers that fail, wait, and count who called."""
    registry = oread.Registry()
    registry.seen = []  # type: ignore[attr-defined]

    @registry.on("echo")
    def echo(data: bytes) -> bytes:
        return data

    @registry.on("slow")
    async def slow(data: bytes) -> bytes:
        await trio.sleep(0.05 if data == b"a" else 0)
        return data

    @registry.on("forever")
    async def forever(data: bytes) -> bytes:
        await trio.sleep_forever()
        return b""

    @registry.on("fails")
    def fails(data: bytes) -> bytes:
        raise LookupError("on purpose")

    @registry.on("busy")
    def busy(data: bytes) -> bytes:
        raise oread.Busy("no room", retry_seconds=7)

    @registry.on("got", methods=("GET",))
    def got(data: bytes) -> bytes:
        return b"got"

    @registry.on("note")
    def note(data: bytes, message: oread.Message) -> bytes:
        registry.seen.append((data, str(message.peer)))  # type: ignore[attr-defined]
        return b"unasked"

    @registry.on("order")
    def order(data: bytes) -> bytes:
        return b'{"total": 6}' if json.loads(data) == {"item": "a", "count": 3} else b'{"total": "six"}'

    @registry.on("nothing")
    def nothing(data: bytes) -> None:
        return None

    return registry


@asynccontextmanager
async def connected(
    registry: oread.Registry, url: str, event: str, path: Path | None = None, **options: Any
) -> AsyncIterator[oread.Client]:
    """Serve one event at a URL and connect to it; stuck is failed."""
    with trio.fail_after(30):
        async with (
            oread.open_service(registry, url.format(event, path=path)) as service,
            oread.connect(service.endpoints[0], **options) as client,
        ):
            yield client


@pytest.mark.parametrize("url", ALL)
async def test_calls_are_answered_one_after_the_other(
    registry: oread.Registry, url: str, tmp_path: Path
) -> None:
    """The same calls give the same replies on every transport."""
    async with connected(registry, url, "echo", tmp_path) as client:
        assert [await client.call("echo", data) for data in (b"one", "zwei", [3])] == [
            b"one",
            b"zwei",
            b"[3]",
        ]


@pytest.mark.parametrize("url", KEPT)
async def test_a_connection_is_kept(registry: oread.Registry, url: str) -> None:
    """Calls of one client come by one connection."""
    async with connected(registry, url, "note") as client:
        await client.call("note", b"1")
        await client.call("note", b"2")
    assert len({peer for _, peer in registry.seen}) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("url", ALL)
async def test_calls_of_two_tasks_are_not_mixed_up(
    registry: oread.Registry, url: str, tmp_path: Path
) -> None:
    """Each task gets its own reply, the slow one too."""
    replies = {}
    async with connected(registry, url, "slow", tmp_path) as client, trio.open_nursery() as nursery:

        async def ask(data: bytes) -> None:
            replies[data] = await client.call("slow", data)

        for data in (b"a", b"b", b"c"):
            nursery.start_soon(ask, data)
    assert replies == {b"a": b"a", b"b": b"b", b"c": b"c"}


@pytest.mark.parametrize("url", ALL)
async def test_a_reply_is_decoded_into_its_type(registry: oread.Registry, url: str, tmp_path: Path) -> None:
    """A value goes out as JSON, and the reply comes back as the type asked for."""
    async with connected(registry, url, "order", tmp_path) as client:
        assert await client.call("order", Order("a", 3), reply=Receipt) == Receipt(6)
        assert await client.call("order", Order("a", 3), reply=str) == '{"total": 6}'
        with pytest.raises(oread.HandlerError, match=r"not Receipt.*\$\.total"):
            await client.call("order", Order("b", 3), reply=Receipt)
        assert await client.call("order", Order("a", 3), reply=dict[str, int] | None) == {"total": 6}


@pytest.mark.parametrize("url", KEPT)
async def test_a_deadline_ends_the_client(registry: oread.Registry, url: str) -> None:
    """After a deadline in the middle of an exchange the connection is closed for good."""
    async with connected(registry, url, "forever") as client:
        with pytest.raises(oread.TimedOut, match=r"0\.05 s"):
            await client.call("forever", b"x", deadline=0.05)
        with pytest.raises(trio.ClosedResourceError, match="cut off"):
            await client.call("forever", b"x")
        with pytest.raises(trio.ClosedResourceError):
            await client.emit("forever", b"x")
        with pytest.raises(trio.ClosedResourceError):
            await anext(client.stream("forever", b"x"))


@pytest.mark.parametrize("url", ALL)
async def test_a_cancelled_call_ends_the_client(registry: oread.Registry, url: str, tmp_path: Path) -> None:
    """What was cancelled in the middle is told to whoever waits behind it."""
    failures: list[BaseException] = []
    async with connected(registry, url, "forever", tmp_path) as client, trio.open_nursery() as nursery:

        async def wait() -> None:
            try:
                await client.call("forever", b"y")
            except trio.ClosedResourceError as error:
                failures.append(error)

        with trio.move_on_after(0.05):
            nursery.start_soon(_after_blocked, wait)
            await client.call("forever", b"x")
    assert len(failures) == 1


async def _after_blocked(wait: Callable[[], Awaitable[None]]) -> None:
    await trio.lowlevel.checkpoint()
    await wait()


async def test_waiting_for_ones_turn_harms_nobody(registry: oread.Registry) -> None:
    """A deadline that passes before the exchange began leaves the connection as it was."""
    async with connected(registry, KEPT[0], "slow") as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.call, "slow", b"a")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(oread.TimedOut):
            await client.call("slow", b"b", deadline=0)
        assert await client.call("slow", b"c") == b"c"


async def test_http_statuses_are_our_errors(registry: oread.Registry) -> None:
    """What the service refused is raised as its handlers would, and calls go on."""
    async with connected(registry, "http://127.0.0.1:0", "") as client:
        with pytest.raises(oread.NotFound):
            await client.call("missing", b"x")
        with pytest.raises(oread.NotAllowed) as refused:
            await client.call("got")
        assert refused.value.allowed == ("GET", "HEAD", "OPTIONS")
        with pytest.raises(oread.Busy, match="no room") as busy:
            await client.call("busy")
        assert busy.value.retry_seconds == 7
        with pytest.raises(oread.HandlerError):
            await client.emit("fails")
        with pytest.raises(oread.TooLarge):
            await client.call("echo", bytes(2 << 20))
        assert await client.call("nothing", reply=None) is None
        assert await client.call("echo", b"still here") == b"still here"


async def test_method_and_fields_of_requests_are_the_callers(registry: oread.Registry) -> None:
    """`method` and `headers` go with every request, and what can't be sent is refused."""
    async with connected(registry, "http://127.0.0.1:0", "", method="GET") as client:
        assert await client.call("got") == b"got"
    for options in ({"method": "G T"}, {"headers": [("host", "x")]}, {"headers": [("x", "a\nb")]}):
        with pytest.raises(oread.EndpointError):
            async with oread.connect("http://127.0.0.1:1/", **options):  # type: ignore[arg-type]
                pass
    with pytest.raises(oread.EndpointError, match="no query"):
        async with oread.connect("http://127.0.0.1:1/?a=b"):
            pass


@pytest.mark.parametrize("url", KEPT[:2])
async def test_a_failing_handler_breaks_a_framed_connection(registry: oread.Registry, url: str) -> None:
    """A stream has no place for errors: the end of the connection is told."""
    async with connected(registry, url, "fails") as client:
        with pytest.raises(trio.BrokenResourceError):
            await client.call("fails", b"x")
        with pytest.raises(trio.ClosedResourceError):
            await client.call("fails", b"x")


@pytest.mark.parametrize("url", ALL)
async def test_emit_does_not_disturb_calls(registry: oread.Registry, url: str, tmp_path: Path) -> None:
    """A reply to what was emitted is never taken for the reply to a call."""
    async with connected(registry, url, "note", tmp_path) as client:
        for number in range(5):
            await client.emit("note", f"{number}")
        assert await client.call("note", b"call") == b"unasked"
        while len(registry.seen) < 2:  # type: ignore[attr-defined]
            await trio.lowlevel.checkpoint()
    told = b"".join(data for data, _ in registry.seen if data != b"call")  # type: ignore[attr-defined]
    assert told == b"01234"


@pytest.mark.parametrize("url", ALL[:3])
async def test_leaving_waits_until_what_was_told_is_read(registry: oread.Registry, url: str) -> None:
    """Nothing that was emitted is lost by a client that leaves at once."""
    with trio.fail_after(30):
        async with oread.open_service(registry, url.format("note")) as service:
            async with oread.connect(service.endpoints[0]) as client:
                for number in range(2_000):
                    await client.emit("note", f"{number:04}")
            told = b"".join(data for data, _ in registry.seen)  # type: ignore[attr-defined]
    assert told == b"".join(b"%04d" % number for number in range(2_000))


@pytest.mark.parametrize("url", ALL[:4])
async def test_a_stream_gives_item_by_item(registry: oread.Registry, url: str) -> None:
    """An answer of one item is a stream of one item; calls go on beside it."""
    async with connected(registry, url, "echo") as client:
        stream = client.stream("echo", b"one")
        assert await client.call("echo", b"beside") == b"beside"
        assert [item async for item in stream] == [b"one"]
        assert [item async for item in stream] == []
        assert [item async for item in client.stream("echo", [1], reply=list[int])] == [[1]]


async def test_what_is_left_in_the_middle_is_closed(serve_peer: ServePeer) -> None:
    """An iteration that is broken off, and never closed, ends with the client."""
    ended = trio.Event()

    async def count(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"1\n2\n3\n")
        try:
            async for _ in stream:
                pass
            await stream.send_all(b"4\n")
            await stream.send_all(b"5\n")
        except trio.BrokenResourceError:
            pass
        ended.set()

    with trio.fail_after(30):
        async with serve_peer(count) as port:
            async with oread.connect(f"tcp://127.0.0.1:{port}?framing=lines") as client:
                async for item in client.stream("count"):
                    assert item == b"1"
                    break
                async with client.stream("count") as items:
                    assert await anext(items) == b"1"
                with pytest.raises(StopAsyncIteration):
                    await anext(items)
            await ended.wait()


async def test_two_tasks_on_one_stream_are_refused(serve_peer: ServePeer) -> None:
    """The second that waits is told."""

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with serve_peer(silent) as port, oread.connect(f"tcp://127.0.0.1:{port}") as client:
        items = client.stream("x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(anext, items)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await anext(items)
            nursery.cancel_scope.cancel()


async def test_more_than_was_asked_for_is_not_taken_for_a_reply(serve_peer: ServePeer) -> None:
    """A peer that answers twice is found out at the next call."""

    async def twice(stream: trio.SocketStream) -> None:
        async for _ in stream:
            await stream.send_all(b"one\ntwo\n")

    async with serve_peer(twice) as port, oread.connect(f"tcp://127.0.0.1:{port}?framing=lines") as client:
        assert await client.call("x", b"?") == b"one"
        with pytest.raises(trio.BrokenResourceError, match="more than it was asked"):
            await client.call("x", b"?")


@pytest.mark.parametrize("framing", ["lines", "length"])
async def test_a_reply_cut_short_is_no_reply(serve_peer: ServePeer, framing: str) -> None:
    """The end of the connection inside a message, or before one, is a broken connection."""

    async def cut(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            if framing == "length":
                await stream.send_all(b"\0\0\0\x09half")

    async with serve_peer(cut) as port:
        for _ in range(2):
            async with oread.connect(f"tcp://127.0.0.1:{port}?framing={framing}") as client:
                with pytest.raises(trio.BrokenResourceError):
                    await client.call("x", b"?")
        if framing == "length":
            async with oread.connect(f"tcp://127.0.0.1:{port}?framing={framing}") as client:
                with pytest.raises(trio.BrokenResourceError, match="cut short"):
                    await anext(client.stream("x", b"?"))


async def test_what_cannot_be_sent_is_refused_before_it_is(registry: oread.Registry) -> None:
    """A payload that no transport, or not this one, can carry costs nothing."""
    async with connected(registry, KEPT[0], "echo") as client:
        for payload in (b"a\nb", object(), oread.Reply(b"x")):
            with pytest.raises(oread.BadRequest):
                await client.call("echo", payload)
            with pytest.raises(oread.BadRequest):
                await client.emit("echo", payload)
        with pytest.raises(oread.NotFound, match="'echo' alone"):
            await client.call("other")
        assert await client.call("echo", b"fine") == b"fine"
    async with connected(registry, "udp://127.0.0.1:0/{}", "echo") as client:
        with pytest.raises(oread.TooLarge):
            await client.call("echo", bytes(65_508))
        with pytest.raises(oread.TooLarge):
            await client.emit("echo", bytes(65_508))
        with pytest.raises(oread.BadRequest, match="use call"):
            await anext(client.stream("echo"))


async def test_who_is_not_there_is_an_os_error() -> None:
    """A refused connection is the system's word, before the block is entered."""
    with pytest.raises(ConnectionRefusedError):
        async with oread.connect("http://127.0.0.1:1/"):
            pass
    with pytest.raises(oread.EndpointError, match="one peer"):
        async with oread.connect("udp://239.255.70.9:9"):
            pass


async def test_the_error_of_the_block_stays_as_it_was(serve_peer: ServePeer) -> None:
    """No group is put around what the caller raises, nor around a group of theirs."""

    async def silent(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async with serve_peer(silent) as port:
        for error in (LookupError(), ExceptionGroup("theirs", [LookupError()])):
            with pytest.raises(type(error)) as caught:
                async with oread.connect(f"tcp://127.0.0.1:{port}"):
                    raise error
            assert caught.value is error


async def test_a_reply_beyond_all_bounds_is_given_up(serve_peer: ServePeer) -> None:
    """A peer that never stops is bounded."""

    async def flood(stream: trio.SocketStream) -> None:
        try:
            while True:
                await stream.send_all(bytes(1 << 20))
        except trio.BrokenResourceError:
            pass

    async with serve_peer(flood) as port, oread.connect(f"tcp://127.0.0.1:{port}") as client:
        with pytest.raises(oread.TooLarge, match=str(LIMIT_BYTES)):
            await client.call("x")


class _Foreign(BaseHTTPRequestHandler):
    """The standard library's server, with a body for every path."""

    protocol_version = "HTTP/1.1"
    chunks: tuple[bytes, ...] = (b"data: one\n\n", b"data: two\r\ndata:three\r\n\r\n: hi\n\n", b"data: cut")

    def do_POST(self) -> None:
        """Answer by chunks, with server-sent events, a redirect, or an echo."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/echo":
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        elif self.path == "/api/moved":
            self.send_response(302, "Found")
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"there")
        else:
            kind = "text/event-stream; charset=utf-8" if self.path == "/api/events" else "text/plain"
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for chunk in self.chunks:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def foreign() -> Iterator[int]:
    """A running `http.server`; gives its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Foreign) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


async def test_a_foreign_server_is_called(foreign: int) -> None:
    """Keep-alive, a path before the events, chunks and events of `http.server`."""
    with trio.fail_after(30):
        async with oread.connect(f"http://127.0.0.1:{foreign}/api/") as client:
            assert await client.call("echo", {"a": 1}, reply=dict[str, int]) == {"a": 1}
            with pytest.raises(oread.BadRequest, match="302 Found: there"):
                await client.call("moved")
            assert await client.call("chunks") == b"".join(_Foreign.chunks)
            assert [item async for item in client.stream("chunks")] == list(_Foreign.chunks)
            assert [item async for item in client.stream("events")] == [b"one", b"two\nthree"]
            with pytest.raises(oread.BadRequest, match="302"):
                await anext(client.stream("moved"))


async def test_a_server_that_closes_is_called_anew(serve_peer: ServePeer) -> None:
    """After `Connection: close` the next call opens another connection."""
    connections = 0

    async def once(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")

    async with serve_peer(once) as port, oread.connect(f"http://127.0.0.1:{port}") as client:
        assert [await client.call("x"), await client.call("x")] == [b"ok", b"ok"]
    assert connections == 2


@pytest.mark.parametrize(
    "sent", [b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
)
async def test_nonsense_is_a_broken_connection(serve_peer: ServePeer, sent: bytes) -> None:
    """What is no response, or half of one, is never an answer."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(sent)

    async with serve_peer(answer) as port, oread.connect(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(trio.BrokenResourceError):
            async for item in client.stream("x"):
                assert item == b"half"
        with pytest.raises(trio.BrokenResourceError):
            await client.call("x")
        with pytest.raises(trio.ClosedResourceError):
            await client.call("x")


async def test_chunks_before_a_cut_are_given(serve_peer: ServePeer) -> None:
    """Items that came whole are given before the error is raised."""

    async def cut(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n9\r\nha"
            )

    items = []
    async with serve_peer(cut) as port, oread.connect(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(trio.BrokenResourceError):
            async for item in client.stream("x"):
                items.append(item)  # noqa: PERF401 - what came before the error counts
    assert items == [b"one", b"two"]


class _Stepping(trio.abc.HalfCloseableStream):
    """A stream that answers while its `send_all` has a step or two to go."""

    def __init__(self, reply: bytes, steps: int) -> None:
        self.reply = reply
        self.steps = steps
        self.asked = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, then take some steps more."""
        self.asked.set()
        for _ in range(self.steps):
            await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Answer as soon as it was asked."""
        await self.asked.wait()
        self.asked = trio.Event()
        return self.reply

    async def wait_send_all_might_not_block(self) -> None:
        """Never wait."""

    async def send_eof(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""


async def test_an_answer_may_be_quicker_than_the_sender() -> None:
    """The system has taken all, only the sending task does not know it yet; endless sending is told."""
    target = parse_target("tcp://127.0.0.1:1?framing=lines")

    async def call(steps: int) -> bytes:
        async def dial() -> _Stepping:
            return _Stepping(b"quick\n", steps)

        async with connect_by(target, dial) as client:
            return await client.call("x", b"?")

    assert await call(2) == b"quick"
    with pytest.raises(trio.BrokenResourceError, match="asked in full"):
        await call(1_000)


@pytest.mark.parametrize("peer_ends", [True, False])
async def test_a_client_that_told_something_leaves_behind_its_peer(
    peer_ends: bool, autojump_clock: Any
) -> None:
    """It ends its sending and waits for the peer's end, but not for ever."""
    events: list[str] = []
    ours, theirs = trio.testing.memory_stream_pair()

    async def dial() -> trio.abc.HalfCloseableStream:
        await trio.lowlevel.checkpoint()
        return ours

    async def peer() -> None:
        events.extend([bytes(data).decode() async for data in theirs])
        await trio.sleep(1 if peer_ends else 1_000)
        events.append("peer left")
        await theirs.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer)
        async with connect_by(parse_target("tcp://127.0.0.1:1?framing=lines"), dial) as client:
            await client.emit("x", b"told")
        events.append("client left")
    ends = ["peer left", "client left"]
    assert events == ["told\n", *(ends if peer_ends else reversed(ends))]


@pytest.mark.parametrize("url", [ALL[0], ALL[1], ALL[4]])
async def test_an_emit_does_not_wait_for_a_call(registry: oread.Registry, url: str) -> None:
    """Where it has a connection of its own, a call that takes long holds up calls only."""
    async with connected(registry, url, "forever") as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.call, "forever", b"x")
        await trio.testing.wait_all_tasks_blocked()
        await client.emit("forever", b"y", deadline=30)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("url", ALL)
async def test_leaving_ends_what_others_wait_for(registry: oread.Registry, url: str, tmp_path: Path) -> None:
    """A call and a stream of another task end with the client, each with the one error that says so."""
    errors: list[str] = []

    async def note(wait: Callable[[], Awaitable[object]]) -> None:
        try:
            await wait()
        except trio.ClosedResourceError:
            errors.append("closed")

    async with trio.open_nursery() as nursery, connected(registry, url, "forever", tmp_path) as client:
        waits = [lambda: client.call("forever", b"x")]
        if not url.startswith("udp"):
            waits.append(lambda: anext(client.stream("forever", b"x")))
        for wait in waits:
            nursery.start_soon(note, wait)
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert errors == ["closed"] * len(waits)
