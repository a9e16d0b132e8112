"""Show results: rich tables on a terminal, plain text in a pipe, JSON.

rich cuts cells that don't fit; what is piped is therefore laid out here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.results import CPU, Metric, Result, Spread

OURS = "oread"


def rows_of(result: Result) -> tuple[list[str], list[list[str]]]:
    """Return a table's headings and its rows of text, one for each peer."""
    main = result.metrics[0]
    headings = ["server", *(metric.title for metric in result.metrics)]
    headings.insert(2, "min-max")
    headings.append(f"x {result.baseline}")
    with_cpu = CPU in result.metrics
    if with_cpu:
        headings.append(f"CPU x {result.baseline}")
    with_ours = OURS in result.peers()
    if with_ours:
        headings.append(f"{OURS} x this")
    rows = []
    for peer in result.peers():
        spreads = [result.spread(peer, metric) for metric in result.metrics]
        row = [
            peer,
            *(_median(spread, metric) for spread, metric in zip(spreads, result.metrics, strict=True)),
        ]
        row.insert(2, _range(spreads[0], main))
        row.append(_ratio(result.ratio(peer, result.baseline, main)))
        if with_cpu:
            row.append(_ratio(result.ratio(peer, result.baseline, CPU)))
        if with_ours:
            row.append(_ratio(result.ratio(OURS, peer, main)))
        rows.append(row)
    return headings, rows


def show(result: Result, console: Console) -> None:
    """Print a case's table and whom it had to skip."""
    title = f"{result.suite}: {result.case}"
    headings, rows = rows_of(result)
    if console.is_terminal:
        table = Table(title=title, title_justify="left")
        for place, heading in enumerate(headings):
            table.add_column(heading, justify="right" if place else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row, style="bold" if row[0] == OURS else None)
        console.print(table)
    else:
        print(f"\n{title}\n{plain(headings, rows)}")
    for peer, reason in result.skipped.items():
        console.print(f"skipped {peer}: {reason}", markup=False, highlight=False, soft_wrap=True)


def plain(headings: list[str], rows: list[list[str]]) -> str:
    """Lay out a table as aligned text, the first column to the left."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for row in [headings, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def as_json(facts: dict[str, str], command: str, results: list[Result]) -> bytes:
    """Return a run as JSON: facts, medians with spread, every sample."""
    document = {"command": command, "machine": facts, "results": [_document(result) for result in results]}
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def write_json(path: Path, facts: dict[str, str], command: str, results: list[Result]) -> None:
    """Write a run as JSON to a file."""
    path.write_bytes(as_json(facts, command, results))


def _document(result: Result) -> dict[str, Any]:
    main = result.metrics[0]
    peers: dict[str, Any] = {}
    for peer in result.peers():
        spreads = {metric.key: result.spread(peer, metric) for metric in result.metrics}
        peers[peer] = {key: attrs.asdict(spread) for key, spread in spreads.items() if spread is not None}
        peers[peer][f"{main.key}_x_baseline"] = result.ratio(peer, result.baseline, main)
    return {
        "suite": result.suite,
        "case": result.case,
        "baseline": result.baseline,
        "peers": peers,
        "skipped": result.skipped,
        "samples": [attrs.asdict(sample) for sample in result.samples],
    }


def _median(spread: Spread | None, metric: Metric) -> str:
    return "-" if spread is None else f"{spread.median:,.{metric.decimals}f}"


def _range(spread: Spread | None, metric: Metric) -> str:
    return "-" if spread is None else f"{spread.low:,.{metric.decimals}f}-{spread.high:,.{metric.decimals}f}"


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
