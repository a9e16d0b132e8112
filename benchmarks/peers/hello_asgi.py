"""Be the ASGI application that uvicorn and hypercorn serve."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")],
}
BODY = {"type": "http.response.body", "body": b"Hello, World!"}


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer every request alike."""
    if scope["type"] == "http":
        await send(HEAD)
        await send(BODY)
        return
    # hypercorn on Trio fails at start when its lifespan messages are not taken.
    for _ in range(2):
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
