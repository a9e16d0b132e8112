"""Windows of numbers: what is lost, repeated, late, strange or begun anew."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.protocols.sequence import MOST_LOST, WINDOW, SequenceTracker, SequenceWindow


def verdicts(numbers: list[int], bits: int = 32) -> list[str]:
    tracker = SequenceTracker(bits=bits)
    return [tracker.note("sender", None, number) for number in numbers]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([5, 6, 7], ["first", "next", "next"]),
        ([5, 8, 7, 7], ["first", "gap", "late", "repeated"]),
        ([5, 5], ["first", "repeated"]),
        ([5, 4], ["first", "late"]),
        ([2**32 - 1, 0, 1], ["first", "next", "next"]),
        ([100, 100 - WINDOW + 1, 100 - WINDOW], ["first", "late", "strange"]),
        ([0, MOST_LOST], ["first", "gap"]),
        ([0, MOST_LOST + 1], ["first", "strange"]),
        ([9_000, 1, 2, 3], ["first", "strange", "reset", "next"]),
        ([9_000, 1, 9_001, 2], ["first", "strange", "next", "strange"]),
        ([9_000, 1, 5, 9_001], ["first", "strange", "strange", "next"]),
    ],
)
def test_each_number_has_one_verdict(numbers: list[int], expected: list[str]) -> None:
    """Ahead, behind, seen, far away, and begun anew are told apart."""
    assert verdicts(numbers) == expected


def test_a_lost_number_that_comes_is_late() -> None:
    """Lost is what has not come by now; a late one takes itself back."""
    tracker = SequenceTracker()
    found = []
    for number in (1, 5, 3):
        tracker.note("sender", None, number)
        found.append((tracker.statistics().lost, tracker.statistics().late))
    assert found == [(0, 0), (3, 0), (2, 1)]


def test_a_reset_keeps_what_was_lost() -> None:
    """Both numbers that tell of a new beginning count as received, none as lost."""
    tracker = SequenceTracker()
    for number in (9_000, 9_003, 1, 2):
        tracker.note("sender", None, number)
    found = tracker.statistics()
    assert (found.received, found.lost, found.strange, found.resets) == (4, 2, 0, 1)


def test_sessions_of_a_sender_are_apart() -> None:
    """The same number of another session, or another sender, is no repetition."""
    tracker = SequenceTracker()
    pairs = [("a", 1), ("a", 2), ("b", 1), ("a", 1)]
    assert [tracker.note(*pair, 7) for pair in pairs] == ["first", "first", "first", "repeated"]


def test_the_table_of_senders_is_bounded() -> None:
    """The one silent for longest gives way; what it lost stays counted."""
    tracker = SequenceTracker(senders=2)
    for sender, number in (("a", 1), ("a", 3), ("b", 1), ("a", 4), ("c", 1)):
        tracker.note(sender, None, number)
    assert tracker.note("a", None, 5) == "next"
    assert tracker.note("b", None, 2) == "first"
    found = tracker.statistics()
    assert (found.senders, found.forgotten, found.lost) == (2, 2, 1)


def test_a_flood_of_senders_fills_no_memory() -> None:
    """A hundred thousand forged senders leave as many entries as are allowed."""
    tracker = SequenceTracker(senders=64)
    for sender in range(100_000):
        tracker.note(sender, None, 1)
    found = tracker.statistics()
    assert (found.senders, found.forgotten, found.received) == (64, 100_000 - 64, 100_000)


@pytest.mark.parametrize(("bits", "payload"), [(16, b"\0\1rest"), (32, b"\0\0\0\1"), (64, bytes(7) + b"\1")])
def test_a_payload_begins_with_its_number(bits: int, payload: bytes) -> None:
    """A big-endian prefix is read; what is shorter is counted and has none."""
    tracker = SequenceTracker(bits=bits)
    found = [tracker.note_payload("sender", data) for data in (payload, payload, payload[: bits // 8 - 1])]
    assert found == ["first", "repeated", None]
    assert tracker.statistics().unnumbered == 1


@pytest.mark.parametrize("arguments", [{"bits": 24}, {"senders": 0}])
def test_what_can_not_be_meant_is_refused(arguments: dict[str, int]) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}="):
        SequenceTracker(**arguments)


@pytest.mark.parametrize("number", [-1, 1 << 16])
def test_a_number_out_of_range_is_refused(number: int) -> None:
    """It is not wrapped."""
    with pytest.raises(ValueError, match="outside 0 to 65535"):
        SequenceTracker(bits=16).note("sender", None, number)


@given(
    start=st.integers(0, 2**16 - 1),
    kept=st.lists(st.booleans(), min_size=1, max_size=300),
    shuffles=st.integers(0, 2**32),
)
def test_any_network_is_counted_exactly(start: int, kept: list[bool], shuffles: int) -> None:
    """Loss, repetition and reordering within the window add up to what was done, across a wrap."""
    chance = random.Random(shuffles)
    sent = [start + at for at, keeps in enumerate(kept) if keeps]
    # Each is displaced by less than half a window, so two differ by less than a whole one.
    arrivals = sorted(sent * 2, key=lambda number: number + chance.uniform(0, WINDOW / 2 - 1))
    tracker = SequenceTracker(bits=16)
    for number in arrivals:
        tracker.note("sender", None, number % 2**16)
    found = tracker.statistics()
    assert (found.received, found.repeated, found.strange, found.resets) == (len(sent), len(sent), 0, 0)
    missing = sent[-1] - sent[0] + 1 - len(sent) if sent else 0
    assert found.lost == missing


@given(numbers=st.lists(st.integers(0, 2**16 - 1), min_size=1))
def test_whatever_comes_is_counted_once(numbers: list[int]) -> None:
    """Every number is new, repeated or strange, and nothing lost is negative."""
    window, tracker = SequenceWindow(numbers[0], bits=16), SequenceTracker(bits=16)
    for number in numbers[1:]:
        window.note(number)
        assert window.lost >= 0
    for number in numbers:
        tracker.note("sender", None, number)
    found = tracker.statistics()
    assert found.received + found.repeated + found.strange == len(numbers)
    assert (found.lost, found.received) == (window.lost, window.received)
