"""Machines for tests: network namespaces joined by a bridge.

A thread enters a namespace to open its sockets; a socket stays in the
namespace where it was made, so all are served here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
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

from listeners.runtimes import make_runtime
from oread.endpoints import Endpoint
from oread.listeners.datagrams import DatagramListener
from oread.listeners.runtime import Runtime
from oread.listeners.watch import InterfaceWatch
from oread.reactor import Reactor, open_poller
from oread.registry import Registry
from oread.sockets.datagrams import open_datagram_sockets, open_sending_socket

CLONE_NEWNET = 0x4000_0000
"""setns(2): the thread changes its network only."""
LIMIT_SECONDS = 10
GROUP = "239.77.0.1"
GROUP6 = "ff02::7777"
SERVED = 7_007
HAS_IPV6 = os.path.exists("/proc/sys/net/ipv6")
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


needs_namespaces = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_namespaces(), reason="network namespaces need Linux, root and ip(8)"),
]
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this kernel has no IPv6")


@attrs.frozen
class Host:
    """One machine: a namespace with an address on the bridge."""

    namespace: str
    address: str

    def enter(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function within this machine."""
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


class WatchThere(InterfaceWatch):
    """Looks at a machine's interfaces, and follows them, within that machine."""

    def __init__(self, reactor: Reactor, host: Host) -> None:
        super().__init__(reactor)
        self._host = host

    def look(self) -> None:
        """Read the interfaces, and tell everybody if anything is new."""
        self._host.enter(super().look)


@attrs.define
class Machines:
    """Endpoints and peers on the machines of one test."""

    registry: Registry
    runtime: Runtime
    stack: contextlib.ExitStack

    async def serve(self, host: Host, url: str) -> DatagramListener:
        """Serve an endpoint on a machine."""
        endpoint = Endpoint.parse(url)
        runtime = attrs.evolve(self.runtime, watch=WatchThere(self.runtime.reactor, host))

        def make() -> DatagramListener:
            return DatagramListener(
                runtime, endpoint, open_datagram_sockets(endpoint, runtime.datagram_sockets)
            )

        listener: DatagramListener = await host.do(make)
        self.stack.callback(listener.abort)
        host.enter(listener.start)
        return listener

    async def peer(
        self,
        host: Host,
        *,
        family: int = socket.AF_INET,
        interface: str = "eth0",
        address: str | None = None,
        port: int = 0,
    ) -> trio.socket.SocketType:
        """Open a client's socket on a machine."""

        def make() -> socket.socket:
            sock = open_sending_socket(family, interface=socket.if_nametoindex(interface))
            if family == socket.AF_INET:
                sock.bind((address or (host.address if interface == "eth0" else "127.0.0.1"), port))
            return sock

        sock = await host.do(make)
        self.stack.callback(sock.close)
        return trio.socket.from_stdlib_socket(sock)

    def start(self, host: Host, *arguments: str) -> subprocess.Popen[bytes]:
        """Run Python with these arguments on a machine, until the end of the test."""
        command = ["ip", "netns", "exec", host.namespace, sys.executable, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    async def raw(self, host: Host) -> socket.socket:
        """Open a socket that sends whatever IP header it is given."""
        sock: socket.socket = await host.do(
            socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW
        )
        self.stack.callback(sock.close)
        return sock


@pytest.fixture
async def machines() -> AsyncIterator[Machines]:
    registry = Registry()
    registry.on("echo", lambda data: data)
    reactor = Reactor(open_poller())
    runtime = make_runtime(reactor, registry)
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


async def ask_until_answered(peer: trio.socket.SocketType, host: str, port: int = SERVED) -> str:
    """Send again and again until somebody answers; return who."""
    with trio.fail_after(LIMIT_SECONDS):
        while True:
            try:
                await peer.sendto(b"anybody", (host, port))
            except OSError as error:
                # A link that is just up has no address and no route for a moment.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.ENETUNREACH):
                    raise
            with trio.move_on_after(0.05):
                _, sender = await peer.recvfrom(65_536)
                return str(sender[0])


def counts(listener: DatagramListener) -> tuple[int, int, dict[str, int]]:
    found = listener.statistics()
    return found.messages, found.replies, dict(found.refused)


async def wait_until_counted(listener: DatagramListener, total: int) -> None:
    """Wait until so many were counted: one that is heard and not answered counts twice."""
    with trio.fail_after(LIMIT_SECONDS):
        while True:
            messages, _, refused = counts(listener)
            if messages + sum(refused.values()) >= total:
                return
            await trio.lowlevel.checkpoint()
