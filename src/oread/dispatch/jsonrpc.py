"""What params and results of JSON-RPC 2.0 mean to the handlers of an event.

The event's handlers get one payload, as on every transport; what it is, the
first handler with a typed payload says, and if none has one, the first that
takes a payload at all:

* **a type that is written as an array or an object** (attrs class, dataclass,
  TypedDict, list, dict, a union with one of them ...): params are the payload,
  whole. Where the type is written as an object, an array fills its fields in
  their order: `[42, 23]` is `{"minuend": 42, "subtrahend": 23}`.
* **anything else** (bytes, memoryview, str, int, an enum ...): params are one
  argument, `["hello"]` or `{"data": "hello"}` by the parameter's name. For
  bytes, memoryview and str it must be a JSON string, and its text is the payload.
* **no params**, or `[]` or `{}` where one argument is wanted: an empty payload,
  so that the parameter's default counts.
* handlers that take no payload are called whatever the params are; one that
  takes the message finds them there as they were written.

Captures come from the method alone (`orders/7`), never from params.

A result is JSON: None is null; str, and bytes that are UTF-8, are a string
(what a `Reply` or `HttpResponse` carries too); every other value is encoded
as on the other transports. A stream of parts is no result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import msgspec
import msgspec.inspect as types

from oread.dispatch.compiled import Link
from oread.dispatch.payload import encode_payload, is_stream
from oread.errors import BadRequest, HandlerError
from oread.messages import FileReply, HttpResponse, Reply

_OBJECTS = (types.StructType, types.DataclassType, types.TypedDictType)
_WRITTEN_AS_ONE = (
    *_OBJECTS,
    types.AnyType,
    types.RawType,
    types.CollectionType,
    types.TupleType,
    types.NamedTupleType,
    types.DictType,
    types.CustomType,
)
"""Types that a JSON array or object may be decoded into."""

_read_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_read_text = msgspec.json.Decoder(str).decode
_write_text = msgspec.json.Encoder().encode


@attrs.frozen(kw_only=True)
class ParamsRule:
    """How the handlers of one event take params."""

    parameter: str | None = None
    """The name of the one argument; None: params are the payload, whole."""
    is_text: bool = False
    """The argument is a JSON string, its text the payload."""
    fields: tuple[str, ...] | None = None
    """What an array fills, by the names they have in JSON; None: it stays an array."""


def read_params_rule(links: Sequence[Link]) -> ParamsRule:
    """Work out, once for an entry, what params mean to its handlers."""
    taking = [link.plan for link in links if link.plan.payload is not None]
    plan = next((plan for plan in taking if plan.payload == "json"), taking[0] if taking else None)
    if plan is None:
        return ParamsRule()
    parameter = next(name for name, role in plan.roles.items() if role == "payload")
    if plan.payload != "json":
        return ParamsRule(parameter=parameter, is_text=True)
    written = _alternatives(types.type_info(plan.payload_type))
    if not any(isinstance(each, _WRITTEN_AS_ONE) for each in written):
        return ParamsRule(parameter=parameter)
    return ParamsRule(fields=_fields(written))


def _alternatives(info: types.Type) -> list[types.Type]:
    if isinstance(info, types.Metadata):
        return _alternatives(info.type)
    if isinstance(info, types.UnionType):
        return [part for each in info.types for part in _alternatives(each)]
    return [info]


def _fields(written: Sequence[types.Type]) -> tuple[str, ...] | None:
    """Return the fields that an array fills, where there is no doubt about them."""
    wholes = [each for each in written if isinstance(each, _WRITTEN_AS_ONE)]
    only = wholes[0]
    if len(wholes) > 1 or not isinstance(only, _OBJECTS) or getattr(only, "array_like", False):
        return None
    if isinstance(only, types.TypedDictType):
        return tuple(only.cls.__annotations__)  # msgspec lists its fields by name
    return tuple(field.encode_name for field in only.fields)


def read_params(rule: ParamsRule, params: bytes) -> bytes:
    """Return the payload that params make, as JSON or as text.

    Raises:
        BadRequest: they are not what the handler takes, with the path of the fault.
    """
    if not params:
        return b""
    try:
        if rule.parameter is not None:
            return _read_argument(rule, rule.parameter, params)
        if rule.fields is not None and params[:1] == b"[":
            return _fill(rule.fields, _read_array(params))
    except RecursionError as error:
        raise BadRequest("params are nested too deeply") from error
    return params


def _fill(names: Sequence[str], values: Sequence[Any]) -> bytes:
    if len(values) > len(names):
        raise BadRequest(f"{len(values)} params; there are {len(names)}: {', '.join(names)}")
    members = (
        b"%b:%b" % (_write_text(name), bytes(value)) for name, value in zip(names, values, strict=False)
    )
    return b"{%b}" % b",".join(members)


def _read_argument(rule: ParamsRule, parameter: str, params: bytes) -> bytes:
    if params[:1] == b"[":
        values = _read_array(params)
        if len(values) > 1:
            raise BadRequest(f"{len(values)} params; there is one: {parameter}")
        value, path = (bytes(values[0]) if values else b""), "$[0]"
    else:
        members = _read_object(params)
        value, path = bytes(members.pop(parameter, b"")), f"$.{parameter}"
        if members:
            raise BadRequest(f"unknown param {next(iter(members))!r}; there is one: {parameter}")
    if not value or not rule.is_text:
        return value
    try:
        return _read_text(value).encode()
    except msgspec.ValidationError as error:
        raise BadRequest(f"{path}: {error}") from error


class ResultError(HandlerError):
    """What a handler returned can't be a result; its words may be told to the peer."""


def encode_value(reply: Any) -> bytes:
    """Write what a handler returned as JSON.

    Raises:
        ResultError: bytes that are not UTF-8, or a stream.
        HandlerError: a value that no transport can send.
    """
    if reply is None:
        return b"null"
    if is_stream(reply):
        raise ResultError("a stream of parts can't be a result")
    if isinstance(reply, FileReply):
        raise ResultError("a file can't be a result")
    if isinstance(reply, Reply):
        reply = reply.data
    elif isinstance(reply, HttpResponse):
        reply = reply.body
    if not isinstance(reply, str | bytes | bytearray | memoryview):
        return bytes(encode_payload(reply) or b"null")
    text = encode_payload(reply) or b""
    try:
        return _write_text(str(text, "utf-8"))
    except UnicodeDecodeError as error:
        raise ResultError(f"the reply is not UTF-8 at byte {error.start}") from error
