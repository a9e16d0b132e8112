"""`open_client`: one call, the same over every transport, in memory on a mock clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import oread
from oread.testing import TRANSPORTS, MemoryNetwork, Transport, open_client

FRAMED = tuple(name for name in TRANSPORTS if name != "tcp")
"""Those that carry text and JSON."""
STREAMING = ("lines", "length", "unix", "http", "emit")


@attrs.frozen
class Order:
    """What is asked for."""

    count: int


class TeapotError(oread.MessageError):
    """An error of the user's own."""

    status = 418
    reason = "teapot"


@pytest.fixture
def registry() -> oread.Registry:  # noqa: C901 - many small handlers
    """Handlers of every kind, unchanged for every transport."""
    registry = oread.Registry()
    registry.on("echo", lambda data: data)

    @registry.on("order/{number}")
    async def order(number: int, body: Order) -> dict[str, int]:
        await trio.sleep(5)
        return {"number": number, "total": 2 * body.count}

    @registry.on("fails")
    def fails(data: bytes) -> bytes:
        raise LookupError("on purpose")

    @registry.on("slow_fails")
    async def slow_fails(data: bytes) -> bytes:
        await trio.sleep(3)
        raise LookupError("on purpose")

    @registry.on("teapot")
    def teapot(data: bytes) -> bytes:
        raise TeapotError("short and stout")

    @registry.on("busy")
    def busy(data: bytes) -> bytes:
        raise oread.Busy(retry_seconds=9)

    @registry.on("nothing")
    def nothing(data: bytes) -> None:
        return None

    @registry.on("later")
    async def later(data: bytes) -> None:
        await trio.sleep(30)

    @registry.on("never")
    async def never(data: bytes) -> None:
        await trio.sleep_forever()

    @registry.on("late", deadline=2)
    async def late(data: bytes) -> None:
        await trio.sleep_forever()

    @registry.on("one", limit=1)
    async def one(data: bytes) -> bytes:
        await trio.sleep(1)
        return data

    @registry.on("count")
    def count(data: bytes) -> Iterator[bytes]:
        yield from (b"1", b"2", b"3")

    @registry.on("async_count")
    async def async_count(data: bytes) -> AsyncIterator[bytes]:
        for item in (b"1", b"2"):
            await trio.sleep(1)
            yield item

    @registry.on("who")
    def who(message: oread.Message) -> str:
        return message.transport

    return registry


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_payload_comes_back(
    registry: oread.Registry, transport: Transport, autojump_clock: Any
) -> None:
    """Bytes out, bytes back; no reply is empty, one that comes late is waited for."""
    async with open_client(registry, transport) as client:
        assert client.transport == transport
        assert await client.call("echo", b"hello") == b"hello"
        assert await client.call("echo", "grüezi", reply=str) == "grüezi"
        assert await client.call("nothing", b"x") == b""
        assert await client.call("later", b"x", reply=None) is None
        assert await client.call_items("nothing", b"x") == []


@pytest.mark.parametrize("transport", FRAMED)
async def test_typed_handlers_are_called(
    registry: oread.Registry, transport: Transport, autojump_clock: Any
) -> None:
    """JSON in, JSON out, captures by the path, and faults by their path."""
    async with open_client(registry, transport) as client:
        assert await client.call("order/7", Order(3), reply=dict[str, int]) == {"number": 7, "total": 6}
        with pytest.raises(oread.BadRequest, match=r"\$\.count"):
            await client.call("order/7", {"count": "three"})
        with pytest.raises(oread.BadRequest, match="number"):
            await client.call("order/x", Order(3))
        with pytest.raises(oread.HandlerError, match="the reply is not int"):
            await client.call("order/7", Order(3), reply=int)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_failures_are_the_same_everywhere(
    registry: oread.Registry, transport: Transport, autojump_clock: Any
) -> None:
    """What a handler raises is raised, where a peer would see a closed connection or nothing."""
    async with open_client(registry, transport) as client:
        for event in ("fails", "slow_fails"):
            with pytest.raises(oread.HandlerError, match="on purpose") as failed:
                await client.call(event, b"x")
            assert isinstance(failed.value.__cause__, LookupError)
        with pytest.raises(TeapotError):
            await client.call("teapot", b"x")
        with pytest.raises(oread.Busy) as busy:
            await client.call("busy", b"x")
        assert busy.value.retry_seconds == 9
        with pytest.raises(oread.NotFound):
            await client.call("missing", b"x")
        with pytest.raises(oread.TimedOut):
            await client.call("late", b"x")
        with pytest.raises(oread.TimedOut, match="60 s"):
            await client.call("never", b"x")
        assert await client.call("echo", b"still here") == b"still here"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_limit_is_what_the_transport_makes_of_it(
    registry: oread.Registry, transport: Transport, autojump_clock: Any
) -> None:
    """Streams and emit wait, HTTP and UDP refuse."""
    outcomes: list[bytes | str] = []
    async with open_client(registry, transport) as client, trio.open_nursery() as nursery:

        async def ask(data: bytes) -> None:
            try:
                outcomes.append(await client.call("one", data))
            except oread.Busy:
                outcomes.append("busy")

        nursery.start_soon(ask, b"a")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, b"b")
    refuses = transport in ("http", "udp")
    assert outcomes == (["busy", b"a"] if refuses else [b"a", b"b"])


