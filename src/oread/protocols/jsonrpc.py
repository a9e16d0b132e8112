"""JSON-RPC 2.0 as plain functions: a document in, its calls out, responses back.

`read_document` never raises: what is no call becomes an `Invalid` in its
place, so that a batch is answered in its order. Ids and params stay the bytes
that came (an id is echoed as it was written: `1.0` is not `1`, and a long
integer is never made one); params are decoded once, by the handler's type.

Where the specification leaves room: `params: null` is an invalid request, a
member twice counts as the last of them, unknown members are ignored, and the
error of an invalid request names its id when that could be read.

Not here: which event serves a method and what params mean to its handler
(`oread.dispatch.jsonrpc`), and every transport.

Source: https://www.jsonrpc.org/specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import msgspec

from oread.errors import BadRequest, Busy, HandlerCancelled, MessageError, NotFound, TimedOut

JSONRPC_BATCH = 100
"""Calls of one batch; a longer one is refused whole (common servers take 50 to 1,000)."""
RESERVED = "rpc."
"""Methods that begin so are the specification's own; it has none yet."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
BUSY = -32000
TIMED_OUT = -32001
CANCELLED = -32002
REFUSED = -32003
"""Every other error of `MessageError` that is the caller's fault; `data` has its HTTP status."""

NULL = b"null"
_SPACE = b" \t\n\r"
_ID_BEGINS = b'"-0123456789n'
"""First bytes of what may be an id, in JSON that is well-formed: a string, a number, null."""


@attrs.frozen
class Call:
    """One request or notification."""

    method: str
    params: bytes
    """The array or object as it was written; empty when there was none."""
    id: bytes | None
    """As it was written; None makes it a notification, which is never answered."""


@attrs.frozen
class Fault:
    """What goes wrong with one call, as its error object says it."""

    code: int
    message: str
    data: Any = None
    """A JSON-able value; None leaves it out."""


@attrs.frozen
class Invalid:
    """What stands where a call should; it is answered by its fault."""

    fault: Fault
    id: bytes = NULL


@attrs.frozen
class Document:
    """What one line, datagram or body asks for."""

    items: tuple[Call | Invalid, ...]
    is_batch: bool = False
    """Whether the responses go into an array."""


class _Members(msgspec.Struct):
    """The members of a request that mean something; empty: absent."""

    jsonrpc: msgspec.Raw = msgspec.Raw(b"")
    method: msgspec.Raw = msgspec.Raw(b"")
    params: msgspec.Raw = msgspec.Raw(b"")
    id: msgspec.Raw = msgspec.Raw(b"")


_Bounded = msgspec.defstruct(
    "_Bounded",
    [(f"call{number}", msgspec.Raw, msgspec.Raw(b"")) for number in range(JSONRPC_BATCH)],
    array_like=True,
    forbid_unknown_fields=True,
)
"""An array of so many elements at most: decoding one more is refused before the rest is looked at."""

_read_members = msgspec.json.Decoder(_Members).decode
_read_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_bounded = msgspec.json.Decoder(_Bounded).decode
_read_any = msgspec.json.Decoder(msgspec.Raw).decode
_read_text = msgspec.json.Decoder(str).decode
_write = msgspec.json.Encoder().encode


def read_document(data: bytes) -> Document:
    """Read the calls of one document; what is none becomes `Invalid`.

    Time is linear in the size of the document; so is memory, but for a batch
    that is too long: its end is not looked at.
    """
    begin = data.lstrip(_SPACE)[:1]
    try:
        if not data.isascii():
            data.decode()  # msgspec passes over the text inside what it leaves raw
        if begin == b"{":
            return Document((_read_call(_read_members(data)),))
        if begin == b"[":
            if data.count(b",") >= JSONRPC_BATCH and _is_too_long(data):
                limit = f"at most {JSONRPC_BATCH} calls of a batch are taken"
                return _refuse(INVALID_REQUEST, "Invalid Request", limit)
            return _read_batch(_read_elements(data))
        _read_any(data)
    except RecursionError:
        return _refuse(PARSE_ERROR, "Parse error", "nested too deeply")
    except UnicodeDecodeError as error:
        return _refuse(PARSE_ERROR, "Parse error", f"not UTF-8 at byte {error.start}")
    except msgspec.DecodeError as error:
        return _refuse(PARSE_ERROR, "Parse error", str(error))
    return _refuse(INVALID_REQUEST, "Invalid Request", "a request is an object, a batch an array")


