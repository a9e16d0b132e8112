"""UDP endpoints against hosts: aliases, floods, storms, loops, foreign programs.

In network namespaces, with sources forged by a raw socket where a guard is
asked. `docs/explanation/udp.md` says which test shows which guard.
"""

from __future__ import annotations

import resource
import shutil
import socket
import struct
from collections.abc import Iterator

import attrs
import pytest
import trio

from listeners.machines import (
    GROUP,
    LIMIT_SECONDS,
    NO_DELAY,
    SERVED,
    Machines,
    Network,
    ask,
    ask_until_answered,
    counts,
    forge,
    needs_ipv6,
    needs_namespaces,
    receive,
    run_ip,
    wait_until_counted,
)
from oread.messages import Datagram
from oread.sockets import options

pytestmark = needs_namespaces


@needs_ipv6
async def test_ipv6_wildcard_answers_from_the_alias_that_was_asked(
    network: Network, machines: Machines
) -> None:
    """Guard 13 for IPv6: a machine with two addresses answers from the one that was asked."""
    for host, last in ((network.a, 1), (network.b, 2), (network.b, 22)):
        run_ip("-n", host.namespace, "addr", "replace", f"fd77::{last}/64", "dev", "eth0", "nodad")
    await machines.serve(network.b, f"udp://[::]:{SERVED}/echo")
    peer = await machines.peer(network.a, family=socket.AF_INET6)
    answers = [await ask(peer, b"x", address) for address in ("fd77::2", "fd77::22")]
    assert answers == ["fd77::2", "fd77::22"]


async def test_flood_of_forged_sources_keeps_memory_flat(network: Network, machines: Machines) -> None:
    """Guard 8: 100,000 sources leave bounded tables, and another endpoint is answered meanwhile."""
    flooded = await machines.serve(network.b, f"udp://0.0.0.0:{SERVED}/echo?prefixes=1000")
    await machines.serve(network.b, f"udp://{network.b.address}:7008/echo")
    raw, peer = await machines.raw(network.a), await machines.peer(network.a)
    target = (network.b.address, SERVED)
    before = 0
    for number in range(100_000):
        source = socket.inet_ntoa(struct.pack("!I", (11 << 24) + number * 97))
        raw.sendto(forge((source, 40_000), target, b"flood"), target)
        if number % 64 == 63:
            await trio.lowlevel.checkpoint()
        if number == 20_000:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if number % 20_000 == 19_999:
            assert await ask(peer, b"honest", network.b.address, 7_008) == network.b.address
    await wait_until_counted(flooded, 100_000)
    assert len(flooded._exchanges.guard.budget) <= 1_000
    assert len(flooded._exchanges.sources) <= 4_096
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4_096  # KiB


async def test_storm_of_responders_is_answered_in_full(network: Network, machines: Machines) -> None:
    """Guard 9: of 200 responders asked by one datagram every one is heard, spread over the window."""
    for _ in range(200):
        await machines.serve(
            network.c, f"udp://{GROUP}:{SERVED}/echo?interface=eth0&reply=unicast&shared=true"
        )
    peer = await machines.peer(network.a)
    await peer.sendto(b"who is there", (GROUP, SERVED))
    answers = [await receive(peer) for _ in range(200)]
    assert set(answers) == {(b"who is there", (network.c.address, SERVED))}


async def test_storm_of_askers_is_answered_in_full(network: Network, machines: Machines) -> None:
    """Guard 9: 200 peers that ask a group at once all get their answer."""
    listener = await machines.serve(network.b, f"udp://{GROUP}:{SERVED}/echo?interface=eth0&reply=unicast")
    peers = [await machines.peer(network.a) for _ in range(200)]
    for number, peer in enumerate(peers):
        await peer.sendto(b"%d" % number, (GROUP, SERVED))
    answers = [(await receive(peer))[0] for peer in peers]
    assert answers == [b"%d" % number for number in range(200)]
    assert counts(listener) == (200, 200, {})


