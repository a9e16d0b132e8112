"""`oread.open_datagram`: to one machine, a group, a broadcast; asking and hearing."""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
from loopback import LOOPBACK, needs_ipv6

import oread
from oread.client.destinations import Surroundings, look_up
from oread.client.inbox import Inbox
from oread.client.mailbox import FULL_PAUSES, Mailbox, send_by_all
from oread.sockets import options
from oread.sockets.datagrams import open_sending_socket
from oread.testing.steps import StepWatch

LIMIT_SECONDS = 10
GROUP = "239.255.70.9"
BROADCAST = "127.255.255.255"
NO_DELAY = "reply=unicast&delay_low_seconds=0&delay_high_seconds=0"
linux_only = pytest.mark.skipif(not options.LINUX, reason="written for Linux's loopback interface")
pytestmark = linux_only
SHARED = [f"udp://{GROUP}:0?interface=lo", f"udp://{BROADCAST}:0"]


@attrs.frozen
class Reading:
    """What is told in these tests."""

    celsius: float


@pytest.fixture
def registry() -> oread.Registry:
    registry = oread.Registry()
    registry.on("echo", lambda data: data)
    return registry


@asynccontextmanager
async def serving(registry: oread.Registry, url: str) -> AsyncIterator[oread.Endpoint]:
    """Serve one endpoint, within the time that a test has."""
    with trio.fail_after(LIMIT_SECONDS):
        async with oread.open_service(registry, url) as service:
            yield service.endpoints[0]


def at(endpoint: oread.Endpoint, host: str = "", query: str = "") -> str:
    """Return the URL to call an endpoint by."""
    return f"udp://{host or endpoint.host}:{endpoint.port}{query}"


async def test_a_datagram_goes_and_its_answer_comes(registry: oread.Registry) -> None:
    """What comes back is a message that knows its sender, its way and its time."""
    async with (
        serving(registry, "udp://127.0.0.1:0/echo") as endpoint,
        oread.open_datagram(endpoint) as datagrams,
    ):
        await datagrams.send(b"hello")
        message = await datagrams.receive()
        assert (message.data, message.peer.address) == (b"hello", ("127.0.0.1", endpoint.port))
        assert (message.mode, message.interface, message.truncated) == ("unicast", "lo", False)
        assert message.ttl is not None
        assert message.timestamp is not None
        assert isinstance(message.local, tuple)
        assert message.local[0] == "127.0.0.1"
        found = datagrams.statistics()
        assert (found.sent, found.received, found.refused) == (1, 1, {})


async def test_payloads_are_encoded_and_decoded(registry: oread.Registry) -> None:
    """Values travel as strict JSON; an answer of another type says where the fault is."""
    async with (
        serving(registry, "udp://127.0.0.1:0/echo") as endpoint,
        oread.open_datagram(endpoint) as datagrams,
    ):
        assert await datagrams.request(Reading(21.5), reply=Reading, deadline=5) == Reading(21.5)
        assert await datagrams.request("text", reply=str, deadline=5) == "text"
        assert await datagrams.request(deadline=5) == b""
        with pytest.raises(oread.HandlerError, match="celsius"):
            await datagrams.request({}, reply=Reading, deadline=5)


async def test_values_leaves_out_what_is_of_another_type(registry: oread.Registry) -> None:
    """An unreadable payload is counted and the next one comes."""
    async with (
        serving(registry, "udp://127.0.0.1:0/echo") as endpoint,
        oread.open_datagram(endpoint) as datagrams,
    ):
        for payload in (b"nonsense", Reading(1.0)):
            await datagrams.send(payload)
        async for received in datagrams.values(Reading):
            assert received.value == Reading(1.0)
            assert received.message.peer.address == ("127.0.0.1", endpoint.port)
            break
        assert datagrams.statistics().refused == {"unreadable": 1}


