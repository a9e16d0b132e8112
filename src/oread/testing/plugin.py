"""Fixtures for pytest: a registry, services and clients for one test.

    @pytest.mark.parametrize("transport", oread.testing.TRANSPORTS)
    async def test_echo(oread_registry, oread_client, transport):
        oread_registry.on("echo", lambda data: data)
        async with oread_client(transport) as client:
            assert await client.call("echo", b"hello") == b"hello"

They are plain functions that give `async with` blocks, so they need no plugin
for async fixtures: pytest-trio, anyio's or a `trio.run` of the test's own all
do. pytest finds them by `oread_pytest`, which imports this module only when a
test asks for one; `pytest_plugins = ["oread.testing.plugin"]` does too.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, get_args, overload

import attrs
import pytest
import trio

from oread.client import Client, connect, connect_by, parse_target
from oread.endpoints import Endpoint
from oread.registry import Registry
from oread.service import Bound, Service, open_service
from oread.testing.clients import EventClient, Transport, open_client
from oread.testing.network import MemoryNetwork
from oread.testing.streams import MemoryClient, MemoryListeningSocket


@attrs.define(eq=False)
class World:
    """What the fixtures of one test share."""

    registry: Registry = attrs.field(factory=Registry)
    _in_memory: dict[str, tuple[MemoryNetwork, MemoryListeningSocket]] = attrs.field(factory=dict)

    @contextlib.asynccontextmanager
    async def open_service(
        self, *endpoints: str | Endpoint, memory: bool = False, registry: Registry | None = None
    ) -> AsyncIterator[Service]:
        """Serve on loopback or in memory, for the length of the block.

        Args:
            endpoints: URLs; port 0 picks one.
            memory: without a socket, and so on a mock clock too; streams and
                HTTP only, called by `open_client(endpoint)`.
            registry: None is the test's own.

        Raises:
            ValueError: UDP in memory.
            Exception: as `oread.open_service`.
        """
        registry = self.registry if registry is None else registry
        if not memory:
            async with open_service(registry, *endpoints) as service:
                yield service
            return
        network = MemoryNetwork()
        sockets = [network.listen() for _ in endpoints]
        parsed = [Endpoint.parse(str(endpoint)) for endpoint in endpoints]
        if any(endpoint.scheme == "udp" for endpoint in parsed):
            raise ValueError("udp in memory is called by its transport: oread_client('udp')")
        bound = [Bound(sock, endpoint) for sock, endpoint in zip(sockets, parsed, strict=True)]  # type: ignore[arg-type]
        async with open_service(registry, *bound, poller=network, stall_seconds=math.inf) as service:
            names = [str(endpoint) for endpoint in service.endpoints]
            self._in_memory.update(zip(names, ((network, sock) for sock in sockets), strict=True))
            yield service
        for name in names:
            del self._in_memory[name]
        assert network.open_sockets == 0, "a socket was left open"

    @overload
    def open_client(self, target: Transport) -> AbstractAsyncContextManager[EventClient]: ...
    @overload
    def open_client(
        self, target: str | Endpoint, **options: Any
    ) -> AbstractAsyncContextManager[Client | EventClient]: ...
    def open_client(self, target: str | Endpoint, **options: Any) -> AbstractAsyncContextManager[Any]:
        """Call the test's registry over a transport, or any endpoint.

        Args:
            target: one of `oread.testing.TRANSPORTS` serves the registry in
                memory and gives an `EventClient`; an endpoint (of
                `oread_service`, or a URL) gives an `oread.Client`.
            options: of `oread.connect`.
        """
        if target in get_args(Transport):
            return open_client(self.registry, target)  # type: ignore[arg-type]
        found = self._in_memory.get(str(target))
        if found is None:
            return connect(target, **options)
        return connect_by(parse_target(str(target)), functools.partial(_dial, *found), **options)


async def _dial(network: MemoryNetwork, sock: MemoryListeningSocket) -> MemoryClient:
    await trio.lowlevel.checkpoint()
    return network.connect(sock)


@pytest.fixture
def oread_world() -> World:
    """Make what the other fixtures of this test share."""
    return World()


@pytest.fixture
def oread_registry(oread_world: World) -> Registry:
    """Give the test an empty registry of its own."""
    return oread_world.registry


@pytest.fixture
def oread_service(oread_world: World) -> Any:
    """Give the test `World.open_service`, for `async with`."""
    return oread_world.open_service


@pytest.fixture
def oread_client(oread_world: World) -> Any:
    """Give the test `World.open_client`, for `async with`."""
    return oread_world.open_client
