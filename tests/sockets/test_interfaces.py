"""What the interfaces are, and what an address means on this machine."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address

import pytest

from oread.sockets.interfaces import (
    Interface,
    Interfaces,
    parse_address,
    read_client_ports,
    read_interfaces,
)


def make_interface(
    name: str, index: int, *addresses: str, up: bool = True, multicast: bool = True
) -> Interface:
    parsed = tuple(IPv6Interface(text) if ":" in text else IPv4Interface(text) for text in addresses)
    broadcasts = frozenset(
        each.network.broadcast_address for each in parsed if isinstance(each, IPv4Interface)
    )
    return Interface(
        name=name,
        index=index,
        up=up,
        loopback=name == "lo",
        multicast=multicast,
        addresses=parsed,
        broadcasts=broadcasts,
    )


HERE = Interfaces.of(
    (
        make_interface("lo", 1, "127.0.0.1/8", "::1/128", multicast=False),
        make_interface("eth0", 2, "10.77.0.1/24", "fe80::1/64"),
        make_interface("eth1", 3, "10.78.0.1/24", up=False),
        make_interface("tun0", 4, "10.79.0.1/24", multicast=False),
    )
)


def test_loopback_is_found_with_its_broadcast() -> None:
    """The real loopback interface has its flags, its address and the broadcast of its network."""
    interfaces = read_interfaces()
    loopback = next(each for each in interfaces.all if each.loopback)
    assert loopback.index == socket.if_nametoindex(loopback.name)
    assert loopback.up
    assert IPv4Address("127.0.0.1") in interfaces.own
    assert interfaces.mode(IPv4Address("127.255.255.255")) == "broadcast"
    assert loopback.index in interfaces.loopback_indexes
    assert interfaces.names[loopback.index] == loopback.name


@pytest.mark.parametrize(
    ("address", "mode"),
    [
        ("10.77.0.1", "unicast"),
        ("10.77.0.255", "broadcast"),
        ("10.99.0.255", "unicast"),
        ("255.255.255.255", "broadcast"),
        ("224.0.0.1", "multicast"),
        ("239.255.70.7", "multicast"),
        ("ff02::1", "multicast"),
        ("::1", "unicast"),
        ("0.0.0.0", "unicast"),
    ],
)
def test_interfaces_say_what_an_address_means(address: str, mode: str) -> None:
    """An address ending in 255 is a broadcast only where an interface says so."""
    assert HERE.mode(ip_address(address)) == mode


def test_find_takes_name_and_index() -> None:
    """An interface is found by its name or by its index, as text or number."""
    assert HERE.find("eth0") == HERE.find("2") == HERE.find(2)


def test_find_names_what_exists() -> None:
    """An unknown interface is ENODEV, with the names that exist."""
    with pytest.raises(OSError, match="no interface eth9; there are: lo, eth0, eth1, tun0") as caught:
        HERE.find("eth9")
    assert caught.value.errno == errno.ENODEV


def test_groups_are_joined_on_capable_interfaces_that_are_up() -> None:
    """Loopback counts as capable, a tunnel without the flag and a dead link do not."""
    assert [each.name for each in HERE.joinable(socket.AF_INET)] == ["lo", "eth0"]


def test_groups_are_joined_where_the_family_has_an_address() -> None:
    """An interface without an address of the family is left out."""
    only_v4 = Interfaces.of((make_interface("eth0", 2, "10.77.0.1/24"),))
    assert only_v4.joinable(socket.AF_INET6) == ()


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("239.255.70.7", ["eth0"]),
        ("ff02::1", ["eth0"]),
        ("255.255.255.255", ["eth0", "tun0"]),
        ("10.77.0.255", ["eth0"]),
        ("10.78.0.255", []),
        ("127.255.255.255", ["lo"]),
    ],
)
def test_groups_and_broadcasts_are_reached_by(address: str, names: list[str]) -> None:
    """Guard 26: by what is up and can; by loopback only where nothing else does."""
    assert [each.name for each in HERE.reaching(ip_address(address))] == names


def test_loopback_alone_reaches_groups() -> None:
    """A machine without a network has its own."""
    alone = Interfaces.of(HERE.all[:1])
    for address in ("239.255.70.7", "ff02::1", "255.255.255.255"):
        assert [each.name for each in alone.reaching(ip_address(address))] == ["lo"]


def test_zone_is_dropped() -> None:
    """Addresses are compared without the zone that the kernel appends."""
    assert str(parse_address("fe80::1%eth0")) == "fe80::1"


def test_client_ports_hold_what_the_kernel_picks() -> None:
    """A port picked by the kernel lies in the range of client ports."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        assert sock.getsockname()[1] in read_client_ports()
