"""The guards of UDP endpoints, with real datagrams on loopback."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from loopback import GROUP, LOOPBACK, linux_only

from listeners.datagram_services import statistics, wait_messages
from listeners.runtimes import make_runtime
from oread.endpoints import Endpoint
from oread.listeners.arrivals import Arrival, DelayedReply, Exchanges
from oread.listeners.guards import REASONS, SERVED_PORTS, judge_source
from oread.messages import Datagram
from oread.reactor import Reactor, open_poller
from oread.registry import Registry
from oread.service import open_service
from oread.sockets.interfaces import read_client_ports, read_interfaces
from oread.sockets.routes import Route


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.on("echo", lambda data: data)
    return registry


def group_url(extra: str = "") -> str:
    return f"udp://{GROUP}:0/echo?interface={LOOPBACK.name}&delay_low_seconds=0&delay_high_seconds=0{extra}"


async def test_low_source_port_is_heard_and_not_answered(
    registry: Registry, make_client: Callable[..., Any]
) -> None:
    """Guard 2: port 2049 gets no reply by default, and one with allow_low_ports."""
    low, high = make_client("127.7.7.7", 2_049), make_client()
    async with open_service(
        registry, "udp://127.0.0.1:0/echo", "udp://127.0.0.1:0/echo?allow_low_ports=true"
    ) as service:
        strict, open_ = (endpoint.port for endpoint in service.endpoints)
        await low.send(b"x", strict)
        await high.ask(b"x", strict)
        assert low.received_nothing()
        assert statistics(service).refused == {"low_port": 1}
        assert await low.ask(b"x", open_) == b"x"


async def test_own_port_elsewhere_is_not_answered(
    registry: Registry, make_client: Callable[..., Any]
) -> None:
    """Guard 6: a datagram from the port that is served here gets no reply, whatever its address."""
    async with open_service(registry, "udp://127.0.0.1:0/echo") as service:
        port = service.endpoints[0].port
        same_port, client = make_client("127.0.0.2", port), make_client()
        await same_port.send(b"loop", port)
        await client.ask(b"after", port)
        assert same_port.received_nothing()
        assert statistics(service).refused == {"served_port": 1}


async def test_two_echo_services_never_loop(registry: Registry, client: Any) -> None:
    """Guard 6: a datagram forged from one echo service to another of this process goes no further."""
    url = "udp://127.0.0.1:0/echo?reuse_port=true"
    async with open_service(registry, url) as one, open_service(registry, url) as two:
        first, second = one.endpoints[0].port, two.endpoints[0].port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forged:
            # The source of a forged datagram: the very address and port of the second service.
            forged.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            forged.bind(("127.0.0.1", second))
            forged.sendto(b"loop", ("127.0.0.1", first))
        await client.ask(b"after", first)
        await client.ask(b"after", second)
        assert statistics(one).refused == {"served_port": 1}
        assert (statistics(one).replies, statistics(two).messages) == (1, 1)


async def test_served_ports_are_forgotten_when_closed(registry: Registry) -> None:
    """A port counts as served for as long as an endpoint serves it."""
    async with open_service(registry, "udp://127.0.0.1:0/echo") as service:
        port = service.endpoints[0].port
        assert port in SERVED_PORTS.now
    assert port not in SERVED_PORTS.now


async def test_burst_gets_exactly_burst_replies(registry: Registry, make_client: Callable[..., Any]) -> None:
    """Guard 8: 30 datagrams with a burst of 10 get 10 replies; a loopback client is exempt."""
    port_of_a_service = read_client_ports().start - 1_234
    busy, exempt = make_client("127.9.9.9", port_of_a_service), make_client()
    async with open_service(registry, "udp://127.0.0.1:0/echo?prefix_burst=10&prefix_rate=0.001") as service:
        port = service.endpoints[0].port
        for number in range(30):
            await busy.send(b"%d" % number, port)
            await exempt.ask(b"x", port)
        replies = [(await busy.receive())[0] for _ in range(10)]
        assert replies == [b"%d" % number for number in range(10)]
        assert busy.received_nothing()
        assert statistics(service).refused == {"prefix_rate": 20}


@linux_only
@pytest.mark.parametrize("host", [GROUP, "127.255.255.255"])
async def test_group_and_broadcast_are_heard_and_not_answered(client: Any, host: str) -> None:
    """Guard 10: without reply=unicast the handler runs and nothing goes back."""
    registry, seen = Registry(), []

    @registry.on("note")
    def note(message: Datagram) -> bytes:
        seen.append((message.mode, message.interface, message.local))
        return b"never sent"

    registry.on("echo", lambda data: data)
    interface = f"?interface={LOOPBACK.name}"
    async with open_service(
        registry, f"udp://{host}:0/note{interface}", f"udp://{host}:0/echo{interface}&reply=unicast"
    ) as service:
        await client.send(b"x", service.endpoints[0].port, host)
        await client.ask(b"x", service.endpoints[1].port, host)
        assert statistics(service).refused == {"reply_off": 1}
        mode = "multicast" if host == GROUP else "broadcast"
        assert seen == [(mode, LOOPBACK.name, (host, service.endpoints[0].port))]
    assert client.received_nothing()


@linux_only
@pytest.mark.parametrize("host", [GROUP, "127.255.255.255"])
async def test_group_is_answered_by_unicast_when_asked_for(
    registry: Registry, make_client: Callable[..., Any], host: str
) -> None:
    """Guard 9: with reply=unicast each of two requests is answered from a unicast address."""
    client = make_client()
    async with open_service(
        registry, f"udp://{host}:0/echo?reply=unicast&interface={LOOPBACK.name}"
    ) as service:
        for data in (b"one", b"two"):
            await client.send(data, service.endpoints[0].port, host)
        replies = {await client.receive() for _ in range(2)}
        address = ("127.0.0.1", service.endpoints[0].port)
        assert replies == {(b"one", address), (b"two", address)}


@linux_only
async def test_own_group_datagram_does_not_come_back(
    registry: Registry, client: Any, make_client: Callable[..., Any]
) -> None:
    """Guard 11: what this machine sent from the group's port is dropped, unless receive_own."""
    async with open_service(registry, group_url(), group_url(extra="&receive_own=true")) as service:
        for endpoint in service.endpoints:
            own = make_client("127.0.0.1", endpoint.port)
            await own.send(b"announce", endpoint.port, GROUP)
            await client.send(b"other", endpoint.port, GROUP)
        await trio.testing.wait_all_tasks_blocked()
        await wait_messages(service, 2, index=1)
        assert statistics(service, 0).refused == {"own": 1, "reply_off": 1}
        assert statistics(service, 1).refused == {"reply_off": 2}


