"""Read and write payloads as strict JSON (RFC 8259), by msgspec.

Decoders are made once, when a handler is registered; the path of a fault is
in the error. msgspec refuses numbers out of range, lone surrogates, wrong
types and NaN as a literal; added here are what it lets pass: bad UTF-8 in
members that nobody reads, NaN as a `Decimal` or as a key, deep nesting, and
NaN and infinities on the way out, which it would write as null.

What else to know: of two equal keys the last one counts; unknown members are
skipped, unless the type forbids them; `bytes` inside JSON are base64;
validators of attrs classes run, their converters do not; a `msgspec.Raw` is
passed through as it is, in both directions; a set inside a value is an array.

Not here: the size of a payload, which its endpoint limits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import accumulate
from typing import Any

import msgspec
import msgspec.inspect as types

from oread.errors import BadRequest, HandlerError

JSON_DEPTH = 64
"""Arrays and objects inside each other; 2,000 would reach the limit of the C stack, people need about 10."""
FAULT_CHARACTERS = 300
"""Of a fault's text that are told: a validator, or an enum, may repeat the whole value."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+', re.DOTALL)
"""Possessive, and matching at every quote: so the time is linear whatever stands there."""
_NOT_BRACKETS = bytes(code for code in range(256) if code not in b"[]{}")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_REFUSED_BY_ENCODER = (
    msgspec.MsgspecError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
)
"""RuntimeError has RecursionError; the rest may come from code of the value's own, such as a tzinfo."""

_encode = msgspec.json.Encoder().encode


def check_json_type(annotation: Any) -> None:
    """Refuse a type that no JSON can be decoded into.

    Raises:
        TypeError: with what stands in the way.
    """
    try:
        msgspec.json.Decoder(annotation)
        info = types.type_info(annotation)
    except (TypeError, ValueError, NameError, AttributeError, RecursionError) as error:
        raise TypeError(str(error)) from error
    custom = next((each for each in _walk(info) if isinstance(each, types.CustomType)), None)
    if custom is not None:
        raise TypeError(f"{custom.cls.__qualname__} can't be made from JSON")


def make_json_decoder(annotation: Any) -> Callable[[Any], Any]:
    """Make `decode(data) -> value` for one type, which raises BadRequest."""
    decode = msgspec.json.Decoder(annotation, strict=True).decode
    hides_nan = any(_hides_nan(each) for each in _walk(types.type_info(annotation)))

    def read(data: Any) -> Any:
        data = data if type(data) is bytes else bytes(data)
        if data.count(b"[") + data.count(b"{") > JSON_DEPTH:
            _check_depth(data)
        try:
            if not data.isascii():
                str(data, "utf-8")
            value = decode(data)
        except msgspec.ValidationError as error:
            raise BadRequest(_tell_fault(error)) from error
        except msgspec.MsgspecError as error:
            raise BadRequest(str(error)) from error
        except UnicodeDecodeError as error:
            raise BadRequest(f"payload is not UTF-8 at byte {error.start}") from error
        except RecursionError as error:
            raise BadRequest("JSON is nested too deeply") from error
        if hides_nan:
            _check_numbers(value)
        return value

    return read


def encode_json(value: Any) -> bytes:
    """Write a value as JSON.

    Raises:
        HandlerError: it has no JSON: NaN, a type that msgspec doesn't know,
            a set (its order would be chance), nesting without end.
    """
    if isinstance(value, (set, frozenset)):
        raise HandlerError(
            f"a handler returned {type(value).__qualname__}, which has no order: return a list"
        )
    try:
        body = _encode(value)
        if _may_hold_nan(body):
            path = _find_nan(_to_builtins(value))
            if path is not None:
                raise HandlerError(f"a handler returned NaN or an infinity at ${path}, which JSON has not")
    except _REFUSED_BY_ENCODER as error:
        raise HandlerError(
            f"a handler returned {type(value).__qualname__}, which can't be sent as it is, "
            f"nor be written as JSON: {type(error).__name__}: {error}"
        ) from error
    return body


def _may_hold_nan(body: bytes) -> bool:
    """Look for what msgspec writes for numbers that JSON has not; a loop would cost 0.5 µs more."""
    return b"null" in body or b"NaN" in body or b"Infinity" in body or b'nan"' in body or b'inf"' in body


def _check_depth(data: bytes) -> None:
    brackets = _STRING.sub(b"", data).translate(None, _NOT_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > JSON_DEPTH:
        raise BadRequest(f"JSON is nested deeper than {JSON_DEPTH} levels")


def _tell_fault(error: msgspec.ValidationError) -> str:
    """Write `$.items[2].price: Expected ...`; of a validator its own first words."""
    text, found, path = str(error).rpartition(" - at `")
    path = path.removesuffix("`").replace("` in `", " in ") if found else "$"
    cause = error.__cause__
    if cause is not None and cause.args:
        text = str(cause.args[0])  # the rest of what attrs gives is the attribute itself
    return f"{path}: {text if found or cause is not None else error}"[:FAULT_CHARACTERS]


def _to_builtins(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=(Decimal,), enc_hook=lambda _raw: None)


def _check_numbers(value: Any) -> None:
    try:
        path = _find_nan(_to_builtins(value))
    except ValueError as error:  # a NaN that signals, as a key
        raise BadRequest(f"$: {error}") from error
    if path is not None:
        raise BadRequest(f"${path}: NaN and infinities are no numbers of JSON")


def _find_nan(value: Any) -> str | None:
    """Return the path of a number that JSON has not, None when all are fine."""
    if isinstance(value, dict):
        pairs: Iterator[tuple[Any, Any]] = iter(value.items())
        if not all(map(is_finite, value)):
            return ""
        form = ".{}".format
    elif isinstance(value, (list, tuple)):
        pairs, form = enumerate(value), "[{}]".format
    else:
        return None if is_finite(value) else ""
    for key, item in pairs:
        inside = _find_nan(item)
        if inside is not None:
            return form(key) + inside
    return None


def is_finite(value: Any) -> bool:
    """Tell whether JSON can say it, if it is a number at all."""
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, Decimal) or value.is_finite()


def _hides_nan(info: types.Type) -> bool:
    """Tell whether a NaN in a string would pass: as a Decimal, or as a key."""
    if isinstance(info, types.DictType):
        return any(isinstance(each, types.FloatType) for each in _walk(info.key_type))
    return isinstance(info, types.DecimalType)


def _walk(info: types.Type) -> Iterator[types.Type]:
    """Yield a type and all types in it, each once: types may be recursive."""
    seen: set[int] = set()
    waiting: list[Any] = [info]
    while waiting:
        item = waiting.pop()
        if isinstance(item, (tuple, list)):
            waiting.extend(item)
        elif isinstance(item, (types.Type, types.Field)) and id(item) not in seen:
            seen.add(id(item))
            if isinstance(item, types.Type):
                yield item
            waiting.extend(getattr(item, name) for name in item.__struct_fields__)
