"""Read server-sent events: the data of each, whatever the cuts.

Lines end with LF, CRLF or CR. An event ends with an empty line; its data
lines are joined by LF. Comments, event names, ids and retry times are passed
over, and so is an event without data, or one the end of input cut short.

Not here: reconnecting by `Last-Event-ID`. Source: WHATWG HTML 9.2.6.
"""

from __future__ import annotations

import re

from oread.errors import BadRequest, TooLarge

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventStreamReader:
    """Cut a body of `text/event-stream` into the data of its events.

    Args:
        limit_bytes: longest event, and longest line.
    """

    __slots__ = ("_began", "_data", "_limit", "_partial", "_searched", "_size")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._partial = bytearray()
        self._searched = 0
        self._data: list[bytes] = []
        self._size = 0
        self._began = False

    def receive(self, data: bytes) -> list[bytes]:
        """Take bytes in and return the data of the events they complete.

        Raises:
            TooLarge: an event or a line is over the limit.
            BadRequest: a data line is not UTF-8.
        """
        partial = self._partial
        partial += data
        events: list[bytes] = []
        at = 0
        # The last byte is not looked at when it is a CR: an LF may follow.
        end = len(partial) - partial.endswith(b"\r")
        search_from = self._searched
        while (match := _LINE_END.search(partial, max(at, search_from))) and match.start() < end:
            self._take_line(bytes(partial[at : match.start()]), events)
            at = match.end()
        del partial[:at]
        self._searched = max(len(partial) - 1, 0)
        if len(partial) > self._limit:
            raise TooLarge(f"a line is longer than {self._limit} bytes")
        return events

    def _take_line(self, line: bytes, events: list[bytes]) -> None:
        if not self._began:
            self._began = True
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
                self._size = 0
            return
        name, _, value = line.partition(b":")
        if name != b"data":
            return
        value = value.removeprefix(b" ")
        self._size += len(value) + 1
        if self._size - 1 > self._limit:
            raise TooLarge(f"an event is longer than {self._limit} bytes")
        try:
            value.decode()
        except UnicodeDecodeError as error:
            raise BadRequest(f"an event is not UTF-8: {error}") from error
        self._data.append(value)
