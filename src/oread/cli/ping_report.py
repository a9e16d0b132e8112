"""Say what a `ProbeSession` found: omping's lines, or JSON.

Times are in milliseconds. A line of a summary, as omping has it:
`HOST : KIND, xmt/rcv/%loss = SENT/ANSWERED+DUPLICATES/LOSS% (seq>=FIRST LOSS%), min/avg/max/std-dev = ...`,
where the loss in brackets is that from the first answer on.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from oread.messages import Address, format_address
from oread.protocols.probes import Answer, Kind, ProbeSession, Tally

PERCENTILES = (50, 90, 99)


@attrs.frozen(kw_only=True)
class Row:
    """What is told of one responder's answers to probes of one kind."""

    responder: str
    kind: Kind
    sent: int
    received: int
    lost: int
    loss_percent: float
    first: int
    loss_percent_since_first: float
    duplicates: int
    reordered: int
    rtt_ms: dict[str, float]
    """`last`, `min`, `avg`, `max`, `stddev`, `jitter`, `p50`, `p90`, `p99`."""
    ttl: int | None
    hops: int | None


def make_rows(session: ProbeSession) -> list[Row]:
    """Return a row for every responder and kind of probe that it ever answered."""
    return [_make_row(session, *each) for each in _answered(session)]


def _answered(session: ProbeSession) -> Iterator[tuple[Address, Kind, Tally]]:
    for address, tallies in session.tallies.items():
        for kind, tally in tallies.items():
            if tally.received:
                yield address, kind, tally


def _make_row(session: ProbeSession, address: Address, kind: Kind, tally: Tally) -> Row:
    times = tally.round_trips
    seconds = {
        "last": times.last,
        "min": times.lowest,
        "avg": times.mean,
        "max": times.highest,
        "stddev": times.deviation,
        "jitter": times.jitter,
        **{f"p{percent}": times.percentile(percent) for percent in PERCENTILES},
    }
    sent = session.sent_to(kind, tally)
    return Row(
        responder=format_address(address),
        kind=kind,
        sent=sent,
        received=tally.received,
        lost=sent - tally.received,
        loss_percent=round(100 * session.loss(kind, tally), 3),
        first=tally.first,
        loss_percent_since_first=round(100 * session.loss_since_first(kind, tally), 3),
        duplicates=tally.duplicates,
        reordered=tally.reordered,
        rtt_ms={name: round(1_000 * value, 6) for name, value in seconds.items()},
        ttl=tally.ttl,
        hops=tally.hops,
    )


def answer_line(answer: Answer) -> str:
    """Say one answer."""
    notes = {"repeated": " (duplicate)", "late": " (reordered)"}
    distance = "" if answer.hops is None else f", dist={answer.hops}"
    return (
        f"{format_address(answer.responder)} : {answer.kind}, seq={answer.number}, size={answer.size} bytes"
        f"{distance}, time={1_000 * answer.seconds:.3f}ms{notes.get(answer.verdict, '')}"
    )


def summary_lines(session: ProbeSession) -> list[str]:
    """Say what was found of every responder, two lines each."""
    lines = [line for row in make_rows(session) for line in _row_lines(row)]
    refused = ", ".join(f"{reason} {count}" for reason, count in sorted(session.refused.items()))
    return [*lines, f"not counted: {refused}"] if refused else lines


def _row_lines(row: Row) -> Iterator[str]:
    times = row.rtt_ms
    duplicates = f"+{row.duplicates}" if row.duplicates else ""
    since = f" (seq>={row.first} {row.loss_percent_since_first:.3g}%)" if row.first > 1 else ""
    spread = "/".join(f"{times[name]:.3f}" for name in ("min", "avg", "max", "stddev"))
    head = f"{row.responder} : {row.kind}"
    yield (
        f"{head}, xmt/rcv/%loss = {row.sent}/{row.received}{duplicates}/{row.loss_percent:.3g}%{since}, "
        f"min/avg/max/std-dev = {spread}"
    )
    further = "/".join(f"{times[name]:.3f}" for name in ("jitter", *(f"p{each}" for each in PERCENTILES)))
    hops = "?" if row.hops is None else row.hops
    yield f"{head}, jitter/p50/p90/p99 = {further}, reordered = {row.reordered}, hops = {hops}"
