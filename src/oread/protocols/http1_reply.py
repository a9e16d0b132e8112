"""Encode HTTP/1.1 responses; only the engine frames.

A final response is one bytes object, unless it is streamed: then it is a head
and chunks. The part of its head that repeats from one response to the next is
validated and built once per (status, fields, connection) and kept in a bounded
table; Date and Content-Length vary.

Not here: what is streamed, and when to close (the listener decides).
Source: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import http
import re
import time
from collections.abc import Iterable, Sequence

from oread.errors import HandlerError
from oread.protocols.http1_head import RequestHead
from oread.protocols.http1_lines import TCHAR

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_NAME = re.compile(rf"{TCHAR}+")
_LENGTH = re.compile("[0-9]{1,18}")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_REASONS = {status.value: status.phrase for status in http.HTTPStatus}
_ENGINE_FIELDS = frozenset(
    (
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_BODILESS = frozenset((204, 205, 304))
"""RFC 9110 15.3.5, 15.3.6, 15.4.5: a body that a handler gives with these is not sent."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_DATE_BYTES = 29
_DATE_END = b"\r\n"
_DATE_END_ALONE = bytes(bytearray(_DATE_END))
"""The same, as another object: the handler has set the Server field, so what follows the date is cut off."""

_KNOWN_STARTS = 512
_KNOWN_START_BYTES = 2_048
"""The table of starts holds at most 1 MiB: longer ones are built each time."""

_Key = tuple[int, tuple[tuple[str, str], ...], str | None, str]
_known_starts: dict[_Key, tuple[bytes, bytes]] = {}
# A table per process, not per listener: its content follows from its keys alone.


def encode_response(
    status: int,
    body: bytes,
    headers: Sequence[tuple[str, str]],
    *,
    head_request: RequestHead | None,
    close: bool,
    date: bytes,
    content_type: str | None,
) -> bytes:
    """Return one final response as one bytes object.

    Args:
        status: 200 to 599.
        body: sent with its length, except to HEAD and with 204, 205 and 304.
        headers: the handler's fields; its `Date` and `Content-Type` win over ours.
        head_request: the request this answers; None when there is none that was understood.
        close: whether the connection ends here; a request that allows no more ends it anyway.
        date: what `http_date` returned for this second; behind it, where one is
            sent, CRLF and the `Server` field.
        content_type: of the body; None says nothing of it.

    Raises:
        HandlerError: a status, name or value that cannot be sent, or a field
            that is the engine's. No byte exists then.
    """
    if head_request is None:
        connection = "close" if close else ""
        with_body = True
    else:
        with_body = head_request.method != "HEAD"
        if close or not head_request.keep_alive:
            connection = "close"
        else:
            connection = "keep-alive" if head_request.version == "1.0" else ""
    try:
        key = (status, tuple(headers), content_type, connection)
        # 1.5 us for three fields; a hash of them is 0.2
        start, date_end = _known_starts.get(key) or _remember_start(key)
    except TypeError as error:
        raise HandlerError(f"response fields are not pairs of strings: {error}") from None
    if not date_end:
        date = b""
    elif date_end is not _DATE_END:
        date = date[:_DATE_BYTES]
    if status in _BODILESS:
        return start + date + date_end + (b"Content-Length: 0\r\n\r\n" if status == 205 else b"\r\n")
    return b"%b%b%bContent-Length: %d\r\n\r\n%b" % (
        start,
        date,
        date_end,
        len(body),
        body if with_body else b"",
    )


def encode_start(content_type: str | None, date: bytes) -> bytes:
    """Return a 200 of HTTP/1.1 without fields of the handler's, up to its length.

    What follows is the length, an empty line and the body; the connection goes on.

    Raises:
        HandlerError: a content type that cannot be sent.
    """
    start, date_end = _build_start(200, (), content_type, "")
    return start + date + date_end + b"Content-Length: "


def encode_stream_head(
    status: int,
    headers: Sequence[tuple[str, str]],
    *,
    head_request: RequestHead,
    close: bool,
    date: bytes,
    content_type: str | None,
    length: int | None = None,
) -> bytes:
    """Return the head of a response whose body follows.

    With a length so many bare bytes follow it. Without one chunks do
    (`encode_chunk`, `LAST_CHUNK`); to a request of HTTP/1.0 bare bytes, which
    end with the connection.

    Raises:
        HandlerError: as `encode_response`, and a status that has no body.
    """
    if status in _BODILESS:
        raise HandlerError(f"a reply with status {status} has no body to stream")
    old = head_request.version == "1.0"
    if close or not head_request.keep_alive or (old and length is None):
        connection = "close"
    else:
        connection = "keep-alive" if old else ""
    try:
        key = (status, tuple(headers), content_type, connection)
        start, date_end = _known_starts.get(key) or _remember_start(key)
    except TypeError as error:
        raise HandlerError(f"response fields are not pairs of strings: {error}") from None
    if date_end:
        start += date + date_end if date_end is _DATE_END else date[:_DATE_BYTES] + date_end
    if length is not None:
        return b"%bContent-Length: %d\r\n\r\n" % (start, length)
    return start + (b"\r\n" if old else b"Transfer-Encoding: chunked\r\n\r\n")


