"""Conditional and range requests: precedence, comparison, selection, dates."""

from __future__ import annotations

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.messages import Headers
from oread.protocols.http1_reply import http_date
from oread.protocols.http_conditions import Validator, judge, parse_date

MODIFIED = 784_111_777
AT, BEFORE, AFTER = (http_date(MODIFIED + seconds).decode() for seconds in (0, -1, 1))
STRONG = Validator(etag='"x"', modified=MODIFIED, is_strong=True)
WEAK = Validator(etag='W/"x"', modified=MODIFIED, is_strong=False)
SIZE = 1000


def status(*fields: tuple[str, str], method: str = "GET", validator: Validator = STRONG) -> int:
    """Judge a request with these fields."""
    return judge(method, Headers(fields), validator, SIZE).status


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], 200),
        ([("if-match", '"x"')], 200),
        ([("if-match", '"y", "x"')], 200),
        ([("if-match", '"y"'), ("if-match", '"x"')], 200),
        ([("if-match", "*")], 200),
        ([("if-match", '"y"')], 412),
        ([("if-match", 'W/"x"')], 412),
        ([("if-match", "x")], 412),
        ([("if-match", '"x" "y"')], 412),
        ([("if-unmodified-since", AT)], 200),
        ([("if-unmodified-since", BEFORE)], 412),
        ([("if-unmodified-since", "yesterday")], 200),
        ([("if-match", '"x"'), ("if-unmodified-since", BEFORE)], 200),
        ([("if-none-match", '"x"')], 304),
        ([("if-none-match", 'W/"x"')], 304),
        ([("if-none-match", "*")], 304),
        ([("if-none-match", '"a,b", "x"')], 304),
        ([("if-none-match", '"y"')], 200),
        ([("if-none-match", "x")], 200),
        ([("if-modified-since", AT)], 304),
        ([("if-modified-since", AFTER)], 304),
        ([("if-modified-since", BEFORE)], 200),
        ([("if-modified-since", "0")], 200),
        ([("if-none-match", '"y"'), ("if-modified-since", AT)], 200),
        ([("if-match", '"y"'), ("if-none-match", '"x"')], 412),
        ([("if-none-match", '"x"'), ("range", "bytes=0-1")], 304),
        ([("range", "bytes=0-1"), ("if-range", '"x"')], 206),
        ([("range", "bytes=0-1"), ("if-range", '"y"')], 200),
        ([("range", "bytes=0-1"), ("if-range", 'W/"x"')], 200),
        ([("range", "bytes=0-1"), ("if-range", AT)], 206),
        ([("range", "bytes=0-1"), ("if-range", AFTER)], 200),
        ([("range", "bytes=0-1"), ("if-range", "x")], 200),
        ([("range", "bytes=2000-"), ("if-range", '"y"')], 200),
    ],
)
def test_conditions_hold_in_their_order(fields: list[tuple[str, str]], expected: int) -> None:
    """RFC 9110 13.2.2, each step, and what is malformed."""
    assert status(*fields) == expected


def test_a_weak_validator_serves_no_range_and_no_match() -> None:
    """Equal weak validators do not mean equal bytes (RFC 9110 8.8.1)."""
    assert status(("if-none-match", '"x"'), validator=WEAK) == 304
    assert status(("if-match", 'W/"x"'), validator=WEAK) == 412
    assert status(("range", "bytes=0-1"), ("if-range", AT), validator=WEAK) == 200
    assert status(("range", "bytes=0-1"), ("if-range", 'W/"x"'), validator=WEAK) == 200
    assert status(("range", "bytes=0-1"), validator=WEAK) == 206


def test_other_methods_are_not_judged() -> None:
    """HEAD knows conditions and no range; a POST's answer is not the file's state."""
    assert status(("if-none-match", '"x"'), method="HEAD") == 304
    assert status(("range", "bytes=0-1"), method="HEAD") == 200
    assert status(("if-none-match", '"x"'), ("range", "bytes=0-1"), method="POST") == 200


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-", (0, 1000)),
        ("bytes=10-19", (10, 10)),
        ("bytes=990-2000", (990, 10)),
        ("Bytes= 10-19 ", (10, 10)),
        ("bytes=-10", (990, 10)),
        ("bytes=-2000", (0, 1000)),
    ],
)
def test_one_range_is_selected(text: str, part: tuple[int, int]) -> None:
    """First and last, first alone, a suffix; beyond the end is cut."""
    verdict = judge("GET", Headers((("range", text),)), STRONG, SIZE)
    assert (verdict.status, verdict.start, verdict.length) == (206, *part)


@pytest.mark.parametrize("text", ["bytes=1000-", "bytes=1000-1001", "bytes=-0", "bytes=999999999999999999-"])
def test_a_range_that_is_not_there_is_416(text: str) -> None:
    """Nothing of it is within the file."""
    assert status(("range", text)) == 416
    assert judge("GET", Headers((("range", "bytes=0-"),)), STRONG, 0).status == 416


@pytest.mark.parametrize(
    "text",
    [
        *("bytes=", "bytes=-", "bytes=5-4", "bytes=a-b", "bytes=1", "lines=0-1", "bytes 0-1"),
        *("bytes=+1-2", "bytes=0x1-2", "bytes=0-1,3-4", "bytes=0-,0-,0-", f"bytes=0-{'9' * 30}"),
    ],
)
def test_other_ranges_are_passed_over(text: str) -> None:
    """Malformed, several, another unit: the whole is the answer (RFC 9110 14.2)."""
    assert status(("range", text)) == 200
    assert status(("range", "bytes=0-1"), ("range", "bytes=0-1")) == 200


@given(st.integers(0, 4_000_000_000))
def test_our_own_dates_are_read_back(seconds: int) -> None:
    """As another reader reads them."""
    text = http_date(seconds).decode()
    assert parse_date(text) == seconds == int(email.utils.parsedate_to_datetime(text).timestamp())


@pytest.mark.parametrize("text", ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"])
def test_the_old_forms_are_read(text: str) -> None:
    """RFC 9110 5.6.7: all three must be."""
    assert parse_date(text) == MODIFIED


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "0",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 31 Feb 1994 08:49:37 GMT",
        ),
        *("Sun, 06 Nov 1994 24:49:37 GMT", "Sun, 06 Nov 1994 08:60:37 GMT", "sun, 06 nov 1994 08:49:37 GMT"),
        *("Sun, 06 Nov 0000 08:49:37 GMT", "Sun Nov 00 08:49:37 1994", "Sun, 06 Nov 1994 08:49:37 +0000"),
    ],
)
def test_what_is_no_date_is_passed_over(text: str) -> None:
    """None, never an error and never a guess."""
    assert parse_date(text) is None
