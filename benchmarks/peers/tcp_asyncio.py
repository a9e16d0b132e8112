"""Echo TCP with asyncio.Protocol; with `uvloop` as second word, on uvloop."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import cast


class Echo(asyncio.Protocol):
    """Write back what arrives."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport's sending method."""
        # A cast, not an assertion: uvloop's transports are no subclasses of asyncio's.
        self.send = cast("asyncio.Transport", transport).write

    def data_received(self, data: bytes) -> None:
        """Send back what arrived."""
        self.send(data)


async def main(port: int) -> None:
    """Serve on loopback until killed."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    run = importlib.import_module("uvloop").run if "uvloop" in sys.argv[2:] else asyncio.run
    run(main(int(sys.argv[1])))