@pytest.mark.parametrize("transport", [*STREAMING, "tcp"])
async def test_what_fails_behind_an_item_is_raised(
    registry: oread.Registry, transport: Transport, autojump_clock: trio.testing.MockClock
) -> None:
    """Everywhere: half an answer is not taken for a whole one."""

    @registry.on("breaks")
    async def breaks(data: bytes) -> AsyncIterator[bytes]:
        yield b"one"
        await trio.sleep(1)
        raise TeapotError("short and stout")

    async with open_client(registry, transport) as client:
        with pytest.raises(TeapotError, match="stout"):
            await client.call_items("breaks", b"x")


@pytest.mark.parametrize("transport", STREAMING)
async def test_items_are_kept_apart(
    registry: oread.Registry, transport: Transport, autojump_clock: Any
) -> None:
    """A stream is a list of items, and joined as a reply."""
    async with open_client(registry, transport) as client:
        assert await client.call_items("count", b"x") == [b"1", b"2", b"3"]
        assert await client.call_items("async_count", b"x") == [b"1", b"2"]
        assert await client.call("count", b"x") == b"123"


async def test_what_a_transport_cannot_serve_is_refused(
    registry: oread.Registry, autojump_clock: Any
) -> None:
    """A typed handler on raw TCP, a stream by UDP, an unknown transport."""
    async with open_client(registry, "tcp") as client:
        with pytest.raises(oread.RegistrationError):
            await client.call("order/7", Order(3))
        with pytest.raises(oread.BadRequest, match="no empty messages"):
            await client.call("echo")
    async with open_client(registry, "udp") as client:
        with pytest.raises(oread.RegistrationError):
            await client.call("count", b"x")
        with pytest.raises(oread.TooLarge):
            await client.call("echo", bytes(70_000))
    with pytest.raises(ValueError, match="one of tcp"):
        async with open_client(registry, "pigeon"):  # type: ignore[arg-type]
            pass
    async with open_client(registry, "emit") as client:
        with pytest.raises(ValueError, match="no endpoint"):
            await client.serve("echo")


@pytest.mark.parametrize("transport", ["lines", "length", "unix", "tcp", "http", "udp"])
async def test_limits_of_the_endpoint_are_told(
    registry: oread.Registry, transport: Transport, autojump_clock: Any
) -> None:
    """A message over the limit is TooLarge also where the peer sees an end only."""
    async with open_client(registry, transport) as client:
        if transport != "tcp":  # a chunk is never too large
            with pytest.raises(oread.TooLarge):
                await client.call("echo", bytes(2 << 20))


async def test_the_handler_sees_the_transport(registry: oread.Registry, autojump_clock: Any) -> None:
    """Messages say what they came by."""
    seen = {}
    for transport in TRANSPORTS:
        async with open_client(registry, transport) as client:
            seen[transport] = await client.call("who", b"?", reply=str)
    assert seen == {
        **dict.fromkeys(("tcp", "lines", "length"), "tcp"),
        **{name: name for name in ("unix", "http", "udp")},
        "emit": "memory",
    }


