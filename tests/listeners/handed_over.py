"""Sessions whose streams a test has in its own hands."""

from __future__ import annotations

from typing import Any

import trio

import oread


def hand_over_streams(registry: oread.Registry) -> trio.MemoryReceiveChannel[Any]:
    """Register the session `hand-over`; its streams come out of the channel, open until the service's end."""
    accepted, take = trio.open_memory_channel[Any](0)

    @registry.session("hand-over")
    async def hand_over(stream: Any) -> None:
        await accepted.send(stream)
        await trio.sleep_forever()

    return take
