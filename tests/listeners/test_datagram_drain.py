"""UDP endpoints under load and at their end: bounded, drained, closed."""

from __future__ import annotations

import socket
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from loopback import GROUP, LOOPBACK, linux_only

from listeners.datagram_services import LIMIT_SECONDS, statistics, wait_messages
from oread.registry import Registry
from oread.service import open_service


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.on("echo", lambda data: data)
    return registry


@attrs.define
class Gate:
    """An async handler that waits to be let through."""

    opened: trio.Event = attrs.field(factory=trio.Event)
    entered: int = 0

    async def __call__(self, data: bytes) -> bytes:
        """Wait, then echo."""
        self.entered += 1
        await self.opened.wait()
        return data

    async def wait_entered(self, count: int) -> None:
        """Wait until so many calls are inside."""
        with trio.fail_after(LIMIT_SECONDS):
            while self.entered < count:
                await trio.lowlevel.checkpoint()


async def test_async_handlers_are_bounded(client: Any) -> None:
    """Above in_flight datagrams are dropped as busy; those inside are answered."""
    registry, gate = Registry(), Gate()
    registry.on("wait", gate)
    async with open_service(registry, "udp://127.0.0.1:0/wait?in_flight=2") as service:
        port = service.endpoints[0].port
        for number in range(5):
            await client.send(b"%d" % number, port)
        await gate.wait_entered(2)
        await wait_messages(service, 5)
        gate.opened.set()
        replies = {(await client.receive())[0] for _ in range(2)}
        assert replies == {b"0", b"1"}
        assert statistics(service).refused == {"busy": 3}


async def test_drain_answers_what_is_queued_and_running(registry: Registry, client: Any) -> None:
    """A drain takes what had arrived, waits for handlers, and frees the port."""
    gate = Gate()
    registry.on("wait", gate)
    async with open_service(registry, "udp://127.0.0.1:0/echo", "udp://127.0.0.1:0/wait") as service:
        quick, slow = (endpoint.port for endpoint in service.endpoints)

        async def drain() -> None:
            report = await service.drain(LIMIT_SECONDS)
            assert report.cancelled == ()

        await client.send(b"running", slow)
        await gate.wait_entered(1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as burst:
            for _ in range(200):
                # No checkpoint in between: all of them are queued when the drain begins.
                burst.sendto(b"queued", ("127.0.0.1", quick))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain)
                await wait_messages(service, 200)
                gate.opened.set()
        assert await client.receive() == (b"running", ("127.0.0.1", slow))
        assert statistics(service).replies == 200
        for port in (quick, slow):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
                again.bind(("127.0.0.1", port))


async def test_drain_deadline_cancels_and_names_handlers(client: Any) -> None:
    """What still runs at the deadline is cancelled, named by event and peer, and not answered."""
    registry, gate = Registry(), Gate()
    registry.on("wait", gate)
    async with open_service(registry, "udp://127.0.0.1:0/wait") as service:
        await client.send(b"x", service.endpoints[0].port)
        await gate.wait_entered(1)
        report = await service.drain(0)
        assert report.cancelled == (f"'wait' for 127.0.0.1:{client.port} on {service.endpoints[0]}",)
        found = statistics(service)
        assert (found.replies, found.failures, found.refused) == (0, 0, {"cancelled": 1})
    assert client.received_nothing()


async def test_shielded_goodbye_is_sent_after_the_deadline(client: Any) -> None:
    """A cancelled handler that finishes behind a shield still gets its reply out."""
    registry, gate = Registry(), Gate()

    @registry.on("bye")
    async def bye(data: bytes) -> bytes:
        with trio.CancelScope(shield=True):
            return await gate(data)

    async with open_service(registry, "udp://127.0.0.1:0/bye") as service:
        await client.send(b"goodbye", service.endpoints[0].port)
        await gate.wait_entered(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.drain, 0)
            await trio.testing.wait_all_tasks_blocked()
            gate.opened.set()
        assert (await client.receive())[0] == b"goodbye"


@linux_only
async def test_drain_deadline_drops_delayed_replies(registry: Registry, client: Any) -> None:
    """A delayed reply that the deadline overtakes is dropped and counted."""
    url = f"udp://{GROUP}:0/echo?interface={LOOPBACK.name}&reply=unicast&delay_low_seconds=900&delay_high_seconds=900"
    async with open_service(registry, url) as service:
        await client.send(b"x", service.endpoints[0].port, GROUP)
        await wait_messages(service, 1)
        report = await service.drain(0)
        assert report.cancelled == ()
        assert statistics(service).refused == {"closing": 1}


async def test_leaving_cancels_handlers_and_closes_sockets(client: Any) -> None:
    """Leaving the service with a handler inside sends nothing more and frees the port."""
    registry, gate = Registry(), Gate()
    registry.on("wait", gate)
    async with open_service(registry, "udp://127.0.0.1:0/wait") as service:
        port = service.endpoints[0].port
        await client.send(b"x", port)
        await gate.wait_entered(1)
    gate.opened.set()
    await trio.testing.wait_all_tasks_blocked()
    assert client.received_nothing()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(("127.0.0.1", port))


async def test_handler_may_close_its_own_listener(client: Any) -> None:
    """A handler that aborts its listener gets its batch cut there, without an error."""
    registry, calls = Registry(), []

    @registry.on("stop")
    def stop(data: bytes) -> bytes:
        calls.append(data)
        service._listeners[0].abort()
        return data

    async with open_service(registry, "udp://127.0.0.1:0/stop", "udp://127.0.0.1:0/stop") as service:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as burst:
            for number in range(3):
                burst.sendto(b"%d" % number, ("127.0.0.1", service.endpoints[0].port))
        await trio.testing.wait_all_tasks_blocked()
        assert calls == [b"0"]
