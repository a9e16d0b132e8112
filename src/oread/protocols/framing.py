"""Cut a stream into messages: `lines` and `length` (raw needs no machine).

Both are pulled: `receive` takes bytes in and returns the first message,
`next_message` the one behind it, None means that more bytes are needed. What
lies behind a message stays bytes until it is asked for. Time is linear in the
input however it is cut, memory is one message and one read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from oread.errors import BadRequest, HandlerError, TooLarge

CARRIAGE_RETURN = 13
NEWLINE = 10
"""As a number: `in` raises and drops an error inside when it is asked for bytes, 0.12 µs."""
BLOCK_BYTES = 4_096
"""Lines are cut off by so many bytes at once; as objects the shortest take 60 KiB, of a whole read 1 MiB."""
PREFIX_BYTES = 4
"""Size of the prefix of `length`: an unsigned 32-bit big-endian number."""


class Framing(Protocol):
    """A sans-I/O machine that cuts messages and frames replies."""

    def receive(self, data: bytes) -> bytes | None:
        """Take bytes in and return the next message, if it is whole.

        Only to be called when the last answer was None.

        Raises:
            TooLarge: the message is over the limit; nothing more may be asked.
        """

    def next_message(self) -> bytes | None:
        """Return the message behind the last one; raises as `receive`."""

    def receive_eof(self) -> bytes | None:
        """Return what the end of input makes a message.

        Raises:
            BadRequest: the input ends inside a message.
        """

    def encode(self, payload: bytes | memoryview) -> bytes:
        """Frame the reply to the message returned last.

        Raises:
            HandlerError: this payload can't be framed.
        """

    def unread(self) -> bytes:
        """Return what was received and is not part of a returned message."""


class Lines:
    """One message a line, ended by LF or CRLF, which the reply repeats.

    Args:
        limit_bytes: longest payload, without its line ending, inclusive.
    """

    __slots__ = ("_at", "_data", "_ending", "_limit", "_lines", "_partial", "_plain")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._data = b""
        self._at = 0
        self._lines: list[bytes] = []
        """Cut off already, the next one last."""
        self._plain = True
        """Whether these have no CR, and none can be too long."""
        self._partial: bytearray | None = None
        self._ending = b"\n"

    def receive(self, data: bytes) -> bytes | None:
        """Take bytes in and return the first line."""
        partial = self._partial
        if partial is None:
            self._data = data
            return self.next_message()
        end = data.find(b"\n") + 1
        partial += data[:end] if end else data
        if not end:
            self._check(len(partial) - 1)  # the last byte may be the CR of the ending
            return None
        self._data, self._at, self._partial = bytes(partial), 0, None
        line = self.next_message()
        self._data, self._at = data, end
        return line

    def next_message(self) -> bytes | None:
        """Return the line behind the last one."""
        lines = self._lines
        if lines:
            line = lines.pop()
            return line if self._plain else self._strip(line)
        data, at = self._data, self._at
        end = data.find(b"\n", at)
        if end < 0:
            if at < len(data):
                self._partial = bytearray(data[at:] if at else data)
                self._check(len(self._partial) - 1)
            self._data, self._at = b"", 0
            return None
        if end + 1 < len(data):
            return self._cut(end)
        self._data, self._at = b"", 0
        line = data[at:end]
        if CARRIAGE_RETURN in line or len(line) > self._limit:
            return self._strip(line)
        self._ending = b"\n"
        return line

    def _cut(self, end: int) -> bytes:
        """Cut a block into its lines at once: 0.15 µs a line less than one after the other.

        Args:
            end: of the first of them.
        """
        data, at = self._data, self._at
        end = data.rfind(b"\n", end, at + BLOCK_BYTES) if end < at + BLOCK_BYTES else end
        block = data[at:end]
        self._at = end + 1
        self._plain = CARRIAGE_RETURN not in block and len(block) <= self._limit
        self._ending = b"\n"
        self._lines = lines = block.split(b"\n")
        lines.reverse()
        line = lines.pop()
        return line if self._plain else self._strip(line)

    def _strip(self, line: bytes) -> bytes:
        if line.endswith(b"\r"):
            line, self._ending = line[:-1], b"\r\n"
        else:
            self._ending = b"\n"
        self._check(len(line))
        return line

    def _check(self, size: int) -> None:
        if size > self._limit:
            self._data, self._at, self._lines, self._partial = b"", 0, [], None
            raise TooLarge(f"a line is longer than {self._limit} bytes")

    def receive_eof(self) -> bytes | None:
        """Return an unterminated last line as a message."""
        partial, self._partial, self._ending = self._partial, None, b"\n"
        if partial is None:
            return None
        self._check(len(partial))
        return bytes(partial)

    def encode(self, payload: bytes | memoryview) -> bytes:
        """End the reply as its request was ended; refuse a newline inside."""
        reply = payload if type(payload) is bytes else bytes(payload)
        if NEWLINE in reply:
            raise HandlerError("a reply on framing=lines has a newline inside")
        return reply + self._ending

    def unread(self) -> bytes:
        """Return what lies behind the last line."""
        cut = b"".join(line + b"\n" for line in reversed(self._lines))
        return cut + (self._data[self._at :] if self._partial is None else bytes(self._partial))


class Length:
    """Messages behind a u32 big-endian length.

    Args:
        limit_bytes: longest payload, without the prefix, inclusive.
    """

    __slots__ = ("_at", "_data", "_limit", "_need", "_partial")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._data = b""
        self._at = 0
        self._need = PREFIX_BYTES
        """Bytes that `_partial` must have before it is looked at again."""
        self._partial: bytearray | None = None

    def receive(self, data: bytes) -> bytes | None:
        """Take bytes in and return the first message."""
        partial = self._partial
        if partial is not None:
            partial += data
            if len(partial) < self._need:
                return None
            data, self._partial = bytes(partial), None
        self._data = data
        return self.next_message()

    def next_message(self) -> bytes | None:
        """Return the message behind the last one."""
        data, at = self._data, self._at
        start = at + PREFIX_BYTES
        size = int.from_bytes(data[at:start], "big") if len(data) >= start else 0
        if size > self._limit:
            self._data, self._at = b"", 0
            raise TooLarge(f"a message of {size} bytes is announced; at most {self._limit} are taken")
        end = start + size
        if end <= len(data):
            self._at = end
            return data[start:end]
        if at < len(data):
            self._partial, self._need = bytearray(data[at:]), end - at
        self._data, self._at = b"", 0
        return None

    def receive_eof(self) -> bytes | None:
        """Refuse an end of input inside a message."""
        if self._partial is not None:
            self._partial = None
            raise BadRequest("the input ends inside a message")
        return None

    def encode(self, payload: bytes | memoryview) -> bytes:
        """Put the length before the reply."""
        if len(payload) > 0xFFFF_FFFF:
            raise HandlerError("a reply on framing=length is at most 4,294,967,295 bytes")
        return b"".join((len(payload).to_bytes(PREFIX_BYTES, "big"), payload))

    def unread(self) -> bytes:
        """Return what lies behind the last message."""
        return self._data[self._at :] if self._partial is None else bytes(self._partial)


FRAMINGS: Mapping[str, Callable[[int], Framing]] = {"lines": Lines, "length": Length}
"""Framing by its name in the URL; `raw` has no machine: every chunk is a message."""
