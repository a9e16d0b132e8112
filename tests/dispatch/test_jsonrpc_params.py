"""What params mean to handlers, and what their results are as JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, TypedDict

import attrs
import msgspec
import pytest

import oread
from oread.dispatch.jsonrpc import ParamsRule, ResultError, encode_value, read_params, read_params_rule
from oread.messages import HttpResponse, Reply


@attrs.frozen
class Subtract:
    """As the specification's own example has it."""

    minuend: int
    subtrahend: int = 23


@dataclass
class Order:
    """Its fields are not in the order of the alphabet."""

    price: float
    item: str = "?"
    count: int = 1


class Point(TypedDict):
    """Its keys are not in the order of the alphabet."""

    y: int
    x: NotRequired[int]


class Renamed(msgspec.Struct, rename="camel"):
    """Its fields have other names in JSON."""

    first_name: str


class Row(msgspec.Struct, array_like=True):
    """Is written as an array."""

    a: int
    b: int


def takes(annotation: Any) -> ParamsRule:
    """Return the rule of an event whose handler takes this payload."""

    def handler(data: Any) -> None:
        """Take it."""

    handler.__annotations__["data"] = annotation
    return rule_of(handler)


def rule_of(*handlers: Callable[..., Any]) -> ParamsRule:
    """Return the rule of an event with these handlers."""
    registry = oread.Registry()
    for handler in handlers:
        registry.on("event/{capture}", handler)
    found = registry.find("event/1")
    assert found is not None
    return read_params_rule(found[0].links)


PARAMS: list[tuple[Any, str, bytes]] = [
    # text: one argument, a JSON string
    (bytes, '["hello"]', b"hello"),
    (bytes, '{"data":"hello"}', b"hello"),
    (memoryview, '["hello"]', b"hello"),
    (str, '["\\u00e4\\n"]', "ä\n".encode()),
    (Annotated[str, msgspec.Meta(max_length=9)], '["a"]', b"a"),
    (bytes, "", b""),
    (bytes, "[]", b""),
    (bytes, "{}", b""),
    # another scalar: one argument, as JSON
    (int, "[4]", b"4"),
    (int, '{"data": 4.0}', b"4.0"),
    (float | None, "[null]", b"null"),
    (int, "", b""),
    # written as an array or an object: the params themselves
    (list[int], "[1, 2]", b"[1, 2]"),
    (list[int], '{"data":[1]}', b'{"data":[1]}'),
    (dict[str, int], '{"a":1}', b'{"a":1}'),
    (list[int] | int, "[1]", b"[1]"),
    (tuple[int, str], '[1,"a"]', b'[1,"a"]'),
    (Row, "[1,2]", b"[1,2]"),
    (Subtract, '{"minuend":42}', b'{"minuend":42}'),
    (Subtract | list[int], "[42]", b"[42]"),
    (Subtract, "", b""),
    # an array fills the fields of an object, in their order
    (Subtract, "[42, 23]", b'{"minuend":42,"subtrahend":23}'),
    (Subtract | None, "[42]", b'{"minuend":42}'),
    (Subtract, "[]", b"{}"),
    (Order, '[1.50, "tea"]', b'{"price":1.50,"item":"tea"}'),
    (Point, "[1, 2]", b'{"y":1,"x":2}'),
    (Renamed, '["Ada"]', b'{"firstName":"Ada"}'),
]


@pytest.mark.parametrize(("annotation", "params", "payload"), PARAMS)
def test_params_make_the_payload(annotation: Any, params: str, payload: bytes) -> None:
    """One argument, the whole, or fields in their order: the payload's type says which."""
    assert read_params(takes(annotation), params.encode()) == payload


FAULTS: list[tuple[Any, str, str]] = [
    (bytes, '["a","b"]', "2 params; there is one: data"),
    (bytes, '{"text":"a"}', "unknown param 'text'; there is one: data"),
    (bytes, '{"data":"a","more":1}', "unknown param 'more'; there is one: data"),
    (bytes, "[4]", r"^\$\[0\]: Expected `str`, got `int`"),
    (str, '{"data":["a"]}', r"^\$.data: Expected `str`, got `array`"),
    (int, "[1,2]", "2 params; there is one: data"),
    (Subtract, "[1,2,3]", "3 params; there are 2: minuend, subtrahend"),
]


@pytest.mark.parametrize(("annotation", "params", "words"), FAULTS)
def test_params_that_do_not_fit_are_named(annotation: Any, params: str, words: str) -> None:
    """The fault says what there is instead, and where."""
    with pytest.raises(oread.BadRequest, match=words):
        read_params(takes(annotation), params.encode())


def test_a_handler_without_payload_leaves_params_as_they_are() -> None:
    """Nothing is asked of them; one that takes the message finds them there."""
    rule = rule_of(lambda: None)
    assert read_params(rule, b'{"a": [1]}') == b'{"a": [1]}'


def test_the_first_typed_payload_says_how_params_are_taken() -> None:
    """Observers of bytes see what the typed handler is given, as on every transport."""

    def observe(data: bytes) -> None:
        """See the JSON."""

    def typed(order: Order) -> None:
        """Decode it."""

    assert rule_of(observe, typed) == takes(Order)
    assert rule_of(observe) == ParamsRule(parameter="data", is_text=True)


def test_captures_are_no_params() -> None:
    """The one argument is the payload, whatever the pattern captures beside it."""

    def handler(capture: int, text: str) -> None:
        """Take both."""

    assert rule_of(handler) == ParamsRule(parameter="text", is_text=True)


VALUES: list[tuple[Any, Any]] = [
    (None, None),
    ("ä\n", "ä\n"),
    ("", ""),
    (b"hello", "hello"),
    (b"", ""),
    (bytearray(b"a"), "a"),
    (memoryview(b"ab")[1:], "b"),
    (Reply('{"a":1}', "application/json"), '{"a":1}'),
    (HttpResponse("body", 404), "body"),
    (True, True),
    (7, 7),
    ([1, None], [1, None]),
    (Subtract(1, 2), {"minuend": 1, "subtrahend": 2}),
]


@pytest.mark.parametrize(("reply", "value"), VALUES)
def test_a_reply_is_one_value_of_json(reply: Any, value: Any) -> None:
    """Text and bytes are strings, None is null, the rest is what it is elsewhere."""
    assert json.loads(encode_value(reply)) == value


def items() -> Iterator[bytes]:
    """Yield one."""
    yield b"1"


async def later() -> AsyncIterator[bytes]:
    """Yield one."""
    yield b"1"


@pytest.mark.parametrize(
    ("reply", "words"),
    [(b"a\xff", "byte 1"), (items(), "stream"), (later(), "stream"), (Reply(b"\xff"), "byte 0")],
)
def test_what_is_no_result_is_told_to_the_peer(reply: Any, words: str) -> None:
    """These words are ours: nothing of the handler's is in them."""
    with pytest.raises(ResultError, match=words):
        encode_value(reply)


@pytest.mark.parametrize("reply", ["\ud800", float("nan"), object(), {1, object()}])
def test_what_nothing_can_send_is_a_failure(reply: Any) -> None:
    """Its words may be the handler's and stay inside."""
    with pytest.raises(oread.HandlerError) as caught:
        encode_value(reply)
    assert not isinstance(caught.value, ResultError)
