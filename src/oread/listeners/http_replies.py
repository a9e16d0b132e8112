"""What a handler returned or raised, in HTTP's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oread.dispatch.payload import BYTES_TYPE, JSON_TYPE, TEXT_TYPE, encode_payload
from oread.errors import Busy, HandlerCancelled, MessageError, NotAllowed, TimedOut
from oread.messages import HttpResponse, Reply


def response_parts(reply: Any) -> tuple[int, bytes, Sequence[tuple[str, str]], str | None]:
    """Return status, body, fields and content type of what a handler returned.

    Raises:
        HandlerError: it is nothing that can be sent.
    """
    if type(reply) is bytes:
        return 200, reply, (), BYTES_TYPE
    if reply is None:
        return 204, b"", (), None
    if isinstance(reply, HttpResponse):
        return reply.status, reply.body, reply.headers, None
    if isinstance(reply, Reply):
        return 200, reply.data, (), reply.content_type or BYTES_TYPE
    body = bytes(encode_payload(reply, whole_files=False) or b"")
    if isinstance(reply, str):
        return 200, body, (), TEXT_TYPE
    return 200, body, (), BYTES_TYPE if isinstance(reply, (bytes, bytearray, memoryview)) else JSON_TYPE


def failure_parts(error: Exception) -> tuple[int, str, Sequence[tuple[str, str]]]:
    """Return status, text and fields; a handler's own words stay inside."""
    if isinstance(error, NotAllowed):
        return error.status, str(error), (("Allow", ", ".join(error.allowed)),)
    if isinstance(error, (Busy, HandlerCancelled)):
        seconds = error.retry_seconds if isinstance(error, Busy) else 1
        return error.status, str(error), (("Retry-After", str(seconds)),)
    if isinstance(error, MessageError) and error.status < 500:
        return error.status, str(error), ()
    if isinstance(error, TimedOut):
        return error.status, "the handler took too long", ()
    status = error.status if isinstance(error, MessageError) else 500
    return status, "the handler failed", ()
