"""Open the calling side of a stream: TCP and Unix.

Deadlines are the caller's scope. For datagrams see `open_sending_socket` in
`oread.sockets.datagrams`.
"""

from __future__ import annotations

import trio

from oread.endpoints import Endpoint


async def dial_stream(endpoint: Endpoint) -> trio.SocketStream:
    """Connect to a `tcp`, `http` or `unix` endpoint.

    Several addresses of one name are tried side by side (RFC 8305).

    Returns:
        The stream, which the caller closes.

    Raises:
        OSError: as the system said it of the first address that failed.
    """
    if endpoint.scheme == "unix":
        return await trio.open_unix_socket(endpoint.host)
    try:
        return await trio.open_tcp_stream(endpoint.host, endpoint.port)
    except OSError as error:
        raise _first_cause(error) from error


def _first_cause(error: OSError) -> OSError:
    """Return what the system said; Trio's summary of it has no errno."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause if isinstance(cause, OSError) else error