async def test_nobody_there_is_told(registry: oread.Registry) -> None:
    """Silence is `TimedOut`, a port where nobody listens a refusal; both end nothing."""
    registry.on("discard", lambda data: None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        free = sock.getsockname()
    async with (
        serving(registry, "udp://127.0.0.1:0/discard") as endpoint,
        oread.open_datagram(endpoint) as datagrams,
    ):
        with pytest.raises(oread.TimedOut, match=r"within 0\.01 s"):
            await datagrams.request(b"x", deadline=0.01)
        with pytest.raises(ConnectionRefusedError):
            await datagrams.request(b"x", to=free, deadline=5)
        await datagrams.send(b"x", to=free)
        await datagrams.send(b"x", to=free)
        assert datagrams.statistics().sent == 4


@pytest.mark.parametrize("url", SHARED)
async def test_every_responder_answers_a_request(url: str) -> None:
    """Who shares a group or a broadcast address answers; what is unreadable is counted."""
    replies = (b'{"celsius":1.0}', b'{"celsius":2.0}', b"nonsense")
    query = f"{NO_DELAY}&shared=true" + ("&interface=lo" if GROUP in url else "")
    host = GROUP if GROUP in url else BROADCAST
    port = 0
    async with AsyncExitStack() as stack:
        for reply in replies:
            registry = oread.Registry()
            registry.on("read", lambda reply=reply: reply)
            endpoint = await stack.enter_async_context(serving(registry, f"udp://{host}:{port}/read?{query}"))
            port = endpoint.port
        async with oread.open_datagram(url.replace(":0", f":{port}")) as datagrams:
            # Of several on one broadcast address all hear, as with a group.
            found = await datagrams.request_all(reply=Reading, most=3, deadline=5)
            assert sorted(each.value.celsius for each in found) == [1.0, 2.0]
            assert {each.message.local for each in found} != {None}
            assert datagrams.statistics().refused == {"unreadable": 1}
            assert await datagrams.request(deadline=5) in replies
            assert await datagrams.request_all(deadline=5, most=1)


@pytest.mark.parametrize("url", SHARED)
async def test_a_listener_hears_a_group_or_broadcast(url: str) -> None:
    """What others send there is heard with its mode; what is sent from here is not, unless asked for."""
    with trio.fail_after(LIMIT_SECONDS):
        async with oread.open_datagram(url, listen=True) as datagrams:
            port = datagrams.endpoint.port
            async with oread.open_datagram(url.replace(":0", f":{port}")) as other:
                await datagrams.send(b"own")
                await other.send("other's")
                message = await datagrams.receive()
                assert message.data == b"other's"
                assert message.mode == ("multicast" if GROUP in url else "broadcast")
                assert (message.interface, message.ttl) == ("lo", 1 if GROUP in url else message.ttl)
                assert datagrams.statistics().refused == {"own": 1}
                await datagrams.send("answer", to=message)
                assert (await other.receive()).data == b"answer"
    option = "&" if "?" in url else "?"
    with trio.fail_after(LIMIT_SECONDS):
        async with oread.open_datagram(f"{url}{option}receive_own=true", listen=True) as datagrams:
            await datagrams.send(b"own")
            assert (await datagrams.receive()).data == b"own"


async def test_a_wildcard_answers_from_the_address_that_was_asked() -> None:
    """`to=message` turns the way round, also where the machine has several addresses."""
    with trio.fail_after(LIMIT_SECONDS):
        async with oread.open_datagram("udp://0.0.0.0:0", listen=True) as service:
            for host in ("127.0.0.1", "127.0.0.2"):
                async with oread.open_datagram(f"udp://{host}:{service.endpoint.port}") as client:
                    await client.send(b"?")
                    await service.send(b"!", to=await service.receive())
                    assert (await client.receive()).peer.address == (host, service.endpoint.port)


async def test_own_address_is_nobody_to_send_to() -> None:
    """A listener on an address of its own has to say whom it means."""
    async with oread.open_datagram("udp://127.0.0.1:0", listen=True) as datagrams:
        with pytest.raises(ValueError, match="say to whom"):
            await datagrams.send(b"x")
        with pytest.raises(TypeError, match="a host and a port"):
            await datagrams.send(b"x", to=oread.Peer("/run/x", "unix"))


async def test_a_broadcast_is_sent_only_where_it_is_named() -> None:
    """An answer to a forged broadcast source fails in the kernel, and ends nothing."""
    with trio.fail_after(LIMIT_SECONDS):
        async with oread.open_datagram("udp://127.0.0.1:0", listen=True) as hearing:
            address = ("127.0.0.1", hearing.endpoint.port)
            async with oread.open_datagram(f"udp://{GROUP}:9?interface=lo") as datagrams:
                with pytest.raises(PermissionError):
                    await datagrams.send(b"x", to=(BROADCAST, hearing.endpoint.port))
                await datagrams.send(b"still here", to=address)
                assert (await hearing.receive()).data == b"still here"


@pytest.mark.parametrize("interface", ["lo", LOOPBACK.index])
async def test_each_datagram_may_go_its_own_way(interface: str | int) -> None:
    """Interface, by name or index, and hops are said per datagram; hops also for all."""
    with trio.fail_after(LIMIT_SECONDS):
        async with oread.open_datagram(SHARED[0], listen=True) as hearing:
            # Without a route for groups only the interface makes this reachable.
            url = f"udp://{GROUP}:{hearing.endpoint.port}"
            async with oread.open_datagram(url, hops=3) as datagrams:
                await datagrams.send(b"a", interface=interface)
                await datagrams.send(b"b", interface=interface, hops=7)
                assert [(await hearing.receive()).ttl for _ in range(2)] == [3, 7]


async def test_what_can_not_be_meant_is_refused() -> None:
    """Values out of range, unknown interfaces and other endpoints are named."""
    for arguments in ({"hops": 0}, {"hops": 256}, {"dscp": 64}):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))}="):
            async with oread.open_datagram("udp://127.0.0.1:9", **arguments):
                pass
    for url in ("tcp://127.0.0.1:9", "udp://127.0.0.1:9?framing=jsonrpc"):
        with pytest.raises(oread.EndpointError, match="plain udp"):
            async with oread.open_datagram(url):
                pass
    async with oread.open_datagram("udp://127.0.0.1:9") as datagrams:
        with pytest.raises(OSError, match="no interface nowhere0"):
            await datagrams.send(b"x", interface="nowhere0")
        with pytest.raises(ValueError, match="is one machine"):
            await datagrams.send(b"x", interface="*")
        with pytest.raises(ValueError, match="most=0"):
            await datagrams.receive_batch(0)
        with pytest.raises(ValueError, match="hops=0"):
            await datagrams.send(b"x", hops=0)
        with pytest.raises(oread.TooLarge, match="65507 bytes, not 65508"):
            await datagrams.send(bytes(65_508))
        with pytest.raises(oread.BadRequest, match="can't be sent"):
            await datagrams.send(object())


