"""Real applications on Trio: Starlette, FastAPI and Quart-Trio, asked by httpx2 and trio-websocket."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import fastapi
import httpx2
import pytest
import quart
import trio
import trio.testing
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from trio_websocket import ConnectionClosed, ConnectionRejected

import oread
from listeners.trio_websockets import open_websocket

LIMIT_SECONDS = 20


@contextlib.asynccontextmanager
async def asking(registry: oread.Registry) -> AsyncIterator[tuple[httpx2.AsyncClient, oread.Service]]:
    """Serve on loopback, and give a client of it."""
    with trio.fail_after(LIMIT_SECONDS):
        async with oread.open_service(registry, "http://127.0.0.1:0") as service:
            base = f"http://127.0.0.1:{service.endpoints[0].port}"
            async with httpx2.AsyncClient(base_url=base) as client:
                yield client, service


class Shop:
    """A Starlette application, and what happened in it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.told = trio.Event()
        self.app = Starlette(
            routes=[
                Route("/", self.home),
                Route("/upload", self.upload, methods=["POST"]),
                Route("/count", self.count),
                Route("/endless", self.endless),
                Route("/fails", self.fails),
                Route("/later", self.later),
                Route("/moved", self.moved),
                WebSocketRoute("/ws", self.talk),
                WebSocketRoute("/no", self.refuse),
            ],
            lifespan=self.lifespan,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[dict[str, int]]:
        self.log.append("start")
        yield {"answer": 42}
        self.log.append("stop")

    async def home(self, request: Request) -> PlainTextResponse:
        client = "" if request.client is None else request.client.host
        return PlainTextResponse(f"{request.method} {request.url.path} {request.state.answer} {client}")

    async def upload(self, request: Request) -> JSONResponse:
        sizes = [len(part) async for part in request.stream()]
        return JSONResponse({"bytes": sum(sizes)})

    async def count(self, request: Request) -> StreamingResponse:
        async def numbers() -> AsyncIterator[str]:
            for number in range(3):
                await trio.lowlevel.checkpoint()
                yield f"{number}\n"

        return StreamingResponse(numbers())

    async def endless(self, request: Request) -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            try:
                while True:
                    yield "tick\n"
                    await trio.sleep(0.01)
            finally:
                self.log.append("stream closed")
                self.told.set()

        return StreamingResponse(stream())

    async def fails(self, request: Request) -> None:
        raise LookupError("on purpose")

    async def later(self, request: Request) -> PlainTextResponse:
        async def work() -> None:
            await self.told.wait()
            self.log.append("worked")

        return PlainTextResponse("at once", background=BackgroundTask(work))

    async def moved(self, request: Request) -> RedirectResponse:
        return RedirectResponse(request.url_for("home"))

    async def talk(self, socket: WebSocket) -> None:
        await socket.accept(subprotocol="chat")
        async for text in socket.iter_text():
            await socket.send_text(text.upper())
        self.log.append("hung up")
        self.told.set()

    async def refuse(self, socket: WebSocket) -> None:
        await socket.close()


async def test_starlette_is_served_beside_handlers(registry: oread.Registry) -> None:
    """Routes, redirects of its own, uploads and streams of any size, errors, HEAD; its lifespan around."""
    shop = Shop()
    registry.mount_asgi("shop", shop.app)
    registry.on("shop/own", lambda data: "a handler's")
    async with asking(registry) as (client, service):
        assert shop.log == ["start"]
        assert (await client.get("/shop/")).text == "GET /shop/ 42 127.0.0.1"
        redirected = await client.get("/shop", follow_redirects=True)
        assert (redirected.url.path, redirected.status_code) == ("/shop/", 200)
        assert (await client.get("/shop/moved")).headers["location"].endswith("/shop/")
        assert (await client.get("/shop/own")).text == "a handler's"
        assert (await client.get("/shop/none")).status_code == 404
        assert (await client.get("/shop/upload")).status_code == 405
        head = await client.head("/shop/")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 0
        assert (await client.post("/shop/upload", content=b"x" * 900_000)).json() == {"bytes": 900_000}

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(10):
                await trio.lowlevel.checkpoint()
                yield b"y" * 1_000

        assert (await client.post("/shop/upload", content=parts())).json() == {"bytes": 10_000}
        streamed = await client.get("/shop/count")
        assert (streamed.text, streamed.headers["transfer-encoding"]) == ("0\n1\n2\n", "chunked")
        assert (await client.get("/shop/fails")).status_code == 500
        found = service.statistics().endpoints[0]
        assert (found.failures, found.accepted) == (1, 1)
    assert shop.log == ["start", "stop"]


async def test_starlettes_background_tasks_hold_up_nobody(registry: oread.Registry) -> None:
    """The next request on the same connection is answered meanwhile; a drain waits for them."""
    shop = Shop()
    registry.mount_asgi("", shop.app)
    async with asking(registry) as (client, service):
        assert (await client.get("/later")).text == "at once"
        assert (await client.get("/")).status_code == 200
        assert "worked" not in shop.log
        shop.told.set()
        report = await service.drain(LIMIT_SECONDS)
        assert report.cancelled == ()
        assert shop.log[1] == "worked"


async def test_starlette_hears_of_a_client_that_goes(registry: oread.Registry) -> None:
    """A stream without an end is closed, and that is no failure."""
    shop = Shop()
    registry.mount_asgi("", shop.app)
    async with asking(registry) as (_, service):
        async with await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port) as stream:
            await stream.send_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        await shop.told.wait()
        await service.wait_idle()
        assert service.statistics().endpoints[0].failures == 0
    assert shop.log == ["start", "stream closed", "stop"]


