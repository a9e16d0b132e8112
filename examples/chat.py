"""A chat room: sessions over TCP, found by asking a multicast group.

Every connection is a session that owns its stream, and hears the room by a
subscription of its own. What somebody writes is emitted to the room. Who looks
for a room asks the group by UDP, and is told where it is.

    $ python examples/chat.py
    $ nc 127.0.0.1 7010
    $ oread call 'udp://239.255.70.10:7011?interface=lo' room
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

import oread

GROUP = "239.255.70.10"
"""A group of the administratively scoped range (RFC 2365)."""
LINE_BYTES = 1_024
BEHIND = 32
"""Lines that a slow reader may be behind; then the oldest are dropped."""


async def read_lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[bytes]:
    """Yield the lines of a stream without their ends; a long one ends it."""
    kept = b""
    async for chunk in stream:
        *lines, kept = (kept + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
        if len(kept) > LINE_BYTES:
            return


def make_registry() -> oread.Registry:
    """Return the registry of one room."""
    registry = oread.Registry()

    async def say(text: bytes) -> None:
        if registry.count("room"):  # the last one to leave has nobody to tell
            await registry.emit("room", text + b"\n")

    @registry.session("chat")
    async def chat(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"your name?\n")
        lines = read_lines(stream)
        name = await anext(lines, b"")
        if not name:
            return
        async with (
            registry.subscribe("room", capacity=BEHIND, overflow="drop_oldest", exposed=False) as heard,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(pass_on, heard, stream)
            await say(b"* " + name + b" is here")
            async for line in lines:
                await say(name + b": " + line)
            nursery.cancel_scope.cancel()
        await say(b"* " + name + b" has left")

    return registry


async def pass_on(heard: AsyncIterator[oread.Message], stream: trio.abc.SendStream) -> None:
    """Send what the room hears."""
    async for message in heard:
        await stream.send_all(message.data)


async def main(
    port: int = 7010,
    group_port: int = 7011,
    *,
    task_status: trio.TaskStatus[tuple[oread.Endpoint, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the room until cancelled.

    Args:
        port: of the room; 0 picks a free one.
        group_port: of the group.
        task_status: is given both endpoints as bound.
    """
    registry = make_registry()
    async with oread.open_service(registry, f"tcp://127.0.0.1:{port}/chat") as room:
        here = room.endpoints[0]
        registry.on("where", lambda: f"{here.host} {here.port}\n")
        group = f"udp://{GROUP}:{group_port}/where?interface=lo&reply=unicast"
        async with oread.open_service(registry, group) as finder:
            task_status.started((here, *finder.endpoints))
            await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
