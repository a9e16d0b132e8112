"""Signatures and compiled entries: what a handler is given, what comes of it."""

from __future__ import annotations

import base64
import functools
from collections.abc import Coroutine
from typing import Any

import pytest

from oread.dispatch import Failed, Link, compile_entry, encode_payload, read_signature
from oread.errors import BadRequest, HandlerError, NotAllowed, NotFound, RegistrationError
from oread.messages import Datagram, HttpRequest, HttpResponse, Message, Reply


class Source:
    """An origin that keeps what is reported."""

    captures = {"order_id": "7", "name": "x"}

    def __init__(self) -> None:
        self.reported: list[str] = []

    def message(self, data: bytes | memoryview) -> Message:
        return Message(event="e", data=bytes(data), transport="tcp", captures=self.captures)

    def report(self, failed: Failed) -> None:
        self.reported.append(repr(failed.error))


def entry(*handlers: Any, captures: tuple[str, ...] = (), **options: Any) -> Any:
    """Compile handlers as the registry does."""
    return compile_entry(
        "e",
        [
            Link(handler=each, name=each.__name__, plan=read_signature(each, captures), **options)
            for each in handlers
        ],
    )


def call(
    *handlers: Any, data: bytes = b"data", captures: tuple[str, ...] = (), source: Source | None = None
) -> Any:
    """Call sync handlers."""
    return entry(*handlers, captures=captures).call(source or Source(), data)


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that does not suspend."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


def test_payload_is_decoded_by_its_annotation() -> None:
    """bytes, memoryview, str, the message, or nothing at all."""

    def plain(data):  # type: ignore[no-untyped-def]
        return type(data), data

    def text(data: str) -> Any:
        return data

    def view(data: memoryview) -> Any:
        return type(data)

    def same(data: memoryview) -> memoryview:
        return data

    def whole(message: Message) -> Any:
        return message.data

    def nothing() -> Any:
        return "nothing"

    assert call(plain) == (bytes, b"data")
    assert call(text) == "data"
    assert call(view) is call(view, nothing) is memoryview
    assert call(same) == b"data"
    assert type(call(same)) is bytes  # what stands behind the view, which is cheaper to send
    assert call(whole) == b"data"
    assert call(nothing) == "nothing"


def test_captures_are_converted_and_may_stand_anywhere() -> None:
    """Captures go to the parameters of their name, by annotation."""

    def order(body: bytes, message: Message, *, order_id: int, name: str, more: int = 3) -> Any:
        return body, message.event, order_id, name, more

    assert call(order, captures=("order_id", "name")) == (b"data", "e", 7, "x", 3)


def test_bad_payloads_and_captures_are_the_peers_fault() -> None:
    """Not UTF-8, not a number, not by HTTP: BadRequest."""

    def text(data: str) -> Any:
        return data

    def number(name: int) -> Any:
        return name

    def http(request: HttpRequest) -> Any:
        return request

    for handler, data in ((text, b"\xff"), (number, b""), (http, b"")):
        outcome = call(handler, data=data, captures=("name",))
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, BadRequest)


@pytest.mark.parametrize(
    "handler",
    [
        lambda a, b: None,
        lambda data, *, needed: None,
        max,  # of the builtins one that no version of Python has a signature for
    ],
)
def test_what_can_not_be_filled_is_refused(handler: Any) -> None:
    """A signature that can't be satisfied is refused at registration."""
    with pytest.raises(RegistrationError):
        read_signature(handler, ())


