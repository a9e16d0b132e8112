"""Sessions whose streams a test has in its own hands, to pass or to clog."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

import oread


def hand_over_streams(registry: oread.Registry) -> trio.MemoryReceiveChannel[Any]:
    """Register the session `hand-over`; its streams come out of the channel, open until the service's end."""
    accepted, take = trio.open_memory_channel[Any](0)

    @registry.session("hand-over")
    async def hand_over(stream: Any) -> None:
        await accepted.send(stream)
        await trio.sleep_forever()

    return take


async def clog(stream: trio.abc.SendStream) -> None:
    """Send on a Unix socket until it is full.

    On TCP the kernel makes room again after a while, where its peer reads nothing.
    """

    async def send() -> None:
        while True:
            await stream.send_all(b"x" * 65_536)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
