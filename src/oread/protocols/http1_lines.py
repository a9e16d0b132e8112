"""Read the lines and fields that requests and responses have in common.

Reject, never repair: lines end with CRLF, a field is a token and a colon, and
what decides framing is said once and in one way.

Not here: start lines (http1_head.py, http1_client.py), bodies (http1_body.py).
Source: RFC 9110 5, RFC 9112 2.2, 5, 6.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import NoReturn

import attrs

from oread.errors import OreadError

Buffer = bytes | bytearray

TCHAR = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
"""One character of a token (RFC 9110 5.6.2)."""

_HOST_TEXT = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2}){1,255}(?::([0-9]{0,5}))?")
# RFC 3986 3.2.2 without the comma, which in a Host is two hosts merged by an intermediary.
_HOST_LITERAL = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\](?::([0-9]{0,5}))?")

_CONTROL_FIELD = re.compile(
    r"\n(?=[hcte])(host|content-length|transfer-encoding|connection|expect):([^\r]*)",
    re.IGNORECASE | re.ASCII,
)
_LINE_STOP = re.compile(rb"[\x00-\x08\n\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]")
_FIELD_NAME = re.compile(rf"{TCHAR}+:".encode())
_CODINGS = re.compile(rf"{TCHAR}+(?:[ \t]*,[ \t]*{TCHAR}+)*")

_LENGTH_DIGITS = 19
"""Longest Content-Length taken: 2**63 has 19 digits; more can only be an attack on an overflow."""


@attrs.frozen
class Refusal:
    """The answer to what is malformed; nothing behind it is parsed.

    Args:
        status: the HTTP status that says so.
        reason: a sentence that names the fault; one of a fixed set, so that
            it can name a counter. Nothing the peer sent is in it.
    """

    status: int
    reason: str


class MalformedError(OreadError):
    """Carry a refusal up to the machine; it never leaves this package."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal(status, reason)


FIELD_TOO_LONG = Refusal(431, "a field line is too long")


def find_line(buffer: Buffer, start: int, searched: int, most_bytes: int, too_long: Refusal) -> int:
    """Return where the CRLF of a line stands, -1 when more is needed.

    Args:
        buffer: what was received.
        start: where the line begins.
        searched: up to where earlier calls have looked; it keeps the whole linear.
        most_bytes: longest line with its CRLF.
        too_long: what to say of a longer one.

    Raises:
        MalformedError: a control character, a bare CR or LF (RFC 9112 2.2), or a longer line.
    """
    limit = start + most_bytes
    match = _LINE_STOP.search(buffer, max(start, searched - 1), limit)
    if match is None:
        if len(buffer) >= limit:
            raise MalformedError(too_long.status, too_long.reason)
        return -1
    stop = match.start()
    if buffer[stop] == 0x0A:
        if stop > start and buffer[stop - 1] == 0x0D:
            return stop - 1
        raise MalformedError(400, "a line ends with a bare LF")
    if buffer[stop] == 0x0D:
        raise MalformedError(400, "a bare CR")
    raise MalformedError(400, "a control character")


def check_field_line(line: Buffer) -> None:
    """Refuse a line without name and colon; `find_line` saw its characters.

    Raises:
        MalformedError: folded, no colon, or no token before it (RFC 9112 5.1, 5.2).
    """
    if _FIELD_NAME.match(line) is None:
        if line[0] in b" \t":
            raise MalformedError(400, "a field line begins with white space")
        raise MalformedError(400, "a field line has no valid name")


def field_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Split a validated head into its `(lower-case name, value)` pairs.

    Args:
        text: start line, fields and the empty line, each with its CRLF.
    """
    lines = (line.partition(":") for line in text.split("\r\n")[1:-2])
    return tuple((name.lower(), value.strip(" \t")) for name, _, value in lines)


def split_field(line: str) -> tuple[str, str]:
    """Split one validated field line into its lower-case name and its value."""
    name, _, value = line.partition(":")
    return name.lower(), value.strip(" \t")


def control_fields(text: str) -> dict[str, str]:
    """Pick out the fields that decide framing, names in lower case.

    Raises:
        MalformedError: as `gather_fields`.
    """
    return gather_fields(_CONTROL_FIELD.findall(text))


def gather_fields(found: list[tuple[str, str]]) -> dict[str, str]:
    """Return fields that decide framing by their lower-case names.

    Raises:
        MalformedError: one that must be single is repeated, even with the same value.
    """
    fields: dict[str, str] = {}
    for name, value in found:
        key = name.lower()
        if key in fields:
            if key not in ("connection", "expect"):
                raise MalformedError(400, f"the field {key} is repeated")
            value = f"{fields[key]},{value}"  # noqa: PLW2901 - both are lists (RFC 9110 5.3)
        fields[key] = value.strip(" \t")
    return fields


def body_length(fields: dict[str, str], version: str) -> int | None:
    """Return the length of a body, -1 when chunked, None when not said.

    Raises:
        MalformedError: anything that two readers could understand in two ways (RFC 9112 6.1, 6.3).
    """
    coding = fields.get("transfer-encoding")
    length = fields.get("content-length")
    if coding is not None:
        if version == "1.0":
            raise MalformedError(400, "Transfer-Encoding in HTTP/1.0")
        if length is not None:
            raise MalformedError(400, "both Content-Length and Transfer-Encoding")
        if coding.lower() != "chunked":
            _refuse_coding(coding.lower())
        return -1
    if length is None:
        return None
    if not (length.isascii() and length.isdigit()):
        raise MalformedError(400, "Content-Length is not a number")
    if len(length) > _LENGTH_DIGITS:
        raise MalformedError(400, f"Content-Length has more than {_LENGTH_DIGITS} digits")
    return int(length)


def _refuse_coding(coding: str) -> NoReturn:
    if not _CODINGS.fullmatch(coding):
        raise MalformedError(400, "malformed Transfer-Encoding")
    codings = [name.strip(" \t") for name in coding.split(",")]
    if "chunked" in codings[:-1]:
        raise MalformedError(400, "chunked is not the one final transfer coding")
    raise MalformedError(501, "a transfer coding other than chunked")


def keeps_alive(fields: dict[str, str], version: str) -> bool:
    """Return whether version and `Connection` allow another message."""
    connection = fields.get("connection", "").lower()
    if connection in ("", "keep-alive"):  # nearly always; saves 0.5 us
        return version == "1.1" or connection != ""
    options = [option.strip(" \t") for option in connection.split(",")]
    return "close" not in options and (version == "1.1" or "keep-alive" in options)


@functools.lru_cache(maxsize=256)  # saves 0.4 us per request; entries are at most 8 KiB
def is_host(text: str) -> bool:
    """Return whether this is `host[:port]`, with a host (RFC 9110 7.2)."""
    match = _HOST_TEXT.fullmatch(text)
    if match is None:
        match = _HOST_LITERAL.fullmatch(text)
        if match is None:
            return False
        try:
            ipaddress.IPv6Address(match[1])
        except ValueError:
            return False
    port = match[match.re.groups]
    return not port or int(port) <= 65_535