@pytest.mark.parametrize(
    ("one", "other", "replies"),
    [
        pytest.param(SERVED, SERVED, 1, id="one port"),
        # Nothing tells an echo on another port from a client but that it never stops.
        pytest.param(SERVED, 7_008, 9, id="two ports"),
    ],
)
async def test_two_echo_machines_fall_silent(
    network: Network, machines: Machines, one: int, other: int, replies: int
) -> None:
    """Guard 6: a datagram forged between two echo services gets so many replies of each, and no more."""
    processes = [
        machines.start(host, "-m", "oread", "serve", f"udp://{host.address}:{port}/echo")
        for host, port in ((network.b, one), (network.c, other))
    ]
    for host, port in ((network.b, one), (network.c, other)):
        await ask_until_answered(await machines.peer(network.a), host.address, port)
    asking = await machines.peer(network.a)
    seen = await network.b.do(count_received), await network.c.do(count_received)
    raw = await machines.raw(network.a)
    target = (network.c.address, other)
    raw.sendto(forge((network.b.address, one), target, b"loop"), target)
    for _ in range(20):  # round trips, in which a loop would go on
        await ask(asking, b"after", network.b.address, one)
        await ask(asking, b"after", network.c.address, other)
    assert (await network.b.do(count_received)) - seen[0] <= 20 + replies
    assert (await network.c.do(count_received)) - seen[1] <= 20 + replies + 1
    assert [process.poll() for process in processes] == [None, None]


async def test_client_at_a_fixed_port_may_repeat_itself(network: Network, machines: Machines) -> None:
    """Guard 6: five times the same bytes, one at once after the other's answer, are all answered."""
    listener = await machines.serve(network.b, f"udp://{network.b.address}:{SERVED}/echo")
    peer = await machines.peer(network.a, port=5_000)
    for _ in range(5):
        assert await ask(peer, b"alive", network.b.address) == network.b.address
    assert counts(listener) == (5, 5, {})


def count_received() -> int:
    """Return how many datagrams this machine's sockets have received."""
    with open("/proc/thread-self/net/snmp") as file:
        lines = [line.split() for line in file if line.startswith("Udp:")]
    return int(dict(zip(*lines, strict=True))["InDatagrams"])


async def test_sources_off_the_link_are_not_heard(network: Network, machines: Machines) -> None:
    """Guard 10: with link_only what no host of the network sent is dropped."""
    listener = await machines.serve(network.b, f"udp://{network.b.address}:{SERVED}/echo?link_only=true")
    raw, peer = await machines.raw(network.a), await machines.peer(network.a)
    target = (network.b.address, SERVED)
    raw.sendto(forge(("10.99.0.1", 40_000), target, b"afar"), target)
    assert await ask(peer, b"near", network.b.address) == network.b.address
    assert counts(listener) == (1, 1, {"off_link": 1})


async def test_what_a_router_may_have_passed_on_is_not_heard(network: Network, machines: Machines) -> None:
    """Guard 10: with ttl=255 and link_only a datagram of another TTL is dropped."""
    listener = await machines.serve(
        network.b, f"udp://{GROUP}:{SERVED}/echo?ttl=255&link_only=true&{NO_DELAY}"
    )
    peer = await machines.peer(network.a)
    await peer.sendto(b"ttl 1", (GROUP, SERVED))
    peer.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    assert await ask(peer, b"ttl 255", GROUP) == network.b.address
    assert counts(listener) == (1, 1, {"off_link": 1})


async def test_answers_carry_ttl_and_service_class(network: Network, machines: Machines) -> None:
    """The options ttl and dscp are what the peer sees."""
    await machines.serve(network.b, f"udp://{network.b.address}:{SERVED}/echo?ttl=7&dscp=46")
    peer = await machines.peer(network.a)
    peer.setsockopt(socket.IPPROTO_IP, options.IP_RECVTTL, 1)
    peer.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
    await peer.sendto(b"x", (network.b.address, SERVED))
    with trio.fail_after(LIMIT_SECONDS):
        _, ancillary, _, _ = await peer.recvmsg(100, 256)
    found = {kind: value for _, kind, value in ancillary}
    assert found[socket.IP_TTL] == struct.pack("@i", 7)
    assert found[socket.IP_TOS] == bytes([46 << 2])