def test_unserved_types_are_refused() -> None:
    """A view in an async handler, an annotation that names nothing."""

    async def view(data: memoryview) -> None: ...

    def unknown(data: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037

    for handler in (view, unknown):
        with pytest.raises(RegistrationError):
            read_signature(handler, ("name",))


def test_callables_of_every_kind_are_served() -> None:
    """Partials, bound methods, objects and builtins."""

    class Upper:
        def __call__(self, data: bytes) -> bytes:
            return data.upper()

        def method(self, data: bytes) -> bytes:
            return data.lower()

        async def asynchronous(self, data: bytes) -> bytes:
            return data

    def two(prefix: bytes, data: bytes) -> bytes:
        return prefix + data

    plans = [functools.partial(two, b">"), Upper(), Upper().method, base64.b64encode]
    results = [
        compile_entry("e", [Link(handler=each, name="x", plan=read_signature(each, ()))]).call(
            Source(), b"Data"
        )  # type: ignore[misc]
        for each in plans
    ]
    assert results == [b">Data", b"DATA", b"data", b"RGF0YQ=="]
    assert read_signature(Upper().asynchronous, ()).is_async


def test_first_answer_wins_and_observers_change_nothing() -> None:
    """Handlers run in order; a failure beside an answer is only reported."""
    seen: list[str] = []

    def observer(data: bytes) -> None:
        seen.append("observer")

    def fails(data: bytes) -> None:
        seen.append("fails")
        raise LookupError("on purpose")

    def answers(data: bytes) -> bytes:
        seen.append("answers")
        return b"first"

    def late(data: bytes) -> bytes:
        seen.append("late")
        return b"second"

    source = Source()
    assert call(observer, fails, answers, late, source=source) == b"first"
    assert seen == ["observer", "fails", "answers", "late"]
    assert source.reported == ["LookupError('on purpose')"]


def test_failure_without_answer_is_the_outcome() -> None:
    """The first failure is the outcome when nobody answers; the second is reported."""

    def fails(data: bytes) -> None:
        raise LookupError("first")

    def fails_too(data: bytes) -> None:
        raise LookupError("second")

    source = Source()
    outcome = call(fails, fails_too, source=source)
    assert isinstance(outcome, Failed)
    assert outcome.handler == "fails"
    assert source.reported == ["LookupError('second')"]


def test_mixed_chain_is_async() -> None:
    """One async handler makes the entry async; sync ones keep their place."""
    seen: list[str] = []

    def before(data: bytes) -> None:
        seen.append("before")

    async def answers(data: bytes) -> bytes:
        seen.append("answers")
        return b"reply"

    async def fails(data: bytes) -> None:
        raise LookupError("observer")

    source = Source()
    compiled = entry(before, answers, fails)
    assert compiled.call is None
    assert finish(compiled.start(source, b"")) == b"reply"
    assert seen == ["before", "answers"]
    assert source.reported == ["LookupError('observer')"]


def test_base_exceptions_pass() -> None:
    """Only `Exception` is isolated."""

    def stop(data: bytes) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(stop)


def test_entry_without_handlers_says_not_found() -> None:
    """An event whose last handler was removed while it is served."""
    outcome = compile_entry("gone", ()).call(Source(), b"")  # type: ignore[misc]
    assert isinstance(outcome.error, NotFound)


def test_methods_select_handlers() -> None:
    """Each handler serves the methods it names; HEAD comes with GET."""

    def get(data: bytes) -> str:
        return "get"

    def post(data: bytes) -> str:
        return "post"

    links = [
        Link(handler=get, name="get", plan=read_signature(get, ()), methods=("GET",)),
        Link(handler=post, name="post", plan=read_signature(post, ()), methods=("POST", "PUT")),
    ]
    compiled = compile_entry("e", links)
    replies = {
        name: compiled.entry_for_method(name).call(Source(), b"") for name in ("GET", "HEAD", "POST", "PUT")
    }  # type: ignore[misc]
    assert replies == {"GET": "get", "HEAD": "get", "POST": "post", "PUT": "post"}
    with pytest.raises(NotAllowed) as caught:
        compiled.entry_for_method("DELETE")
    assert caught.value.allowed == ("GET", "HEAD", "OPTIONS", "POST", "PUT")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_trace_and_connect_are_never_served_by_default(method: str) -> None:
    """A handler without methods takes any but these."""
    with pytest.raises(NotAllowed):
        entry(lambda data: data).entry_for_method(method)
    assert entry(lambda data: data).entry_for_method("BREW").call


async def coroutine() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("reply", "payload"),
    [
        (None, None),
        (b"a", b"a"),
        (bytearray(b"a"), b"a"),
        ("ä", "ä".encode()),
        (Reply(b"a"), b"a"),
        (HttpResponse("a", 404), b"a"),
        (memoryview(b"abcd")[::2], b"ac"),
    ],
)
def test_replies_become_bytes(reply: Any, payload: bytes | None) -> None:
    """What each kind of reply is on a transport that has only payloads."""
    assert encode_payload(reply) == payload


@pytest.mark.parametrize("make", [lambda: {3}, lambda: "\ud800", object, coroutine])
def test_what_can_not_be_sent_is_the_handlers_error(make: Any) -> None:
    """A reply of another type is said to be one; a forgotten coroutine is closed."""
    with pytest.raises(HandlerError):
        encode_payload(make())


def test_datagram_is_a_message() -> None:
    """Handlers of Message take datagrams and requests too."""
    assert issubclass(Datagram, Message)
    assert issubclass(HttpRequest, Message)
