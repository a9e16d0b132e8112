"""Write server-sent events, and tell who asks for them.

Source: WHATWG HTML, 9.2 Server-sent events; RFC 9110 12.5.1 for `Accept`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from oread.errors import HandlerError

EVENT_STREAM = "text/event-stream"
KEEP_ALIVE = b": keep-alive\n\n"
"""A comment: proxies and clients see that the stream lives."""

_LINE_END = re.compile(rb"\r\n|\r|\n")
_NO_WEIGHT = re.compile(r"q=0(\.0{0,3})?", re.IGNORECASE)


def asks_for_events(accepts: Iterable[str]) -> bool:
    """Tell whether `Accept` fields name the type of event streams itself."""
    for item in ",".join(accepts).split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        if name.lower() == EVENT_STREAM:
            return not any(_NO_WEIGHT.fullmatch(parameter) for parameter in parameters)
    return False


def encode_event(
    data: bytes, *, event: str | None = None, event_id: str | None = None, retry: int | None = None
) -> bytes:
    """Return one event; each line of the data gets a `data:` of its own.

    Args:
        data: UTF-8.
        event: the type, without line ends.
        event_id: without line ends and NUL.
        retry: milliseconds.

    Raises:
        HandlerError: the data is not UTF-8, the only encoding events have.
    """
    try:
        str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise HandlerError(f"a server-sent event is not UTF-8 at byte {error.start}") from error
    lines = [b"data: " + line for line in _LINE_END.split(data)]
    if retry is not None:
        lines.insert(0, b"retry: %d" % retry)
    if event_id is not None:
        lines.insert(0, b"id: " + event_id.encode(errors="replace"))
    if event is not None:
        lines.insert(0, b"event: " + event.encode(errors="replace"))
    return b"\n".join((*lines, b"", b""))
