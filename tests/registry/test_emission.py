"""`emit`: the policies, their results, failures, cancellation and limits."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import Any, get_args

import pytest
import trio
import trio.testing
from attrs import frozen

from oread import BadRequest, Failure, Message, NotFound, Registry
from oread.registry import Policy


@frozen
class Order:
    """What some handlers take."""

    item: str
    count: int = 1


async def test_serial_returns_every_result_in_order() -> None:
    """Sync and async handlers, observers' None too."""
    registry = Registry()

    @registry.on("e")
    async def late(data: bytes) -> str:
        await trio.lowlevel.checkpoint()
        return "late"

    registry.on("e", lambda data: None)
    registry.prepend("e", lambda data: data)
    assert await registry.emit("e", b"x") == [b"x", "late", None]


@pytest.mark.parametrize("policy", ["serial", "concurrent", "first", "race"])
async def test_every_policy_is_a_checkpoint_and_serves_sync_handlers(policy: Any) -> None:
    """Inline handlers need no nursery, and give the same results."""
    registry = Registry()
    registry.on("e", lambda data: None)
    registry.on("e", lambda data: "answer")
    with trio.testing.assert_checkpoints():
        results = await registry.emit("e", policy=policy)
    assert results == (["answer"] if policy in ("first", "race") else [None, "answer"])


async def test_payloads_are_decoded_as_from_a_socket() -> None:
    """Bytes, text, values as JSON; each handler by its own signature."""
    registry = Registry()

    @registry.on("orders/{number}")
    def by_type(number: int, order: Order) -> Any:
        return number, order

    @registry.on("orders/{number}")
    def whole(message: Message) -> Any:
        return json.loads(message.data), message.captures, message.transport, message.event

    assert await registry.emit("orders/7", Order("tea")) == [
        (7, Order("tea")),
        ({"item": "tea", "count": 1}, {"number": "7"}, "memory", "orders/{number}"),
    ]
    assert (await registry.emit("orders/7", '{"item":"tea","count":2}'))[0] == (7, Order("tea", 2))
    with pytest.raises(TypeError, match="set"):
        await registry.emit("orders/7", {1, 2})
    registry.off("orders/{number}", whole)
    with pytest.raises(BadRequest, match="count"):
        await registry.emit("orders/7", {"item": "tea", "count": "two"})
    with pytest.raises(BadRequest):
        await registry.emit("orders/x", Order("tea"))


async def test_bytes_like_payloads_and_none() -> None:
    """A view and a bytearray are bytes to a handler; None is nothing."""
    registry = Registry()
    registry.on("e", lambda data: data)
    for payload, data in (
        (memoryview(b"ab"), b"ab"),
        (bytearray(b"a"), b"a"),
        ("ä", "ä".encode()),
        (None, b""),
    ):
        assert await registry.emit("e", payload) == [data]


async def test_a_view_that_a_handler_returns_is_copied() -> None:
    """It is valid during the call only."""
    registry = Registry()

    @registry.on("e")
    def echo(data: memoryview) -> memoryview:
        return data

    (result,) = await registry.emit("e", b"data")
    assert type(result) is bytes


