"""Turn a caller's values into payloads, and replies into the type asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import attrs
import msgspec

from oread.dispatch import encode_payload
from oread.dispatch.json_payload import make_json_decoder
from oread.errors import BadRequest, HandlerError
from oread.messages import HttpResponse, Reply

Kind = Literal["bytes", "text", "json"]

CONTENT_TYPES: dict[Kind, str] = {
    "bytes": "application/octet-stream",
    "text": "text/plain; charset=utf-8",
    "json": "application/json",
}


@attrs.frozen(kw_only=True)
class Payload:
    """What is sent, and what HTTP and JSON-RPC say of it."""

    data: bytes
    kind: Kind


def write_payload(value: Any) -> Payload:
    """Encode a value as a handler's reply would be; None is an empty payload.

    Raises:
        BadRequest: the value is nothing that can be sent.
    """
    if value is None:
        return Payload(data=b"", kind="bytes")
    if isinstance(value, (Reply, HttpResponse)):
        raise BadRequest(f"{type(value).__name__} is an answer, not a payload")
    try:
        data = bytes(encode_payload(value) or b"")
    except HandlerError as error:
        raise BadRequest(
            f"the payload can't be sent: {str(error).removeprefix('a handler returned ')}"
        ) from error
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Payload(data=data, kind="bytes")
    return Payload(data=data, kind="text" if isinstance(value, str) else "json")


@functools.lru_cache(maxsize=256)  # a decoder takes 10 to 100 µs to make
def make_reader(wanted: Any) -> Callable[[bytes], Any]:
    """Make `read(data) -> value` for the type that a caller asks for.

    Args:
        wanted: `bytes` takes a reply as it is, `str` is strict UTF-8, anything
            else is strict JSON; no reply at all is None, where the type takes it.

    Returns:
        A function that raises HandlerError, with the path of the fault, for a
        reply that is not of this type.

    Raises:
        TypeError: no JSON can be decoded into this type.
    """
    if wanted is bytes:
        return _read_bytes
    decode = _read_text if wanted is str else make_json_decoder(wanted)
    name = getattr(wanted, "__name__", wanted)

    def read(data: bytes) -> Any:
        try:
            if not data and wanted is not str:
                return msgspec.convert(None, wanted)
            return decode(data)
        except (BadRequest, UnicodeDecodeError, msgspec.ValidationError) as error:
            raise HandlerError(f"the reply is not {name}: {error}") from error

    return read


def _read_bytes(data: bytes) -> bytes:
    return data


def _read_text(data: bytes) -> str:
    return data.decode()
