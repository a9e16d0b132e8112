"""Say which network interfaces there are and what an address means here.

`10.77.0.255` is a machine or a broadcast address: only the interfaces know.
They are read with getifaddrs(3), which Linux and macOS have alike; rtnetlink
would need a second reader for macOS, and psutil has no indexes.

A value of this module is a snapshot: it does not follow later changes.
Not here: sockets, and watching for changes.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import socket
import sys
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address
from pathlib import Path
from typing import Literal

import attrs

from oread.sockets import options

Mode = Literal["unicast", "multicast", "broadcast"]
"""How a datagram is addressed."""
IpAddress = IPv4Address | IPv6Address

# net/if.h; the same on Linux and macOS but for MULTICAST.
_UP = 0x1
_BROADCAST = 0x2
_LOOPBACK = 0x8
_MULTICAST = 0x1000 if options.LINUX else 0x8000

_LIMITED_BROADCAST = IPv4Address("255.255.255.255")
_HOST_PREFIX_BITS = 31
"""From this length on an IPv4 network has no broadcast address (RFC 3021)."""


@attrs.frozen(kw_only=True)
class Interface:
    """One network interface as it was when it was read.

    Args:
        broadcasts: the addresses that reach every host behind it, both as
            configured and as computed from each prefix, which the kernel
            takes for broadcasts too (fib_add_ifaddr).
    """

    name: str
    index: int
    up: bool
    loopback: bool
    multicast: bool
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    broadcasts: frozenset[IPv4Address] = frozenset()

    def carries(self, family: int) -> bool:
        """Return whether it is up and has an address of this family."""
        version = 4 if family == socket.AF_INET else 6
        return self.up and any(address.version == version for address in self.addresses)


@attrs.frozen(kw_only=True)
class Interfaces:
    """All interfaces of the machine (of this network namespace) at once."""

    all: tuple[Interface, ...]
    own: frozenset[IpAddress]
    """Every address of this machine."""
    broadcasts: frozenset[IPv4Address]
    """Every directed broadcast address, and 255.255.255.255."""
    loopback_indexes: frozenset[int]
    names: dict[int, str]

    @classmethod
    def of(cls, interfaces: tuple[Interface, ...]) -> Interfaces:
        """Index a list of interfaces by what the guards ask of it."""
        return cls(
            all=interfaces,
            own=frozenset(_unscoped(address.ip) for each in interfaces for address in each.addresses),
            broadcasts=frozenset((_LIMITED_BROADCAST,)).union(*(each.broadcasts for each in interfaces)),
            loopback_indexes=frozenset(each.index for each in interfaces if each.loopback),
            names={each.index: each.name for each in interfaces},
        )

    def mode(self, address: IpAddress) -> Mode:
        """Say how a datagram to this address is addressed."""
        if address.is_multicast:
            return "multicast"
        return "broadcast" if address in self.broadcasts else "unicast"

    def on_link(self, index: int, address: IpAddress) -> bool:
        """Tell whether an address is of a network that an interface is on."""
        networks = (network for each in self.all if each.index == index for network in each.addresses)
        return any(network.version == address.version and address in network.network for network in networks)

    def find(self, name_or_index: str | int) -> Interface:
        """Return the interface of this name or index.

        Raises:
            OSError: ENODEV, naming the interfaces that exist.
        """
        wanted = str(name_or_index)
        for each in self.all:
            if wanted in {each.name, str(each.index)}:
                return each
        there = ", ".join(each.name for each in self.all)
        raise OSError(errno.ENODEV, f"no interface {wanted}; there are: {there}")

    def joinable(self, family: int) -> tuple[Interface, ...]:
        """Return where a group of this family can be joined when none is named.

        Linux does not flag `lo` as MULTICAST, yet joins and delivers there.
        """
        return tuple(each for each in self.all if (each.multicast or each.loopback) and each.carries(family))

    def reaching(self, address: IpAddress) -> tuple[Interface, ...]:
        """Return by which interfaces a group or broadcast can be sent.

        Not by loopback where there is another: what is sent there to a group or
        broadcast is heard on this machine as well.
        """
        if isinstance(address, IPv6Address) or address.is_multicast:
            found = self.joinable(socket.AF_INET if address.version == 4 else socket.AF_INET6)
        else:
            limited = address == _LIMITED_BROADCAST
            found = tuple(
                each
                for each in self.all
                if each.up and each.broadcasts and (limited or address in each.broadcasts)
            )
        return tuple(each for each in found if not each.loopback) or found


def read_interfaces() -> Interfaces:
    """Read the interfaces of the machine with getifaddrs(3).

    Raises:
        OSError: the system could not list them.
    """
    libc = ctypes.CDLL(ctypes.util.find_library("c") if not options.LINUX else None, use_errno=True)
    head = ctypes.POINTER(_IfAddrs)()
    if libc.getifaddrs(ctypes.byref(head)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    found: dict[str, _Draft] = {name: _Draft(index) for index, name in socket.if_nameindex()}
    try:
        node = head
        while node:
            entry = node.contents
            draft = found.get(entry.name.decode(errors="surrogateescape"))
            # None: it appeared between the two questions; the next snapshot has it.
            if draft is not None:
                draft.add(entry)
            node = entry.next
    finally:
        libc.freeifaddrs(head)
    return Interfaces.of(tuple(draft.finish(name) for name, draft in found.items()))


class _SockAddr(ctypes.Structure):
    """The part of every sockaddr_in and sockaddr_in6 that is read."""

    _fields_ = (
        ("head", ctypes.c_uint8 * 2),
        ("port", ctypes.c_uint16),
        ("v4", ctypes.c_uint8 * 4),
        ("v6", ctypes.c_uint8 * 16),
    )

    @property
    def family(self) -> int:
        """Return the family: two bytes on Linux; BSD's first one is a length."""
        head = bytes(self.head)
        return int.from_bytes(head, sys.byteorder) if options.LINUX else head[1]


