"""Server-sent events from the reading side: cuts, line ends, bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.errors import BadRequest, TooLarge
from oread.protocols.event_stream import EventStreamReader

ROWS = {
    "one event": (b"data: a\n\n", [b"a"]),
    "no space": (b"data:a\n\n", [b"a"]),
    "one space is dropped": (b"data:  a\n\n", [b" a"]),
    "several lines": (b"data: a\ndata: b\n\n", [b"a\nb"]),
    "every line end": (b"data: a\r\rdata: b\r\n\r\ndata: c\n\n", [b"a", b"b", b"c"]),
    "comments and fields": (b": hi\nevent: x\nid: 1\nretry: 5\nfoo\ndata: a\n\n", [b"a"]),
    "no data": (b"event: x\n\n: only a comment\n\n", []),
    "empty data": (b"data\n\ndata:\ndata:\n\n", [b"", b"\n"]),
    "cut short": (b"data: a\n\ndata: b\n", [b"a"]),
    "a byte order mark": (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
    "UTF-8": ("data: 10 €\n\n".encode(), ["10 €".encode()]),
}


def read(pieces: list[bytes]) -> list[bytes]:
    """Feed pieces to one reader."""
    reader = EventStreamReader(100)
    return [event for piece in pieces for event in reader.receive(piece)]


@pytest.mark.parametrize("row", ROWS)
def test_each_row_gives_these_events_however_it_is_cut(row: str) -> None:
    """Whole, byte by byte, and at every single cut (an end that is a CR waits for more)."""
    data, events = ROWS[row]
    assert read([data]) == events
    assert read([bytes([each]) for each in data]) == read([data])
    for at in range(len(data)):
        assert read([data[:at], data[at:]]) == read([data])


@given(st.lists(st.sampled_from([b"data", b":", b" ", b"\r", b"\n", b"a", b"\n\n", b"id: 1\n"])), st.data())
def test_any_cut_of_any_stream_gives_the_same(parts: list[bytes], data: st.DataObject) -> None:
    """The result is that of the bytes, not of the reads."""
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert read(pieces) == read([whole])


def test_bounds_hold() -> None:
    """A line or an event over the limit is refused, one at the limit is not."""
    assert read([b"data:" + b"a" * 95 + b"\n\n"]) == [b"a" * 95]
    with pytest.raises(TooLarge):
        read([b"data:" + b"a" * 96])
    with pytest.raises(TooLarge):
        read([b"data: " + b"a" * 60 + b"\n"] * 2)


def test_what_is_no_text_is_refused() -> None:
    """Data that is not UTF-8 is a fault of the server."""
    with pytest.raises(BadRequest):
        read([b"data: \xff\n\n"])