@linux_only
async def test_pending_replies_are_capped(registry: Registry, client: Any) -> None:
    """Guard 12: above the cap delayed replies are dropped; others are served meanwhile."""
    url = f"udp://{GROUP}:0/echo?interface={LOOPBACK.name}&reply=unicast&pending_replies=2"
    async with open_service(
        registry, f"{url}&delay_low_seconds=1000&delay_high_seconds=1000", "udp://127.0.0.1:0/echo"
    ) as service:
        group, unicast = (endpoint.port for endpoint in service.endpoints)
        for _ in range(5):
            await client.send(b"later", group, GROUP)
        await wait_messages(service, 5)
        assert statistics(service).refused == {"pending_replies": 3}
        assert await client.ask(b"now", unicast) == b"now"


async def test_broadcast_is_nothing_for_a_unicast_endpoint(registry: Registry, client: Any) -> None:
    """A wildcard endpoint hears no broadcast to its port, so it can't answer one."""
    async with open_service(registry, "udp://0.0.0.0:0/echo") as service:
        port = service.endpoints[0].port
        await client.send(b"to all", port, "127.255.255.255")
        assert await client.ask(b"to one", port) == b"to one"
        assert statistics(service).refused == {"other_destination": 1}


async def test_loopback_source_needs_the_loopback_interface(registry: Registry, client: Any) -> None:
    """Guard 4: with no interface known to be loopback, a loopback source is forged."""
    async with open_service(registry, "udp://127.0.0.1:0/echo") as service:
        receiver = service._listeners[0]._receivers[0]  # type: ignore[attr-defined]
        interfaces = read_interfaces()
        near, far = judge_source("127.0.0.1", interfaces), judge_source("192.0.2.77", interfaces)
        outside = Route(mode="unicast", local="192.0.2.1", interface=999)
        inside = Route(mode="unicast", local="127.0.0.1", interface=LOOPBACK.index)
        verdicts = [
            receiver._refuse(("host", 40_000), source, route)
            for source, route in ((near, outside), (near, inside), (far, outside))
        ]
    assert verdicts == ["false_loopback", None, None]


