"""Answer with "Hello, World!" by hypercorn on Trio."""

from __future__ import annotations

import functools
import sys
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from benchmarks.peers.hello_asgi import app

if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    config.backlog = 4096
    config.keep_alive_timeout = 600
    config.keep_alive_max_requests = 1_000_000_000
    trio.run(functools.partial(serve, cast("Any", app), config))
