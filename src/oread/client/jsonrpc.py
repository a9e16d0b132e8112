"""Call by JSON-RPC 2.0: events are methods, payloads are params.

A JSON object or array is `params` as it is; text and any other value is the
one argument, `[value]`; an empty payload is left out. A result that is a
string is its text for a caller who asks for bytes or str.

Source: JSON-RPC 2.0, 4 and 5.
"""

from __future__ import annotations

import itertools
from typing import Any, Protocol

import msgspec
import trio

from oread.client.channel import Items, Outcome
from oread.client.payloads import Payload
from oread.errors import (
    BadRequest,
    Busy,
    HandlerCancelled,
    HandlerError,
    MessageError,
    NotFound,
    TimedOut,
    TooLarge,
)

_ERRORS: dict[int, type[MessageError]] = {
    -32700: BadRequest,
    -32600: BadRequest,
    -32602: BadRequest,
    -32601: NotFound,
    -32001: TimedOut,
    -32002: HandlerCancelled,
    -32603: HandlerError,
}
_BUSY = -32000
_REFUSED = -32003
_STATUSES: dict[int, type[MessageError]] = {404: NotFound, 413: TooLarge}
"""What the status of what was refused means, where it is no `BadRequest`."""


class Pipe(Protocol):
    """What carries documents: one framed connection, or one datagram socket."""

    async def open(self) -> None:
        """Connect."""

    async def exchange(self, event: str, payload: Payload) -> Outcome:
        """Send a document and take one."""

    async def send(self, data: bytes) -> None:
        """Send a document."""

    async def finish(self) -> None:
        """Say goodbye."""

    async def aclose(self) -> None:
        """Close at once."""


class _Error(msgspec.Struct):
    code: int
    message: str
    data: Any = None


class _Response(msgspec.Struct):
    id: Any
    jsonrpc: str = ""
    result: msgspec.Raw = msgspec.Raw(b"")
    error: _Error | None = None


_read_response = msgspec.json.Decoder(_Response).decode
_read_text = msgspec.json.Decoder(str).decode
_write = msgspec.json.Encoder().encode


class RpcChannel:
    """Requests and notifications on one connection, ids counted from 1."""

    tells_apart = False

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._ids = itertools.count(1)

    async def open(self) -> None:
        """Connect."""
        await self._pipe.open()

    async def exchange(self, event: str, payload: Payload) -> Outcome:
        """Send a request and take its response."""
        number = next(self._ids)
        document = _write_request(event, payload, number)
        if isinstance(document, MessageError):
            return document
        answer = await self._pipe.exchange(event, Payload(data=document, kind="json"))
        return answer if isinstance(answer, MessageError) else _take_response(answer, number)

    async def notify(self, event: str, payload: Payload) -> MessageError | None:
        """Send a notification; nothing ever comes back."""
        document = _write_request(event, payload, None)
        if isinstance(document, MessageError):
            return document
        await self._pipe.send(document)
        return None

    async def open_items(self, event: str, payload: Payload) -> Items:  # noqa: ARG002
        """Refuse: a response of JSON-RPC is one document.

        Raises:
            BadRequest: always.
        """
        raise BadRequest("JSON-RPC has no replies item by item; use call")

    async def finish(self) -> None:
        """Say goodbye."""
        await self._pipe.finish()

    async def aclose(self) -> None:
        """Close at once."""
        await self._pipe.aclose()


def _write_request(event: str, payload: Payload, number: int | None) -> bytes | BadRequest:
    members: dict[str, Any] = {"jsonrpc": "2.0", "method": event}
    if payload.data:
        try:
            members["params"] = _write_params(payload)
        except UnicodeDecodeError as error:
            return BadRequest(f"JSON-RPC carries text, not any bytes: {error}")
    if number is not None:
        members["id"] = number
    return _write(members)


def _write_params(payload: Payload) -> msgspec.Raw:
    if payload.kind != "json":
        return msgspec.Raw(_write([payload.data.decode()]))
    return msgspec.Raw(payload.data if payload.data[:1] in (b"{", b"[") else b"[" + payload.data + b"]")


def _take_response(document: bytes, number: int) -> Outcome:
    """Return the result, or the error that the peer answered with.

    Raises:
        trio.BrokenResourceError: it is no response to this request.
    """
    try:
        response = _read_response(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise trio.BrokenResourceError(f"not a JSON-RPC response: {error}") from error
    refused = response.error
    unanswerable = refused is not None and response.id is None
    answers = type(response.id) is int and response.id == number
    if response.jsonrpc != "2.0" or not (answers or unanswerable):
        raise trio.BrokenResourceError(f"not the JSON-RPC response to request {number}")
    if refused is not None:
        return _as_message_error(refused)
    result = bytes(response.result)
    if not result:
        raise trio.BrokenResourceError("a JSON-RPC response without result and error")
    if result == b"null":
        return b""
    if not result.startswith(b'"'):
        return result
    try:
        return _read_text(result).encode()
    except (msgspec.MsgspecError, UnicodeError) as fault:
        raise trio.BrokenResourceError(f"not a JSON-RPC response: {fault}") from fault


def _as_message_error(error: _Error) -> MessageError:
    words = f"{error.message}: {error.data}" if error.data is not None else error.message
    if error.code == _BUSY:
        return Busy(error.message, retry_seconds=_number(error.data, "retry_seconds") or 1)
    if error.code == _REFUSED:
        return _STATUSES.get(_number(error.data, "status"), BadRequest)(words)
    return _ERRORS.get(error.code, HandlerError)(words)


def _number(data: Any, name: str) -> int:
    """Return a number that an error carries, 0 when it does not."""
    found = data.get(name) if isinstance(data, dict) else None
    return found if isinstance(found, int) else 0