async def test_a_cut_upload_raises_in_starlette(registry: oread.Registry) -> None:
    """`ClientDisconnect`, where it reads."""
    caught = trio.Event()

    async def upload(request: Request) -> PlainTextResponse:
        try:
            await request.body()
        except ClientDisconnect:
            caught.set()
        return PlainTextResponse("too late")

    registry.mount_asgi("", Starlette(routes=[Route("/", upload, methods=["POST"])]))
    async with asking(registry) as (_, service):
        async with await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port) as stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
            await trio.testing.wait_all_tasks_blocked()
        await caught.wait()


async def test_starlettes_websockets(registry: oread.Registry) -> None:
    """Accepted with a subprotocol, refused with 403, and told of the end."""
    shop = Shop()
    registry.mount_asgi("shop", shop.app)
    async with asking(registry) as (_, service):
        async with open_websocket(service, "/shop/ws", subprotocols=["chat"]) as client:
            assert client.subprotocol == "chat"
            for text in ("a", "b" * 70_000):
                await client.send_message(text)
                assert await client.get_message() == text.upper()
        await shop.told.wait()
        with pytest.RaisesGroup(ConnectionRejected, flatten_subgroups=True):
            async with open_websocket(service, "/shop/no"):
                pass
    assert shop.log == ["start", "hung up", "stop"]


async def test_fastapi_is_served(registry: oread.Registry) -> None:
    """Validation, sync endpoints in threads, its documentation, a WebSocket."""
    api = fastapi.FastAPI()

    @api.get("/items/{item_id}")
    async def read_item(item_id: int, q: str | None = None) -> dict[str, Any]:
        return {"item": item_id, "q": q}

    @api.get("/sync")
    def read_sync() -> str:
        return "from a thread"

    async def talk(socket: fastapi.WebSocket) -> None:
        await socket.accept()
        await socket.send_json(await socket.receive_json())
        await socket.close(4_000)

    api.add_api_websocket_route("/ws", talk)
    registry.mount_asgi("api/v1", api)
    async with asking(registry) as (client, service):
        assert (await client.get("/api/v1/items/7?q=x")).json() == {"item": 7, "q": "x"}
        assert (await client.get("/api/v1/items/x")).status_code == 422
        assert (await client.get("/api/v1/sync")).json() == "from a thread"
        assert (await client.get("/api/v1/openapi.json")).json()["servers"] == [{"url": "/api/v1"}]
        async with open_websocket(service, "/api/v1/ws") as socket:
            await socket.send_message('{"a":1}')
            assert await socket.get_message() == '{"a":1}'
            with pytest.raises(ConnectionClosed):
                await socket.get_message()
            assert socket.closed.code == 4_000


async def test_quart_trio_is_served(registry: oread.Registry) -> None:
    """Requests, uploads, a WebSocket, and what it does around serving."""
    app = QuartTrio("tests.quart")
    log: list[str] = []

    @app.before_serving
    async def begin() -> None:
        log.append("begin")

    @app.after_serving
    async def end() -> None:
        log.append("end")

    @app.route("/hello/<name>", methods=["GET", "POST"])
    async def hello(name: str) -> str:
        return f"{name} {len(await quart.request.get_data())}"

    @app.websocket("/ws")
    async def talk() -> None:
        while True:
            await quart.websocket.send((await quart.websocket.receive()).upper())

    registry.mount_asgi("q", app)
    async with asking(registry) as (client, service):
        assert log == ["begin"]
        assert (await client.get("/q/hello/you")).text == "you 0"
        assert (await client.post("/q/hello/you", content=b"x" * 100_000)).text == "you 100000"
        assert (await client.get("/q/none")).status_code == 404
        async with open_websocket(service, "/q/ws") as socket:
            await socket.send_message("a")
            assert await socket.get_message() == "A"
    assert log == ["begin", "end"]
