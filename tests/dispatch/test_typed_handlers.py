"""Typed handlers: payloads, captures, messages and defaults, by the signature."""

from __future__ import annotations

import functools
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Annotated, Any, Literal

import attrs
import msgspec
import pytest

from oread.dispatch import Failed, Link, compile_entry, is_stream, read_signature
from oread.errors import BadRequest, RegistrationError
from oread.messages import Datagram, HttpRequest, Message


@attrs.define
class Order:
    """A payload type."""

    sku: str
    count: int = 1


Positive = Annotated[int, msgspec.Meta(ge=1)]
Short = Annotated[str, msgspec.Meta(max_length=3)]


@attrs.define
class Source:
    """An origin of plain messages, or of HTTP requests."""

    captures: Mapping[str, str] = attrs.field(factory=dict)
    http: bool = False

    def message(self, data: bytes | memoryview) -> Message:
        if self.http:
            return HttpRequest(
                event="e", data=bytes(data), transport="http", method="GET", target="/", path="/"
            )
        return Message(event="e", data=bytes(data), transport="tcp")

    def report(self, failed: Failed) -> None:
        raise AssertionError(failed)


def call(handler: Any, data: bytes = b"", *, http: bool = False, **captures: str) -> Any:
    """Call one sync handler as an endpoint would."""
    link = Link(handler=handler, name="handler", plan=read_signature(handler, tuple(captures)))
    compiled = compile_entry("e", [link])
    assert compiled.call is not None
    return compiled.call(Source(captures, http=http), data)


def fault(*args: Any, **options: Any) -> str:
    """Call a handler that is not to be reached; return what the peer is told."""
    outcome = call(*args, **options)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, BadRequest)
    return str(outcome.error)


def refusal(handler: Any, *captures: str) -> str:
    """Register what can't be; return why."""
    with pytest.raises(RegistrationError) as caught:
        read_signature(handler, captures)
    return str(caught.value)


def take_order(order: Order) -> Any:
    """Take JSON."""
    return order


def test_payload_is_decoded_into_its_type() -> None:
    """A type that is neither bytes nor text is strict JSON; the plan says so."""
    assert call(take_order, b'{"sku":"a"}') == Order("a")
    assert fault(take_order, b'{"sku":1}') == "$.sku: Expected `str`, got `int`"
    plan = read_signature(take_order, ())
    assert (plan.payload, plan.payload_type, plan.is_async, plan.streams) == ("json", Order, False, False)


def test_empty_payload_is_refused_or_the_default() -> None:
    """Empty is no JSON; with a default it is the default; bytes and str are empty then."""

    def optional(order: Order | None = None) -> Any:
        return order

    def data(data: bytes = b"default") -> Any:
        return data

    def text(text: str) -> Any:
        return repr(text)

    def only_by_name(*, order: Order = Order("default")) -> Any:  # noqa: B008
        return order

    assert fault(take_order) == "the payload is empty; order is needed as JSON: Order"
    assert call(optional) is None
    assert call(optional, b'{"sku":"a"}') == Order("a")
    assert (call(data), call(data, b"x")) == (b"default", b"x")
    assert call(text) == "''"
    assert call(only_by_name) == Order("default")
    assert call(only_by_name, b'{"sku":"b"}') == Order("b")


def test_text_stays_text_when_it_is_optional_or_bounded() -> None:
    """`str | None` and bounds don't make JSON of a text."""

    def optional(text: str | None = None) -> Any:
        return text

    def bounded(text: Short) -> Any:
        return text

    def view(data: Annotated[memoryview, msgspec.Meta(max_length=3)]) -> Any:
        return bytes(data)

    assert (call(optional), call(optional, b"a")) == (None, "a")
    assert call(bounded, b"abc") == "abc"
    assert fault(bounded, b"abcd") == "payload: Expected `str` of length <= 3"
    assert call(view, b"abc") == b"abc"
    assert fault(view, b"abcd").startswith("payload: ")


def test_captures_have_bounds_and_defaults() -> None:
    """Captures are converted by annotation; an empty tail gives the default."""

    def handler(number: Positive, kind: Literal["a", "b"] = "a", rest: str = "index", *, price: float) -> Any:
        return number, kind, rest, price

    assert call(handler, number="1", kind="b", rest="", price="1.5") == (1, "b", "index", 1.5)
    assert fault(handler, number="0", kind="a", rest="x", price="1").startswith(
        "number='0': Expected `int` >= 1"
    )
    assert fault(handler, number="x", kind="a", rest="x", price="1").startswith("number='x': Expected `int`")
    assert fault(handler, number="1", kind="c", rest="x", price="1").startswith("kind='c': ")
    for price in ("nan", "Infinity", "1e400"):
        assert fault(handler, number="1", kind="a", rest="x", price=price).startswith(f"price={price!r}: ")
    assert len(fault(handler, number="x" * 9_999, kind="a", rest="x", price="1")) <= 300


