"""Answer with "Hello, World!" by aiohttp on uvloop."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web


async def hello(_request: web.BaseRequest) -> web.Response:
    """Answer every request alike."""
    return web.Response(body=b"Hello, World!", content_type="text/plain")


async def main(port: int) -> None:
    """Serve on loopback until killed."""
    runner = web.ServerRunner(web.Server(hello, keepalive_timeout=600, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
