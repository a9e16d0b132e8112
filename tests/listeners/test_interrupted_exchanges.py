"""Cancelled, drained or reset at any step: of WebSockets and applications nothing is left."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from http_exchanges import get, receive_until
from websocket_frames import BINARY, CLOSE, MORE, PING, PONG, TEXT, Socket, close, frame, open_socket

import oread
from listeners.asgi_applications import Call, without_lifespan
from listeners.every_step import WAYS, Scene, interrupt_everywhere

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def handlers(registry: oread.Registry, tmp_path: Path) -> None:
    """Register what the scenes call beside the handlers of every test."""

    @registry.on("counted")
    def count(data: bytes) -> Iterator[bytes]:
        for _ in range(4):
            yield data * 1_000

    @registry.on("counted/slowly")
    async def count_slowly(data: bytes) -> AsyncIterator[bytes]:
        for _ in range(4):
            await trio.lowlevel.checkpoint()
            yield data * 1_000

    async def work(data: bytes) -> bytes:
        try:
            for _ in range(3):
                await trio.lowlevel.checkpoint()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
        return data

    registry.on("limited", work, limit=1)
    registry.on("shielded", work, limit=1, shield=True)

    @registry.on("upper")
    async def upper(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for part in body:
            yield part.upper()

    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000)
    registry.on("file", lambda: oread.FileReply(path))


# WebSockets of handlers


async def talk_to_handlers(scene: Scene) -> None:
    """Sync and async handlers, fragments, pings, and the goodbye."""
    socket = await open_socket(scene, "/echo")
    await socket.send(frame(TEXT, b"a", fin=False), frame(PING, b"p"), frame(MORE, b"b"))
    assert await socket.receive(2) == [(PONG, b"p"), (TEXT, b"ab")]
    waits = await open_socket(scene, "/waits")
    await waits.send(frame(BINARY, b"1"), frame(BINARY, b"2"))
    assert await waits.receive(2) == [(BINARY, b"1"), (BINARY, b"2")]
    await socket.send(close(1000))
    assert await socket.receive_rest() == [(CLOSE, b"1000 ")]


async def stream_replies(scene: Scene) -> None:
    """Items of sync and async iterators, more than the peer takes at once."""
    for path in ("/counted", "/counted/slowly"):
        socket = Socket(scene.client(room=100))
        await socket.open(path)
        await socket.send(frame(BINARY, b"x"))
        assert await socket.receive(4) == [(BINARY, b"x" * 1_000)] * 4


async def wait_for_places(scene: Scene) -> None:
    """Messages of limited events, of each of which one is worked on."""
    sockets = [await open_socket(scene, path) for path in ("/limited", "/shielded") * 3]
    for socket in sockets:
        await socket.send(frame(TEXT, b"x"))
    for socket in sockets:
        assert await socket.receive() == [(TEXT, b"x")]


async def fail_and_misbehave(scene: Scene) -> None:
    """A handler that fails, a frame that is half there, one that breaks the rules."""
    failing, half, odd = [await open_socket(scene, path) for path in ("/fails", "/echo", "/waits")]
    await half.send(frame(TEXT, b"abc")[:4])
    await odd.send(frame(TEXT, b"1"), frame(0x3))
    assert (await odd.receive_rest())[-1][0] == CLOSE
    await failing.send(frame(TEXT, b"1"), frame(TEXT, b"2"))
    assert (await failing.receive())[0] == (CLOSE, b"1011 the handler failed")
    await failing.send(close(1011))
    assert await failing.receive_rest() == []


# requests of handlers that take their time


async def send_and_receive_bodies(scene: Scene) -> None:
    """A body in parts, asked for by a 100 and streamed back; a file; a request behind both."""
    client = scene.client(room=500)
    await client.send_all(get("/upper", "Transfer-Encoding: chunked", "Expect: 100-continue", method="POST"))
    await receive_until(client, b"100 Continue\r\n\r\n")
    for part in (b"a" * 600, b"b" * 600):
        await client.send_all(b"%x\r\n%b\r\n" % (len(part), part))
    await client.send_all(b"0\r\n\r\n" + get("/file") + get("/none"))
    received = await receive_until(client, b"HTTP/1.1 204 No Content")
    assert received.count(b"B") >= 600
    assert b"x" * 1_000 in received


# applications


async def answer_requests(scene: Scene) -> None:
    """Requests with bodies, streamed responses, background work, and what is pipelined behind."""
    client = scene.client(room=500)
    await client.send_all(get("/app/body", "Content-Length: 4", "Expect: 100-continue", method="POST"))
    await receive_until(client, b"100 Continue\r\n\r\n")
    await client.send_all(b"ab")
    await trio.lowlevel.checkpoint()
    await client.send_all(b"cd" + get("/app/stream") + get("/app/behind") + get("/none"))
    received = await receive_until(client, b"HTTP/1.1 204 No Content")
    assert b"abcd" in received


async def serve_requests(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer by the path."""
    start = {"type": "http.response.start", "status": 200, "headers": []}
    if scope["path"] == "/app/stream":
        await send(start)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            await send({"type": "http.response.body", "body": b"x" * 1_000, "more_body": True})
        await send({"type": "http.response.body"})
        return
    body, message = b"", await receive()
    while message["type"] == "http.request" and message["more_body"]:
        body += message["body"]
        message = await receive()
    await trio.lowlevel.checkpoint()
    await send(start)
    await send({"type": "http.response.body", "body": body})
    if scope["path"] == "/app/behind":
        while (await receive())["type"] != "http.disconnect":
            pass
        await trio.lowlevel.checkpoint()


