"""Echo TCP with asyncio streams; with `checkpoint`, yield once a message."""

from __future__ import annotations

import asyncio
import sys

CHECKPOINT = "checkpoint" in sys.argv[2:]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo one connection to its end."""
    try:
        while data := await reader.read(65536):
            if CHECKPOINT:
                await asyncio.sleep(0)
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # a reset is how the load generator's connections may end
    finally:
        writer.close()


async def main(port: int) -> None:
    """Serve on loopback until killed."""
    server = await asyncio.start_server(echo, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
