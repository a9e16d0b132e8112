"""Open WebSockets with trio-websocket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

import oread


@asynccontextmanager
async def open_websocket(
    service: oread.Service, path: str, **options: Any
) -> AsyncIterator[WebSocketConnection]:
    """Open one at a path; trio-websocket itself leaves its socket open when the server ends it."""
    port = service.endpoints[0].port
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
        client = await wrap_client_stream(nursery, stream, f"127.0.0.1:{port}", path, **options)
        async with client:
            yield client
        nursery.cancel_scope.cancel()
