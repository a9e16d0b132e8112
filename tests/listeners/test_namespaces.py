"""UDP between three machines: network namespaces joined by a bridge.

What loopback can't show: spoofed sources, real broadcast, other interfaces,
other machines as peers. A thread enters a namespace to open its sockets; a
socket stays in the namespace where it was made, so all are served here.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import attrs
import pytest
import trio

from oread.endpoints import Endpoint
from oread.listeners.datagrams import DatagramListener
from oread.listeners.runtime import Failures, Runtime
from oread.messages import Datagram
from oread.reactor import Reactor, RunnerPool, open_poller
from oread.registry import Registry
from oread.sockets.datagrams import open_datagram_sockets, open_sending_socket

CLONE_NEWNET = 0x4000_0000
"""setns(2): the thread changes its network only."""
LIMIT_SECONDS = 10
GROUP = "239.77.0.1"
GROUP6 = "ff02::7777"
SERVED = 7_007
NO_DELAY = "reply=unicast&delay_low_seconds=0&delay_high_seconds=0"


def run_ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


def can_make_namespaces() -> bool:
    """Tell whether a namespace can be made here, by making one."""
    if sys.platform != "linux" or os.geteuid() or shutil.which("ip") is None:
        return False
    name = f"oread-{os.getpid()}-try"
    try:
        run_ip("netns", "add", name)
        run_ip("netns", "del", name)
    except (subprocess.SubprocessError, OSError):
        return False
    return True


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_namespaces(), reason="network namespaces need Linux, root and ip(8)"),
]


@attrs.frozen
class Host:
    """One machine: a namespace with an address on the bridge."""

    namespace: str
    address: str

    def enter(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function within this machine; for a thread that is not Trio's."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.namespace}") as there:
            assert libc.setns(there.fileno(), CLONE_NEWNET) == 0
            try:
                return function(*arguments)
            finally:
                assert libc.setns(home.fileno(), CLONE_NEWNET) == 0

    async def do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function within this machine, in a thread."""
        return await trio.to_thread.run_sync(self.enter, function, *arguments)


@attrs.frozen
class Network:
    """Three machines on one link."""

    a: Host
    b: Host
    c: Host


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Make three machines on one bridge; names are this process's own."""
    prefix = f"oread-{os.getpid()}"
    hosts = [Host(f"{prefix}-{name}", f"10.77.0.{number}") for number, name in enumerate("abc", 1)]
    switch = f"{prefix}-sw"
    try:
        run_ip("netns", "add", switch)
        run_ip(
            "-n", switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0"
        )
        run_ip("-n", switch, "link", "set", "br0", "up")
        for number, host in enumerate(hosts, 1):
            name = host.namespace
            run_ip("netns", "add", name)
            # Off the wire as forged as can be: the kernel of these machines checks nothing.
            host.enter(write_settings)
            run_ip("-n", name, "link", "set", "lo", "up")
            run_ip(
                "-n",
                switch,
                "link",
                "add",
                f"p{number}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                name,
            )
            run_ip("-n", switch, "link", "set", f"p{number}", "master", "br0", "up")
            run_ip("-n", name, "addr", "add", f"{host.address}/24", "brd", "+", "dev", "eth0")
            run_ip("-n", name, "link", "set", "eth0", "up")
            run_ip("-n", name, "route", "add", "default", "dev", "eth0")
        run_ip("-n", hosts[1].namespace, "addr", "add", "10.77.0.22/24", "dev", "eth0")
        yield Network(*hosts)
    finally:
        for namespace in (switch, *(host.namespace for host in hosts)):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True, timeout=30)


def write_settings() -> None:
    """Let forged sources in, and use IPv6 addresses at once."""
    for name, value in (
        ("ipv4/conf/all/rp_filter", 0),
        ("ipv4/conf/default/rp_filter", 0),
        ("ipv4/conf/all/route_localnet", 1),
        ("ipv4/conf/default/route_localnet", 1),
        ("ipv6/conf/default/accept_dad", 0),
    ):
        path = pathlib.Path("/proc/sys/net", name)
        if path.exists():
            path.write_text(str(value))


@attrs.define
class Machines:
    """Endpoints and peers on the machines of one test."""

    registry: Registry
    runtime: Runtime
    stack: contextlib.ExitStack

    async def serve(self, host: Host, url: str) -> DatagramListener:
        """Serve an endpoint on a machine."""
        endpoint = Endpoint.parse(url)

        def make() -> DatagramListener:
            return DatagramListener(self.runtime, endpoint, open_datagram_sockets(endpoint))

        listener: DatagramListener = await host.do(make)
        self.stack.callback(listener.abort)
        listener.start()
        return listener

    async def peer(
        self, host: Host, *, family: int = socket.AF_INET, interface: str = "eth0"
    ) -> trio.socket.SocketType:
        """Open a client's socket on a machine."""

        def make() -> socket.socket:
            sock = open_sending_socket(family, interface=socket.if_nametoindex(interface))
            if family == socket.AF_INET:
                sock.bind((host.address if interface == "eth0" else "127.0.0.1", 0))
            return sock

        sock = await host.do(make)
        self.stack.callback(sock.close)
        return trio.socket.from_stdlib_socket(sock)

    async def raw(self, host: Host) -> socket.socket:
        """Open a socket that sends whatever IP header it is given."""
        sock: socket.socket = await host.do(
            socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW
        )
        self.stack.callback(sock.close)
        return sock


