"""Echo TCP with anyio on Trio; with `asyncio`, on asyncio."""

from __future__ import annotations

import sys

import anyio
import anyio.abc


async def echo(stream: anyio.abc.SocketStream) -> None:
    """Echo one connection to its end."""
    async with stream:
        try:
            async for data in stream:
                await stream.send(data)
        except anyio.BrokenResourceError:
            pass  # a reset is how the load generator's connections may end


async def main(port: int) -> None:
    """Serve on loopback until killed."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port, backlog=4096)
    await listener.serve(echo)


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]), backend="asyncio" if "asyncio" in sys.argv[2:] else "trio")
