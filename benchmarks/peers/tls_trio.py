"""Echo over TLS with trio.SSLListener: `tls_trio PORT CERTIFICATE KEY`."""

from __future__ import annotations

import functools
import ssl
import sys

import trio


async def echo(stream: trio.SSLStream[trio.SocketStream]) -> None:
    """Echo one connection to its end."""
    try:
        while data := await stream.receive_some(65536):
            await stream.send_all(data)
    except trio.BrokenResourceError:
        pass  # an end without close_notify is how the load's connections end


if __name__ == "__main__":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    serve = functools.partial(
        trio.serve_ssl_over_tcp, echo, int(sys.argv[1]), context, host="127.0.0.1", backlog=4096
    )
    trio.run(serve)
