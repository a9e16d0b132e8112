"""Subscriptions: bounded, counted, and gone with their scope."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from oread import Message, RegistrationError, Registry, SubscriptionOverflow


async def emit(registry: Registry, *payloads: str) -> None:
    """Emit one after the other."""
    for payload in payloads:
        await registry.emit("e", payload)


async def take(messages: Any, most: int) -> list[bytes]:
    """Take so many messages."""
    taken: list[bytes] = []
    async for message in messages:
        taken.append(message.data)
        if len(taken) == most:
            break
    return taken


async def test_messages_come_in_order_and_the_scope_ends_it() -> None:
    """A handler as any other while it lasts; it answers nothing."""
    registry = Registry()
    registry.on("e", lambda data: b"answer")
    async with registry.subscribe("e") as messages:
        assert [info.kind for info in registry.handlers("e")] == ["sync", "subscription"]
        await emit(registry, "one", "two")
        assert await registry.emit("e", "three") == [b"answer", None]
        assert await take(messages, 3) == [b"one", b"two", b"three"]
    assert registry.count("e") == 1
    await emit(registry, "four")
    with pytest.raises(StopAsyncIteration):
        await anext(messages)


async def test_patterns_and_captures() -> None:
    """The message says what the pattern captured."""
    registry = Registry()
    async with registry.subscribe("orders/{number}", overflow="drop_newest") as messages:
        await registry.emit("orders/7", "tea")
        message = await anext(messages)
    assert isinstance(message, Message)
    assert (message.captures, message.data) == ({"number": "7"}, b"tea")


@pytest.mark.parametrize(
    ("overflow", "kept"), [("drop_oldest", [b"three", b"four"]), ("drop_newest", [b"one", b"two"])]
)
async def test_what_does_not_fit_is_dropped_and_counted(overflow: Any, kept: list[bytes]) -> None:
    """The event stays inline; nobody waits."""
    registry = Registry()
    registry.on("e", lambda data: None)
    async with registry.subscribe("e", capacity=2, overflow=overflow) as messages:
        assert registry.find("e")[0].call is not None  # type: ignore[index]
        await emit(registry, "one", "two", "three", "four")
        assert messages.dropped == 2
        found = messages.statistics()
        assert (found.waiting, found.dropped, found.blocked, found.capacity) == (2, 2, 0, 2)
        assert await take(messages, 2) == kept


async def test_block_waits_for_room_and_loses_nothing() -> None:
    """It makes the event async; closing lets those go on who wait."""
    registry, done = Registry(), []
    registry.on("e", lambda data: data)

    async def emit_one(payload: str) -> None:
        done.append(await registry.emit("e", payload))

    async with trio.open_nursery() as nursery:  # noqa: SIM117 (closing must let its tasks end)
        async with registry.subscribe("e", capacity=1) as messages:
            assert registry.find("e")[0].call is None  # type: ignore[index]
            for payload in ("1", "2", "3"):
                nursery.start_soon(emit_one, payload)
                await trio.testing.wait_all_tasks_blocked()
            assert len(done) == 1
            assert messages.statistics().blocked == 2
            assert await take(messages, 1) == [b"1"]
            await trio.testing.wait_all_tasks_blocked()
            assert len(done) == 2
    assert done == [[b"1", None], [b"2", None], [b"3", None]]
    assert registry.find("e")[0].call is not None  # type: ignore[index]


async def test_a_cancelled_call_delivers_nothing() -> None:
    """Who waits for room and is cancelled has not delivered."""
    registry = Registry()
    async with registry.subscribe("e", capacity=1) as messages:
        await emit(registry, "one")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(emit, registry, "two")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        await take(messages, 1)
        assert messages.statistics().waiting == 0


async def test_error_ends_the_iteration_behind_what_was_taken_in() -> None:
    """What fitted is seen first; what comes later is counted."""
    registry = Registry()
    async with registry.subscribe("e", capacity=2, overflow="error") as messages:
        await emit(registry, "one", "two", "three", "four")
        assert await take(messages, 2) == [b"one", b"two"]
        for _ in range(2):
            with pytest.raises(SubscriptionOverflow, match="subscription to 'e': more than 2 messages"):
                await anext(messages)
        assert messages.dropped == 2


async def test_off_ends_it_behind_what_is_there() -> None:
    """Whoever removes the handlers ends the iteration, and no one waits for ever."""
    registry = Registry()
    async with registry.subscribe("e") as messages:
        await emit(registry, "one")
        assert registry.off("e") == 1
        assert [message.data async for message in messages] == [b"one"]


async def test_two_tasks_are_refused() -> None:
    """Which of them gets a message would be chance."""
    registry = Registry()
    async with registry.subscribe("e") as messages, trio.open_nursery() as nursery:
        nursery.start_soon(anext, messages)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await anext(messages)
        nursery.cancel_scope.cancel()
    assert registry.events() == []


async def test_two_subscriptions_see_each_message() -> None:
    """Each has its own room."""
    registry = Registry()
    async with (
        registry.subscribe("e", capacity=1, overflow="drop_newest") as few,
        registry.subscribe("e", capacity=9, overflow="drop_newest") as many,
    ):
        await emit(registry, "one", "two")
        assert (few.dropped, many.dropped) == (1, 0)


async def test_hidden_ones_are_reached_by_emit_only() -> None:
    """Alone it makes the event exist; exposed=False hides that."""
    registry = Registry()
    async with registry.subscribe("e", exposed=False, overflow="drop_newest") as messages:
        assert registry.find("e") is None
        await emit(registry, "one")
        assert await take(messages, 1) == [b"one"]
    async with registry.subscribe("e"):
        assert registry.find("e") is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"capacity": 0}, "capacity=0"),
        ({"capacity": float("inf")}, "capacity=inf"),
        ({"capacity": True}, "capacity=True"),
        ({"overflow": "wait"}, "one of block, drop_oldest, drop_newest, error"),
    ],
)
async def test_what_is_not_bounded_is_refused(options: Any, words: str) -> None:
    """Before anything is registered."""
    registry = Registry()
    with pytest.raises(RegistrationError, match=words):
        async with registry.subscribe("e", **options):
            raise AssertionError
    assert registry.events() == []


async def test_a_refused_one_leaves_nothing() -> None:
    """A pattern that matches what another one does."""
    registry = Registry()
    registry.on("orders/{a}", lambda data: None)
    with pytest.raises(RegistrationError, match="matches exactly"):
        async with registry.subscribe("orders/{b}"):
            raise AssertionError
    assert registry.events() == ["orders/{a}"]
