"""Echo UDP with asyncio; with `uvloop` as second word, on uvloop."""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
from typing import Any, cast


class Echo(asyncio.DatagramProtocol):
    """Send back what arrives."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport's sending method."""
        # A cast, not an assertion: uvloop's transports are no subclasses of asyncio's.
        self.send = cast("asyncio.DatagramTransport", transport).sendto

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Send back what arrived."""
        self.send(data, addr)


async def main(port: int) -> None:
    """Serve on loopback until killed."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", port))
    sock: Any = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_194_304)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run = importlib.import_module("uvloop").run if "uvloop" in sys.argv[2:] else asyncio.run
    run(main(int(sys.argv[1])))