async def test_json_rpc_is_one_more(registry: oread.Registry, autojump_clock: Any) -> None:
    """The same handlers answer JSON-RPC, errors and captures included."""
    async with open_client(registry, "jsonrpc") as client:
        assert await client.call("echo", "hello") == b"hello"
        assert await client.call("order/7", Order(3), reply=dict[str, int]) == {"number": 7, "total": 6}
        assert await client.call("nothing", "x", reply=None) is None
        with pytest.raises(oread.BadRequest, match="count"):
            await client.call("order/7", {"count": "three"})
        with pytest.raises(oread.NotFound):
            await client.call("missing")
        with pytest.raises(oread.HandlerError):
            await client.call("fails", "x")
        with pytest.raises(oread.Busy) as busy:
            await client.call("busy", "x")
        assert busy.value.retry_seconds == 9


async def test_errors_of_the_block_are_not_wrapped(registry: oread.Registry) -> None:
    """A failed assertion is reported as it is."""
    with pytest.raises(AssertionError, match="mine"):
        async with open_client(registry, "tcp") as client:
            await client.call("echo", b"x")
            raise AssertionError("mine")


async def test_a_cancelled_call_is_a_peer_that_went_away(
    registry: oread.Registry, autojump_clock: Any
) -> None:
    """Its connection is closed and HTTP cancels its handler; the client goes on."""
    ended = trio.Event()

    @registry.on("watched")
    async def watched(data: bytes) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with open_client(registry, "http") as client:
        with trio.move_on_after(1):
            await client.call("watched", b"x")
        await ended.wait()
        assert await client.call("echo", b"x") == b"x"


# datagrams in memory


async def test_datagrams_have_the_source_they_claim(registry: oread.Registry) -> None:
    """Guards see chosen addresses: a low port is not answered, another is."""
    network = MemoryNetwork()
    sock = network.bind()
    bound: Any = oread.Bound(sock, "udp://127.0.0.1:1/echo")  # type: ignore[arg-type]
    async with oread.open_service(registry, bound, poller=network) as service:
        low, far = network.peer(sock, ("192.0.2.7", 7)), network.peer(sock, ("192.0.2.7", 7_777))
        for peer in (low, far):
            peer.send(b"hello")
            await peer.wait_read()
        assert low.receive_nowait() is None
        assert await far.receive() == b"hello"
        assert service.statistics().endpoints[0].refused == {"low_port": 1}
        assert service.endpoints[0].port == sock.getsockname()[1]
    assert network.open_sockets == 0


async def test_groups_are_served_in_memory(registry: oread.Registry, autojump_clock: Any) -> None:
    """A datagram to a group is one, with the details that the kernel would tell."""

    @registry.on("details")
    def details(datagram: oread.Datagram) -> str:
        return f"{datagram.mode} {datagram.local} {datagram.ttl} {datagram.peer}"

    network = MemoryNetwork()
    sock = network.bind("239.1.2.3", 20_001)
    bound: Any = oread.Bound(sock, "udp://239.1.2.3:20001/details?reply=unicast")  # type: ignore[arg-type]
    async with oread.open_service(registry, bound, poller=network):
        peer = network.peer(sock, ("127.0.0.1", 50_000))
        peer.send(b"x")
        assert await peer.receive() == b"multicast ('239.1.2.3', 20001) 64 127.0.0.1:50000"


async def test_full_queues_drop_and_count(registry: oread.Registry) -> None:
    """What has no room is dropped on either side, and a closed peer hears nothing."""
    network = MemoryNetwork()
    sock = network.bind()
    peer = network.peer(sock)
    for _ in range(1_030):
        peer.send(b"x")
        sock.sendto(b"y", peer.address)
    assert (sock.queued, sock.dropped, peer.dropped) == (1_024, 6, 6)
    with pytest.raises(OSError, match="too long"):
        peer.send(bytes(70_000))
    with pytest.raises(OSError, match="too long"):
        sock.sendmsg((bytes(70_000),), [], 0, peer.address)
    peer.close()
    sock.sendto(b"z", peer.address)
    assert peer.dropped == 6
    sock.close()
    peer.send(b"into the void")
    with pytest.raises(OSError, match="closed"):
        sock.recvfrom(1)
