"""A live table of the responders, for a terminal."""

from __future__ import annotations

import trio
from rich.console import Console
from rich.live import Live
from rich.table import Table

from oread.cli.ping_report import make_rows
from oread.protocols.probes import ProbeSession

REFRESH_SECONDS = 0.25
COLUMNS = (
    *("responder", "probe", "sent", "lost", "dup", "reord"),
    *("last", "min", "avg", "max", "stddev", "jitter", "p50", "p99", "hops"),
)
_TIMES = COLUMNS[6:14]


async def show_table(session: ProbeSession, title: str) -> None:
    """Show what was found, as it changes, until cancelled."""

    def draw() -> Table:
        return make_table(session, title)

    # Without rich's thread: nothing is drawn while the nursery is gone.
    with Live(get_renderable=draw, console=Console(), auto_refresh=False) as live:
        while True:
            live.refresh()
            await trio.sleep(REFRESH_SECONDS)


def make_table(session: ProbeSession, title: str) -> Table:
    """Make the table as it is now; times in milliseconds."""
    sent = ", ".join(f"{count} by {kind}" for kind, count in session.sent.items() if count)
    table = Table(title=f"{title}: {sent or 'nothing'} sent, times in ms", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:2] else "right", no_wrap=True)
    for row in make_rows(session):
        loss = f"{row.lost} ({row.loss_percent:.3g} %)" if row.lost else "0"
        times = [f"{row.rtt_ms[name]:.3f}" for name in _TIMES]
        hops = "?" if row.hops is None else str(row.hops)
        counts = [str(row.sent), loss, str(row.duplicates), str(row.reordered)]
        table.add_row(row.responder, row.kind, *counts, *times, hops)
    return table
