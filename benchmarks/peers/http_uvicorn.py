"""Answer with "Hello, World!" by uvicorn on uvloop and httptools."""

from __future__ import annotations

import sys

import uvicorn

from benchmarks.peers.hello_asgi import app

if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=600,
        backlog=4096,
    )
