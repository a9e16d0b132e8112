"""A live table of the responders, for a terminal."""

from __future__ import annotations

import trio
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from oread.cli.ping_report import Row, make_rows
from oread.protocols.probes import ProbeSession

REFRESH_SECONDS = 0.25
WIDE = (
    *("responder", "probe", "sent", "lost", "loss", "dup", "late"),
    *("last", "min", "avg", "max", "stddev", "jitter", "p50", "p90", "p99", "hops"),
)
NARROW = ("responder", "probe", "sent", "loss", "dup", "late", "avg", "jitter", "p99", "hops")
WIDE_COLUMNS = 120
"""Terminals from this width on show every figure; narrower ones those that say most."""


async def show_table(session: ProbeSession, title: str) -> None:
    """Show what was found, as it changes, until cancelled."""
    console = Console()

    def draw() -> Table:
        return make_table(session, title, console.width)

    # Without rich's thread, which would outlive the nursery.
    with Live(get_renderable=draw, console=console, auto_refresh=False) as live:
        while True:
            live.refresh()
            await trio.sleep(REFRESH_SECONDS)


def make_table(session: ProbeSession, title: str, width: int) -> Table:
    """Make the table as it is now; times in milliseconds."""
    sent = ", ".join(f"{count} by {kind}" for kind, count in session.sent.items() if count)
    heading = f"{title}: {sent or 'nothing'} sent, times in ms"
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = WIDE if width >= WIDE_COLUMNS else NARROW
    for column in columns:
        table.add_column(column, justify="left" if column in WIDE[:2] else "right", no_wrap=True)
    for row in make_rows(session):
        cells = _cells(row)
        table.add_row(*(cells[column] for column in columns))
    return table


def _cells(row: Row) -> dict[str, str]:
    return {
        "responder": row.responder,
        "probe": row.kind,
        "sent": str(row.sent),
        "lost": str(row.lost),
        "loss": f"{row.loss_percent:.3g}%",
        "dup": str(row.duplicates),
        "late": str(row.reordered),
        **{name: f"{milliseconds:.2f}" for name, milliseconds in row.rtt_ms.items()},
        "hops": "?" if row.hops is None else str(row.hops),
    }
