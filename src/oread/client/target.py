"""Read the URL of a call: where it goes, and for HTTP what is asked there."""

from __future__ import annotations

from urllib.parse import urlsplit

import attrs

from oread.endpoints import LIMITS, Endpoint
from oread.errors import EndpointError

WEBSOCKET_SCHEMES = ("ws", "wss")
SCHEMES = (*LIMITS, *WEBSOCKET_SCHEMES)
"""What can be called; those of WebSockets are served by `http` and `https` endpoints."""


@attrs.frozen(kw_only=True)
class Target:
    """Where a call goes: the endpoint, and for HTTP what is asked of it."""

    endpoint: Endpoint
    host_field: str = ""
    """HTTP: `host[:port]` as the URL has it."""
    request_target: str = "/"
    """HTTP: path and query as the URL has them."""
    websocket: bool = False
    """HTTP: whether a WebSocket is asked for there (`ws:`)."""


def parse_target(url: str) -> Target:
    """Read the URL of a call; that of HTTP may have a path and a query.

    Raises:
        EndpointError: one line that names the fault and what is allowed.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in SCHEMES:
        raise EndpointError(f"{url!r}: scheme must be one of {', '.join(SCHEMES)}")
    websocket = scheme in WEBSOCKET_SCHEMES
    if websocket:
        url = f"http{url[2:]}"
    if not url.lower().startswith(("http:", "https:")):
        return Target(endpoint=Endpoint.parse(url, calling=True))
    if "#" in url:
        raise EndpointError(f"{url!r}: a call has no fragment")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise EndpointError(f"{url!r}: {error}") from error
    if not parts.hostname:
        raise EndpointError(f"{url!r}: a host is needed: http://127.0.0.1:7080/echo")
    query = f"?{parts.query}" if "?" in url else ""
    return Target(
        endpoint=Endpoint.parse(f"{parts.scheme}://{parts.netloc}", calling=True),
        host_field=parts.netloc,
        request_target=f"{parts.path or '/'}{query}",
        websocket=websocket,
    )
