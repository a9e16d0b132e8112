"""Turn what a handler returned into the bytes of a reply."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

from oread.dispatch.files import read_file
from oread.dispatch.json_payload import encode_json
from oread.errors import HandlerError
from oread.messages import FileReply, HttpResponse, Reply

BYTES_TYPE = "application/octet-stream"
JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"


def encode_payload(reply: Any, *, whole_files: bool = True) -> bytes | memoryview | None:
    """Encode one reply; None stays None, which is no reply.

    What is neither bytes, text nor a reply in full is written as JSON. A file
    is read whole, unless the caller knows a better way to send it.

    Raises:
        HandlerError: the value is nothing that a transport can send, and the
            only error there is.
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
    return _encode_other(reply, whole_files=whole_files)


def _encode_other(reply: Any, *, whole_files: bool) -> bytes:
    if inspect.iscoroutine(reply):
        reply.close()  # a sync function that returned a coroutine: without this Python warns later, elsewhere
        raise HandlerError("a sync handler returned a coroutine; make it `async def`, or await it")
    if is_stream(reply):
        raise HandlerError("a handler returned an iterator, which can't be sent as one payload")
    if isinstance(reply, FileReply):
        if not whole_files:
            raise HandlerError("a file is sent, and not encoded")
        return read_file(reply)
    return encode_json(reply)


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


def is_stream(reply: Any) -> Literal["sync", "async"] | None:
    """Tell whether a reply comes item by item, and how it is asked for them."""
    if isinstance(reply, AsyncIterator):
        return "async"
    return "sync" if isinstance(reply, Iterator) else None
