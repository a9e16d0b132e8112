"""Fetch one argument of a handler from a message.

Each getter is made when the handler is compiled, for one parameter. An empty
payload, an empty tail, or a message of another kind gives the parameter's
default, where it has one.
"""

from __future__ import annotations

from typing import Any

import msgspec

from oread.dispatch.compiled import Call, Origin
from oread.dispatch.json_payload import FAULT_CHARACTERS, is_finite
from oread.dispatch.parts import PARTS, Parts, as_parts
from oread.dispatch.signature import Plan
from oread.errors import BadRequest
from oread.messages import Message


def make_getter(plan: Plan, name: str) -> Call:
    """Make `get(origin, data) -> argument` for one parameter; it raises BadRequest."""
    role = plan.roles[name]
    if role == "message":
        return _message_getter(plan, name)
    if role == "capture":
        return _capture_getter(plan, name)
    get = _payload_getter(plan, name)
    if name not in plan.defaults:
        return get
    default = plan.defaults[name]
    return lambda origin, data: get(origin, data) if len(data) else default


def _payload_getter(plan: Plan, name: str) -> Call:
    decode = plan.decode
    if plan.payload == "json":
        assert decode is not None
        return _json_getter(plan, name)
    kinds = {"bytes": _get_bytes, "memoryview": _get_view, "str": _get_text, PARTS: _get_parts}
    get = kinds[str(plan.payload)]
    return get if decode is None else lambda origin, data: decode(get(origin, data))


def _json_getter(plan: Plan, name: str) -> Call:
    decode = plan.decode
    assert decode is not None
    wanted = getattr(plan.payload_type, "__name__", None) or str(plan.payload_type)

    def get(_origin: Origin, data: Any) -> Any:
        if not len(data):
            raise BadRequest(f"the payload is empty; {name} is needed as JSON: {wanted}")
        return decode(data)

    return get


def _get_bytes(_origin: Origin, data: Any) -> bytes:
    return data if type(data) is bytes else bytes(data)


def _get_view(_origin: Origin, data: Any) -> memoryview:
    return memoryview(data)


def _get_parts(_origin: Origin, data: Any) -> Parts:
    return as_parts(data)


def _get_text(_origin: Origin, data: Any) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"payload is not UTF-8 at byte {error.start}") from error


def _message_getter(plan: Plan, name: str) -> Call:
    wanted, has_default, default = plan.messages[name], name in plan.defaults, plan.defaults.get(name)

    def get(origin: Origin, data: Any) -> Message | Any:
        message = origin.message(data)
        if isinstance(message, wanted):
            return message
        if has_default:
            return default
        names = " or ".join(each.__name__ for each in wanted)
        raise BadRequest(f"{names} is needed, but the message came by {message.transport}")

    return get


def _capture_getter(plan: Plan, name: str) -> Call:
    annotation, has_default, default = plan.captures[name], name in plan.defaults, plan.defaults.get(name)
    if annotation is str and not has_default:
        return lambda origin, _data: origin.captures[name]

    def get(origin: Origin, _data: Any) -> Any:
        text = origin.captures[name]
        if has_default and not text:
            return default
        try:
            value = msgspec.convert(text, annotation, strict=False)
        except msgspec.ValidationError as error:
            raise BadRequest(f"{name}={text!r}: {error}"[:FAULT_CHARACTERS]) from error
        if not is_finite(value):
            raise BadRequest(f"{name}={text!r}: Expected a finite number")
        return value

    return get
