"""Strict JSON: what is refused and where, what goes out, in bounded time."""

from __future__ import annotations

import contextlib
import datetime
import enum
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, TypedDict

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.dispatch.json_payload import JSON_DEPTH, check_json_type, encode_json, make_json_decoder
from oread.errors import BadRequest, HandlerError


def check_even(_instance: object, attribute: Any, value: int) -> None:
    """Refuse odd numbers as attrs' own validators do: with more than words."""
    if value % 2:
        raise TypeError("must be even", attribute, int, value)


@attrs.define
class Line:
    """An attrs class with validators and a converter."""

    price: float = attrs.field(validator=attrs.validators.lt(100.0))
    count: int = attrs.field(default=0, validator=check_even)
    note: str = attrs.field(default="", converter=str)


@dataclass
class Box:
    """A dataclass."""

    lines: list[Line]


class Money(TypedDict):
    """A TypedDict."""

    amount: Decimal


class Pet(msgspec.Struct, forbid_unknown_fields=True):
    """A struct that takes nothing unknown."""

    kind: Literal["cat", "dog"]


class Colour(enum.Enum):
    """An enum."""

    RED = "red"


class Zone(datetime.tzinfo):
    """A time zone of the user's that fails."""

    def utcoffset(self, moment: datetime.datetime | None) -> datetime.timedelta | None:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        (Line, b'{"price": 1, "unknown": [1]}', Line(1.0)),
        (Box, b'{"lines":[{"price":1.5,"count":2}]}', Box([Line(1.5, 2)])),
        (Money, b'{"amount": "1.10"}', {"amount": Decimal("1.10")}),
        (Pet, b'{"kind":"cat"}', Pet("cat")),
        (list[Colour], b'["red"]', [Colour.RED]),
        (int | str | None, b"null", None),
        (tuple[int, str], b'[1,"a"]', (1, "a")),
        (uuid.UUID, b'"12345678123456781234567812345678"', uuid.UUID(int=0x12345678123456781234567812345678)),
        (datetime.date, b'"2026-11-24"', datetime.date(2026, 11, 24)),
        (Annotated[int, msgspec.Meta(ge=1)], b"1", 1),
        (dict[str, Any], '{"ä":"\\u00e4"}'.encode(), {"ä": "ä"}),
        (dict[str, int], b'{"a":1,"a":2}', {"a": 2}),
        (Any, b'["[[[\\"[[["]', ['[[["[[[']),
    ],
)
def test_json_is_decoded_into_the_type(kind: Any, data: bytes, value: Any) -> None:
    """Each kind of type is made; bytes and views are read alike."""
    decode = make_json_decoder(kind)
    assert decode(data) == decode(memoryview(data)) == value


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        (Box, b'{"lines":[{"price":1},{"price":"1"}]}', "$.lines[1].price: Expected `float`, got `str`"),
        (Box, b'{"lines":[{"price":100}]}', "$.lines[0]: 'price' must be < 100.0: 100.0"),
        (Line, b'{"price":1,"count":1}', "$: must be even"),
        (Line, b'{"price":1,"note":3}', "$.note: Expected `str`, got `int`"),
        (Line, b"{}", "$: Object missing required field `price`"),
        (Pet, b'{"kind":"cow"}', "$.kind: Invalid enum value 'cow'"),
        (Pet, b'{"kind":"cat","age":1}', "$: Object contains unknown field `age`"),
        (dict[int, int], b'{"a":1}', "key in $: Expected `int`, got `str`"),
        (Annotated[int, msgspec.Meta(ge=1)], b"0", "$: Expected `int` >= 1"),
        (int, b"1.0", "$: Expected `int`, got `float`"),
        (int, b'"1"', "$: Expected `int`, got `str`"),
        (int, b"9" * 5_000, "$: Integer value out of range"),
        (float, b"1e400", "$: Number out of range"),
        (Any, b"[-1e400]", "$[0]: Number out of range"),
        (list[Decimal], b'[1, "NaN"]', "$[1]: NaN and infinities are no numbers of JSON"),
        (Money, b'{"amount":" -inf "}', "$.amount: NaN and infinities are no numbers of JSON"),
        (dict[float, int], b'{"nan":1}', "$: NaN and infinities are no numbers of JSON"),
        (dict[Decimal, int], b'{"Infinity":1}', "$: NaN and infinities are no numbers of JSON"),
        (str, b'"\xff"', "payload is not UTF-8 at byte 1"),
        (Line, b'{"price":1,"unknown":"\xed\xa0\x80"}', "payload is not UTF-8 at byte 22"),
        (Any, b"[NaN]", "JSON is malformed: invalid character (byte 1)"),
        (Any, b"Infinity", "JSON is malformed: invalid character (byte 0)"),
        (Any, b"\xef\xbb\xbf1", "JSON is malformed: invalid character (byte 0)"),
        (Any, b"1 2", "JSON is malformed: trailing characters"),
        (Any, b"'a'", "JSON is malformed: invalid character (byte 0)"),
        (Any, b"[1,]", "JSON is malformed"),
        (Any, b" ", "Input data was truncated"),
        (str, b'"\\ud800"', "Input data was truncated"),
        (str, b'"\\ud800\\u0041"', "JSON is malformed: invalid utf-16 surrogate pair"),
    ],
)
def test_faults_are_told_with_their_path(kind: Any, data: bytes, text: str) -> None:
    """What is not strict JSON of that type is the peer's fault, and the text says where."""
    with pytest.raises(BadRequest) as caught:
        make_json_decoder(kind)(data)
    assert str(caught.value).startswith(text)


