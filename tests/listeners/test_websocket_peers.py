"""WebSockets with real clients: trio-websocket and the `websockets` package, on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected
from websockets.exceptions import ConnectionClosedError as ClosedWithError
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

import oread
from listeners.trio_websockets import open_websocket

LIMIT_SECONDS = 20


def url_of(service: oread.Service, path: str) -> str:
    """Return where a WebSocket of the event is."""
    return f"ws://127.0.0.1:{service.endpoints[0].port}/{path}"


async def in_thread(work: Any) -> None:
    """Run a blocking client beside the service."""
    with trio.fail_after(LIMIT_SECONDS):
        await trio.to_thread.run_sync(work, abandon_on_cancel=True)


async def test_trio_websocket_talks_to_handlers(registry: oread.Registry, serve_one: Any) -> None:
    """Messages of both kinds, a subprotocol, pings, and the goodbye."""
    async with serve_one("http://127.0.0.1:0?subprotocols=chat") as service:
        with trio.fail_after(LIMIT_SECONDS):
            async with open_websocket(service, "/echo", subprotocols=["other", "chat"]) as client:
                assert client.subprotocol == "chat"
                for message in ("hellö", b"\xff\x00", "", "x" * 70_000):
                    await client.send_message(message)
                    assert await client.get_message() == message
                await client.ping(b"here?")
            assert client.closed.code == 1000
            async with open_websocket(service, "/fails") as client:
                await client.send_message("x")
                with pytest.raises(ConnectionClosed):
                    await client.get_message()
                assert (client.closed.code, client.closed.reason) == (1011, "the handler failed")
            with pytest.RaisesGroup(ConnectionRejected):
                async with open_websocket(service, "/missing"):
                    pass


async def test_a_drain_reaches_websockets(registry: oread.Registry, serve_one: Any) -> None:
    """As 1001, and the drain is over once it has answered."""
    async with serve_one("http://127.0.0.1:0") as service:

        def talk() -> None:
            with connect(url_of(service, "echo")) as client:
                report = trio.from_thread.run(service.drain, LIMIT_SECONDS)
                assert (report.cancelled, report.closed) == ((), 0)
                with pytest.raises(ConnectionClosedOK):
                    client.recv()
                assert client.close_code == 1001

        await in_thread(talk)


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_websockets_talks_to_handlers(
    registry: oread.Registry, serve_one: Any, compression: str | None
) -> None:
    """Large, fragmented and compressed messages, pings, and the goodbye."""

    @registry.on("count")
    async def count(up_to: int) -> AsyncIterator[dict[str, int]]:
        for number in range(up_to):
            await trio.lowlevel.checkpoint()
            yield {"number": number}

    async with serve_one("http://127.0.0.1:0?ws_deflate=true") as service:

        def talk() -> None:
            with connect(url_of(service, "echo"), compression=compression) as client:
                extensions = client.response.headers.get("Sec-WebSocket-Extensions", "")
                assert extensions.startswith("permessage-deflate") is (compression is not None)
                for message in ("x" * 300_000, b"\x00\xff" * 150_000, ""):
                    client.send(message)
                    assert client.recv() == message
                client.send(iter(["ä", "", "b"] * 100))
                assert client.recv() == "äb" * 100
                assert client.ping().wait(LIMIT_SECONDS)
            with connect(url_of(service, "count"), compression=compression) as client:
                client.send("3")
                assert [client.recv() for _ in range(3)] == [f'{{"number":{n}}}' for n in range(3)]
                client.close(4_001, "enough")
                assert client.close_code == 4_001

        await in_thread(talk)


async def test_a_message_over_the_limit_ends_websockets_with_1009(
    registry: oread.Registry, serve_one: Any
) -> None:
    """The client hears which limit it was."""
    async with serve_one("http://127.0.0.1:0?message_bytes=1000") as service:

        def talk() -> None:
            with connect(url_of(service, "echo"), compression=None) as client:
                client.send("x" * 1_000)
                assert len(client.recv()) == 1_000
                client.send("x" * 1_001)
                with pytest.raises(ClosedWithError):
                    client.recv()
                assert client.close_code == 1009

        await in_thread(talk)


@pytest.mark.slow
async def test_many_messages_of_many_clients_arrive_in_order(
    registry: oread.Registry, serve_one: Any
) -> None:
    """20 clients send 200 numbers each without waiting; each hears its own in order."""
    async with serve_one("http://127.0.0.1:0") as service:

        async def talk(path: str) -> None:
            async with open_websocket(service, f"/{path}") as client, trio.open_nursery() as nursery:
                nursery.start_soon(_send_all, client, 200)
                heard = [await client.get_message() for _ in range(200)]
                assert heard == [str(number) for number in range(200)]

        with trio.fail_after(LIMIT_SECONDS * 3):
            async with trio.open_nursery() as nursery:
                for at in range(20):
                    nursery.start_soon(talk, ("echo", "async", "waits")[at % 3])


async def _send_all(client: Any, count: int) -> None:
    for number in range(count):
        await client.send_message(str(number))
