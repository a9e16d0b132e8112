"""Server-sent events: what is written, and who asks for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.errors import HandlerError
from oread.protocols.server_sent_events import asks_for_events, encode_event


def read_events(stream: str) -> list[tuple[str, str, str]]:
    """Read events as the HTML standard says a browser does (9.2.6): type, data, id."""
    events, name, data, last_id = [], "", "", ""
    for line in stream.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                events.append((name or "message", data.removesuffix("\n"), last_id))
            name = data = ""
        elif field == "event":
            name = value
        elif field == "data":
            data += value + "\n"
        elif field == "id":
            last_id = value
    return events


@given(st.lists(st.text(max_size=40), max_size=5))
def test_a_browser_reads_what_was_written(texts: list[str]) -> None:
    """Any text is one event, its line ends all read as LF."""
    stream = b"".join(encode_event(text.encode(errors="replace")) for text in texts).decode()
    read = [
        text.encode(errors="replace").decode().replace("\r\n", "\n").replace("\r", "\n") for text in texts
    ]
    assert read_events(stream) == [("message", text, "") for text in read]


def test_every_field_is_written() -> None:
    """Type, id and retry stand before the data."""
    written = encode_event(b"a\r\nb", event="tick", event_id="7", retry=500)
    assert written == b"event: tick\nid: 7\nretry: 500\ndata: a\ndata: b\n\n"


def test_data_must_be_utf8() -> None:
    """An event stream has no other encoding."""
    with pytest.raises(HandlerError, match="not UTF-8 at byte 1"):
        encode_event(b"a\xff")


@pytest.mark.parametrize(
    ("accepts", "asks"),
    [
        ([], False),
        ([""], False),
        (["*/*"], False),
        (["text/*"], False),
        (["text/html"], False),
        (["text/event-stream"], True),
        (["TEXT/Event-Stream"], True),
        (["text/html, text/event-stream;q=0.2"], True),
        (["text/html", "text/event-stream"], True),
        (["text/event-stream;q=0"], False),
        (["text/event-stream; q=0.000"], False),
        (["text/event-streams"], False),
    ],
)
def test_only_the_type_itself_asks(accepts: list[str], asks: bool) -> None:
    """A wildcard takes anything, but does not ask for events."""
    assert asks_for_events(accepts) is asks
