"""Middleware: its forms, its order, and what it sees of answers and failures."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
import trio

from oread import BadRequest, Failure, Message, NotFound, RegistrationError, Registry
from oread.dispatch import Failed


class Source:
    """A message by a transport, with what is reported."""

    captures: dict[str, str] = {}

    def __init__(self) -> None:
        self.reported: list[str] = []

    def message(self, data: bytes) -> Message:
        return Message(event="e", data=data, transport="tcp")

    def report(self, failed: Failed) -> None:
        self.reported.append(repr(failed.error))


async def serve(registry: Registry, data: bytes = b"data") -> Any:
    """Have a message handled as a listener does."""
    found = registry.find("e")
    assert found is not None
    entry = found[0]
    if entry.call is not None:
        return entry.call(Source(), data)
    assert entry.start is not None
    return await entry.start(Source(), data)


def is_inline(registry: Registry) -> bool:
    """Tell whether the event has stayed sync."""
    return registry.find("e")[0].call is not None  # type: ignore[index]


@pytest.fixture
def seen() -> list[str]:
    """What was noted."""
    return []


Make = Callable[[str], Any]


@pytest.fixture
def forms(seen: list[str]) -> dict[str, Make]:  # noqa: C901 (one function per form)
    """Each form, noting its name on the way in and out."""

    def context(name: str) -> Any:
        @contextmanager
        def middleware(message: Message) -> Iterator[None]:
            seen.append(f"{name}+{message.data.decode()}")
            yield
            seen.append(f"{name}-")

        return middleware

    def context_class(name: str) -> Any:
        class Middleware:
            def __init__(self, message: Message) -> None:
                seen.append(f"{name}+{message.data.decode()}")

            def __enter__(self) -> None: ...

            def __exit__(self, *error: object) -> None:
                seen.append(f"{name}-")

        return Middleware

    def async_context(name: str) -> Any:
        @asynccontextmanager
        async def middleware(message: Message) -> AsyncIterator[None]:
            seen.append(f"{name}+{message.data.decode()}")
            await trio.lowlevel.checkpoint()
            yield
            seen.append(f"{name}-")

        return middleware

    def async_context_class(name: str) -> Any:
        class Middleware:
            def __init__(self, message: Message) -> None:
                seen.append(f"{name}+{message.data.decode()}")

            async def __aenter__(self) -> None: ...

            async def __aexit__(self, *error: object) -> None:
                seen.append(f"{name}-")

        return Middleware

    def wrapping(name: str) -> Any:
        def middleware(message: Message, call_next: Callable[[], Any]) -> Any:
            seen.append(f"{name}+{message.data.decode()}")
            answer = call_next()
            seen.append(f"{name}-")
            return answer

        return middleware

    def async_wrapping(name: str) -> Any:
        async def middleware(message: Message, call_next: Callable[[], Awaitable[Any]]) -> Any:
            seen.append(f"{name}+{message.data.decode()}")
            answer = await call_next()
            seen.append(f"{name}-")
            return answer

        return middleware

    return {
        "context": context,
        "context class": context_class,
        "async context": async_context,
        "async context class": async_context_class,
        "wrapping": wrapping,
        "async wrapping": async_wrapping,
    }


SYNC = ("context", "context class", "wrapping")
ASYNC = ("context", "context class", "async context", "async context class", "async wrapping")


@pytest.mark.parametrize("form", SYNC)
async def test_sync_forms_stay_inline(form: str, forms: dict[str, Make], seen: list[str]) -> None:
    """Around a sync chain, which runs inline as before."""
    registry = Registry()
    registry.on("e", lambda data: seen.append("handler"))
    registry.on("e", lambda data: data)
    registry.use(forms[form]("m"))
    assert is_inline(registry)
    assert await serve(registry) == b"data"
    assert seen == ["m+data", "handler", "m-"]


@pytest.mark.parametrize("form", ASYNC)
@pytest.mark.parametrize("is_async", [False, True])
async def test_forms_around_async_events(
    form: str, is_async: bool, forms: dict[str, Make], seen: list[str]
) -> None:
    """Async handlers or not: an async form makes the event async."""
    registry = Registry()

    async def asynchronous(data: bytes) -> bytes:
        seen.append("handler")
        await trio.lowlevel.checkpoint()
        return data

    def sync(data: bytes) -> bytes:
        seen.append("handler")
        return data

    registry.on("e", asynchronous if is_async else sync)
    registry.use(forms[form]("m"))
    assert is_inline(registry) == (not is_async and not form.startswith("async"))
    assert await serve(registry) == b"data"
    assert seen == ["m+data", "handler", "m-"]


async def test_global_ones_are_outside_each_in_the_order_of_use(
    forms: dict[str, Make], seen: list[str]
) -> None:
    """Whatever was used first of a kind is outermost; taking one back is at once."""
    registry = Registry()
    inner = registry.use(forms["wrapping"]("inner"), "e")
    registry.use(forms["context"]("global 1"))
    registry.use(forms["wrapping"]("global 2"))
    registry.use(forms["context"]("other"), "other")
    registry.on("e", lambda data: "answer")
    assert await serve(registry, b"") == "answer"
    assert seen == ["global 1+", "global 2+", "inner+", "inner-", "global 2-", "global 1-"]
    seen.clear()
    inner.remove()
    await serve(registry, b"")
    assert seen == ["global 1+", "global 2+", "global 2-", "global 1-"]


async def test_events_without_middleware_pay_nothing(forms: dict[str, Make]) -> None:
    """Their entry is the same object as before."""
    registry = Registry()
    registry.on("e", lambda data: data)
    before = registry.find("e")
    with registry.use(forms["context"]("m"), "other"):
        assert registry.find("e") == before
    with registry.use(forms["context"]("m")):
        assert registry.find("e") != before


async def test_the_answer_may_be_replaced_or_withheld() -> None:
    """What a wrapping form returns is what goes out; on emit it takes the answer's place."""
    registry = Registry()
    registry.on("e", lambda data: None)
    registry.on("e", lambda data: data)
    registry.on("e", lambda data: "later")
    used = registry.use(lambda message, call_next: call_next().upper())
    assert await serve(registry, b"x") == b"X"
    assert await registry.emit("e", b"x") == [None, b"X", "later"]
    assert await registry.emit("e", b"x", policy="first") == [b"X"]
    used.remove()
    with registry.use(lambda message, call_next: None):
        assert await serve(registry) is None
        assert await registry.emit("e") == []
    with registry.use(lambda message, call_next: "cached"):
        assert await serve(registry) == "cached"
        assert await registry.emit("e") == ["cached"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_failures_pass_through_and_keep_their_name(is_async: bool) -> None:
    """The failure that would go to the peer is raised inside; the handler is still named."""
    registry, caught, told = Registry(), [], []

    async def asynchronous(data: bytes) -> None:
        raise LookupError("on purpose")

    def fails(data: bytes) -> None:
        raise LookupError("on purpose")

    @contextmanager
    def looks(message: Message) -> Iterator[None]:
        try:
            yield
        except LookupError as error:
            caught.append(repr(error))
            raise

    registry.on("e", asynchronous if is_async else fails)
    registry.use(looks)
    outcome = await serve(registry)
    assert isinstance(outcome, Failed)
    assert outcome.handler.endswith("asynchronous" if is_async else "fails")
    registry.monitor(lambda failure: told.append(failure.handler.rpartition(".")[2]))
    with pytest.raises(LookupError):
        await registry.emit("e")
    assert caught == ["LookupError('on purpose')"] * 2
    assert told == ["asynchronous" if is_async else "fails"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_it_may_translate_suppress_or_fail(is_async: bool) -> None:
    """A failure of its own is isolated as a handler's is."""
    registry, told = Registry(), []
    registry.monitor(lambda failure: told.append((failure.handler, type(failure.error))))

    async def asynchronous(data: bytes) -> None:
        raise LookupError("inner")

    def fails(data: bytes) -> None:
        raise LookupError("inner")

    @contextmanager
    def translates(message: Message) -> Iterator[None]:
        try:
            yield
        except LookupError as error:
            raise BadRequest("translated") from error

    @contextmanager
    def suppresses(message: Message) -> Iterator[None]:
        with suppress(LookupError):
            yield

    registry.on("e", asynchronous if is_async else fails)
    with registry.use(translates):
        outcome = await serve(registry)
        assert (type(outcome.error), outcome.handler.endswith("translates")) == (BadRequest, True)
        with pytest.raises(BadRequest):
            await registry.emit("e")
    assert told[-1][1] is BadRequest
    with registry.use(suppresses):
        assert await serve(registry) is None
        assert await registry.emit("e") == []


async def test_refusing_calls_no_handler() -> None:
    """A MessageError raised before call_next is the peer's answer."""
    registry = Registry()
    registry.once("e", lambda data: pytest.fail("called"))

    def refuses(message: Message, call_next: Callable[[], Any]) -> Any:
        raise BadRequest("no token")

    registry.use(refuses)
    outcome = await serve(registry)
    assert isinstance(outcome.error, BadRequest)
    assert registry.count("e") == 1


async def test_call_next_may_be_called_again() -> None:
    """A retry."""
    registry, calls = Registry(), []

    @registry.on("e")
    async def second_time(data: bytes) -> str:
        calls.append(data)
        if len(calls) == 1:
            raise LookupError
        return "answer"

    async def retries(message: Message, call_next: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await call_next()
        except LookupError:
            return await call_next()

    registry.use(retries)
    assert await serve(registry) == "answer"
    calls.clear()
    assert await registry.emit("e") == ["answer"]


@pytest.mark.parametrize("policy", ["serial", "concurrent", "first", "race"])
async def test_emit_passes_once_whatever_the_policy(
    policy: Any, forms: dict[str, Make], seen: list[str]
) -> None:
    """One message, one passage."""
    registry = Registry()

    async def one(data: bytes) -> str:
        return "one"

    registry.on("e", one)
    registry.on("e", one)
    registry.use(forms["async wrapping"]("m"))
    assert (await registry.emit("e", policy=policy))[0] == "one"
    assert seen == ["m+", "m-"]


async def test_an_event_that_nobody_serves_has_no_middleware(forms: dict[str, Make], seen: list[str]) -> None:
    """NotFound comes without it: nothing is run for it."""
    registry = Registry()
    registry.use(forms["context"]("m"))
    with pytest.raises(NotFound):
        await registry.emit("nowhere")
    assert seen == []


async def test_by_method_too(forms: dict[str, Make], seen: list[str]) -> None:
    """An event limited to methods has it around each."""
    registry = Registry()
    registry.on("e", lambda data: data, methods=("GET",))
    registry.use(forms["context"]("m"))
    entry = registry.find("e")[0].entry_for_method("GET")  # type: ignore[index]
    assert entry.call is not None
    assert entry.call(Source(), b"x") == b"x"
    assert seen == ["m+x", "m-"]


def test_sync_wrapping_and_async_handlers_refuse_each_other(forms: dict[str, Make]) -> None:
    """With words, whichever comes second; nothing has changed then."""
    registry = Registry()

    async def asynchronous(data: bytes) -> None: ...

    registry.on("e", lambda data: data)
    used = registry.use(forms["wrapping"]("m"))
    with pytest.raises(RegistrationError, match="make it `async def` and await call_next"):
        registry.on("e", asynchronous)
    with pytest.raises(RegistrationError):
        registry.use(forms["async wrapping"]("m"))
    used.remove()
    registry.on("e", asynchronous)
    with pytest.raises(RegistrationError):
        registry.use(forms["wrapping"]("m"), "e")
    assert registry.count("e") == 2
    assert registry.find("e")[0].layers == ()  # type: ignore[index]


def generator(message: Message) -> Iterator[None]:
    yield


async def async_generator(message: Message) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("middleware", "words"),
    [
        (generator, "put @contextmanager"),
        (async_generator, "put @contextmanager or @asynccontextmanager"),
        (lambda message: None, r"function of \(message, call_next\)"),
        (lambda message, call_next, more: None, "needed is"),
        (3, "not callable"),
        (dict, "needed is|no signature"),
    ],
)
def test_other_forms_are_refused(middleware: Any, words: str) -> None:
    """At once, saying which forms there are."""
    with pytest.raises(RegistrationError, match=words):
        Registry().use(middleware)


async def test_partials_methods_and_objects(seen: list[str]) -> None:
    """Whatever can be called in one of these forms."""

    class Stateful:
        @contextmanager
        def context(self, message: Message) -> Iterator[None]:
            seen.append("method")
            yield

        def __call__(self, message: Message, call_next: Callable[[], Any]) -> Any:
            seen.append("object")
            return call_next()

    @contextmanager
    def named(name: str, message: Message) -> Iterator[None]:
        seen.append(name)
        yield

    registry = Registry()
    registry.on("e", lambda data: data)
    registry.use(Stateful().context)
    registry.use(Stateful())
    registry.use(functools.partial(named, "partial"))
    assert await serve(registry) == b"data"
    assert seen == ["method", "object", "partial"]


async def test_cancelling_runs_the_way_out(seen: list[str]) -> None:
    """Cancelled inside: the middleware is left as any scope is."""
    registry = Registry()

    @asynccontextmanager
    async def scope(message: Message) -> AsyncIterator[None]:
        try:
            yield
        finally:
            seen.append("left")

    @registry.on("e")
    async def waits(data: bytes) -> None:
        await trio.sleep_forever()

    registry.use(scope)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(registry.emit, "e")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == ["left"]


async def test_failure_of_middleware_is_told_once() -> None:
    """The monitor gets one Failure for one raise."""
    registry = Registry()
    told: list[Failure] = []
    registry.monitor(told.append)
    registry.on("e", lambda data: data)

    def breaks(message: Message, call_next: Callable[[], Any]) -> Any:
        raise RuntimeError("middleware")

    registry.use(breaks)
    with pytest.raises(RuntimeError):
        await registry.emit("e")
    assert [repr(each.error) for each in told] == ["RuntimeError('middleware')"]
