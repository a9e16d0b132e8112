"""Make small ASGI applications, and what they send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Call = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


def without_lifespan(serve: Call) -> Call:
    """Make an application of a function for requests and WebSockets; it has no lifespan."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await serve(scope, receive, send)

    return app


async def answer(
    send: Any, body: bytes = b"", status: int = 200, headers: Any = (), *, more: bool = False
) -> None:
    """Send a response, or its beginning."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more})