class Recorder:
    """An outlet that keeps what is sent, and when."""

    port = 7_008

    def __init__(self) -> None:
        self.sent: list[tuple[float, bytes | memoryview]] = []

    def answer(self, arrival: Arrival, reply: Any, now: float) -> None:
        """Answer nothing: only delayed replies are recorded."""
        raise AssertionError("not asked for")

    def send(self, payload: bytes | memoryview, peer: tuple[Any, ...], route: Route) -> None:
        """Keep it with its time."""
        self.sent.append((trio.current_time(), payload))


@asynccontextmanager
async def memory_exchanges(registry: Registry, url: str, seed: int = 1) -> AsyncIterator[Exchanges]:
    """Run an endpoint's exchanges on Trio's clock alone, without a socket."""
    poller = open_poller()
    reactor = Reactor(poller)
    runtime = make_runtime(reactor, registry, random=random.Random(seed))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.deadlines.keep)
        yield Exchanges(runtime, Endpoint.parse(url), lambda: None)
        nursery.cancel_scope.cancel()
    poller.close()


async def test_delay_is_random_within_its_bounds(
    registry: Registry, autojump_clock: trio.testing.MockClock
) -> None:
    """Guard 9: each answer has a delay of its own between 20 and 120 ms, and they go out in that order."""
    recorder = Recorder()
    async with memory_exchanges(registry, "udp://239.255.70.7:7008/echo") as exchanges:
        for number in range(200):
            arrival = Arrival(exchanges, recorder)
            arrival.peer, arrival.route = ("127.0.0.1", 40_000), Route(mode="multicast", local=GROUP)
            exchanges.delay(DelayedReply(exchanges, recorder, b"%d" % number, arrival), b"")
        begun = trio.current_time()
        await trio.sleep(1)
        assert exchanges.idle
    draw = random.Random(1)
    wanted = sorted((draw.uniform(0.02, 0.12), b"%d" % number) for number in range(200))
    assert [payload for _, payload in recorder.sent] == [payload for _, payload in wanted]
    assert all(0.02 <= when - begun <= 0.121 for when, _ in recorder.sent)


async def test_request_names_the_longest_delay(
    registry: Registry, autojump_clock: trio.testing.MockClock
) -> None:
    """Guard 9: with mx=true an answer comes within the request's MX, and one without MX gets none."""
    recorder = Recorder()
    async with memory_exchanges(registry, "udp://239.255.70.7:7008/echo?mx=true") as exchanges:
        arrival = Arrival(exchanges, recorder)
        arrival.peer, arrival.route = ("127.0.0.1", 40_000), Route(mode="multicast", local=GROUP)
        for _ in range(50):
            exchanges.delay(
                DelayedReply(exchanges, recorder, b"x", arrival), b"M-SEARCH * HTTP/1.1\r\nMX: 2\r\n"
            )
        exchanges.delay(DelayedReply(exchanges, recorder, b"y", arrival), b"M-SEARCH * HTTP/1.1\r\n\r\n")
        begun = trio.current_time()
        await trio.sleep(2)
    assert {payload for _, payload in recorder.sent} == {b"x"}
    assert len(recorder.sent) == 50
    assert all(0 <= when - begun <= 2 for when, _ in recorder.sent)
    assert exchanges.refused == {"no_mx": 1}


async def test_amplification_is_named_once(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """Guard 7: the first refused reply is logged with the option that allows it, the rest is counted."""
    async with memory_exchanges(registry, "udp://127.0.0.1:7007/echo") as exchanges:
        for _ in range(3):
            exchanges.refuse_reply("amplification", 10, 31)
        assert exchanges.refused == {"amplification": 3}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "a reply of 31 bytes to a request of 10 was not sent: the option amplification=3" in record.message


async def test_every_reason_of_these_tests_is_explained(registry: Registry, client: Any) -> None:
    """What an endpoint counts is a name of the operator's table."""
    async with open_service(registry, "udp://0.0.0.0:0/echo?datagram_bytes=1") as service:
        port = service.endpoints[0].port
        await client.send(b"to all", port, "127.255.255.255")
        await client.send(b"long", port)
        await client.ask(b"x", port)
        assert set(statistics(service).refused) == {"other_destination", "too_large"} <= set(REASONS)
