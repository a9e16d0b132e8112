"""`check_handler`: good handlers pass, and each broken rule is named."""

from __future__ import annotations

import contextvars
import os
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.lowlevel

import oread
from oread.testing import TRANSPORTS, ContractError, check_handler

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("NAME", default="nobody")


@pytest.fixture
def registry() -> oread.Registry:
    """An empty one."""
    return oread.Registry()


async def assert_breaks(registry: oread.Registry, rule: str, text: str = "", **options: Any) -> None:
    """Check the event `bad`, which is to break this rule."""
    with pytest.raises(ContractError, match=text) as broken:
        await check_handler(registry, "bad", b"x", **options)
    assert broken.value.rule == rule
    assert str(broken.value).startswith(f"{rule}: ")


async def test_a_good_sync_handler_passes_everywhere(registry: oread.Registry, autojump_clock: Any) -> None:
    """The report says what it was checked on."""
    registry.on("echo", lambda data: data)
    report = await check_handler(registry, "echo", b"hello")
    assert (report.reply, report.error, report.transports) == (b"hello", None, TRANSPORTS)


async def test_a_good_async_handler_passes(registry: oread.Registry, autojump_clock: Any) -> None:
    """Checkpoints, nurseries, shields, context variables and clean-up are all fine when done well."""

    @registry.on("good", deadline=100)
    async def good(data: str) -> dict[str, str]:
        token = NAME.set(data)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 10)
                nursery.start_soon(trio.sleep, 20)
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            return {"name": NAME.get()}
        finally:
            NAME.reset(token)

    report = await check_handler(registry, "good", "Ann")
    assert report.reply == b'{"name":"Ann"}'
    assert report.checkpoints >= 2
    assert report.transports == tuple(name for name in TRANSPORTS if name != "tcp")


async def test_what_raises_everywhere_alike_is_fine(registry: oread.Registry, autojump_clock: Any) -> None:
    """An error is an outcome; hidden events are checked by emit."""

    @registry.on("refuses")
    async def refuses(data: bytes) -> bytes:
        await trio.sleep(1)
        raise oread.Busy

    assert (await check_handler(registry, "refuses")).error is oread.Busy
    registry.on("hidden", lambda data: b"ok", exposed=False)
    assert (await check_handler(registry, "hidden")).transports == ("emit",)


async def test_transports_that_do_not_fit_are_left_out(registry: oread.Registry, autojump_clock: Any) -> None:
    """A newline, a long reply, a method; items of a stream."""
    registry.on("newline", lambda data: b"a\nb")
    assert "lines" not in (await check_handler(registry, "newline")).transports
    registry.on("long", lambda data: bytes(70_000))
    assert "udp" not in (await check_handler(registry, "long")).transports
    registry.on("got", lambda data: b"", methods=("GET",))
    assert "http" not in (await check_handler(registry, "got")).transports

    @registry.on("items")
    async def items(data: bytes) -> AsyncIterator[bytes]:
        yield b"1"
        await trio.sleep(1)
        yield b"2"

    assert "udp" not in (await check_handler(registry, "items")).transports


async def test_what_is_not_there_or_not_checkable_is_told(registry: oread.Registry) -> None:
    """No event, or a handler of one transport alone."""
    with pytest.raises(oread.NotFound):
        await check_handler(registry, "missing")

    @registry.on("http")
    def http(request: oread.HttpRequest) -> bytes:
        return b""

    with pytest.raises(ValueError, match="one transport"):
        await check_handler(registry, "http")


async def test_a_call_that_waits_in_the_system_is_blocking(registry: oread.Registry) -> None:
    """`time.sleep`, a look-up, a blocking socket."""

    @registry.on("bad")
    def sleeps(data: bytes) -> bytes:
        time.sleep(0)
        return data

    await assert_breaks(registry, "blocking", r"sleep blocks.*test_handler_check\.py:\d+")
    registry.off("bad")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        registry.on("bad", lambda data: ours.send(b"x").to_bytes())
        await assert_breaks(registry, "blocking", "send blocks")
        ours.setblocking(False)
        await check_handler(registry, "bad")