async def test_hidden_handlers_are_reached_and_missing_ones_are_not_found() -> None:
    """exposed=False is for emit; a session is no handler of messages."""
    registry = Registry()
    registry.on("e", lambda data: "hidden", exposed=False)
    registry.on("e", lambda data: "shown")

    @registry.session("s")
    async def session(stream: Any) -> None: ...

    assert await registry.emit("e") == ["hidden", "shown"]
    for event in ("nowhere", "s"):
        with pytest.raises(NotFound):
            await registry.emit(event)
    with pytest.raises(ValueError, match="policy='any': one of serial, concurrent, first, race"):
        await registry.emit("e", policy="any")  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["serial", "first"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_in_order_the_first_failure_is_raised_when_nobody_answers(policy: Any, is_async: bool) -> None:
    """All have run by then; the second failure is reported."""
    registry, seen, ran = Registry(), [], []
    registry.on_error(lambda failure: seen.append(repr(failure.error)))
    for number in (1, 2):

        def fails(data: bytes, number: int = number) -> None:
            ran.append(number)
            raise LookupError(number)

        registry.on("e", fails)
    if is_async:

        @registry.on("e")
        async def observes(data: bytes) -> None:
            ran.append(3)

    with pytest.raises(LookupError, match="1"):
        await registry.emit("e", policy=policy)
    assert ran == ([1, 2, 3] if is_async else [1, 2])
    assert seen == ["LookupError(2)"]


@pytest.mark.parametrize("policy", ["serial", "first", "race"])
async def test_a_failure_beside_an_answer_is_an_observers(
    policy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a transport: reported or else logged, and nothing else."""
    registry, seen = Registry(), []

    @registry.on("e")
    async def fails(data: bytes) -> None:
        raise LookupError("observer")

    @registry.on("e")
    async def answers(data: bytes) -> str:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        return "answer"

    results = await registry.emit("e", policy=policy)
    assert results == ([None, "answer"] if policy == "serial" else ["answer"])
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    with registry.on_error(seen.append):
        await registry.emit("e", policy=policy)
    assert len(caplog.records) == 1
    assert [(each.event, each.peer.transport) for each in seen] == [("e", "memory")]
    assert seen[0].handler.endswith("fails")


@pytest.mark.parametrize("policy", ["concurrent", "race"])
async def test_at_once_failures_are_one_group(policy: Any) -> None:
    """Raised when all have ended; told to the monitor one by one."""
    registry, seen = Registry(), []
    registry.monitor(lambda failure: seen.append(repr(failure.error)))
    for number in (1, 2):

        async def fails(data: bytes, number: int = number) -> None:
            await trio.lowlevel.checkpoint()
            raise LookupError(number)

        registry.on("e", fails)
    registry.on("e", lambda data: None)
    with pytest.raises(ExceptionGroup, match="2 of 3 handlers of 'e' failed") as caught:
        await registry.emit("e", policy=policy)
    assert sorted(map(repr, caught.value.exceptions)) == ["LookupError(1)", "LookupError(2)"]
    assert sorted(seen) == ["LookupError(1)", "LookupError(2)"]


async def test_concurrent_raises_beside_an_answer_too() -> None:
    """Who asks for all wants to know of each."""
    registry = Registry()

    @registry.on("e")
    async def answers(data: bytes) -> str:
        return "answer"

    @registry.on("e")
    def fails(data: bytes) -> None:
        raise LookupError

    with pytest.raises(ExceptionGroup):
        await registry.emit("e", policy="concurrent")


async def test_first_does_not_run_what_stands_behind_the_answer() -> None:
    """Nor does it use up their `once`."""
    registry = Registry()
    registry.on("e", lambda data: None)
    registry.on("e", lambda data: "answer")
    registry.once("e", lambda data: pytest.fail("not to be called"))
    assert await registry.emit("e", policy="first") == ["answer"]
    assert registry.count("e") == 3


async def test_concurrent_runs_side_by_side_and_keeps_the_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Two handlers that wait for each other both end."""
    registry, met = Registry(), trio.Event()

    @registry.on("e")
    async def waits(data: bytes) -> int:
        await met.wait()
        return 1

    @registry.on("e")
    async def comes(data: bytes) -> int:
        met.set()
        return 2

    with trio.fail_after(5):
        assert await registry.emit("e", policy="concurrent") == [1, 2]


async def test_race_cancels_the_others_and_waits_for_them(autojump_clock: trio.testing.MockClock) -> None:
    """The first to finish with an answer wins; None and failures don't."""
    registry, seen, failures = Registry(), [], []
    registry.on_error(lambda failure: failures.append(repr(failure.error)))

    @registry.on("e")
    async def loses(data: bytes) -> str:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            seen.append("cleaned")
        return "never"

    @registry.on("e")
    async def breaks(data: bytes) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise LookupError("on the way out")

    @registry.on("e")
    async def wins(data: bytes) -> str:
        await trio.sleep(2)
        return "won"

    @registry.on("e")
    async def observes(data: bytes) -> None:
        await trio.sleep(1)

    assert await registry.emit("e", policy="race") == ["won"]
    assert seen == ["cleaned"]
    assert len(failures) == 1
    assert "on the way out" in failures[0]


async def test_race_without_an_answer_is_empty() -> None:
    """Observers only."""
    registry = Registry()

    @registry.on("e")
    async def observes(data: bytes) -> None: ...

    assert await registry.emit("e", policy="race") == []
    assert await registry.emit("e", policy="first") == []


@pytest.mark.parametrize("policy", ["serial", "concurrent", "first", "race"])
async def test_cancelling_leaves_nothing(policy: Any, autojump_clock: trio.testing.MockClock) -> None:
    """Handlers have ended, places are given back, failures are told."""
    registry, running, told = Registry(), set(), []
    registry.on_error(lambda failure: told.append(repr(failure.error)))

    async def waits(data: bytes) -> None:
        running.add("waits")
        try:
            await trio.sleep_forever()
        finally:
            running.discard("waits")

    async def fails_on_the_way(data: bytes) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise LookupError("cancelled")

    registry.on("e", waits, limit=1)
    if policy in ("concurrent", "race"):
        registry.on("e", fails_on_the_way)
    gate = registry.find("e")[0].gate  # type: ignore[index]
    assert gate is not None
    with trio.move_on_after(1) as scope:
        await registry.emit("e", policy=policy)
    assert scope.cancelled_caught
    assert running == set()
    assert gate.running == 0
    assert told == (["LookupError('cancelled')"] if policy in ("concurrent", "race") else [])


async def test_cancelled_before_it_began_calls_nothing() -> None:
    """The checkpoint comes first."""
    registry = Registry()
    registry.once("e", lambda data: pytest.fail("called"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await registry.emit("e")
    assert scope.cancelled_caught
    assert registry.count("e") == 1


async def test_emit_waits_for_a_place(autojump_clock: trio.testing.MockClock) -> None:
    """limit=2: never more than two run; who is cancelled while waiting takes no place."""
    registry, most, running = Registry(), 0, 0

    @registry.on("e", limit=2)
    async def works(data: bytes) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1

    async def gives_up() -> None:
        with trio.move_on_after(0.5):
            await registry.emit("e")

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(registry.emit, "e")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(gives_up)
        for _ in range(4):
            nursery.start_soon(registry.emit, "e")
    assert (most, running) == (2, 0)
    gate = registry.find("e")[0].gate  # type: ignore[index]
    assert gate is not None
    assert (gate.running, gate.waiting) == (0, 0)


async def test_who_is_cancelled_just_when_its_place_comes_gives_it_back() -> None:
    """Woken and cancelled in one turn: the place goes to the next."""
    registry, free = Registry(), trio.Event()

    @registry.on("e", limit=1)
    async def waits(data: bytes) -> bytes:
        if data == b"first":
            await free.wait()
        return data

    gate = registry.find("e")[0].gate  # type: ignore[index]
    assert gate is not None
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            assert gate.take()
            nursery.start_soon(registry.emit, "e")
            await trio.testing.wait_all_tasks_blocked()
            gate.give()
            scope.cancel()
    assert gate.running == 0
    assert await registry.emit("e", b"next") == [b"next"]


async def test_a_change_takes_effect_for_the_next_emit() -> None:
    """A handler removed while the emission runs is still called by it."""
    registry, seen = Registry(), []

    @registry.on("e")
    async def removes(data: bytes) -> None:
        registry.off("e", later)
        seen.append("removes")

    def later(data: bytes) -> None:
        seen.append("later")

    registry.on("e", later)
    await registry.emit("e")
    await registry.emit("e")
    assert seen == ["removes", "later", "removes"]


async def test_once_runs_once_among_concurrent_emits() -> None:
    """Of two at the same time, one calls it; the other finds nothing left to call."""
    registry, calls = Registry(), []

    @registry.once("e", limit=2)
    async def one(data: bytes) -> None:
        calls.append(data)
        await trio.lowlevel.checkpoint()

    missing = []

    async def emit() -> None:
        try:
            await registry.emit("e")
        except NotFound:
            missing.append(True)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(emit)
    assert (len(calls), len(missing)) == (1, 1)
    assert registry.events() == []


async def test_a_stream_comes_back_as_it_is() -> None:
    """The caller iterates what a handler yields."""
    registry = Registry()

    @registry.on("e")
    def counts(data: bytes) -> Any:
        yield from (1, 2)

    (items,) = await registry.emit("e")
    assert list(items) == [1, 2]


def test_failure_tells_a_refusal_from_a_fault() -> None:
    """What the peer did wrong is not the handler's failing."""
    assert Failure(event="e", handler="h", error=BadRequest("x")).is_refusal
    assert not Failure(event="e", handler="h", error=LookupError("x")).is_refusal


@pytest.mark.parametrize("policy", get_args(Policy))
@pytest.mark.parametrize("others", [0, 1])
async def test_a_refused_message_does_not_use_a_once_handler_up(policy: Policy, others: int) -> None:
    """It is still there for the next message, and gone after that, whoever stands beside it."""
    registry, called = Registry(), []

    async def number(value: int) -> None:
        called.append(value)

    registry.once("e", number)
    for _ in range(others):
        registry.on("e", lambda data: None)
    with suppress(BadRequest, ExceptionGroup):
        await registry.emit("e", b"no number", policy=policy)
    assert registry.count("e") == 1 + others
    await registry.emit("e", b"7", policy=policy)
    assert registry.count("e") == others
    assert called == [7]


async def test_a_once_handler_is_not_used_up_by_a_peer(serve_memory: Any, registry: Registry) -> None:
    """Nobody can take a handler away by sending nonsense."""
    registry.once("e", len_of)
    async with serve_memory("http://:0") as memory:
        for body, status in ((b'{"not": "a list"}', b"400"), (b"[1, 2]", b"200"), (b"[1, 2]", b"404")):
            client = memory.client()
            await client.send_all(
                b"POST /e HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            assert (await client.receive_all())[9:12] == status


def len_of(items: list[int]) -> int:
    """Take JSON."""
    return len(items)