async def test_a_class_of_service_is_on_the_wire() -> None:
    """DSCP 46 arrives as the upper six bits of the TOS byte."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        await sock.bind(("127.0.0.1", 0))
        async with oread.open_datagram(f"udp://127.0.0.1:{sock.getsockname()[1]}", dscp=46) as datagrams:
            await datagrams.send(b"x")
            with trio.fail_after(LIMIT_SECONDS):
                _, ancillary, _, _ = await sock.recvmsg(10, 100)
    assert ancillary == [(socket.IPPROTO_IP, socket.IP_TOS, bytes([46 << 2]))]


async def test_what_is_too_long_is_cut_and_told() -> None:
    """The limit of the endpoint bounds what is received."""
    with trio.fail_after(LIMIT_SECONDS):
        async with (
            oread.open_datagram("udp://127.0.0.1:0?datagram_bytes=4", listen=True) as hearing,
            oread.open_datagram(f"udp://127.0.0.1:{hearing.endpoint.port}") as datagrams,
        ):
            for payload in (b"1234", b"12345"):
                await datagrams.send(payload)
            found = [await hearing.receive() for _ in range(2)]
    assert [(each.data, each.truncated) for each in found] == [(b"1234", False), (b"1234", True)]


async def test_a_batch_has_what_is_here_within_a_bound() -> None:
    """Several are taken at once, never more than asked for, and all in order."""
    with trio.fail_after(LIMIT_SECONDS):
        async with oread.open_datagram("udp://127.0.0.1:0", listen=True) as hearing:
            async with oread.open_datagram(f"udp://127.0.0.1:{hearing.endpoint.port}") as datagrams:
                for number in range(10):
                    await datagrams.send(str(number))
            batches = [await hearing.receive_batch(most) for most in (4, 100)]
            assert [[each.data for each in batch] for batch in batches] == [
                [str(number).encode() for number in numbers] for numbers in (range(4), range(4, 10))
            ]


async def test_what_the_kernel_drops_is_counted() -> None:
    """A full receive buffer shows as `receive_full`, after the block too."""
    with trio.fail_after(LIMIT_SECONDS):
        url = "udp://127.0.0.1:0?receive_buffer_bytes=4096"
        async with oread.open_datagram(url, listen=True) as hearing:
            async with oread.open_datagram(f"udp://127.0.0.1:{hearing.endpoint.port}") as datagrams:
                for _ in range(200):
                    await datagrams.send(bytes(100))
            received = len(await hearing.receive_batch(1_000))
            assert hearing.statistics().refused == {"receive_full": 200 - received}
        assert hearing.statistics().refused == {"receive_full": 200 - received}


async def test_a_cancelled_receiver_loses_nothing(registry: oread.Registry) -> None:
    """Who gave up waiting gets the message when it comes back."""
    with trio.fail_after(LIMIT_SECONDS):
        async with oread.open_datagram("udp://127.0.0.1:0", listen=True) as hearing:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hearing.receive)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await hearing.receive()
                nursery.cancel_scope.cancel()
            async with oread.open_datagram(f"udp://127.0.0.1:{hearing.endpoint.port}") as datagrams:
                await datagrams.send(b"kept")
            with trio.move_on_after(0):
                await hearing.receive()
            assert (await hearing.receive()).data == b"kept"


async def test_a_late_answer_is_nobody_elses(registry: oread.Registry) -> None:
    """A request that gave up does not leave its answer to the next one, or to receive."""
    waiting: list[bytes] = []
    release = trio.Event()

    @registry.on("slow")
    async def slow(data: bytes) -> bytes:
        waiting.append(data)
        if data == b"first":
            await release.wait()
        return data

    async with (
        serving(registry, "udp://127.0.0.1:0/slow") as endpoint,
        oread.open_datagram(endpoint) as datagrams,
    ):
        with pytest.raises(oread.TimedOut):
            await datagrams.request(b"first", deadline=0.05)
        release.set()
        assert await datagrams.request(b"second", deadline=5) == b"second"
        await datagrams.send(b"third")
        assert (await datagrams.receive()).data == b"third"


async def test_leaving_and_cancelling_close_everything(registry: oread.Registry) -> None:
    """No descriptor stays open; who still receives or sends is told."""
    async with serving(registry, "udp://127.0.0.1:0/echo") as endpoint:
        await trio.to_thread.run_sync(lambda: None)
        before = len(os.listdir("/proc/self/fd"))
        for url in (at(endpoint), SHARED[0]):
            with trio.CancelScope() as scope:
                async with oread.open_datagram(url, listen=url == SHARED[0]) as datagrams:
                    if url != SHARED[0]:
                        await datagrams.request(b"x", deadline=5)
                    await datagrams.send(b"x", to=("127.0.0.1", endpoint.port))
                    scope.cancel()
                    await trio.sleep_forever()
            for call in (
                datagrams.receive,
                lambda: datagrams.send(b"x"),
                lambda: datagrams.request(deadline=1),
            ):
                with pytest.raises(trio.ClosedResourceError):
                    await call()
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_listening_block_cancelled_at_any_checkpoint_leaves_nothing_open() -> None:
    """Opening, sending, hearing, leaving: every step of each."""

    async def use(watch: StepWatch) -> None:
        with watch.watching():
            async with oread.open_datagram(f"{SHARED[0]}&receive_own=true", listen=True) as datagrams:
                await datagrams.send(b"x")
                assert (await datagrams.receive()).data == b"x"

    async def use_cancelled(step: int) -> int:
        watch = StepWatch(most_lines=1_000_000, most_steps=10_000, cancel_at=step)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, watch)
        return watch.steps

    with trio.fail_after(60):
        await use_cancelled(0)
        before, step = len(os.listdir("/proc/self/fd")), 1
        while await use_cancelled(step) >= step:
            assert len(os.listdir("/proc/self/fd")) == before, f"after step {step}"
            step += 1
    assert step > 3


async def test_an_error_of_a_listening_block_stays_as_it_is() -> None:
    """The task that follows the interfaces is nothing that the caller has to know of."""
    with pytest.raises(ZeroDivisionError):
        async with oread.open_datagram(SHARED[0], listen=True):
            raise ZeroDivisionError


async def test_a_receiver_is_told_when_the_block_is_left() -> None:
    """Another task's receive ends with an error, not never."""
    ended = []

    async def receive(datagrams: oread.Datagrams) -> None:
        try:
            await datagrams.receive()
        except trio.ClosedResourceError:
            ended.append(True)

    with trio.fail_after(LIMIT_SECONDS):
        async with (
            trio.open_nursery() as nursery,
            oread.open_datagram("udp://127.0.0.1:0", listen=True) as datagrams,
        ):
            nursery.start_soon(receive, datagrams)
            await trio.testing.wait_all_tasks_blocked()
    assert ended == [True]