class _IfAddrs(ctypes.Structure):
    """`struct ifaddrs`, the same on Linux and macOS."""


_IfAddrs._fields_ = [
    ("next", ctypes.POINTER(_IfAddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.POINTER(_SockAddr)),
    ("netmask", ctypes.POINTER(_SockAddr)),
    ("broadcast", ctypes.POINTER(_SockAddr)),
    ("data", ctypes.c_void_p),
]


class _Draft:
    """One interface while its getifaddrs entries come in."""

    __slots__ = ("addresses", "broadcasts", "flags", "index")

    def __init__(self, index: int) -> None:
        self.index = index
        self.flags = 0
        self.addresses: list[IPv4Interface | IPv6Interface] = []
        self.broadcasts: set[IPv4Address] = set()

    def add(self, entry: _IfAddrs) -> None:
        """Take what one entry says; most say one address."""
        self.flags |= entry.flags
        address = _address(entry.address)
        if address is None:
            return
        bits = _prefix_bits(_address(entry.netmask))
        if isinstance(address, IPv6Address):
            self.addresses.append(IPv6Interface((address, bits)))
            return
        network = IPv4Interface((address, bits))
        self.addresses.append(network)
        if bits >= _HOST_PREFIX_BITS:
            return
        self.broadcasts.add(network.network.broadcast_address)
        # The same field is the far address of a point-to-point link, and glibc
        # puts the interface's own address there when no broadcast is set.
        configured = _address(entry.broadcast) if entry.flags & _BROADCAST else None
        hosts = int(network.network.hostmask)
        if isinstance(configured, IPv4Address) and int(configured) & hosts in {0, hosts} and int(configured):
            self.broadcasts.add(configured)

    def finish(self, name: str) -> Interface:
        """Return the finished value."""
        return Interface(
            name=name,
            index=self.index,
            up=bool(self.flags & _UP),
            loopback=bool(self.flags & _LOOPBACK),
            multicast=bool(self.flags & _MULTICAST),
            addresses=tuple(self.addresses),
            broadcasts=frozenset(self.broadcasts),
        )


def _address(pointer: ctypes._Pointer[_SockAddr]) -> IpAddress | None:
    if not pointer:
        return None
    found = pointer.contents
    if found.family == socket.AF_INET:
        return IPv4Address(bytes(found.v4))
    if found.family == socket.AF_INET6:
        return IPv6Address(bytes(found.v6))
    return None


def _prefix_bits(mask: IpAddress | None) -> int:
    return int(mask).bit_count() if mask is not None else 0


def _unscoped(address: IpAddress) -> IpAddress:
    """Drop a zone: own link-local addresses are compared without it."""
    return IPv6Address(address.packed) if isinstance(address, IPv6Address) else address


def parse_address(host: str) -> IpAddress:
    """Read a numeric address as the kernel reports it, without its zone.

    Raises:
        ValueError: it is no address.
    """
    return _unscoped(ip_address(host))


def is_address(host: str) -> bool:
    """Tell whether a host is a numeric address, with or without a zone: no resolver is asked."""
    try:
        parse_address(host)
    except ValueError:
        return False
    return True


_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_IANA_CLIENT_PORTS = range(49_152, 65_536)
"""RFC 6335 6: the dynamic ports, which macOS hands out."""


def read_client_ports() -> range:
    """Return the ports that the system hands out to sockets that name none."""
    try:
        low, high = _PORT_RANGE.read_text().split()
    except OSError:
        # Not Linux, or no /proc: the standard's range is the narrower one.
        return _IANA_CLIENT_PORTS
    return range(int(low), int(high) + 1)