async def test_fragments_are_told(network: Network, machines: Machines) -> None:
    """Guard 27: a handler sees in which size of fragments a datagram came, and that another came whole."""
    seen: list[tuple[int, int | None]] = []

    @machines.registry.on("note")
    def note(message: Datagram) -> None:
        seen.append((len(message.data), message.fragment_bytes))

    await machines.serve(network.b, f"udp://{network.b.address}:{SERVED}/note")
    peer = await machines.peer(network.a)
    for size in (9_000, 10):
        await peer.sendto(bytes(size), (network.b.address, SERVED))
    with trio.fail_after(LIMIT_SECONDS):
        while len(seen) < 2:
            await trio.lowlevel.checkpoint()
    assert sorted(seen) == [(10, None), (9_000, 1_500)]


async def test_unreachable_peers_end_and_spin_nothing(network: Network, machines: Machines) -> None:
    """Guards 16 and 17: answers to hosts and ports that are not there leave the listener as it was."""
    listener = await machines.serve(network.b, f"udp://0.0.0.0:{SERVED}/echo")
    raw, peer = await machines.raw(network.a), await machines.peer(network.a)
    target = (network.b.address, SERVED)
    for source in ("10.77.0.1", "10.77.0.200", "192.0.2.1"):
        for port in (40_001, 40_002):
            raw.sendto(forge((source, port), target, b"x"), target)
    for _ in range(20):
        assert await ask(peer, b"y", network.b.address) == network.b.address
    messages, _, refused = counts(listener)
    assert (messages, refused) == (26, {})


async def test_source_specific_group_hears_its_source(network: Network, machines: Machines) -> None:
    """Only the named source is heard; two endpoints share a group, each with its own."""
    group = "232.77.0.1"
    first = await machines.serve(
        network.c, f"udp://{group}:{SERVED}/echo?interface=eth0&shared=true&source={network.a.address}"
    )
    second = await machines.serve(
        network.c, f"udp://{group}:{SERVED}/echo?interface=eth0&shared=true&source={network.b.address}"
    )
    for host, times in ((network.a, 1), (network.b, 2)):
        peer = await machines.peer(host)
        for _ in range(times):
            await peer.sendto(b"x", (group, SERVED))
    await wait_until_counted(first, 2)
    await wait_until_counted(second, 4)
    assert counts(first) == (1, 0, {"reply_off": 1})
    assert counts(second) == (2, 0, {"reply_off": 2})


@needs_ipv6
async def test_source_specific_ipv6_group_hears_its_source(network: Network, machines: Machines) -> None:
    """The same for IPv6."""
    for host, last in ((network.a, 1), (network.b, 2)):
        run_ip("-n", host.namespace, "addr", "replace", f"fd77::{last}/64", "dev", "eth0", "nodad")
    listener = await machines.serve(
        network.c, f"udp://[ff35::7777]:{SERVED}/echo?interface=eth0&source=fd77::1"
    )
    for host, last in ((network.b, 2), (network.a, 1)):
        peer = await machines.peer(host, family=socket.AF_INET6)
        await peer.bind((f"fd77::{last}", 0))
        await peer.sendto(f"from {last}".encode(), ("ff35::7777", SERVED))
    await wait_until_counted(listener, 2)
    assert counts(listener) == (1, 0, {"reply_off": 1})


@pytest.mark.parametrize("selector", ["eth0", "index"])
async def test_many_groups_on_one_port(network: Network, machines: Machines, selector: str) -> None:
    """Guards 19 and 20: 25 groups share a port, and each endpoint hears its own alone."""
    index = str(await network.b.do(socket.if_nametoindex, "eth0"))
    interface = index if selector == "index" else selector
    groups = [f"239.77.1.{number}" for number in range(1, 26)]
    listeners = [
        await machines.serve(network.b, f"udp://{group}:{SERVED}/echo?interface={interface}&{NO_DELAY}")
        for group in groups
    ]
    peer = await machines.peer(network.a)
    for group in groups:
        assert await ask(peer, b"x", group) == network.b.address
    assert [counts(listener) for listener in listeners] == [(1, 1, {})] * len(groups)


@attrs.frozen
class Second:
    """The second link of a and b."""

    interface: str = "eth1"


@pytest.fixture
def second(network: Network) -> Iterator[Second]:
    """Join a and b by a second link."""
    run_ip(
        *("-n", network.a.namespace, "link", "add", "eth1", "type", "veth"),
        *("peer", "name", "eth1", "netns", network.b.namespace),
    )
    for host, last in ((network.a, 1), (network.b, 2)):
        run_ip("-n", host.namespace, "addr", "add", f"10.79.0.{last}/24", "brd", "+", "dev", "eth1")
        run_ip("-n", host.namespace, "addr", "add", f"fd79::{last}/64", "dev", "eth1", "nodad")
        run_ip("-n", host.namespace, "link", "set", "eth1", "up")
    yield Second()
    run_ip("-n", network.a.namespace, "link", "del", "eth1")


