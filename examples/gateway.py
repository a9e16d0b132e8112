"""A device gateway: readings come by UDP, browsers and scripts take them by HTTP.

Devices send one JSON object a datagram. `GET /readings` is the latest of each
device, `GET /live` a stream of server-sent events.

    $ python examples/gateway.py
    $ oread call udp://127.0.0.1:7020 '{"device": "roof", "celsius": 21.5}'
    $ curl http://127.0.0.1:7080/readings
    $ curl -H 'Accept: text/event-stream' http://127.0.0.1:7080/live
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import attrs
import msgspec
import trio

import oread

DEVICES = 1_000
"""Devices that are remembered: whoever can send a datagram could name more."""
WATCHERS = 100
"""Live streams at once; the next one is told to come back later."""


@attrs.frozen
class Reading:
    """What a device measured."""

    device: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    celsius: Annotated[float, msgspec.Meta(ge=-100, le=200)]


def make_registry() -> oread.Registry:
    """Return the gateway's registry, with no readings yet."""
    registry = oread.Registry()
    latest: dict[str, Reading] = {}

    @registry.on("reading")
    def reading(body: Reading) -> str:
        if body.device not in latest and len(latest) >= DEVICES:
            raise oread.Busy("too many devices")
        latest[body.device] = body
        return "ok\n"

    @registry.on("readings", methods=("GET",))
    def readings() -> list[Reading]:
        return list(latest.values())

    @registry.on("live", methods=("GET",), limit=WATCHERS)
    async def live() -> AsyncIterator[oread.ServerSentEvent]:
        return watch(registry)

    return registry


async def watch(registry: oread.Registry) -> AsyncIterator[oread.ServerSentEvent]:
    """Yield readings as they come; a slow watcher misses the oldest."""
    async with registry.subscribe("reading", capacity=64, overflow="drop_oldest") as heard:
        async for message in heard:
            yield oread.ServerSentEvent(message.data, event="reading")


async def main(
    device_port: int = 7020,
    http_port: int = 7080,
    *,
    task_status: trio.TaskStatus[oread.Service] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the gateway until cancelled; a port of 0 picks a free one."""
    devices = f"udp://127.0.0.1:{device_port}/reading"
    await oread.serve(make_registry(), devices, f"http://127.0.0.1:{http_port}", task_status=task_status)


if __name__ == "__main__":
    trio.run(main)
