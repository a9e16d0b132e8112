"""UDP endpoints while interfaces come, go and come back.

In network namespaces; what is joined again is shown by a machine on the link
that asks until it is answered.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

import attrs
import pytest
import trio

from listeners.machines import (
    GROUP,
    GROUP6,
    LIMIT_SECONDS,
    NO_DELAY,
    SERVED,
    Host,
    Machines,
    ask,
    ask_until_answered,
    counts,
    forge,
    needs_ipv6,
    needs_namespaces,
    run_ip,
    write_settings,
)
from oread.messages import Datagram

pytestmark = needs_namespaces


@attrs.frozen
class Pair:
    """Two machines, whose links can be made and taken away."""

    near: Host
    far: Host

    def link(self, number: int) -> None:
        """Join both by one more link, `eth<number>`, with addresses."""
        name = f"eth{number}"
        run_ip(
            *("-n", self.near.namespace, "link", "add", name, "type", "veth"),
            *("peer", "name", name, "netns", self.far.namespace),
        )
        for host, last in ((self.near, 1), (self.far, 2)):
            run_ip("-n", host.namespace, "addr", "add", f"10.78.{number}.{last}/24", "brd", "+", "dev", name)
            run_ip("-n", host.namespace, "link", "set", name, "up")

    def unlink(self, number: int) -> None:
        """Take a link away, with both its ends."""
        run_ip("-n", self.near.namespace, "link", "del", f"eth{number}")


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Make two machines with one link."""
    prefix = f"oread-{os.getpid()}-p"
    hosts = Host(f"{prefix}a", "10.78.0.1"), Host(f"{prefix}b", "10.78.0.2")
    made: list[str] = []
    try:
        for host in hosts:
            run_ip("netns", "add", host.namespace)
            made.append(host.namespace)
            host.enter(write_settings)
            run_ip("-n", host.namespace, "link", "set", "lo", "up")
        pair = Pair(*hosts)
        pair.link(0)
        yield pair
    finally:
        for namespace in made:
            run_ip("netns", "del", namespace)


@pytest.mark.parametrize("option", ["", "interface=eth0&"])
async def test_group_is_joined_again_when_its_interface_is_recreated(
    pair: Pair, machines: Machines, option: str
) -> None:
    """Guard 18: after delete and recreate the group is heard again, by name and on all alike."""
    await machines.serve(pair.far, f"udp://{GROUP}:{SERVED}/echo?{option}{NO_DELAY}")
    peer = await machines.peer(pair.near)
    assert await ask(peer, b"before", GROUP) == "10.78.0.2"
    pair.unlink(0)
    pair.link(0)
    assert await ask_until_answered(await machines.peer(pair.near), GROUP) == "10.78.0.2"


@pytest.mark.parametrize(
    ("host", "zone", "option"),
    [(GROUP6, "%25eth0", ""), (GROUP6, "", ""), ("ff15::7777", "", "interface=eth0&")],
)
@needs_ipv6
async def test_ipv6_group_is_joined_again(
    pair: Pair, machines: Machines, host: str, zone: str, option: str
) -> None:
    """Guard 18 for IPv6: a socket of the new link replaces that of the old one."""
    listener = await machines.serve(pair.far, f"udp://[{host}{zone}]:{SERVED}/echo?{option}{NO_DELAY}")
    await ask_until_answered(await machines.peer(pair.near, family=socket.AF_INET6), host)
    before = listener.statistics().messages
    assert before
    for _ in range(2):
        pair.unlink(0)
        pair.link(0)
        await ask_until_answered(await machines.peer(pair.near, family=socket.AF_INET6), host)
    assert listener.statistics().messages > before


@pytest.mark.parametrize(
    ("wildcard", "group", "address"),
    [("0.0.0.0", GROUP, "10.78.0.2"), pytest.param("[::]", f"[{GROUP6}]", None, marks=needs_ipv6)],
)
@pytest.mark.parametrize("first", ["wildcard", "group"])
async def test_wildcard_and_group_share_a_port(
    pair: Pair, machines: Machines, wildcard: str, group: str, address: str | None, first: str
) -> None:
    """One service hears each by itself, in any order of opening, and after its link was made anew."""
    urls = [f"udp://{wildcard}:{SERVED}/echo", f"udp://{group}:{SERVED}/echo?{NO_DELAY}"]
    for url in urls if first == "wildcard" else reversed(urls):
        await machines.serve(pair.far, url)
    family = socket.AF_INET if address else socket.AF_INET6
    for again in (False, True):
        if again:
            pair.unlink(0)
            pair.link(0)
        peer = await machines.peer(pair.near, family=family)
        host = await ask_until_answered(peer, group.strip("[]"))
        assert host == (address or host)
        if address:
            assert await ask_until_answered(peer, address) == address


@needs_ipv6
async def test_link_local_peer_has_its_zone(pair: Pair, machines: Machines) -> None:
    """A handler that keeps a peer of `fe80::` can send there later: the link is part of the address."""
    seen: list[Datagram] = []

    @machines.registry.on("note")
    def note(message: Datagram) -> None:
        seen.append(message)

    await machines.serve(pair.far, f"udp://[{GROUP6}]:{SERVED}/note")
    peer = await machines.peer(pair.near, family=socket.AF_INET6)
    with trio.fail_after(LIMIT_SECONDS):
        while not seen:
            with contextlib.suppress(OSError):  # the link has no address yet
                await peer.sendto(b"x", (GROUP6, SERVED))
            await trio.sleep(0.01)
    assert isinstance(seen[0].peer.address, tuple)
    host, _port = seen[0].peer.address
    assert (host[:6], host[-5:]) == ("fe80::", "%eth0")


