"""`connect` by JSON-RPC 2.0: our service over TCP, Unix and UDP, and peers that talk nonsense."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import oread

ServePeer = Callable[[Callable[[trio.SocketStream], Awaitable[None]]], AbstractAsyncContextManager[int]]


class NotAllowedHere(oread.MessageError):
    """A refusal of the service's own."""

    status = 405


@attrs.frozen
class Order:
    """What is asked for."""

    item: str
    count: int


@pytest.fixture
def registry() -> oread.Registry:
    """Typed handlers and failing ones."""
    registry = oread.Registry()
    registry.told = []  # type: ignore[attr-defined]

    @registry.on("order/{number}")
    def order(number: int, body: Order) -> dict[str, int]:
        return {"number": number, "count": body.count}

    @registry.on("shout")
    def shout(text: str) -> str:
        return text.upper()

    @registry.on("double")
    def double(number: int) -> int:
        return 2 * number

    @registry.on("total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @registry.on("tell")
    def tell(data: bytes) -> bytes:
        registry.told.append(data)  # type: ignore[attr-defined]
        return b"unasked"

    @registry.on("nothing")
    def nothing() -> None:
        return None

    @registry.on("busy")
    def busy() -> None:
        raise oread.Busy(retry_seconds=5)

    @registry.on("fails")
    def fails() -> None:
        raise LookupError("a secret")

    @registry.on("late", deadline=0.01)
    async def late() -> None:
        await trio.sleep_forever()

    return registry


@pytest.mark.parametrize(
    "url",
    [
        "tcp://127.0.0.1:0?framing=jsonrpc",
        "unix://{}/rpc?framing=jsonrpc",
        "udp://127.0.0.1:0?framing=jsonrpc",
    ],
)
async def test_events_are_methods(registry: oread.Registry, url: str, tmp_path: Path) -> None:
    """Payloads of every kind go out as params, results come back as their types."""
    with trio.fail_after(30):
        async with (
            oread.open_service(registry, url.format(tmp_path)) as service,
            oread.connect(service.endpoints[0]) as client,
        ):
            reply = await client.call("order/7", Order("nut", 3), reply=dict[str, int])
            assert reply == {"number": 7, "count": 3}
            assert await client.call("shout", 'a "b" \n', reply=str) == 'A "B" \n'
            assert await client.call("shout", b"bytes") == b"BYTES"
            assert await client.call("double", 21, reply=int) == 42
            assert await client.call("total", [1, 2, 3], reply=int) == 6
            assert await client.call("nothing", reply=None) is None
            assert await client.call("nothing") == b""
            await client.emit("tell", "one")
            await client.emit("tell", "two")
            assert await client.call("shout", b"x") == b"X"
    assert registry.told == [b"one", b"two"]  # type: ignore[attr-defined]


async def test_what_is_refused_is_no_failure(registry: oread.Registry) -> None:
    """-32003 has the status that tells what it is."""

    @registry.on("refuses/{status}")
    def refuses(status: int) -> None:
        raise {404: oread.NotFound, 413: oread.TooLarge, 405: NotAllowedHere}[status]("not this")

    async with (
        oread.open_service(registry, "tcp://127.0.0.1:0?framing=jsonrpc") as service,
        oread.connect(service.endpoints[0]) as client,
    ):
        for status, kind in ((404, oread.NotFound), (413, oread.TooLarge), (405, oread.BadRequest)):
            with pytest.raises(kind, match="not this"):
                await client.call(f"refuses/{status}")


async def test_errors_are_ours(registry: oread.Registry) -> None:
    """Codes become the errors of the vocabulary, and the connection goes on."""
    async with (
        oread.open_service(registry, "tcp://127.0.0.1:0?framing=jsonrpc") as service,
        oread.connect(service.endpoints[0]) as client,
    ):
        with pytest.raises(oread.NotFound):
            await client.call("missing")
        with pytest.raises(oread.BadRequest, match="count"):
            await client.call("order/7", {"item": "nut", "count": "three"})
        with pytest.raises(oread.BadRequest, match="text"):
            await client.call("shout", b"\xff")
        with pytest.raises(oread.BadRequest, match="text"):
            await client.emit("tell", b"\xff")
        with pytest.raises(oread.BadRequest, match="use call"):
            await anext(client.stream("shout", "x"))
        with pytest.raises(oread.Busy) as busy:
            await client.call("busy")
        assert busy.value.retry_seconds == 5
        with pytest.raises(oread.TimedOut):
            await client.call("late")
        with pytest.raises(oread.HandlerError) as failed:
            await client.call("fails")
        assert "secret" not in str(failed.value)
        assert await client.call("double", 1, reply=int) == 2


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"jsonrpc": "2.0", "id": 2, "result": 1},
        {"jsonrpc": "2.0", "id": True, "result": 1},
        {"jsonrpc": "2.0", "id": "1", "result": 1},
        {"jsonrpc": "1.0", "id": 1, "result": 1},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "id": None, "result": 1},
        {"jsonrpc": "2.0", "id": 1, "error": "no"},
        "nonsense",
    ],
)
async def test_what_is_no_response_breaks_the_connection(serve_peer: ServePeer, answer: Any) -> None:
    """An id that was not asked, no result, no JSON-RPC: nobody knows what comes next."""

    async def reply(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(json.dumps(answer).encode() + b"\n")

    async with serve_peer(reply) as port, oread.connect(f"tcp://127.0.0.1:{port}?framing=jsonrpc") as client:
        with pytest.raises(trio.BrokenResourceError):
            await client.call("x")
        with pytest.raises(trio.ClosedResourceError):
            await client.call("x")


async def test_requests_are_as_the_specification_has_them(serve_peer: ServePeer) -> None:
    """Ids count from 1, empty params are left out, notifications have no id."""
    lines: list[Any] = []

    async def note(stream: trio.SocketStream) -> None:
        buffer = b""
        async for chunk in stream:
            buffer += chunk
            while b"\n" in buffer:
                line, _, buffer = buffer.partition(b"\n")
                request = json.loads(line)
                lines.append(request)
                if "id" in request:
                    reply = {"jsonrpc": "2.0", "id": request["id"], "result": 1}
                    await stream.send_all(json.dumps(reply).encode() + b"\n")

    async with serve_peer(note) as port, oread.connect(f"tcp://127.0.0.1:{port}?framing=jsonrpc") as client:
        await client.call("a")
        await client.emit("b", {"c": 1})
        await client.call("d", "e")
    assert lines == [
        {"jsonrpc": "2.0", "method": "a", "id": 1},
        {"jsonrpc": "2.0", "method": "b", "params": {"c": 1}},
        {"jsonrpc": "2.0", "method": "d", "params": ["e"], "id": 2},
    ]
