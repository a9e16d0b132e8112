"""The live table: which columns a terminal of a width gets. Nothing of rich's output is read."""

from __future__ import annotations

import pytest

from oread.cli.ping_table import NARROW, WIDE, make_table
from oread.protocols.probes import ProbeSession


@pytest.mark.parametrize(("width", "columns"), [(80, NARROW), (119, NARROW), (120, WIDE)])
def test_a_wide_terminal_has_every_figure(width: int, columns: tuple[str, ...]) -> None:
    """A narrow one has those that say most; each responder is a row for each kind of probe it answered."""
    session = ProbeSession(1)
    probe = session.encode("multicast", session.next_number("multicast"), 0)
    for host in range(3):
        session.receive(probe, (f"10.77.0.{host}", 7_008), 64, 2_000_000)
    table = make_table(session, "udp://239.77.0.1:7008", width)
    assert tuple(column.header for column in table.columns) == columns
    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells["responder"] == [f"10.77.0.{host}:7008" for host in range(3)]
    assert (cells["probe"], cells["loss"], cells["avg"]) == (["multicast"] * 3, ["0%"] * 3, ["2.00"] * 3)
    assert table.title == "udp://239.77.0.1:7008: 1 by multicast sent, times in ms"
