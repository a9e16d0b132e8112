"""Turn what a handler returned into the bytes of a reply."""

from __future__ import annotations

import inspect
from typing import Any

from oread.errors import HandlerError
from oread.messages import HttpResponse, Reply


def encode_payload(reply: Any) -> bytes | memoryview | None:
    """Encode one reply; None stays None, which is no reply.

    Raises:
        HandlerError: the value is nothing that a transport can send.
    """
    if reply is None or type(reply) is bytes:
        return reply
    if isinstance(reply, memoryview):
        return _check_view(reply)
    if isinstance(reply, (bytes, bytearray)):
        return bytes(reply)
    if isinstance(reply, str):
        return _encode_text(reply)
    if isinstance(reply, Reply):
        return reply.data
    if isinstance(reply, HttpResponse):
        return reply.body
    if inspect.iscoroutine(reply):
        reply.close()  # a sync function that returned a coroutine: without this Python warns later, elsewhere
    raise HandlerError(
        f"a handler returned {type(reply).__qualname__}; bytes, str, Reply or None can be sent"
    )


def _check_view(view: memoryview) -> bytes | memoryview:
    try:
        return view if view.ndim == 1 and view.contiguous and view.itemsize == 1 else view.tobytes()
    except ValueError as error:
        raise HandlerError("a handler returned a memoryview that it has released") from error


def _encode_text(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise HandlerError(f"a handler returned text that UTF-8 can't say: {error}") from error
