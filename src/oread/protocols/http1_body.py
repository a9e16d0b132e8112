"""Decode message bodies from their framing: a length, or chunks.

Decoders keep no bytes: they are shown the buffer and say how far they got.
What a decoder returns is passed on at once, so memory does not grow with the
body. The same decoders serve requests and responses.

Not here: when to stop reading, and who asked (http1.py, http1_client.py).
Source: RFC 9112 6 and 7.1.
"""

from __future__ import annotations

import re
from typing import ClassVar

from oread.limits import HttpLimits
from oread.protocols.http1_lines import (
    FIELD_TOO_LONG,
    TCHAR,
    Buffer,
    MalformedError,
    Refusal,
    check_field_line,
    find_line,
    split_field,
)

_QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_SIZE_LINE = re.compile(
    rf"([0-9A-Fa-f]{{1,15}})((?:[ \t]*;[ \t]*{TCHAR}+(?:[ \t]*=[ \t]*(?:{TCHAR}+|{_QUOTED}))?)*)".encode(
        "latin-1"
    )
)
# 15 hex digits are 2**60: what cannot overflow anywhere needs no second look. White space is allowed where
# the grammar has BWS (RFC 9112 7.1.1), which is before a `;` and never at the end.

_FRAMING_FIELD = re.compile(rb"(?:content-length|transfer-encoding|host):", re.IGNORECASE)
"""What decides framing and routing: in a trailer it comes too late, and others might merge it."""

_LINE_TOO_LONG = Refusal(400, "a chunk's first line is too long")
_TRAILERS_TOO_LONG = Refusal(431, "the trailer section is too long")
BODY_TOO_LONG = Refusal(413, "the body is too long")


class LengthBody:
    """Take a body whose length is known."""

    __slots__ = ("_left",)

    trailers: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Only chunks have a place for them."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        """Whether the whole body has been taken."""
        return self._left == 0

    def take(self, buffer: Buffer, at: int, limit_bytes: float) -> tuple[bytes, int]:  # noqa: ARG002 - as ChunkedBody's
        """Return what is there of the body, and where it ends."""
        part = bytes(buffer[at : at + self._left])
        self._left -= len(part)
        return part, at + len(part)


# Plain numbers: a member of an Enum costs 50 ns at each look, up to six per chunk (CPython 3.11).
_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)


CHUNKS_PER_PART = 64
"""Chunks decoded in one step (2 µs each), so that a flood of tiny ones can be interrupted."""


class ChunkedBody:
    """Take a body that comes in chunks, and the trailers behind it.

    Trailers are checked and kept apart: they are never merged into the fields
    (RFC 9110 6.5.1), and nothing of ours acts on them. One that would decide
    framing or routing is refused.
    """

    __slots__ = (
        "_extension_bytes",
        "_left",
        "_limits",
        "_searched",
        "_stage",
        "_total",
        "_trailer_bytes",
        "trailers",
    )

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._stage = _SIZE
        self._left = 0
        self._total = 0
        self._searched = 0
        self._extension_bytes = 0
        self._trailer_bytes = 0
        self.trailers: tuple[tuple[str, str], ...] = ()
        """Those that have come, `(lower-case name, value)`."""

    @property
    def done(self) -> bool:
        """Whether the last line of the trailer section has been taken."""
        return self._stage == _DONE

    def take(self, buffer: Buffer, at: int, limit_bytes: float) -> tuple[bytes, int]:
        """Return the data of the chunks that are there, and where they end.

        Args:
            buffer: what was received.
            at: where the undecoded part of it begins.
            limit_bytes: longest body, decoded; `math.inf` for any.

        Raises:
            MalformedError: only when nothing good stands before the fault; what does
                is returned first, so that the outcome does not depend on cuts.
        """
        parts: list[Buffer] = []
        try:
            while at < len(buffer) and not self.done and len(parts) < CHUNKS_PER_PART:
                before = at
                at = self._step(buffer, at, limit_bytes, parts)
                if at == before:
                    break
        except MalformedError:
            # A step changes nothing before it raises: the next call meets the same fault.
            if not parts:
                raise
        return b"".join(parts), at

    def take_chunk(self, buffer: Buffer, at: int, limit_bytes: float) -> tuple[bytes, int, bool]:
        """Take as `take` does, up to the end of one chunk; tell whether that was reached.

        Raises:
            MalformedError: at the fault; what stands before it was returned.
        """
        parts: list[Buffer] = []
        while at < len(buffer) and not self.done:
            before, inside = at, self._stage == _DATA
            at = self._step(buffer, at, limit_bytes, parts)
            if inside:
                return bytes(parts[0]), at, self._stage == _DATA_END
            if at == before:
                break
        return b"", at, False

    def _step(self, buffer: Buffer, at: int, limit_bytes: float, parts: list[Buffer]) -> int:
        if self._stage == _SIZE:
            return self._take_size(buffer, at, limit_bytes)
        if self._stage == _DATA:
            part = buffer[at : at + self._left]
            parts.append(part)
            self._left -= len(part)
            if not self._left:
                self._stage = _DATA_END
            return at + len(part)
        if self._stage == _DATA_END:
            end = buffer[at : at + 2]
            if not b"\r\n".startswith(end):
                raise MalformedError(400, "no CRLF behind a chunk's data")
            if len(end) < 2:
                return at
            self._stage = _SIZE
            return at + 2
        return self._take_trailer(buffer, at)

    def _take_size(self, buffer: Buffer, at: int, limit_bytes: float) -> int:
        limits = self._limits
        end = find_line(buffer, at, at + self._searched, limits.chunk_line_bytes + 2, _LINE_TOO_LONG)
        if end < 0:
            self._searched = len(buffer) - at
            return at
        match = _SIZE_LINE.fullmatch(buffer, at, end)
        if match is None:
            raise MalformedError(400, "malformed chunk size or extension")
        extension_bytes = self._extension_bytes + len(match[2])
        if extension_bytes > limits.chunk_extension_bytes:
            raise MalformedError(400, "too many bytes of chunk extensions")
        size = int(match[1], 16)
        if self._total + size > limit_bytes:
            raise MalformedError(BODY_TOO_LONG.status, BODY_TOO_LONG.reason)
        self._extension_bytes = extension_bytes
        self._total += size
        self._left = size
        self._searched = 0
        self._stage = _DATA if size else _TRAILER
        return end + 2

    def _take_trailer(self, buffer: Buffer, at: int) -> int:
        limits = self._limits
        left = limits.trailer_bytes - self._trailer_bytes
        most = min(limits.field_bytes + 2, left)
        too_long = _TRAILERS_TOO_LONG if most == left else FIELD_TOO_LONG
        end = find_line(buffer, at, at + self._searched, max(most, 2), too_long)
        if end < 0:
            self._searched = len(buffer) - at
            return at
        if end == at:
            self._stage = _DONE
            return end + 2
        if len(self.trailers) == limits.trailers:
            raise MalformedError(431, "too many trailers")
        line = buffer[at:end]
        check_field_line(line)
        if _FRAMING_FIELD.match(buffer, at, end):
            raise MalformedError(400, "a framing field in the trailer section")
        self.trailers += (split_field(line.decode("latin-1")),)
        self._trailer_bytes += end + 2 - at
        self._searched = 0
        return end + 2
