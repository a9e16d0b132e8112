"""Tick every 5 ms beside a server and print each tick's lateness in us.

It tells how long a server keeps Trio's other tasks waiting while it is busy.
"""

from __future__ import annotations

import trio

PERIOD_SECONDS = 0.005


async def tick() -> None:
    """Print a number for each tick until cancelled."""
    due = trio.current_time()
    while True:
        due += PERIOD_SECONDS
        await trio.sleep_until(due)
        now = trio.current_time()
        print(round((now - due) * 1e6), flush=True)
        due = max(due, now - PERIOD_SECONDS)  # a tick that was missed is not made up for by a burst