async def test_a_loop_without_checkpoints_is_blocking(registry: oread.Registry, autojump_clock: Any) -> None:
    """It is even ended; with checkpoints between it is fine."""

    @registry.on("bad")
    async def loops(data: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        number = 0
        while data:
            number += 1
        return data

    await assert_breaks(registry, "blocking", "1000 lines without", most_lines=1_000)

    @registry.on("polite")
    async def polite(data: bytes) -> bytes:
        for _ in range(20):
            for _ in range(200):
                pass
            await trio.lowlevel.checkpoint()
        return data

    await check_handler(registry, "polite", most_lines=1_000)


async def test_a_handler_in_a_thread_may_block(registry: oread.Registry) -> None:
    """That is what threads are for."""

    @registry.on("works", thread=True)
    def works(data: bytes) -> bytes:
        time.sleep(0.001)
        return data

    assert (await check_handler(registry, "works", b"x", transports=["emit", "http"])).reply == b"x"


async def test_a_handler_without_end_takes_too_many_steps(registry: oread.Registry) -> None:
    """It is cancelled when they are used up."""

    @registry.on("bad")
    async def endless(data: bytes) -> None:
        while True:
            await trio.lowlevel.checkpoint()

    await assert_breaks(registry, "steps", "within 1000 steps")


async def test_a_context_variable_left_changed_is_told(registry: oread.Registry) -> None:
    """Whoever emits would keep it."""

    @registry.on("bad")
    def sets(data: bytes) -> bytes:
        NAME.set("somebody")
        return data

    await assert_breaks(registry, "context", "NAME")


async def test_a_task_left_running_is_told(registry: oread.Registry, autojump_clock: Any) -> None:
    """One in a nursery of somebody else's outlives the call."""
    async with trio.open_nursery() as nursery:

        @registry.on("bad")
        async def spawns(data: bytes) -> bytes:
            nursery.start_soon(trio.sleep_forever)
            return data

        await assert_breaks(registry, "task", "sleep_forever is left running")
        nursery.cancel_scope.cancel()


async def test_a_descriptor_left_open_is_told(registry: oread.Registry, autojump_clock: Any) -> None:
    """In any call, or only in one that was cancelled."""
    opened: list[int] = []

    @registry.on("bad")
    def opens(data: bytes) -> bytes:
        opened.append(os.open("/dev/null", os.O_RDONLY))
        return data

    await assert_breaks(registry, "descriptor", "is left open$")
    registry.off("bad")

    @registry.on("bad")
    async def forgets(data: bytes) -> bytes:
        opened.extend(os.pipe())
        await trio.sleep(1)
        os.close(opened.pop())
        os.close(opened.pop())
        return data

    await assert_breaks(registry, "descriptor", "a pipe is left open, cancelled at checkpoint 2")
    for descriptor in opened:
        os.close(descriptor)


async def test_a_swallowed_cancellation_is_told(registry: oread.Registry, autojump_clock: Any) -> None:
    """Going on after it, or answering, breaks whoever cancelled."""

    @registry.on("bad")
    async def swallows(data: bytes) -> bytes:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            return b"never mind"
        return data

    await assert_breaks(registry, "cancellation", "goes on after the one at checkpoint 2")


async def test_a_handler_that_swallows_every_cancellation_is_ended(
    registry: oread.Registry, autojump_clock: Any
) -> None:
    """Trio alone could not: the check must not hang where the handler would."""

    @registry.on("bad")
    async def stubborn(data: bytes) -> bytes:
        while True:
            try:
                await trio.sleep(1)
            except trio.Cancelled:
                continue
            return data

    await assert_breaks(registry, "steps", "within 1000 steps")


async def test_state_broken_by_a_cancellation_is_told(registry: oread.Registry, autojump_clock: Any) -> None:
    """The next call must not suffer."""
    busy = False

    @registry.on("bad")
    async def latches(data: bytes) -> bytes:
        nonlocal busy
        if busy:
            return b"busy"
        busy = True
        await trio.sleep(1)
        busy = False
        return data

    await assert_breaks(
        registry, "cancellation", "the call after one, cancelled at checkpoint 2: b'busy', not b'x'"
    )


async def test_state_shared_by_calls_is_told(registry: oread.Registry, autojump_clock: Any) -> None:
    """What one call writes another one reads."""
    current = 0

    @registry.on("bad")
    async def races(data: bytes) -> bytes:
        nonlocal current
        current += 1
        try:
            await trio.sleep(1)
            return b"%d" % current
        finally:
            current -= 1

    await assert_breaks(registry, "isolation", "beside other calls, b'1' alone")


async def test_a_reply_that_depends_on_the_transport_is_told(registry: oread.Registry) -> None:
    """Unless the caller says what counts as the same."""

    @registry.on("bad")
    def tells(message: oread.Message) -> str:
        return message.transport

    await assert_breaks(registry, "transport", "b'tcp' by tcp, b'memory' by emit")
    report = await check_handler(registry, "bad", b"x", same=lambda one, other: True)
    assert len(report.transports) == len(TRANSPORTS)