async def test_a_bind_that_fails_leaves_nothing_open() -> None:
    """The address in use is the caller's error, and no descriptor stays."""
    async with oread.open_datagram("udp://127.0.0.1:0", listen=True) as first:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="in use"):
            async with oread.open_datagram(f"udp://127.0.0.1:{first.endpoint.port}", listen=True):
                pass
        assert len(os.listdir("/proc/self/fd")) == before


async def test_one_of_several_that_is_refused_is_counted() -> None:
    """What leaves by every interface fails when it leaves by none."""
    with (
        open_sending_socket(socket.AF_INET, broadcast=False) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hearing,
    ):
        hearing.bind(("127.0.0.1", 0))
        surroundings = Surroundings()
        mailbox = Mailbox(sock, surroundings)
        allowed = await look_up(*hearing.getsockname(), None, surroundings)
        forbidden = await look_up("127.255.255.255", 9, None, surroundings)
        assert await send_by_all(mailbox, b"x", [forbidden, allowed]) == 1
        assert hearing.recv(10) == b"x"
        assert mailbox.refused == {"send_failed": 1}
        with pytest.raises(PermissionError):
            await send_by_all(mailbox, b"x", [forbidden, forbidden])
        assert mailbox.refused == {"send_failed": 1}


class FullSocket(socket.socket):
    """A system's socket whose interface refuses the first so many datagrams."""

    refusals: list[int]

    def sendmsg(self, *arguments: object) -> int:
        if self.refusals:
            number = self.refusals.pop()
            raise OSError(number, os.strerror(number))
        return super().sendmsg(*arguments)