@pytest.fixture
async def machines() -> AsyncIterator[Machines]:
    registry, poller, context = Registry(), open_poller(), contextvars.copy_context()
    registry.on("echo", lambda data: data)
    reactor = Reactor(poller)
    runtime = Runtime(
        reactor=reactor,
        runners=RunnerPool(context),
        registry=registry,
        context=context,
        failures=Failures(reactor),
    )
    with contextlib.ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            runtime.runners.start(nursery)
            nursery.start_soon(reactor.run)
            nursery.start_soon(reactor.deadlines.keep)
            yield Machines(registry, runtime, stack)
            stack.close()
            nursery.cancel_scope.cancel()


def forge(source: tuple[str, int], target: tuple[str, int], data: bytes) -> bytes:
    """Build an IPv4 datagram with any source (RFC 791 3.1, RFC 768)."""
    udp = struct.pack("!HHHH", source[1], target[1], 8 + len(data), 0) + data
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses + udp


async def receive(peer: trio.socket.SocketType) -> tuple[bytes, Any]:
    with trio.fail_after(LIMIT_SECONDS):
        return await peer.recvfrom(65_536)


async def ask(peer: trio.socket.SocketType, data: bytes, host: str, port: int = SERVED) -> Any:
    """Send and return who answered."""
    await peer.sendto(data, (host, port))
    reply, sender = await receive(peer)
    assert reply == data
    return sender[0]


def counts(listener: DatagramListener) -> tuple[int, int, dict[str, int]]:
    found = listener.statistics()
    return found.messages, found.replies, dict(found.refused)


@pytest.mark.parametrize("target", [GROUP, "10.77.0.255", "255.255.255.255"])
async def test_every_machine_answers_a_group_or_broadcast(
    network: Network, machines: Machines, target: str
) -> None:
    """Guard 9: one datagram to all is answered by each from its own unicast address."""
    interface = "interface=eth0&" if target == GROUP else ""
    for host in (network.b, network.c):
        await machines.serve(host, f"udp://{target}:{SERVED}/echo?{interface}{NO_DELAY}")
    peer = await machines.peer(network.a)
    await peer.sendto(b"who is there", (target, SERVED))
    answers = {await receive(peer) for _ in range(2)}
    assert answers == {(b"who is there", (host.address, SERVED)) for host in (network.b, network.c)}


@pytest.mark.skipif(not os.path.exists("/proc/sys/net/ipv6"), reason="this kernel has no IPv6")
async def test_every_machine_answers_an_ipv6_group(network: Network, machines: Machines) -> None:
    """A link-local group is joined per link and answered by each machine."""
    for host in (network.b, network.c):
        await machines.serve(host, f"udp://[{GROUP6}]:{SERVED}/echo?interface=eth0&{NO_DELAY}")
    peer = await machines.peer(network.a, family=socket.AF_INET6)
    await peer.sendto(b"who is there", (GROUP6, SERVED))
    answers = [await receive(peer) for _ in range(2)]
    assert [data for data, _ in answers] == [b"who is there"] * 2
    assert len({sender[0] for _, sender in answers}) == 2


async def test_forged_sources_are_counted_and_never_answered(network: Network, machines: Machines) -> None:
    """Guards 1 to 4: what a machine on the link can forge gets no reply, each with its reason."""
    listener = await machines.serve(network.b, f"udp://0.0.0.0:{SERVED}/echo")
    raw, peer = await machines.raw(network.a), await machines.peer(network.a)
    target = (network.b.address, SERVED)
    for source in (
        ("10.77.0.3", 0),
        ("10.77.0.3", 7),
        ("10.77.0.3", 2_049),
        ("10.77.0.3", SERVED),
        ("10.77.0.255", 40_000),
        ("240.0.0.1", 40_000),
        ("127.0.0.9", 40_000),
    ):
        raw.sendto(forge(source, target, b"forged"), target)
    assert await ask(peer, b"honest", network.b.address) == network.b.address
    assert counts(listener) == (
        5,
        1,
        {"port_0": 1, "low_port": 2, "served_port": 1, "bad_source": 2, "false_loopback": 1},
    )


async def test_two_echo_machines_never_loop(network: Network, machines: Machines) -> None:
    """Guard 6: a datagram forged from one echo service to another is never answered."""
    urls = {host: f"udp://{host.address}:{SERVED}/echo" for host in (network.b, network.c)}
    b, c = [await machines.serve(host, url) for host, url in urls.items()]
    raw, peer = await machines.raw(network.a), await machines.peer(network.a)
    raw.sendto(
        forge((network.b.address, SERVED), (network.c.address, SERVED), b"loop"), (network.c.address, SERVED)
    )
    assert await ask(peer, b"after", network.c.address) == network.c.address
    assert await ask(peer, b"after", network.b.address) == network.b.address
    assert counts(c) == (2, 1, {"served_port": 1})
    assert counts(b) == (1, 1, {})