def test_a_message_may_be_optional() -> None:
    """A request where there is one, else the default; without it others are refused."""

    def optional(data: bytes, request: HttpRequest | None = None) -> Any:
        return request and request.method

    def without_default(request: HttpRequest | None) -> Any:
        return request

    def several(message: Message, request: HttpRequest | None = None) -> Any:
        return type(message), type(request)

    def either(message: HttpRequest | Datagram) -> Any:
        return message.transport

    assert (call(optional, http=True), call(optional)) == ("GET", None)
    assert call(without_default) is None
    assert call(several) == (Message, type(None))
    assert call(several, http=True) == (HttpRequest, HttpRequest)
    assert call(either, http=True) == "http"
    assert fault(either) == "HttpRequest or Datagram is needed, but the message came by tcp"
    assert [read_signature(each, ()).message for each in (optional, several, either)] == [Message] * 3
    assert read_signature(lambda data: data, ()).message is None


def test_the_payload_goes_to_what_needs_it() -> None:
    """The first parameter without a default, else the first; others keep theirs."""

    def last(verbose: bool = True, *, order: Order, message: Message) -> Any:
        return verbose, order, message.transport

    def behind(data: bytes, verbose: bool = True, message: Message | None = None, extra: int = 3) -> Any:
        return data, verbose, message and message.transport, extra

    def by_position(data: bytes, verbose: bool = True, message: Message | None = None, /) -> Any:
        return data, verbose, message

    def prefixed(prefix: bytes, data: bytes) -> Any:
        return prefix + data

    assert call(functools.partial(prefixed, prefix=b">"), b"x") == b">x"
    assert call(last, b'{"sku":"a"}') == (True, Order("a"), "tcp")
    assert call(behind, b"x") == (b"x", True, "tcp", 3)
    assert call(by_position, b"x") == (b"x", True, None)
    assert call(lambda count=3: count, b"") == 3
    assert refusal(lambda a, b: None).endswith(
        "parameter 'b' can't be filled: the payload goes to 'a' and the pattern captures nothing"
    )


def sync_items(count: int) -> Iterator[int]:
    """Stream numbers."""
    yield from range(count)


async def async_items(count: int) -> AsyncIterator[int]:
    """Stream numbers."""
    for each in range(count):
        yield each


class Streamer:
    """An object whose call is a generator."""

    def __call__(self, data: bytes) -> Iterator[bytes]:
        yield data


def test_generators_are_sync_handlers_that_stream() -> None:
    """A generator function is called, not awaited; what it returns is a stream."""
    for handler, kind in (
        (sync_items, "sync"),
        (async_items, "async"),
        (functools.partial(sync_items), "sync"),
    ):
        plan = read_signature(handler, ())
        assert (plan.is_async, plan.streams, plan.payload) == (False, True, "json")
        assert is_stream(call(handler, b"3")) == kind
    assert list(call(sync_items, b"3")) == [0, 1, 2]
    assert read_signature(Streamer(), ()).streams
    assert not read_signature(take_order, ()).streams
    assert [is_stream(each) for each in (b"", "", [], (), {}, None, range(3))] == [None] * 7


class Custom:
    """A type that JSON knows nothing of."""


def test_what_can_not_be_typed_is_refused() -> None:
    """The refusal names the handler, the parameter and what works."""

    def custom(data: list[Custom]) -> None: ...

    def array(data: bytearray) -> None: ...

    def bounds(data: Annotated[int, msgspec.Meta(ge=2**70)]) -> None: ...

    def unknown(data: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    def streams_view(data: memoryview) -> Iterator[bytes]:
        yield b""

    def capture(order: Order) -> None: ...

    def encoded(order: bytes) -> None: ...

    assert "custom: payload 'data' is annotated list" in refusal(custom)
    assert "Custom can't be made from JSON; served are bytes, " in refusal(custom)
    assert "take bytes" in refusal(array)
    assert "bounds: payload 'data'" in refusal(bounds)
    assert "annotation cannot be resolved: name 'Nowhere' is not defined" in refusal(unknown)
    assert "a memoryview is valid during a sync call only" in refusal(streams_view)
    for handler in (capture, encoded):
        assert "capture 'order': text is not converted to " in refusal(handler, "order")
    assert "text is not converted" not in refusal(custom, "data")


def test_text_becomes_many_types() -> None:
    """Captures are told by what a person writes in a path."""

    def handler(key: uuid.UUID) -> Any:
        return key.int

    assert call(handler, key="00000000-0000-0000-0000-000000000007") == 7


def test_a_plain_handler_is_called_as_it_is() -> None:
    """Only a default or bounds cost something: the hot path has neither."""
    plans = [read_signature(each, ()) for each in (lambda data: data, len)]
    assert [(plan.decode, dict(plan.defaults)) for plan in plans] == [(None, {})] * 2