async def test_link_going_down_and_up_is_survived(pair: Pair, machines: Machines) -> None:
    """Guard 18: a membership outlives its link being set down."""
    await machines.serve(pair.far, f"udp://{GROUP}:{SERVED}/echo?{NO_DELAY}")
    for state in ("down", "up"):
        run_ip("-n", pair.far.namespace, "link", "set", "eth0", state)
    peer = await machines.peer(pair.near)
    assert await ask_until_answered(peer, GROUP) == "10.78.0.2"


@pytest.mark.parametrize("host", [GROUP, "255.255.255.255", pytest.param("[ff15::7777]", marks=needs_ipv6)])
async def test_interface_may_come_later(
    pair: Pair, machines: Machines, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    """With `late_interface` an endpoint starts without its interface, and hears it once it is there."""
    url = f"udp://{host}:{SERVED}/echo?interface=eth1"
    with pytest.raises(OSError, match="no interface eth1"):
        await machines.serve(pair.far, url)
    await machines.serve(pair.far, f"{url}&late_interface=true&{NO_DELAY}")
    assert "no interface is there yet" in caplog.text
    pair.link(1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    peer = await machines.peer(pair.near, family=family, interface="eth1", address="10.78.1.1")
    await ask_until_answered(peer, host.strip("[]"))


async def test_new_interface_is_joined_when_none_is_named(pair: Pair, machines: Machines) -> None:
    """An interface that comes later is served as those that were there; a named one stays the only one."""
    everywhere = await machines.serve(pair.far, f"udp://{GROUP}:{SERVED}/echo?{NO_DELAY}")
    only = await machines.serve(pair.far, f"udp://{GROUP}:7008/echo?interface=eth0&{NO_DELAY}")
    pair.link(1)
    peer = await machines.peer(pair.near, interface="eth1", address="10.78.1.1")
    await peer.sendto(b"not here", (GROUP, 7_008))
    assert await ask_until_answered(peer, GROUP) == "10.78.1.2"
    assert everywhere.statistics().messages
    assert counts(only) == (0, 0, {})


async def test_guards_follow_the_addresses(pair: Pair, machines: Machines) -> None:
    """Guard 3: the broadcast address of a network that came later is no source."""
    listener = await machines.serve(pair.far, f"udp://0.0.0.0:{SERVED}/echo")
    raw = await machines.raw(pair.near)
    pair.link(1)
    target = ("10.78.1.2", SERVED)
    with trio.fail_after(LIMIT_SECONDS):
        while not listener.statistics().refused.get("bad_source"):
            raw.sendto(forge(("10.78.1.255", 40_000), target, b"forged"), target)
            await trio.lowlevel.checkpoint()


async def test_more_interfaces_than_one_socket_can_join(pair: Pair, machines: Machines) -> None:
    """Guard 19: a group is heard on 44 interfaces, and still after the last of them was recreated."""
    for number in range(1, 44):
        pair.link(number)
    listener = await machines.serve(pair.far, f"udp://{GROUP}:{SERVED}/echo?{NO_DELAY}")
    for number in (0, 1, 20, 41, 43):
        peer = await machines.peer(pair.near, interface=f"eth{number}", address=f"10.78.{number}.1")
        assert await ask(peer, b"x", GROUP) == f"10.78.{number}.2"
    assert counts(listener)[:2] == (5, 5)
    pair.unlink(43)
    pair.link(43)
    peer = await machines.peer(pair.near, interface="eth43", address="10.78.43.1")
    assert await ask_until_answered(peer, GROUP) == "10.78.43.2"


async def test_nobody_comes_beside_the_sockets_of_a_group(pair: Pair, machines: Machines) -> None:
    """Further sockets of a group leave its address to this endpoint alone."""
    for number in range(1, 24):
        pair.link(number)
    await machines.serve(pair.far, f"udp://{GROUP}:{SERVED}/echo")

    def bind() -> int | None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                sock.bind((GROUP, SERVED))
            except OSError as error:
                return error.errno
        return None

    assert await pair.far.do(bind) == errno.EADDRINUSE


async def test_leaving_gives_back_what_following_opened(pair: Pair, machines: Machines) -> None:
    """After the end no descriptor is left of the sockets opened meanwhile."""
    before = open_sockets()
    listener = await machines.serve(pair.far, f"udp://[{GROUP6}]:{SERVED}/echo?{NO_DELAY}")
    pair.link(1)
    peer = await machines.peer(pair.near, family=socket.AF_INET6, interface="eth1")
    await ask_until_answered(peer, GROUP6)
    peer.close()
    assert len(open_sockets()) > len(before)
    listener.abort()
    assert open_sockets() == before


def open_sockets() -> set[str]:
    """Return every socket that this process has open, by inode."""
    links = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of the listing itself
            links.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return {link for link in links if link.startswith("socket:")}


async def test_kernel_drops_are_counted(pair: Pair, machines: Machines) -> None:
    """Guard 25: what found the receive buffer full is in the statistics, before and after the end."""
    listener = await machines.serve(
        pair.far, f"udp://10.78.0.2:{SERVED}/echo?receive_buffer_bytes=4096&prefix_burst=1000"
    )
    raw, target = await machines.raw(pair.near), ("10.78.0.2", SERVED)
    for number in range(50):
        raw.sendto(forge(("10.78.0.1", 40_000 + number), target, bytes(500)), target)
    with trio.fail_after(LIMIT_SECONDS):
        while True:
            messages, _, refused = counts(listener)
            if messages + refused.get("receive_full", 0) == 50:
                break
            await trio.lowlevel.checkpoint()
    assert refused["receive_full"] > 0
    listener.abort()
    assert counts(listener)[2]["receive_full"] == refused["receive_full"]