async def talk_to_an_application(scene: Scene) -> None:
    """Accepted, spoken with, closed by either side; refused; left without an answer."""
    first = await open_socket(scene, "/app/talk")
    await first.send(frame(TEXT, b"one"), frame(PING), frame(BINARY, b"two"))
    assert sorted(await first.receive(3)) == [(TEXT, b"one"), (BINARY, b"two"), (PONG, b"")]
    second = await open_socket(scene, "/app/talk")
    await second.send(frame(TEXT, b"end"))
    assert await second.receive() == [(CLOSE, b"4000 enough")]
    await second.send(close(4_000))
    assert await second.receive_rest() == []
    await first.send(close(1000))
    assert await first.receive_rest() == [(CLOSE, b"1000 ")]
    for path, status in (("/app/refuse", b"403"), ("/app/leave", b"500")):
        refused = await open_socket(scene, path)
        assert refused.head.startswith(b"HTTP/1.1 " + status)


async def serve_sockets(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer by the path, then send back what comes, until it is `end`."""
    await receive()
    if scope["path"] == "/app/leave":
        return
    await trio.lowlevel.checkpoint()
    if scope["path"] == "/app/refuse":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "end":
            await send({"type": "websocket.close", "code": 4_000, "reason": "enough"})
            return
        data = {name: message[name] for name in ("text", "bytes") if message.get(name) is not None}
        await send({"type": "websocket.send", **data})


APPLICATIONS: dict[Any, Call] = {answer_requests: serve_requests, talk_to_an_application: serve_sockets}
SCENES = (
    talk_to_handlers,
    stream_replies,
    wait_for_places,
    fail_and_misbehave,
    send_and_receive_bodies,
    answer_requests,
    talk_to_an_application,
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("use", SCENES, ids=lambda use: use.__name__)
async def test_interrupted_at_any_step_nothing_is_left(
    registry: oread.Registry,
    use: Callable[[Scene], Awaitable[None]],
    way: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No socket, task, descriptor, place of a limited event, nor anything in memory."""
    caplog.set_level(logging.CRITICAL, logger="oread")  # what is captured keeps frames, and so connections
    if use in APPLICATIONS:
        registry.mount_asgi("app", without_lifespan(APPLICATIONS[use]))
    assert await interrupt_everywhere(registry, use, way) > 20


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "use", [talk_to_handlers, answer_requests, talk_to_an_application], ids=lambda use: use.__name__
)
async def test_interrupted_at_any_step_of_tls_nothing_is_left(
    registry: oread.Registry,
    use: Callable[[Scene], Awaitable[None]],
    way: str,
    tls_files: Any,
    loopback_pem: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the handshake, in what follows, and in the last words of TLS."""
    caplog.set_level(logging.CRITICAL, logger="oread")
    if use in APPLICATIONS:
        registry.mount_asgi("app", without_lifespan(APPLICATIONS[use]))
    url, context = f"https://:0?cert={loopback_pem}", tls_files.client_context()
    assert await interrupt_everywhere(registry, use, way, url=url, tls=context) > 20


class Lived:
    """An application whose lifespan has checkpoints, and what has become of it."""

    def __init__(self) -> None:
        self.begun = self.open = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await serve_requests(scope, receive, send)
            return
        assert (await receive())["type"] == "lifespan.startup"
        self.begun += 1
        self.open += 1
        try:
            await trio.lowlevel.checkpoint()
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            await trio.lowlevel.checkpoint()
            await send({"type": "lifespan.shutdown.complete"})
        finally:
            self.open -= 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_lifespan_interrupted_at_any_step_has_ended(registry: oread.Registry, way: str) -> None:
    """Of one that starts with the service, and of one that starts with its first request."""
    early, late = Lived(), Lived()
    registry.mount_asgi("early", early)

    async def ask_both(scene: Scene) -> None:
        for path, app in (("/early", early), ("/late", late)):
            with registry.mount_asgi("late", late):
                client = scene.client()
                await client.send_all(get(path))
                assert (await client.receive_some()).startswith(b"HTTP/1.1 200 ")
                assert app.begun

    def look() -> None:
        assert (early.open, late.open) == (0, 0)

    assert await interrupt_everywhere(registry, ask_both, way, look) > 20
