"""Before: an event emitter of pyee over asyncio's streams.

One connection carries lines of JSON: `{"event": ..., "data": ...}`. The parts
that this program has to bring itself are the point of it: framing, decoding,
checking, answering by passing a callback through the emitter, an error event,
and keeping track of the tasks that `emit` leaves behind.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from pyee.asyncio import AsyncIOEventEmitter

Answer = Callable[[Any], None]


def make_emitter() -> AsyncIOEventEmitter:
    """Return the emitter with its handlers."""
    emitter = AsyncIOEventEmitter()
    seen: list[str] = []

    @emitter.on("order")
    async def price(data: dict[str, Any], answer: Answer) -> None:
        if not isinstance(data.get("item"), str) or not isinstance(data.get("count"), int):
            answer({"error": "an order has an item and a count"})
            return
        await asyncio.sleep(0)  # a database would be asked here
        answer({"item": data["item"], "cents": 250 * data["count"]})

    @emitter.on("order")
    def remember(data: dict[str, Any], answer: Answer) -> None:
        seen.append(str(data.get("item")))

    @emitter.on("seen")
    def tell(data: dict[str, Any], answer: Answer) -> None:
        answer(seen)

    @emitter.on("error")
    def failed(error: Exception) -> None:
        print(f"a handler failed: {error!r}")

    return emitter


async def serve_client(
    emitter: AsyncIOEventEmitter, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Emit an event for each line of one connection."""

    def answer(value: Any) -> None:
        writer.write(json.dumps(value).encode() + b"\n")

    try:
        while line := await reader.readline():
            try:
                message = json.loads(line)
                known = emitter.emit(message["event"], message["data"], answer)
            except (ValueError, KeyError, TypeError):
                answer({"error": "not a message"})
                continue
            if not known:
                answer({"error": "no such event"})
            await emitter.wait_for_complete()  # of every connection, not only of this one
            await writer.drain()
    finally:
        writer.close()


async def main(port: int = 7040, started: Callable[[int], None] | None = None) -> None:
    """Serve until cancelled; a port of 0 picks a free one."""
    emitter = make_emitter()
    server = await asyncio.start_server(
        lambda reader, writer: serve_client(emitter, reader, writer), "127.0.0.1", port
    )
    if started is not None:
        started(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
