"""Do something harmful at the first step of a scenario, at the second, until there is none left."""

from __future__ import annotations

import contextlib
import gc
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import trio
from descriptors import open_descriptors
from trio.testing import wait_all_tasks_blocked

import oread
from oread.listeners.asgi import AsgiCall
from oread.listeners.connection import Connection
from oread.testing import MemoryClient, MemoryNetwork

MOST_STEPS = 2_000
WAYS = ("cancel", "drain", "reset")
"""Cancel the whole service, drain it with no time, or have every client crash."""


class Scene:
    """One service in memory, and the clients that a scenario has opened."""

    def __init__(
        self, network: MemoryNetwork, listening: Any, service: oread.Service, tls: ssl.SSLContext | None
    ) -> None:
        self._network = network
        self._listening = listening
        self._tls = tls
        self.service = service
        self.clients: list[MemoryClient] = []

    def client(self, **options: Any) -> Any:
        """Connect; by TLS where the service has it."""
        client = self._network.connect(self._listening, **options)
        self.clients.append(client)
        return client if self._tls is None else SecureClient(client, self._tls)

    def reset(self) -> None:
        """Crash as every client."""
        for client in self.clients:
            client.reset()


class SecureClient:
    """The client's side of a connection by TLS, whose handshake comes with the first bytes."""

    def __init__(self, client: MemoryClient, tls: ssl.SSLContext) -> None:
        stream = trio.SSLStream(client, tls, server_hostname="localhost", https_compatible=True)
        self.send_all, self.receive_some = stream.send_all, stream.receive_some

    async def receive_all(self) -> bytes:
        """Receive until the service ends the connection."""
        received = b""
        while data := await self.receive_some():
            received += data
        return received


Use = Callable[[Scene], Awaitable[None]]


class Interruption(trio.abc.Instrument):
    """Act behind one step, whichever task makes it."""

    def __init__(self, step: int) -> None:
        self._step = step
        self.steps = 0
        self.act: Callable[[], object] = int
        self.happened = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Count the steps of all tasks during the block."""
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count it."""
        self.steps += 1
        if self.steps == self._step:
            self.happened = True
            self.act()


async def interrupt_everywhere(
    registry: oread.Registry,
    use: Use,
    way: str,
    look: Callable[[], object] = int,
    *,
    url: str = "http://:0",
    tls: ssl.SSLContext | None = None,
) -> int:
    """Interrupt the scenario at each of its steps; nothing of it may be left.

    Args:
        registry: what is served.
        use: the scenario.
        way: one of `WAYS`.
        look: asserts what else has to be so afterwards.
        url: of the endpoint.
        tls: the clients' context, where it is of https.

    Returns:
        How many steps there were.
    """
    await _run(registry, use, "reset", url, tls, Interruption(0))  # begins what the process keeps
    tasks, descriptors, kept = _tasks(), open_descriptors(), _in_memory()
    for step in range(1, MOST_STEPS):
        interruption = Interruption(step)
        network = await _run(registry, use, way, url, tls, interruption)
        where = f"{way} at step {step}"
        assert network.open_sockets == 0, where
        assert _tasks() == tasks, where
        assert open_descriptors() <= descriptors, where
        look()
        if not interruption.happened:
            break
    known = set(map(id, kept))  # of tests before this one, whose captured logs hold them
    left = [each for each in _in_memory() if id(each) not in known]
    assert not left, f"{way}: kept in memory"
    return step


async def _run(
    registry: oread.Registry,
    use: Use,
    way: str,
    url: str,
    tls: ssl.SSLContext | None,
    interruption: Interruption,
) -> MemoryNetwork:
    network = MemoryNetwork()
    listening = network.listen()
    service: oread.Service | None = None
    with trio.fail_after(30), trio.CancelScope() as scope, interruption.watching():
        if way == "cancel":
            interruption.act = scope.cancel
        async with oread.open_service(registry, oread.Bound(listening, url), poller=network) as service:
            scene = Scene(network, listening, service, tls)
            await _use(scene, use, way, interruption)
            if way != "cancel":
                _look_for_rests(registry, service, way)
    if service is not None:
        _look_for_rests(registry, service, way)
    return network


async def _use(scene: Scene, use: Use, way: str, interruption: Interruption) -> None:
    if way == "cancel":
        await use(scene)
        return
    drain = trio.Event()
    interruption.act = drain.set if way == "drain" else scene.reset

    async def drain_later() -> None:
        await drain.wait()
        await scene.service.drain(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain_later)
        try:
            await use(scene)
        except (AssertionError, ConnectionRefusedError, trio.BrokenResourceError):
            assert interruption.happened
        interruption.act = int  # too late
        for client in scene.clients:
            await client.aclose()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


def _look_for_rests(registry: oread.Registry, service: oread.Service, way: str) -> None:
    [listener] = service._listeners
    assert service.statistics().endpoints[0].open == 0, way
    assert not listener.connections, way  # type: ignore[attr-defined]
    assert not listener.leaving, way  # type: ignore[attr-defined]
    assert service._runtime.connections == 0, way
    for event in registry.events():
        found = registry.find(event)
        gate = None if found is None else found[0].gate
        if gate is not None:
            assert gate.running == 0, f"{way}: a place of {event}"


def _tasks() -> set[trio.lowlevel.Task]:
    def below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
        yield task
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                yield from below(child)

    root = trio.lowlevel.current_root_task()
    assert root is not None
    return set(below(root))


def _in_memory() -> list[Any]:
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, (Connection, AsgiCall))]
