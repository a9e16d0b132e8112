"""Echo TCP beside a ticking task: trio.serve_tcp or the bare reactor."""

from __future__ import annotations

import functools
import sys

import trio

from benchmarks.peers.tcp_bare import main as serve_bare
from benchmarks.peers.tcp_trio import echo
from benchmarks.peers.ticker import tick


async def main(port: int) -> None:
    """Serve on loopback, and tick, until killed."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        if "bare" in sys.argv[2:]:
            nursery.start_soon(serve_bare, port)
        else:
            serve = functools.partial(trio.serve_tcp, host="127.0.0.1", backlog=4096)
            nursery.start_soon(serve, echo, port)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
