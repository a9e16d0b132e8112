"""End a command's work by a signal, so that it can still say what it found."""

from __future__ import annotations

import math
import signal
from collections.abc import Awaitable, Callable

import trio

from oread.client.nursery import open_plain_nursery


async def run_until_interrupted(work: Callable[[], Awaitable[object]], seconds: float = math.inf) -> None:
    """Work until it ends, SIGINT or SIGTERM comes, or the time is over.

    What the work raises is raised as it is.
    """
    async with open_plain_nursery() as nursery:
        await nursery.start(_cancel_by_signal, nursery.cancel_scope)
        with trio.move_on_after(seconds):
            await work()


async def _cancel_by_signal(
    scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
