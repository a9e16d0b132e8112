"""Echo TCP with oread inside a Trio program that also ticks."""

from __future__ import annotations

import sys

import trio

import oread
from benchmarks.apps import registry
from benchmarks.peers.ticker import tick


async def main(port: int) -> None:
    """Serve on loopback, and tick, until killed."""
    async with oread.open_service(registry, f"tcp://127.0.0.1:{port}/bytes-echo"):
        await tick()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
