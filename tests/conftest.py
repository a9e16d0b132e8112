"""What several test modules use: one registry, services on loopback and in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio

import oread
from oread.testing import MemoryClient, MemoryNetwork


@pytest.fixture
def registry() -> oread.Registry:
    """A registry with one handler of each kind."""
    registry = oread.Registry()

    @registry.on("echo")
    def echo(data: memoryview) -> memoryview:
        return data

    @registry.on("bytes")
    def plain(data: bytes) -> bytes:
        return data

    @registry.on("async")
    async def ready(data: bytes) -> bytes:
        return data

    @registry.on("waits")
    async def waits(data: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return data

    @registry.on("forever")
    async def forever(data: bytes) -> None:
        await trio.sleep_forever()

    @registry.on("fails")
    def fails(data: bytes) -> bytes:
        raise LookupError("on purpose")

    @registry.on("none")
    def none(data: bytes) -> None:
        return None

    @registry.session("session")
    async def session(stream: trio.abc.HalfCloseableStream) -> None:
        async for chunk in stream:
            await stream.send_all(chunk.upper())

    return registry


class Memory:
    """A service in memory: `client` connects to it."""

    def __init__(
        self, network: MemoryNetwork, connect: Callable[..., MemoryClient], service: oread.Service
    ) -> None:
        self.network = network
        self.client = connect
        self.service = service

    @property
    def refused(self) -> dict[str, int]:
        """What the only endpoint has refused, by reason."""
        return dict(self.service.statistics().endpoints[0].refused)


@pytest.fixture
def serve_memory(registry: oread.Registry) -> Callable[[str], AbstractAsyncContextManager[Memory]]:
    """Serve one endpoint in memory; afterwards nothing may be open."""

    @asynccontextmanager
    async def serve(url: str) -> AsyncIterator[Memory]:
        network = MemoryNetwork()
        listening = network.listen()
        async with oread.open_service(registry, oread.Bound(listening, url), poller=network) as service:
            yield Memory(network, lambda **options: network.connect(listening, **options), service)
        assert network.open_sockets == 0

    return serve


@pytest.fixture
def serve_one(registry: oread.Registry) -> Callable[[str], AbstractAsyncContextManager[oread.Service]]:
    """Serve one endpoint on real sockets."""

    @asynccontextmanager
    async def serve(*urls: str) -> AsyncIterator[oread.Service]:
        async with oread.open_service(registry, *urls) as service:
            yield service

    return serve