def test_text_of_a_fault_is_bounded() -> None:
    """A value that is repeated in the fault is cut."""
    with pytest.raises(BadRequest) as caught:
        make_json_decoder(Colour)(b'"%s"' % (b"x" * 10_000))
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"\\"]":', b"}]"), (b'["]]",', b"]")]
)
@pytest.mark.parametrize("kind", [Any, Line, msgspec.Raw])
def test_nesting_is_bounded(opening: bytes, closing: bytes, kind: Any) -> None:
    """64 levels pass where the type takes them, 65 don't, whatever the type skips."""
    levels = 2 if opening.startswith(b"[{") else 1
    deep = JSON_DEPTH // levels
    data = opening * deep + b"1" + closing * deep
    if kind is Any:
        make_json_decoder(kind)(data)
    for more in (1, 20_000):
        with pytest.raises(BadRequest, match="nested deeper than 64 levels"):
            make_json_decoder(kind)(opening * (deep + more) + b"1" + closing * (deep + more))


def test_many_brackets_side_by_side_are_not_deep() -> None:
    """Depth is counted, not brackets, and those in strings are text."""
    decode = make_json_decoder(list[Any])
    assert decode(b"[" + b"[]," * 500 + b"{}]") == [[]] * 500 + [{}]
    assert decode(b'["%s"]' % (b"[" * 500)) == ["[" * 500]
    assert decode(b'["\\"%s\\\\"]' % (b"[" * 500)) == ['"' + "[" * 500 + "\\"]


@pytest.mark.parametrize("data", [b'"\\' * 300_000, b'"' * 600_000, b'\\"' * 300_000, b'["' * 300_000])
def test_depth_of_what_is_malformed_is_found_in_one_pass(data: bytes) -> None:
    """Unclosed strings and lonely escapes are refused; a second scan for each would take hours."""
    with pytest.raises(BadRequest):
        make_json_decoder(Any)(b"[" * 70 + data)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.decimals(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def holds_nan(value: Any) -> bool:
    """Tell whether a number somewhere has no JSON."""
    if isinstance(value, dict):
        return any(map(holds_nan, value.values()))
    if isinstance(value, list):
        return any(map(holds_nan, value))
    if isinstance(value, Decimal):
        return not value.is_finite()
    return isinstance(value, float) and not math.isfinite(value)


@given(values)
def test_nan_never_goes_out(value: Any) -> None:
    """A value is refused exactly when it holds NaN or an infinity."""
    if holds_nan(value):
        with pytest.raises(HandlerError, match="NaN or an infinity at "):
            encode_json(value)
    else:
        encode_json(value)


@given(st.binary(max_size=40) | values.map(lambda value: msgspec.json.encode(value)[:60]))
def test_whatever_comes_is_a_value_or_a_bad_request(data: bytes) -> None:
    """No input gives another error."""
    for kind in (Any, Box, dict[float, Decimal]):
        with contextlib.suppress(BadRequest):
            make_json_decoder(kind)(data)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (Line(1.0), {"price": 1.0, "count": 0, "note": ""}),
        (Box([]), {"lines": []}),
        ({"a": None, "b": [True, 1.5, "ä"]}, {"a": None, "b": [True, 1.5, "ä"]}),
        ({1: "NaN", "nan": "Infinity", "inf": None}, {"1": "NaN", "nan": "Infinity", "inf": None}),
        ({"tags": {1}}, {"tags": [1]}),
        ((1, 2), [1, 2]),
        (False, False),
        (Decimal("1.10"), "1.10"),
        (Pet("cat"), {"kind": "cat"}),
        ([msgspec.Raw(b'{"a":null}')], [{"a": None}]),
    ],
)
def test_values_are_written_as_json(value: Any, data: Any) -> None:
    """What is JSON-able comes back as what JSON has for it."""
    assert msgspec.json.decode(encode_json(value)) == data


def endless() -> list[Any]:
    """Return a list that holds itself."""
    value: list[Any] = []
    value.append(value)
    return value


def deep() -> dict[str, Any]:
    """Return what the encoder takes, with a null that is looked for a NaN."""
    value: dict[str, Any] = {"a": None}
    for _ in range(600):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: {1}, "set, which has no order"),
        (frozenset, "frozenset, which has no order"),
        (object, "object, which can't be sent as it is"),
        (lambda: [object()], "Encoding objects of type object"),
        (lambda: 3j, "complex"),
        (lambda: msgspec.UNSET, "UnsetType"),
        (endless, "recursion"),
        (lambda: 10**5_000, "4300 digits"),
        (lambda: ["\ud800"], "surrogates"),
        (lambda: {(1, 2): 3}, "keys"),
        (lambda: datetime.datetime(2026, 1, 1, tzinfo=Zone()), "ZeroDivisionError"),
        (lambda: {"a": [1.0, math.inf]}, r"at \$\.a\[1\]"),
        (lambda: {math.nan: 1}, r"at \$,"),
        (lambda: Decimal("sNaN"), r"at \$,"),
    ],
)
def test_what_has_no_json_is_the_handlers_error(make: Callable[[], Any], text: str) -> None:
    """Encoding raises HandlerError and nothing else, and names what it was."""
    with pytest.raises(HandlerError, match=text):
        encode_json(make())


def test_depth_of_a_reply_is_no_crash() -> None:
    """A deep reply is written, or the handler's error: by how deep the stack is already."""
    with contextlib.suppress(HandlerError):
        assert encode_json(deep()).startswith(b'{"a":{"a":')


@pytest.mark.parametrize(
    "kind", [object, complex, Callable, list[object], "Nowhere", bytes | str, Line | Box, 3, type]
)
def test_types_without_json_are_told(kind: Any) -> None:
    """A type that nothing could ever be decoded into is known before anything comes."""
    with pytest.raises(TypeError):
        check_json_type(kind)