async def test_another_machine_is_not_flooded(
    network: Network, machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    """Guard 7: a reply of more than 3 times the request stays here, unless the endpoint allows it."""
    machines.registry.on("more", lambda data: data * 4)
    strict = await machines.serve(network.b, f"udp://{network.b.address}:{SERVED}/more")
    await machines.serve(network.b, f"udp://{network.b.address}:7008/more?amplification=4")
    peer = await machines.peer(network.a)
    for _ in range(2):
        await peer.sendto(b"12345678", (network.b.address, SERVED))
    await peer.sendto(b"12345678", (network.b.address, 7_008))
    assert await receive(peer) == (b"12345678" * 4, (network.b.address, 7_008))
    with trio.fail_after(LIMIT_SECONDS):
        while strict.statistics().messages < 2:
            await trio.lowlevel.checkpoint()
    assert counts(strict) == (2, 0, {"amplification": 2})
    assert caplog.text.count("was not sent: the option amplification=3") == 1


async def test_burst_of_another_machine_is_bounded(network: Network, machines: Machines) -> None:
    """Guard 8: a peer's prefix gets its burst and no more, whatever its port."""
    listener = await machines.serve(
        network.b, f"udp://{network.b.address}:{SERVED}/echo?prefix_burst=10&prefix_rate=0.001"
    )
    raw = await machines.raw(network.a)
    target = (network.b.address, SERVED)
    for number in range(30):
        raw.sendto(forge((f"10.77.0.{100 + number}", 40_000 + number), target, b"flood"), target)
    with trio.fail_after(LIMIT_SECONDS):
        while listener.statistics().messages < 30:
            await trio.lowlevel.checkpoint()
    assert counts(listener) == (30, 10, {"prefix_rate": 20})


async def test_wildcard_answers_from_the_alias_that_was_asked(network: Network, machines: Machines) -> None:
    """A machine with two addresses answers from the one that was asked."""
    await machines.serve(network.b, f"udp://0.0.0.0:{SERVED}/echo")
    peer = await machines.peer(network.a)
    answers = [await ask(peer, b"x", address) for address in ("10.77.0.2", "10.77.0.22")]
    assert answers == ["10.77.0.2", "10.77.0.22"]


async def test_group_is_heard_on_the_joined_interface_only(network: Network, machines: Machines) -> None:
    """Joined on eth0 nothing of loopback comes in; joined everywhere both do."""
    only = await machines.serve(network.b, f"udp://{GROUP}:{SERVED}/echo?interface=eth0")
    everywhere = await machines.serve(network.b, f"udp://{GROUP}:7008/echo")
    near, far = await machines.peer(network.b, interface="lo"), await machines.peer(network.a)
    for port in (SERVED, 7_008):
        await near.sendto(b"near", (GROUP, port))
        await far.sendto(b"far", (GROUP, port))
    with trio.fail_after(LIMIT_SECONDS):
        while only.statistics().messages < 1 or everywhere.statistics().messages < 2:
            await trio.lowlevel.checkpoint()
    assert counts(only) == (1, 0, {"reply_off": 1})
    assert counts(everywhere) == (2, 0, {"reply_off": 2})


async def test_own_announcement_does_not_come_back(network: Network, machines: Machines) -> None:
    """Guard 11: a broadcast of the machine's own from the served port is dropped; a peer's is heard."""
    listener = await machines.serve(network.b, f"udp://10.77.0.255:{SERVED}/echo")

    def announce() -> None:
        with open_sending_socket(socket.AF_INET) as sock:
            sock.bind((network.b.address, SERVED))
            sock.sendto(b"own", ("10.77.0.255", SERVED))

    await network.b.do(announce)
    peer = await machines.peer(network.a)
    await peer.sendto(b"other", ("10.77.0.255", SERVED))
    with trio.fail_after(LIMIT_SECONDS):
        while listener.statistics().messages < 1:
            await trio.lowlevel.checkpoint()
    assert counts(listener) == (1, 0, {"own": 1, "reply_off": 1})


async def test_message_tells_group_interface_and_ttl(network: Network, machines: Machines) -> None:
    """A handler sees the group it came to, the interface, the TTL of 1 and the sender."""
    seen: list[tuple[Any, ...]] = []

    @machines.registry.on("note")
    def note(message: Datagram) -> None:
        seen.append((message.mode, message.local, message.interface, message.ttl, message.peer.address))

    await machines.serve(network.b, f"udp://{GROUP}:{SERVED}/note?interface=eth0")
    peer = await machines.peer(network.a)
    await peer.sendto(b"x", (GROUP, SERVED))
    with trio.fail_after(LIMIT_SECONDS):
        while not seen:
            await trio.lowlevel.checkpoint()
    assert seen == [("multicast", (GROUP, SERVED), "eth0", 1, peer.getsockname())]