def take_length(headers: Sequence[tuple[str, str]]) -> tuple[Sequence[tuple[str, str]], int | None]:
    """Take the length that a handler declares out of its fields.

    Raises:
        HandlerError: it is declared twice, or is no number (RFC 9110 8.6).
    """
    lengths = [pair for pair in headers if _name_of(pair) == "content-length"]
    if not lengths:
        return headers, None
    value = lengths[0][1] if len(lengths) == 1 and len(lengths[0]) == 2 else None
    if not isinstance(value, str) or not _LENGTH.fullmatch(value):
        raise HandlerError(f"a Content-Length that is not one number: {lengths!r}")
    return [pair for pair in headers if _name_of(pair) != "content-length"], int(value)


def field_names(headers: Sequence[tuple[str, str]]) -> frozenset[str]:
    """Return the names of a handler's fields in lower case, whatever it took for fields."""
    return frozenset(_name_of(pair) for pair in headers)


def _name_of(pair: object) -> str:
    """Return the name of a field; empty for what is none, which is refused where it is written."""
    if isinstance(pair, tuple | list) and pair and isinstance(pair[0], str):
        return pair[0].lower()
    return ""


def encode_chunk(data: bytes) -> bytes:
    """Return one chunk; nothing for nothing, because an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _remember_start(key: _Key) -> tuple[bytes, bytes]:
    start = _build_start(*key)
    if len(start[0]) <= _KNOWN_START_BYTES:
        if len(_known_starts) >= _KNOWN_STARTS:
            _known_starts.clear()
        _known_starts[key] = start
    return start


def _build_start(
    status: int, headers: tuple[tuple[str, str], ...], content_type: str | None, connection: str
) -> tuple[bytes, bytes]:
    """Return what stands before and behind the date; empty: no date."""
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise HandlerError(f"status {status!r} is not a final one, 200 to 599")
    names = field_names(headers)
    lines = [f"HTTP/1.1 {int(status)} {_REASONS.get(status, '')}", *field_lines(headers, _ENGINE_FIELDS)]
    if content_type is not None and "content-type" not in names and status not in _BODILESS:
        lines += field_lines((("Content-Type", content_type),), frozenset())
    if connection:
        lines.append(f"Connection: {connection}")
    if "date" in names:
        return "\r\n".join([*lines, ""]).encode("latin-1"), b""
    end = _DATE_END_ALONE if "server" in names else _DATE_END
    return "\r\n".join([*lines, "Date: "]).encode("latin-1"), end


def field_lines(headers: Iterable[tuple[str, str]], owned: frozenset[str]) -> list[str]:
    """Return checked field lines, without their CRLF.

    Args:
        headers: names and values; a value may have Latin-1's characters (RFC 9110 5.5).
        owned: names, in lower case, that the caller of this sets itself.

    Raises:
        HandlerError: what is not a name, not a value, or owned.
    """
    lines = []
    for pair in headers:
        if not isinstance(pair, tuple | list) or [type(text) for text in pair] != [str, str]:
            raise HandlerError("a response field is not a pair of strings")
        name, value = pair
        if not _NAME.fullmatch(name):
            raise HandlerError(f"invalid field name {name!r}")
        if name.lower() in owned:
            raise HandlerError(f"the field {name} is set by the engine alone")
        if not _VALUE.fullmatch(value):
            raise HandlerError(f"invalid value of the field {name}: {value!r}")
        lines.append(f"{name}: {value}")
    return lines


def encode_refusal(
    status: int,
    reason: str,
    date: bytes,
    extra_headers: Sequence[tuple[str, str]] = (),
    *,
    head_request: RequestHead | None = None,
    close: bool = True,
) -> bytes:
    """Return a short text answer for a 4xx or 5xx.

    Args:
        status: 400 to 599.
        reason: one line of text for a person; it becomes the body.
        date: what `http_date` returned for this second.
        extra_headers: such as `Allow` (405) or `Retry-After` (503).
        head_request: the request, where it was understood: HEAD gets no body.
        close: False keeps the connection, where the request's framing was sound.
    """
    return encode_response(
        status,
        f"{reason}\n".encode(errors="replace"),
        extra_headers,
        head_request=head_request,
        close=close,
        date=date,
        content_type="text/plain; charset=utf-8",
    )


def http_date(seconds: float) -> bytes:
    """Return an IMF-fixdate, whatever the locale (RFC 9110 5.6.7).

    Args:
        seconds: since the epoch. Callers keep the result for a second.
    """
    moment = time.gmtime(seconds)
    day, month = _DAYS[moment.tm_wday], _MONTHS[moment.tm_mon - 1]
    clock = f"{moment.tm_hour:02}:{moment.tm_min:02}:{moment.tm_sec:02}"
    return f"{day}, {moment.tm_mday:02} {month} {moment.tm_year:04} {clock} GMT".encode("ascii")
