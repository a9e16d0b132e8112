"""After: the same program on oread, and what it no longer has to bring.

The handlers return their answers and say by their types what they take.
Lines of JSON-RPC replace the home-made envelope; HTTP comes for nothing.
"""

from __future__ import annotations

from typing import TypedDict

import attrs
import trio

import oread


@attrs.frozen
class Order:
    """What a client orders."""

    item: str
    count: int


class Price(TypedDict):
    """What the client is told."""

    item: str
    cents: int


def make_registry() -> oread.Registry:
    """Return the registry with its handlers."""
    registry = oread.Registry()
    seen: list[str] = []

    @registry.on("order")
    async def price(order: Order) -> Price:
        await trio.lowlevel.checkpoint()  # a database would be asked here
        return {"item": order.item, "cents": 250 * order.count}

    @registry.on("order")
    def remember(order: Order) -> None:
        seen.append(order.item)

    @registry.on("seen")
    def tell() -> list[str]:
        return seen

    registry.on_error(lambda failure: print(f"a handler failed: {failure.error!r}"))
    return registry


async def main(
    port: int = 7040,
    http_port: int = 7041,
    *,
    task_status: trio.TaskStatus[oread.Service] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; a port of 0 picks a free one."""
    lines = f"tcp://127.0.0.1:{port}?framing=jsonrpc"
    await oread.serve(make_registry(), lines, f"http://127.0.0.1:{http_port}", task_status=task_status)


if __name__ == "__main__":
    trio.run(main)
