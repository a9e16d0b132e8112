"""Echo UDP with trio.socket."""

from __future__ import annotations

import sys

import trio


async def main(port: int) -> None:
    """Serve on loopback until killed."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4_194_304)
        await sock.bind(("127.0.0.1", port))
        while True:
            data, peer = await sock.recvfrom(65536)
            await sock.sendto(data, peer)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
