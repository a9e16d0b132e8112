"""Hooks behind a socket: told of what a listener would log, and of refusals."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

import oread
from oread import Failure

Serve = Callable[[str], AbstractAsyncContextManager[Any]]


async def ask(memory: Any, request: bytes) -> bytes:
    """Send one request, and read until the connection ends."""
    client = memory.client()
    await client.send_all(request)
    await client.send_eof()
    return b"".join([chunk async for chunk in client])


def post(event: str, body: bytes = b"") -> bytes:
    """Write one request."""
    head = f"POST /{event} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body


async def test_an_error_hook_replaces_the_log_not_the_counter(
    registry: oread.Registry, serve_memory: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """What a handler raised is in one hand: the hook's, or the log."""
    failures: list[Failure] = []
    async with serve_memory("http://127.0.0.1:0") as memory:
        await ask(memory, post("fails"))
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        with registry.on_error(failures.append):
            assert b" 500 " in await ask(memory, post("fails"))
        assert len(caplog.records) == 1
        assert memory.service.statistics().endpoints[0].failures == 2
    assert [(each.event, repr(each.error), each.peer.transport) for each in failures] == [
        ("fails", "LookupError('on purpose')", "http")
    ]
    assert failures[0].handler.endswith("fails")


async def test_what_the_peer_did_wrong_goes_to_the_monitor_only(
    registry: oread.Registry, serve_memory: Serve
) -> None:
    """An error hook is for faults of ours."""
    seen: list[str] = []
    registry.monitor(lambda failure: seen.append(f"monitor {type(failure.error).__name__}"))
    registry.on_error(lambda failure: seen.append("error"))

    @registry.on("text")
    def text(data: str) -> str:
        return data

    async with serve_memory("http://127.0.0.1:0") as memory:
        assert b" 400 " in await ask(memory, post("text", b"\xff"))
    assert seen == ["monitor BadRequest"]


async def test_middleware_and_options_hold_behind_a_socket(
    registry: oread.Registry, serve_memory: Serve
) -> None:
    """One registration, the same over HTTP as by emit."""
    seen: list[str] = []

    def shouts(message: oread.Message, call_next: Callable[[], Any]) -> Any:
        seen.append(message.transport)
        return call_next().upper()

    used = registry.use(shouts, "bytes")
    async with serve_memory("http://127.0.0.1:0") as memory:
        assert (await ask(memory, post("bytes", b"text"))).endswith(b"\r\n\r\nTEXT")
        used.remove()
        assert (await ask(memory, post("bytes", b"text"))).endswith(b"\r\n\r\ntext")
    assert seen == ["http"]


async def test_a_subscription_sees_what_comes_by_a_socket(
    registry: oread.Registry, serve_memory: Serve
) -> None:
    """It observes; the handler before it answers."""
    async with (
        serve_memory("http://127.0.0.1:0") as memory,
        registry.subscribe("bytes", overflow="drop_oldest") as messages,
    ):
        assert b" 200 " in await ask(memory, post("bytes", b"text"))
        message = await anext(messages)
    assert isinstance(message, oread.HttpRequest)
    assert message.data == b"text"
