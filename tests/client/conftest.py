"""Peers that are none of ours, for the calling side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio

Peer = Callable[[trio.SocketStream], Awaitable[None]]
ServePeer = Callable[[Peer], AbstractAsyncContextManager[int]]


@pytest.fixture
def serve_peer() -> ServePeer:
    """Serve a peer that is none of ours on loopback; gives its port."""

    @asynccontextmanager
    async def serve(peer: Peer) -> AsyncIterator[int]:
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, peer, [listener])
            yield listener.socket.getsockname()[1]
            nursery.cancel_scope.cancel()

    return serve
