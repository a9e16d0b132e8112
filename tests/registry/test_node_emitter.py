"""What Node's own tests of its emitter check, restated against ours.

Each test names the behaviour of Node it restates (test/parallel/
test-event-emitter-*.js in Node's sources), and says where ours differs.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from oread import Failure, HandlerChange, HandlerLeakWarning, NotFound, RegistrationError, Registry


@pytest.fixture
def seen() -> list[Any]:
    """What the handlers have noted."""
    return []


@pytest.fixture
def note(seen: list[Any]) -> Callable[[str], Callable[[bytes], None]]:
    """Make a handler that notes its name."""
    return lambda name: lambda data: seen.append(name)


async def test_listeners_run_in_the_order_of_registration(
    registry: Registry, seen: list[Any], note: Any
) -> None:
    """add-listeners: `emit` calls them in order; `on` gives back something to undo it with."""
    registry.on("hello", note("first"))
    registry.on("hello", note("second"))
    await registry.emit("hello", "a")
    assert seen == ["first", "second"]


async def test_prepend_goes_before_all(registry: Registry, seen: list[Any], note: Any) -> None:
    """prepend: prependListener and prependOnceListener stand in front."""
    registry.on("foo", note("on"))
    registry.prepend("foo", note("prepend"))
    registry.prepend_once("foo", note("prepend once"))
    await registry.emit("foo")
    await registry.emit("foo")
    assert seen == ["prepend once", "prepend", "on", "prepend", "on"]


async def test_once_runs_once(registry: Registry, seen: list[Any], note: Any) -> None:
    """once: called for the first emit only, with its payload."""
    registry.once("hello", seen.append)
    await registry.emit("hello", b"a")
    with pytest.raises(NotFound):  # Node's emit returns false
        await registry.emit("hello", b"b")
    assert seen == [b"a"]


async def test_once_can_be_removed_before_it_runs(registry: Registry, seen: list[Any], note: Any) -> None:
    """once: `removeListener` finds the function, wrapped or not."""
    remove = note("removed")
    registry.once("foo", remove)
    assert registry.off("foo", remove) == 1
    assert registry.events() == []


async def test_once_is_removed_before_its_call(registry: Registry, seen: list[Any]) -> None:
    """once: emitting again from inside does not call it again."""

    @registry.once("e")
    async def again(data: bytes) -> None:
        seen.append(registry.count("e"))
        with pytest.raises(NotFound):
            await registry.emit("e")

    await registry.emit("e")
    assert seen == [0]


async def test_once_and_on_of_one_function_are_two(registry: Registry, seen: list[Any], note: Any) -> None:
    """once: the same function may stand there in both ways."""
    handler = note("x")
    registry.once("e", handler)
    registry.on("e", handler)
    await registry.emit("e")
    await registry.emit("e")
    assert seen == ["x", "x", "x"]


async def test_a_handler_may_remove_itself(registry: Registry, seen: list[Any], note: Any) -> None:
    """remove-listeners: the dispatch that runs is not affected."""

    def itself(data: bytes) -> None:
        seen.append("itself")
        registry.off("e", itself)

    registry.on("e", itself)
    registry.on("e", note("next"))
    await registry.emit("e")
    await registry.emit("e")
    assert seen == ["itself", "next", "next"]


async def test_a_handler_removed_during_dispatch_is_still_called(
    registry: Registry, seen: list[Any], note: Any
) -> None:
    """remove-listeners: removing another one counts from the next emit on."""
    second = note("second")

    def first(data: bytes) -> None:
        seen.append("first")
        registry.off("hello", second)

    registry.on("hello", first)
    registry.on("hello", second)
    await registry.emit("hello")
    await registry.emit("hello")
    assert seen == ["first", "second", "first"]


async def test_a_handler_added_during_dispatch_is_not_called(
    registry: Registry, seen: list[Any], note: Any
) -> None:
    """modify-in-emit: it is there for the next emit."""

    @registry.once("foo")
    def adds(data: bytes) -> None:
        seen.append("adds")
        registry.on("foo", note("added"))

    await registry.emit("foo")
    assert seen == ["adds"]
    await registry.emit("foo")
    assert seen == ["adds", "added"]


async def test_removing_all_during_dispatch(registry: Registry, seen: list[Any], note: Any) -> None:
    """modify-in-emit: removeAllListeners does not stop the emit that runs."""

    def removes(data: bytes) -> None:
        seen.append("removes")
        assert registry.off("foo") == 2

    registry.on("foo", removes)
    registry.on("foo", note("other"))
    await registry.emit("foo")
    assert seen == ["removes", "other"]
    assert registry.events() == []


async def test_the_same_function_counts_as_often_as_it_is_added(
    registry: Registry, seen: list[Any], note: Any
) -> None:
    """add-listeners: twice is called twice.

    Ours differs: `off` of a function removes every registration of it and
    says how many; Node removes the most recent one. To remove one, keep its
    `Registration`.
    """
    handler = note("x")
    registry.on("e", handler)
    one = registry.on("e", handler)
    assert registry.count("e") == 2
    await registry.emit("e")
    assert seen == ["x", "x"]
    one.remove()
    one.remove()
    assert registry.count("e") == 1
    registry.on("e", handler)
    assert registry.off("e", handler) == 2


def test_removing_what_is_not_there(registry: Registry, note: Any) -> None:
    """remove-listeners: a wrong name or function is no error."""
    registry.on("hello", note("x"))
    assert registry.off("hello", note("y")) == 0
    assert registry.off("foo") == 0
    assert registry.count("hello") == 1


def test_remove_all_of_one_event_or_of_every(registry: Registry, note: Any) -> None:
    """remove-all-listeners: of one event `off(name)`; of all, one by one."""
    for name in ("foo", "bar", "baz"):
        registry.on(name, note(name))
    registry.off("bar")
    assert registry.events() == ["foo", "baz"]
    assert sum(registry.off(name) for name in registry.events()) == 2
    assert registry.count() == 0


def test_event_names(registry: Registry, note: Any) -> None:
    """get/eventNames: those that have handlers, oldest first."""
    registry.on("foo", note("a"))
    registry.on("foo", note("b"))
    bar = registry.on("bar", note("c"))
    assert registry.events() == ["foo", "bar"]
    bar.remove()
    assert registry.events() == ["foo"]


def test_listener_count(registry: Registry, note: Any) -> None:
    """listener-count: of one event, of all, of none."""
    registry.on("foo", note("a"))
    registry.once("foo", note("b"))
    registry.on("bar", note("c"))
    assert [registry.count(name) for name in ("foo", "bar", "none")] == [2, 1, 0]
    assert registry.count() == 3


def test_listeners_are_a_copy_of_the_functions_given(registry: Registry, note: Any) -> None:
    """listeners: the functions as given, `once` unwrapped; changing the list changes nothing.

    Node's `rawListeners` has no counterpart: `once` is told by the listing.
    """
    handler = note("x")
    registry.once("foo", handler)
    listed = registry.handlers("foo")
    assert [(info.handler, info.once) for info in listed] == [(handler, True)]
    listed.clear()
    assert registry.count("foo") == 1


def test_what_is_no_function_is_refused(registry: Registry) -> None:
    """add-listeners: TypeError, and nothing is registered."""
    for wrong in (None, 3, "handler"):
        if wrong is not None:  # without a handler `on` is a decorator
            with pytest.raises(TypeError):
                registry.on("foo", wrong)  # type: ignore[arg-type]
    assert registry.events() == []


def test_new_listener_and_remove_listener(registry: Registry, note: Any) -> None:
    """'newListener', 'removeListener': a hook, told of each in order.

    Ours differs: it is called when the change holds, where Node calls
    'newListener' before; a refused handler is never announced.
    """
    changes: list[tuple[str, str, int]] = []

    def change(change: HandlerChange) -> None:
        changes.append((change.kind, change.handler.event, registry.count(change.handler.event)))

    hook = registry.on_change(change)
    handler = note("x")
    registry.on("foo", handler)
    registry.on("foo", handler)
    registry.off("foo", handler)
    with pytest.raises(RegistrationError):
        registry.on("foo", lambda a, b: None)
    hook.remove()
    registry.on("foo", handler)
    assert changes == [("added", "foo", 1), ("added", "foo", 2), ("removed", "foo", 0), ("removed", "foo", 0)]


async def test_once_tells_its_removal_before_it_runs(registry: Registry, seen: list[Any], note: Any) -> None:
    """remove-listeners: 'removeListener' comes before the call of a `once` handler."""
    registry.on_change(lambda change: seen.append(change.kind))
    registry.once("foo", note("called"))
    await registry.emit("foo")
    assert seen == ["added", "removed", "called"]


def test_a_hook_may_register(registry: Registry, note: Any) -> None:
    """add-listeners: 'newListener' may add listeners, also of the same event."""

    def react(change: HandlerChange) -> None:
        if change.kind == "added" and registry.count("foo") < 3:
            registry.on("foo", note("more"))

    registry.on_change(react)
    registry.on("foo", note("x"))
    assert registry.count("foo") == 3


def test_leak_warning_once_per_event(note: Any) -> None:
    """check-listener-leaks: more than 10 of one event warn, once; 10 do not."""
    registry = Registry()
    for _ in range(10):
        registry.on("default", note("x"))
    with pytest.warns(HandlerLeakWarning, match="event 'default' has 11 handlers") as caught:
        registry.on("default", note("x"))
    assert caught[0].filename == __file__
    registry.on("default", note("x"))
    decorate = registry.once("decorated")
    for _ in range(10):
        decorate(note("x"))
    with pytest.warns(HandlerLeakWarning) as caught:
        decorate(note("x"))
    assert [each.filename for each in caught] == [__file__]


def test_leak_warning_at_another_number_or_never(note: Any) -> None:
    """max-listeners: set for the registry; None is Infinity."""
    never, early = Registry(most_handlers=None), Registry(most_handlers=1)
    for _ in range(30):
        never.on("e", note("x"))
    early.on("e", note("x"))
    with pytest.warns(HandlerLeakWarning):
        early.on("e", note("x"))


def test_leak_warning_as_an_error_refuses_the_handler(note: Any) -> None:
    """Ours alone: where warnings are errors, nothing is half registered."""
    registry = Registry(most_handlers=1)
    registry.on("e", note("x"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(HandlerLeakWarning):
            registry.on("e", note("x"))
    assert registry.count("e") == 1


async def test_error_without_a_listener_is_raised_by_emit(registry: Registry) -> None:
    """errors: an 'error' nobody listens to is thrown by `emit`."""

    @registry.on("foo")
    def fails(data: bytes) -> None:
        raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose"):
        await registry.emit("foo")


async def test_errors_are_no_event(registry: Registry, seen: list[Any], note: Any) -> None:
    """error-listener: ours is a method; an event called `error` is any event."""
    registry.on("error", note("an event"))
    registry.on_error(note("the hook"))
    await registry.emit("error", "no error")
    assert seen == ["an event"]


async def test_error_monitor_sees_and_consumes_nothing(registry: Registry, seen: list[Any]) -> None:
    """error-monitor: told of the failure that `emit` then raises all the same."""
    registry.monitor(lambda failure: seen.append((failure.event, repr(failure.error))))

    @registry.on("foo")
    def fails(data: bytes) -> None:
        raise LookupError("on purpose")

    with pytest.raises(LookupError):
        await registry.emit("foo")
    assert seen == [("foo", "LookupError('on purpose')")]


async def test_rejections_are_captured_always(registry: Registry, seen: list[Any]) -> None:
    """capture-rejections: what an async handler raises is a failure as any other."""
    registry.on_error(lambda failure: seen.append(failure.handler.rpartition(".")[2]))

    @registry.on("foo")
    async def fails(data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError

    registry.on("foo", lambda data: "answer")
    assert await registry.emit("foo") == [None, "answer"]
    assert seen == ["fails"]


async def test_a_hook_that_fails_harms_nothing(
    registry: Registry, seen: list[Any], note: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours alone: hooks are isolated as handlers are, and what they had is logged."""

    def breaks(_: object) -> None:
        raise RuntimeError("the hook")

    registry.on_change(breaks)
    registry.on_error(breaks)
    registry.monitor(breaks)
    registry.on("foo", note("x"))
    assert registry.count("foo") == 1
    assert not registry.report(Failure(event="foo", handler="h", error=LookupError("x")))
    assert len(caplog.records) == 3
    with pytest.raises(RegistrationError):

        @registry.on_error
        async def wrong(failure: Failure) -> None: ...


