"""UDP between three machines: network namespaces joined by a bridge.

What loopback can't show: spoofed sources, real broadcast, other interfaces,
other machines as peers.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio

from listeners.machines import (
    GROUP,
    GROUP6,
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
    wait_until_counted,
)
from oread.messages import Datagram
from oread.sockets.datagrams import open_sending_socket

pytestmark = needs_namespaces


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


@needs_ipv6
async def test_every_machine_answers_an_ipv6_group(network: Network, machines: Machines) -> None:
    """A link-local group is joined per link and answered by each machine."""
    for host in (network.b, network.c):
        await machines.serve(host, f"udp://[{GROUP6}]:{SERVED}/echo?interface=eth0&{NO_DELAY}")
        await ask_until_answered(await machines.peer(network.a, family=socket.AF_INET6), GROUP6)
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
    await wait_until_counted(listener, 5 + 7)  # another path may have overtaken
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
