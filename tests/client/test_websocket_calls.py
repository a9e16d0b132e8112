"""Calls by WebSocket, on loopback: `connect`, streams, and how refusals are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

import oread

LIMIT_SECONDS = 20


def url_of(service: oread.Service) -> str:
    """Return where its WebSockets are."""
    return f"ws://127.0.0.1:{service.endpoints[0].port}"


async def test_calls_share_a_connection_for_each_event(registry: oread.Registry, serve_one: Any) -> None:
    """Text, bytes and JSON, one event after the other, large ones too."""

    @registry.on("sum")
    def add(numbers: list[int]) -> int:
        return sum(numbers)

    async with serve_one("http://127.0.0.1:0") as service:
        with trio.fail_after(LIMIT_SECONDS):
            async with oread.connect(url_of(service)) as client:
                assert await client.call("echo", "hellö", reply=str) == "hellö"
                assert await client.call("echo", b"\xff" * 200_000) == b"\xff" * 200_000
                assert await client.call("sum", [1, 2, 3], reply=int) == 6
            found = service.statistics().endpoints[0]
            assert (found.accepted, found.replies) == (2, 3)
            assert found.refused == {}


async def test_what_the_service_refuses_is_the_error_of_its_code(
    registry: oread.Registry, serve_one: Any
) -> None:
    """A missing event, a payload that is not taken, a failing handler; each time the client goes on."""

    @registry.on("number")
    def number(value: int) -> int:
        return value

    async with serve_one("http://127.0.0.1:0?message_bytes=100") as service:
        with trio.fail_after(LIMIT_SECONDS):
            async with oread.connect(url_of(service)) as client:
                for event, payload, kind in (
                    ("missing", b"", oread.NotFound),
                    ("number", b"x", oread.BadRequest),
                    ("fails", b"x", oread.HandlerError),
                    ("echo", b"x" * 101, oread.TooLarge),
                ):
                    with pytest.raises(kind):
                        await client.call(event, payload)
                assert await client.call("number", 7, reply=int) == 7
                with pytest.raises(oread.TimedOut):
                    await client.call("none", b"", deadline=0.1)


async def test_streams_are_messages_until_the_service_closes(
    registry: oread.Registry, serve_one: Any
) -> None:
    """Or until the caller leaves."""

    @registry.on("count")
    async def count(up_to: int) -> AsyncIterator[int]:
        for number in range(up_to):
            await trio.lowlevel.checkpoint()
            yield number

    async with serve_one("http://127.0.0.1:0") as service:
        with trio.fail_after(LIMIT_SECONDS):
            async with oread.connect(url_of(service)) as client:
                async with client.stream("count", 3, reply=int) as items:
                    assert [await anext(items) for _ in range(3)] == [0, 1, 2]
                async with client.stream("fails", b"") as failing:
                    with pytest.raises(oread.HandlerError):
                        await anext(failing)


async def test_what_is_told_arrives(registry: oread.Registry, serve_one: Any) -> None:
    """By a connection of its own, whose answers are dropped; leaving waits for it."""
    heard: list[bytes] = []

    @registry.on("note")
    async def note(data: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        heard.append(data)
        return b"dropped"

    async with serve_one("http://127.0.0.1:0") as service:
        with trio.fail_after(LIMIT_SECONDS):
            async with oread.connect(url_of(service)) as client:
                for at in range(3):
                    await client.emit("note", b"%d" % at)
                assert await client.call("note", b"asked") == b"dropped"
    assert sorted(heard) == [b"0", b"1", b"2", b"asked"]


async def test_a_url_with_a_query_is_refused() -> None:
    """As by HTTP."""
    with pytest.raises(oread.EndpointError):
        async with oread.connect("ws://127.0.0.1:1/?a=b"):
            pass


async def test_a_server_that_is_no_websocket_is_told_apart(registry: oread.Registry, serve_one: Any) -> None:
    """Another answer than 101, or nonsense."""
    async with serve_one("http://127.0.0.1:0?openapi=true", "tcp://127.0.0.1:0/echo") as service:
        with trio.fail_after(LIMIT_SECONDS):
            async with oread.connect(url_of(service)) as client:
                with pytest.raises(oread.HandlerError, match="no WebSocket"):
                    await client.call("openapi.json")
            async with oread.connect(f"ws://127.0.0.1:{service.endpoints[1].port}") as client:
                with pytest.raises(trio.BrokenResourceError):
                    await client.call("echo", b"x")


async def test_a_connection_that_was_idle_for_long_is_not_used_again(
    registry: oread.Registry, serve_one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody answered its pings meanwhile: the next call, and the next emit, open another."""
    monkeypatch.setattr("oread.client.websocket.IDLE_SECONDS", 0.0)
    async with serve_one("http://127.0.0.1:0") as service:
        with trio.fail_after(LIMIT_SECONDS):
            async with oread.connect(url_of(service)) as client:
                for _ in range(2):
                    assert await client.call("echo", b"x") == b"x"
                    await client.emit("echo", b"y")
            assert service.statistics().endpoints[0].accepted == 4