@pytest.mark.parametrize("group", [GROUP, pytest.param("ff15::7777", marks=needs_ipv6)])
async def test_groups_do_not_leak_between_interfaces(
    network: Network, machines: Machines, second: Second, group: str
) -> None:
    """Guard 20: two endpoints, one per interface, on one group: each hears its own link."""
    host = f"[{group}]" if ":" in group else group
    urls = [f"udp://{host}:{port}/echo?interface=eth{number}&{NO_DELAY}" for number, port in ((0, 7), (1, 8))]
    first, other = [
        await machines.serve(network.b, url.replace(":7/", ":7007/").replace(":8/", ":7008/")) for url in urls
    ]
    family = socket.AF_INET6 if ":" in group else socket.AF_INET
    near = await machines.peer(network.a, family=family)
    far = await machines.peer(network.a, family=family, interface=second.interface, address="10.79.0.1")
    for port, wrong, right in ((7_007, far, near), (7_008, near, far)):
        await wrong.sendto(b"other link", (group, port))
        await ask_until_answered(right, group, port)
    assert {messages for messages, *_ in (counts(first), counts(other))} <= {1, 2}
    for listener in (first, other):
        refused = counts(listener)[2]
        assert set(refused) <= {"other_destination"}


@pytest.mark.parametrize("target", ["10.79.0.255", "255.255.255.255"])
async def test_broadcasts_of_one_interface(
    network: Network, machines: Machines, second: Second, target: str
) -> None:
    """With interface= a broadcast is heard there, and one that comes by another is not."""
    listener = await machines.serve(
        network.b, f"udp://{target}:{SERVED}/echo?interface={second.interface}&{NO_DELAY}"
    )
    wrong = await machines.peer(network.a)
    right = await machines.peer(network.a, interface=second.interface, address="10.79.0.1")
    right.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth1")
    if target == "255.255.255.255":
        wrong.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        await wrong.sendto(b"other link", (target, SERVED))
        await wait_until_counted(listener, 1)
        assert counts(listener) == (0, 0, {"other_destination": 1})
    assert await ask_until_answered(right, target) == "10.79.0.2"


@pytest.mark.skipif(shutil.which("socat") is None, reason="socat is not installed")
async def test_socat_is_answered(network: Network, machines: Machines) -> None:
    """A foreign program asks a group and a broadcast, and gets its answers."""
    for target in (GROUP, "10.77.0.255"):
        await machines.serve(network.b, f"udp://{target}:{SERVED}/echo?{NO_DELAY}")
        options_of = f"UDP4-DATAGRAM:{target}:{SERVED},broadcast,bind={network.a.address}:0"
        done = await trio.run_process(
            ["ip", "netns", "exec", network.a.namespace, "socat", "-t", "2", "-", options_of],
            stdin=b"from socat\n",
            capture_stdout=True,
        )
        assert done.stdout == b"from socat\n"


NODE = """
const socket = require('dgram').createSocket('udp4');
socket.on('message', (data, from) => { console.log(`${data} ${from.address}`); socket.close(); });
socket.bind(0, process.argv[1], () => {
  socket.setMulticastInterface(process.argv[1]);
  socket.send('from node', Number(process.argv[3]), process.argv[2]);
});
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_node_is_answered(network: Network, machines: Machines) -> None:
    """A Node program asks a group and a wildcard's alias; both answer from their own address."""
    await machines.serve(network.b, f"udp://{GROUP}:{SERVED}/echo?{NO_DELAY}")
    await machines.serve(network.b, "udp://0.0.0.0:7008/echo")
    for target, port, answer in ((GROUP, SERVED, "10.77.0.2"), ("10.77.0.22", 7_008, "10.77.0.22")):
        command = ["ip", "netns", "exec", network.a.namespace, "node", "-e", NODE]
        done = await trio.run_process([*command, network.a.address, target, str(port)], capture_stdout=True)
        assert done.stdout.decode() == f"from node {answer}\n"
