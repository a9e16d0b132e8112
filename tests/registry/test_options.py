"""Options of handlers: deadline, limit, thread, shield; and what is refused."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import pytest
import trio
import trio.testing

from oread import RegistrationError, Registry, TimedOut


async def test_deadline_ends_an_async_handler(autojump_clock: trio.testing.MockClock) -> None:
    """It is cancelled, and its caller gets TimedOut; one in time is not touched."""
    registry, ended = Registry(), []

    @registry.on("slow", deadline=1)
    async def slow(data: bytes) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    @registry.on("quick", deadline=1)
    async def quick(data: bytes) -> bytes:
        await trio.sleep(0.5)
        return data

    begun = trio.current_time()
    with pytest.raises(TimedOut, match=r"slow took longer than 1 s"):
        await registry.emit("slow")
    assert ended == [begun + 1]
    assert await registry.emit("quick", b"x") == [b"x"]


async def test_a_cancel_from_outside_is_no_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """Nothing is swallowed."""
    registry = Registry()

    @registry.on("e", deadline=10)
    async def slow(data: bytes) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        await registry.emit("e")
    assert scope.cancelled_caught


async def test_thread_runs_elsewhere_with_the_callers_context() -> None:
    """A sync handler in a worker thread; typed as any other; listed as such."""
    registry = Registry()
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    @registry.on("orders/{number}", thread=True)
    def works(number: int, data: str) -> Any:
        return number, data, variable.get(), threading.get_ident()

    variable.set("mine")
    ((number, data, value, thread),) = await registry.emit("orders/7", "tea")
    assert (number, data, value) == (7, "tea", "mine")
    assert thread != threading.get_ident()
    assert [info.kind for info in registry.handlers()] == ["thread"]
    entry = registry.find("orders/7")[0]  # type: ignore[index]
    assert entry.call is None


async def test_overdue_thread_is_abandoned_and_told() -> None:
    """Its caller has TimedOut at once, its result is dropped."""
    registry, told, go_on, ended = Registry(), [], threading.Event(), threading.Event()
    registry.on_error(lambda failure: told.append((failure.event, type(failure.error).__name__)))

    @registry.on("e", thread=True, deadline=0.01)
    def stuck(data: bytes) -> bytes:
        go_on.wait(60)
        ended.set()
        return data

    try:
        with pytest.raises(TimedOut):
            await registry.emit("e")
        assert told == [("e", "HandlerAbandoned")]
        assert not ended.is_set()
    finally:
        go_on.set()
    assert await trio.to_thread.run_sync(ended.wait, 60)


async def test_a_call_cancelled_before_its_thread_began_never_runs() -> None:
    """It waited for a worker: nothing is abandoned, nothing called."""
    registry, told, go_on, ran = Registry(most_threads=1), [], threading.Event(), []
    registry.monitor(told.append)

    @registry.on("e", thread=True)
    def works(data: bytes) -> None:
        ran.append(data)
        go_on.wait(60)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registry.emit, "e", b"first")
            await trio.to_thread.run_sync(lambda: None)  # the worker has begun, or will
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(registry.emit, "e", b"second")
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            go_on.set()
    finally:
        go_on.set()
    assert ran == [b"first"]
    assert told == []


async def test_a_thread_that_raises_is_a_failure_as_any_other() -> None:
    """Its error is the caller's."""
    registry = Registry()

    @registry.on("e", thread=True, deadline=60)
    def fails(data: bytes) -> None:
        raise LookupError("in the thread")

    with pytest.raises(LookupError, match="in the thread"):
        await registry.emit("e")


def test_the_smallest_limit_counts_and_the_gate_stays() -> None:
    """All handlers of an event share one gate, which survives changes."""
    registry = Registry()

    async def handler(data: bytes) -> None: ...

    def gate() -> Any:
        return registry.find("e")[0].gate  # type: ignore[index]

    registry.on("e", handler)
    assert gate() is None
    five = registry.on("e", handler, limit=5)
    first = gate()
    two = registry.on("e", handler, limit=2)
    assert gate() is first
    assert first.limit == 2
    first.take()
    two.remove()
    assert (gate() is first, first.limit) == (True, 5)
    five.remove()
    assert gate() is None
    registry.off("e")
    registry.on("e", handler, limit=1)
    assert gate() is first  # a call of then still runs
    first.give()
    registry.off("e")
    registry.on("e", handler, limit=1)
    assert gate() is not first


