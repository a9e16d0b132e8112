"""Answer with "Hello, World!" by granian, one worker of one thread.

RSGI is granian's own, faster interface; `asgi` as second word picks the other.
"""

from __future__ import annotations

import sys
from typing import Any

from granian import Granian
from granian.constants import Interfaces, Loops


async def app(_scope: Any, protocol: Any) -> None:
    """Answer every request alike."""
    protocol.response_str(status=200, headers=[("content-type", "text/plain")], body="Hello, World!")


if __name__ == "__main__":
    asgi = "asgi" in sys.argv[2:]
    Granian(
        "benchmarks.peers.hello_asgi:app" if asgi else "benchmarks.peers.http_granian:app",
        address="127.0.0.1",
        port=int(sys.argv[1]),
        interface=Interfaces.ASGINL if asgi else Interfaces.RSGI,
        loop=Loops.uvloop,
        workers=1,
        runtime_threads=1,
        backlog=4096,
        log_enabled=False,
        log_access=False,
    ).serve()
