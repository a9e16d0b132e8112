"""Echo TCP with trio.serve_tcp; with `checkpoint`, yield once a message."""

from __future__ import annotations

import functools
import sys

import trio

CHECKPOINT = "checkpoint" in sys.argv[2:]


async def echo(stream: trio.SocketStream) -> None:
    """Echo one connection to its end."""
    try:
        while data := await stream.receive_some(65536):
            if CHECKPOINT:
                await trio.lowlevel.checkpoint()
            await stream.send_all(data)
    except trio.BrokenResourceError:
        pass  # a reset is how the load generator's connections may end


if __name__ == "__main__":
    trio.run(functools.partial(trio.serve_tcp, echo, int(sys.argv[1]), host="127.0.0.1", backlog=4096))