@pytest.mark.parametrize(
    ("refusals", "arrives"),
    [
        ([errno.EAGAIN] * 20, True),
        ([errno.ENOBUFS] * len(FULL_PAUSES), True),
        ([errno.ENOBUFS] * (len(FULL_PAUSES) + 1), False),
        ([errno.ENETUNREACH], False),
    ],
)
async def test_a_full_queue_is_tried_again_within_a_bound(
    autojump_clock: trio.testing.MockClock, refusals: list[int], arrives: bool
) -> None:
    """EAGAIN is waited for, ENOBUFS tried again a few times, anything else raised at once."""
    with (
        FullSocket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hearing,
    ):
        hearing.bind(("127.0.0.1", 0))
        hearing.setblocking(False)
        sock.setblocking(False)
        sock.refusals = list(refusals)
        surroundings = Surroundings()
        destination = await look_up(*hearing.getsockname(), None, surroundings)
        mailbox = Mailbox(sock, surroundings)
        if arrives:
            await mailbox.send(b"x", destination)
            assert hearing.recv(10) == b"x"
        else:
            with pytest.raises(OSError, match=os.strerror(refusals[0])):
                await mailbox.send(b"x", destination)


@needs_ipv6
async def test_ipv6_goes_all_ways(registry: oread.Registry) -> None:
    """Asked, sent and heard by IPv6, with hops and interface per datagram."""
    async with (
        serving(registry, "udp://[::1]:0/echo") as endpoint,
        oread.open_datagram(f"udp://[::1]:{endpoint.port}", hops=5, dscp=10) as datagrams,
    ):
        assert await datagrams.request(b"six", interface="lo", deadline=5) == b"six"
        await datagrams.send(b"seven", interface="lo", hops=9)
        message = await datagrams.receive()
        assert (message.data, message.peer.address, message.interface) == (
            b"seven",
            ("::1", endpoint.port),
            "lo",
        )
    with trio.fail_after(LIMIT_SECONDS):
        async with (
            oread.open_datagram("udp://[::]:0", listen=True) as hearing,
            oread.open_datagram(f"udp://[::1]:{hearing.endpoint.port}") as datagrams,
        ):
            await datagrams.send(b"x", hops=9)
            message = await hearing.receive()
            assert (message.local, message.ttl) == (("::1", hearing.endpoint.port), 9)
            await hearing.send(b"y", to=message)
            assert (await datagrams.receive()).data == b"y"