async def test_events_once_is_wait_for(registry: Registry) -> None:
    """events.once: the next message of an event, and the handler is gone after it."""
    got = []

    async def waits() -> None:
        got.append(await registry.wait_for("foo"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked()
        await registry.emit("foo", b"data")
    assert [(each.event, each.data) for each in got] == [("foo", b"data")]
    assert registry.events() == []


async def test_abort_signal_is_a_cancel_scope(
    registry: Registry, autojump_clock: trio.testing.MockClock
) -> None:
    """events.once with a signal: cancelling takes the handler away."""
    with trio.move_on_after(1) as scope:
        await registry.wait_for("foo")
    assert scope.cancelled_caught
    assert registry.events() == []


async def test_wait_for_ends_when_its_event_is_removed(registry: Registry) -> None:
    """Ours alone: it never waits for what can't come."""

    async def waits() -> None:
        with pytest.raises(RuntimeError, match="were removed"):
            await registry.wait_for("foo")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked()
        assert registry.off("foo") == 1


def test_names_such_as_proto_are_names(registry: Registry, note: Any) -> None:
    """special-event-names: nothing is special, but symbols are not names."""
    for name in ("__proto__", "toString", "__class__", "error"):
        registry.on(name, note(name))
    assert registry.events() == ["__proto__", "toString", "__class__", "error"]
    with pytest.raises(RegistrationError):
        registry.on(object(), note("x"))  # type: ignore[call-overload]


def test_many_registrations_are_forgotten(registry: Registry) -> None:
    """Node's emitter-leak: what is removed is kept nowhere."""

    class Handler:
        def __call__(self, data: bytes) -> None: ...

    handler = Handler()
    gone = weakref.ref(handler)
    registry.on("e", handler).remove()
    registry.once("e", handler).remove()
    del handler
    gc.collect()
    assert gone() is None


@pytest.fixture
def registry() -> Registry:
    """An empty registry."""
    return Registry()