def test_who_waits_is_let_in_when_the_limit_goes() -> None:
    """Nobody waits at a gate that is no more."""
    registry, seen = Registry(), []

    async def handler(data: bytes) -> None: ...

    limited = registry.on("e", handler, limit=1)
    gate = registry.find("e")[0].gate  # type: ignore[index]
    assert gate is not None
    gate.take()
    gate.when_free(lambda: seen.append("free"))
    limited.remove()
    assert seen == ["free"]


def test_limit_by_method_is_one_gate() -> None:
    """The entries of the methods share it."""
    registry = Registry()

    async def handler(data: bytes) -> None: ...

    registry.on("e", handler, methods=("GET",), limit=2)
    registry.on("e", handler, methods=("POST",))
    entry = registry.find("e")[0]  # type: ignore[index]
    assert entry.entry_for_method("GET").gate is entry.entry_for_method("POST").gate is entry.gate is not None


def test_shield_is_the_events() -> None:
    """One handler that asks for it is enough."""
    registry = Registry()

    async def handler(data: bytes) -> None: ...

    registry.on("e", handler)
    assert not registry.find("e")[0].shield  # type: ignore[index]
    registry.on("e", handler, shield=True)
    assert registry.find("e")[0].shield  # type: ignore[index]


def test_options_are_listed() -> None:
    """A person can see what was said."""
    registry = Registry()

    @registry.on("e", deadline=2, limit=3, shield=True)
    async def handler(data: bytes) -> None: ...

    (info,) = registry.handlers()
    assert (info.kind, info.deadline, info.limit, info.shield) == ("async", 2, 3, True)


def inline(data: bytes) -> None: ...


def view(data: memoryview) -> None: ...


def yields(data: bytes) -> Any:
    yield data


async def asynchronous(data: bytes) -> None: ...


@pytest.mark.parametrize(
    ("handler", "options", "words"),
    [
        (inline, {"deadline": 1}, "make it async, or thread=True"),
        (inline, {"limit": 1}, "inline ones run one at a time"),
        (view, {"thread": True}, "take bytes"),
        (yields, {"thread": True}, "yields"),
        (yields, {"deadline": 1}, "yields"),
        (asynchronous, {"thread": True}, "this one is async"),
        (asynchronous, {"deadline": 0}, "deadline=0"),
        (asynchronous, {"deadline": float("nan")}, "deadline=nan"),
        (asynchronous, {"limit": 0}, "limit=0"),
        (asynchronous, {"limit": True}, "limit=True"),
        (asynchronous, {"limit": 1.5}, "limit=1.5"),
    ],
)
def test_options_that_do_not_fit_are_refused(handler: Any, options: Any, words: str) -> None:
    """With words, and nothing is registered."""
    registry = Registry()
    with pytest.raises(RegistrationError, match=words):
        registry.on("e", handler, **options)
    with pytest.raises(RegistrationError, match=words):
        registry.on("e", **options)(handler)
    assert registry.events() == []


def test_an_unknown_option_is_a_type_error() -> None:
    """As for any function."""
    with pytest.raises(TypeError, match="dead_line"):
        Registry().on("e", asynchronous, dead_line=1)  # type: ignore[call-overload]


async def test_once_with_limit_and_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """Options compose."""
    registry = Registry()

    @registry.once("e", limit=1, deadline=1)
    async def slow(data: bytes) -> None:
        await trio.sleep_forever()

    with pytest.raises(TimedOut):
        await registry.emit("e")
    assert registry.events() == []


def test_a_plain_handler_is_compiled_as_ever() -> None:
    """The hot path has no step more: handler and compiled call, nothing between."""
    registry, frames = Registry(), []

    @registry.on("e")
    def handler(data: bytes) -> None:
        import sys

        frames.append((sys._getframe(1).f_code.co_name, sys._getframe(2).f_code.co_name))

    entry = registry.find("e")[0]  # type: ignore[index]
    assert entry.call is not None
    assert (entry.gate, entry.layers, entry.shield, entry.wants_message) == (None, (), False, False)
    entry.call(None, b"")  # type: ignore[arg-type]
    assert frames == [("call", "test_a_plain_handler_is_compiled_as_ever")]