async def test_a_socket_of_the_system_hears_a_group() -> None:
    """A plain socket that joined hears what is sent by interface, without a route."""
    with open_sending_socket(socket.AF_INET, interface=LOOPBACK.index) as sock:
        sock.bind((GROUP, 0))
        group = socket.inet_aton(GROUP) + bytes(4) + LOOPBACK.index.to_bytes(4, "little")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        hearing = trio.socket.from_stdlib_socket(sock)
        async with oread.open_datagram(f"udp://{GROUP}:{sock.getsockname()[1]}?interface=lo") as datagrams:
            await datagrams.send(b"to all")
            with trio.fail_after(LIMIT_SECONDS):
                data, sender = await hearing.recvfrom(100)
        assert (data, sender[0]) == (b"to all", "127.0.0.1")


async def test_news_of_what_was_not_delivered_ends_nothing() -> None:
    """An error that the system tells at a read is counted, and the next message comes."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        peer.bind(("127.0.0.1", 0))
        address = peer.getsockname()
        peer.close()
        sock.setblocking(False)
        sock.connect(address)  # only a connected one is told, as macOS tells others too
        refused: Counter[str] = Counter()
        inbox = Inbox(refused)
        inbox.add(Mailbox(sock, Surroundings()))
        sock.send(b"nobody is there")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
            late.bind(address)
            late.sendto(b"now somebody is", sock.getsockname())
            with trio.fail_after(LIMIT_SECONDS):
                (message,) = await inbox.receive(1)
        inbox.close()
    assert (message.data, refused) == (b"now somebody is", {"receive_failed": 1})
