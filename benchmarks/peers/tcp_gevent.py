"""Echo TCP with gevent's StreamServer, one greenlet for each connection."""

from __future__ import annotations

import sys
from typing import Any

from gevent.server import StreamServer


def echo(connection: Any, _address: Any) -> None:
    """Echo one connection to its end."""
    try:
        while data := connection.recv(65536):
            connection.sendall(data)
    except ConnectionError:
        pass  # a reset is how the load generator's connections may end


if __name__ == "__main__":
    StreamServer(("127.0.0.1", int(sys.argv[1])), echo, backlog=4096).serve_forever()