def _is_too_long(data: bytes) -> bool:
    """Tell whether an array has too many elements, without making an object of each."""
    try:
        _read_bounded(data)
    except msgspec.ValidationError:
        return True
    return False


def _refuse(code: int, message: str, data: str) -> Document:
    return Document((Invalid(Fault(code, message, data)),))


def _read_batch(elements: Sequence[msgspec.Raw]) -> Document:
    if not elements:
        return _refuse(INVALID_REQUEST, "Invalid Request", "a batch has at least one call")
    return Document(tuple(_read_element(element) for element in elements), is_batch=True)


def _read_element(element: msgspec.Raw) -> Call | Invalid:
    try:
        return _read_call(_read_members(element))
    except msgspec.ValidationError:  # it is well-formed, but no object
        return _invalid("a request is an object")


def _read_call(members: _Members) -> Call | Invalid:
    given = bytes(members.id)
    if given and given[0] not in _ID_BEGINS:
        return _invalid("an id is a string, a number or null")
    answer_to = given or NULL
    version = bytes(members.jsonrpc)
    if version != b'"2.0"' and (version[:1] != b'"' or _read_text(version) != "2.0"):
        return _invalid('"jsonrpc" must be "2.0"', answer_to)
    method, params = bytes(members.method), bytes(members.params)
    if method[:1] != b'"':
        return _invalid('"method" must be a string', answer_to)
    if params and params[0] not in b"[{":
        return _invalid('"params" must be an array or an object', answer_to)
    return Call(_read_text(method), params, given or None)


def _invalid(reason: str, answer_to: bytes = NULL) -> Invalid:
    return Invalid(Fault(INVALID_REQUEST, "Invalid Request", reason), answer_to)


NO_METHOD = Fault(METHOD_NOT_FOUND, "Method not found")


def fault_of(error: Exception, *, in_handler: bool = True) -> Fault:
    """Say an error in the words of JSON-RPC; a handler's own words stay inside.

    Args:
        error: what dispatch came to.
        in_handler: a handler raised it; False makes NotFound mean the method.
    """
    if isinstance(error, BadRequest):
        return Fault(INVALID_PARAMS, "Invalid params", str(error))
    if isinstance(error, NotFound) and not in_handler:
        return NO_METHOD
    if isinstance(error, Busy):
        return Fault(BUSY, "Busy", {"retry_seconds": error.retry_seconds})
    if isinstance(error, TimedOut):
        return Fault(TIMED_OUT, "Timed out")
    if isinstance(error, HandlerCancelled):
        return Fault(CANCELLED, "Cancelled")
    if isinstance(error, MessageError) and error.status < 500:
        return Fault(REFUSED, "Refused", {"status": error.status, "reason": str(error)})
    return Fault(INTERNAL_ERROR, "Internal error")


def encode_result(answer_to: bytes, result: bytes) -> bytes:
    """Make the response of a call that came to its end.

    Args:
        answer_to: the call's id, as it was written.
        result: JSON.
    """
    return b'{"jsonrpc":"2.0","result":%b,"id":%b}' % (result, answer_to)


def encode_error(answer_to: bytes, fault: Fault) -> bytes:
    """Make the response of a call that failed."""
    error: dict[str, Any] = {"code": fault.code, "message": fault.message}
    if fault.data is not None:
        error["data"] = fault.data
    try:
        text = _write(error)
    except UnicodeEncodeError:  # an error's words may hold anything, lone surrogates too
        del error["data"]
        text = _write(error)
    return b'{"jsonrpc":"2.0","error":%b,"id":%b}' % (text, answer_to)


def join_responses(responses: Sequence[bytes], *, is_batch: bool) -> bytes | None:
    """Make the document that answers; None when nothing is to be answered."""
    if not responses:
        return None
    return b"[%b]" % b",".join(responses) if is_batch else responses[0]
