"""Judge conditional and range requests for one selected representation.

Nothing here knows a file: a validator and a length go in, a status and a part
come out. What is malformed in a condition makes it fail, a malformed date or
range is passed over, as the clauses ask for.

One range is served. Several are answered by the whole, as RFC 9110 14.2
allows: a multipart answer costs more than it saves, and is how overlapping
ranges were used to exhaust servers (CVE-2011-3192).

Source: RFC 9110 5.6.7 (dates), 8.8 (validators), 13.2.2 (precedence), 14 (ranges).
"""

from __future__ import annotations

import datetime
import re

import attrs

from oread.messages import Headers

_TAG = r'(?:W/)?"[!#-~\x80-\xff]*"'
_TAGS = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")
_ONE_TAG = re.compile(_TAG)
_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = "(" + "|".join(_MONTHS) + ")"
_CLOCK = "([0-9]{2}):([0-9]{2}):([0-9]{2})"
_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_FIXDATE = re.compile(rf"{_DAY}, ([0-9]{{2}}) {_MONTH} ([0-9]{{4}}) {_CLOCK} GMT")
_RFC850 = re.compile(rf"{_LONG_DAY}, ([0-9]{{2}})-{_MONTH}-([0-9]{{2}}) {_CLOCK} GMT")
_ASCTIME = re.compile(rf"{_DAY} {_MONTH} ([ 0-9][0-9]) {_CLOCK} ([0-9]{{4}})")
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_PIVOT_YEAR = 70
"""Two digits below it are in this century: the last such dates were written in the nineties."""


@attrs.frozen(kw_only=True)
class Validator:
    """What tells one state of a representation from another."""

    etag: str
    """With its quotes, and `W/` where it is weak."""
    modified: int
    """Whole seconds since the epoch, as `Last-Modified` says."""
    is_strong: bool
    """Whether equal validators mean equal bytes."""


@attrs.frozen(kw_only=True)
class Verdict:
    """How a request is to be answered."""

    status: int
    """200, 206, 304, 412 or 416."""
    start: int = 0
    length: int = 0
    """Which bytes are sent, for 200 and 206."""


def judge(method: str, headers: Headers, validator: Validator, size: int) -> Verdict:
    """Decide on a request for a representation that would be answered by 200.

    Conditions are for GET and HEAD, a range for GET alone: of other methods
    the answer is not the state that they would speak of.
    """
    whole = Verdict(status=200, length=size)
    if method not in ("GET", "HEAD"):
        return whole
    status = _judge_conditions(headers, validator)
    if status is not None:
        return Verdict(status=status)
    if method != "GET" or not _wants_range(headers, validator):
        return whole
    return _select_range(headers.get_all("range"), size) or whole


def _judge_conditions(headers: Headers, validator: Validator) -> int | None:
    """Return 304 or 412, or None when the request is to be served."""
    if (match := _listed(headers, "if-match")) is not None:
        if not _matches(match, validator.etag, strong=True):
            return 412
    elif (since := _date(headers, "if-unmodified-since")) is not None and validator.modified > since:
        return 412
    if (none_match := _listed(headers, "if-none-match")) is not None:
        return 304 if _matches(none_match, validator.etag, strong=False) else None
    since = _date(headers, "if-modified-since")
    return 304 if since is not None and validator.modified <= since else None


def _listed(headers: Headers, name: str) -> str | None:
    values = headers.get_all(name)
    return ",".join(values) if values else None


def _date(headers: Headers, name: str) -> int | None:
    values = headers.get_all(name)
    return parse_date(values[0]) if len(values) == 1 else None


def _matches(listed: str, etag: str, *, strong: bool) -> bool:
    """Compare by RFC 9110 8.8.3.2; a malformed list matches nothing."""
    if listed.strip(" \t") == "*":
        return True
    if not _TAGS.fullmatch(listed):
        return False
    tags = _ONE_TAG.findall(listed)
    if strong:
        return not etag.startswith("W/") and etag in tags
    return etag.removeprefix("W/") in [tag.removeprefix("W/") for tag in tags]


def _wants_range(headers: Headers, validator: Validator) -> bool:
    """Tell whether a range may be served: there is no If-Range, or it holds."""
    conditions = headers.get_all("if-range")
    if "range" not in headers or len(conditions) > 1:
        return False
    if not conditions:
        return True
    if not validator.is_strong:
        return False
    if _ONE_TAG.fullmatch(conditions[0]):
        return conditions[0] == validator.etag
    return parse_date(conditions[0]) == validator.modified


def _select_range(values: list[str], size: int) -> Verdict | None:
    """Return what one range selects, None for what is to be passed over."""
    match = _RANGE.fullmatch(values[0]) if len(values) == 1 else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= end:
        return Verdict(status=416)
    return Verdict(status=206, start=start, length=end - start)


def parse_date(text: str) -> int | None:
    """Read a date in any of HTTP's three forms; None for what is none."""
    if match := _FIXDATE.fullmatch(text):
        day, month, year = match[1], match[2], int(match[3])
        clock = match.groups()[3:]
    elif match := _RFC850.fullmatch(text):
        day, month, short = match[1], match[2], int(match[3])
        year = short + (2000 if short < _PIVOT_YEAR else 1900)
        clock = match.groups()[3:]
    elif match := _ASCTIME.fullmatch(text):
        day, month, year = match[2], match[1], int(match[6])
        clock = match.groups()[2:5]
    else:
        return None
    hour, minute, second = (int(part) for part in clock)
    if hour > 23 or minute > 59 or second > 60:
        return None
    try:
        date = datetime.date(year, _MONTHS.index(month) + 1, int(day))
    except ValueError:  # no such day
        return None
    return ((date.toordinal() - _EPOCH) * 24 + hour) * 3600 + minute * 60 + second
