"""`lines` and `length`: the result does not depend on the cuts, memory is bounded."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.errors import BadRequest, HandlerError, TooLarge
from oread.protocols.framing import FRAMINGS, Length, Lines


def feed(machine: Any, pieces: list[bytes], *, end: bool = True) -> list[bytes]:
    """Feed pieces and collect every message, the one at the end of input too."""
    messages = []
    for piece in pieces:
        message = machine.receive(piece)
        while message is not None:
            messages.append(message)
            message = machine.next_message()
    if end:
        last = machine.receive_eof()
        if last is not None:
            messages.append(last)
    return messages


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut at these places."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[low:high] for low, high in itertools.pairwise(bounds) if low < high]


line = st.binary(max_size=40).filter(lambda data: b"\n" not in data and not data.endswith(b"\r"))


@given(st.lists(st.tuples(line, st.sampled_from([b"\n", b"\r\n"]))), st.lists(st.integers(0, 10_000)))
def test_lines_are_the_same_however_cut(lines: list[tuple[bytes, bytes]], places: list[int]) -> None:
    """Every cut of the same bytes gives the same lines."""
    data = b"".join(text + ending for text, ending in lines)
    assert feed(Lines(100), cut(data, places)) == [text for text, _ in lines]


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(0, 10_000)))
def test_length_round_trips_however_cut(messages: list[bytes], places: list[int]) -> None:
    """What `encode` frames comes out again, whatever the cuts."""
    data = b"".join(Length(100).encode(message) for message in messages)
    assert feed(Length(100), cut(data, places)) == messages


def test_reply_ends_as_its_request() -> None:
    """LF is answered with LF, CRLF with CRLF."""
    machine = Lines(10)
    assert machine.receive(b"a\r\nb\n") == b"a"
    assert machine.encode(b"x") == b"x\r\n"
    assert machine.next_message() == b"b"
    assert machine.encode(b"x") == b"x\n"


def test_unterminated_line_is_a_message_at_the_end() -> None:
    """A FIN ends the last line."""
    assert feed(Lines(10), [b"a\nbc"]) == [b"a", b"bc"]


def test_newline_in_a_reply_is_the_handlers_error() -> None:
    """A reply with a newline inside would be two."""
    with pytest.raises(HandlerError):
        Lines(10).encode(b"a\nb")


@pytest.mark.parametrize("step", [1, 3, 100])
@pytest.mark.parametrize("framing", ["lines", "length"])
def test_limit_is_inclusive(framing: str, step: int) -> None:
    """A message of the limit passes, one byte more is refused, however it is cut."""
    for size, fine in ((8, True), (9, False)):
        data = b"x" * size + b"\n" if framing == "lines" else size.to_bytes(4, "big") + b"x" * size
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        machine = FRAMINGS[framing](8)
        if fine:
            assert feed(machine, pieces) == [b"x" * size]
        else:
            with pytest.raises(TooLarge):
                feed(machine, pieces)


def test_endless_line_is_refused_while_it_comes() -> None:
    """Memory is bounded before the newline comes."""
    machine = Lines(1000)
    with pytest.raises(TooLarge):
        for _ in range(2000):
            machine.receive(b"x")
    assert machine.unread() == b""


def test_length_cut_short_is_refused() -> None:
    """A FIN inside a message is an error, not a short message."""
    machine = Length(10)
    assert machine.receive(b"\0\0\0\5abc") is None
    assert machine.unread() == b"\0\0\0\5abc"
    with pytest.raises(BadRequest):
        machine.receive_eof()


@pytest.mark.parametrize("framing", ["lines", "length"])
def test_what_lies_behind_stays_bytes(framing: str) -> None:
    """The next message is not touched until it is asked for."""
    machine = FRAMINGS[framing](10)
    data = b"a\nbb\n" if framing == "lines" else b"\0\0\0\1a\0\0\0\2bb"
    assert machine.receive(data) == b"a"
    assert machine.unread() == data[len(data) - (3 if framing == "lines" else 6) :]
    assert machine.next_message() == b"bb"
    assert machine.next_message() is None
    assert machine.unread() == b""
