"""Say where a datagram goes, and by which interface.

The interface stands in a control message of each datagram (ip(7), RFC 3542 6),
so one socket sends by all of them, and needs no privilege.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import attrs
import trio

from oread.endpoints import EVERYWHERE, Endpoint
from oread.errors import EndpointError
from oread.sockets import options
from oread.sockets.interfaces import Interface, Interfaces, Mode, parse_address, read_interfaces
from oread.sockets.routes import Ancillary

MOST_HOPS = 255
"""A hop count has 8 bits (RFC 791, RFC 8200)."""
MOST_DSCP = 63
"""A class of service has 6 (RFC 2474)."""


def check_hops(_instance: object, _attribute: object, value: int | None) -> None:
    """Refuse what is no number of hops.

    Raises:
        ValueError: with the value and what is allowed.
    """
    if value is not None and not 1 <= value <= MOST_HOPS:
        raise ValueError(f"hops={value} is outside 1 to {MOST_HOPS}")


def check_dscp(_instance: object, _attribute: object, value: int) -> None:
    """Refuse what is no class of service.

    Raises:
        ValueError: with the value and what is allowed.
    """
    if not 0 <= value <= MOST_DSCP:
        raise ValueError(f"dscp={value} is outside 0 to {MOST_DSCP}")


@attrs.frozen(kw_only=True)
class Destination:
    """Where a datagram goes, as the system's calls take it."""

    family: int
    address: Any
    """As `sendto` takes it."""
    mode: Mode
    interface: Interface | None = None
    """Where it leaves; None is the system's choice."""
    source: bytes | None = None
    """The address it leaves from, packed; None is the system's choice."""

    @property
    def shared(self) -> bool:
        """A group or broadcast address: several may answer."""
        return self.mode != "unicast"

    @property
    def connects(self) -> bool:
        """One peer, by the way that the system chooses."""
        return not self.shared and self.interface is None

    def ancillary(self, hops: int | None = None) -> Ancillary:
        """Return the control messages of a datagram to there.

        Args:
            hops: how many links it may cross; None leaves it to the socket.
        """
        found: Ancillary = []
        if self.interface is not None or self.source is not None:
            found.append(_leave_by(self.family, self.interface, self.source))
        if hops is not None and self.family == socket.AF_INET:
            found.append((socket.IPPROTO_IP, socket.IP_TTL, struct.pack("@i", hops)))
        elif hops is not None:
            found.append((socket.IPPROTO_IPV6, options.IPV6_HOPLIMIT, struct.pack("@i", hops)))
        return found


def _leave_by(family: int, interface: Interface | None, source: bytes | None) -> tuple[int, int, bytes]:
    """Make the PKTINFO of a datagram that leaves by one interface, or from one address."""
    index = 0 if interface is None else interface.index
    if family == socket.AF_INET6:
        # struct in6_pktinfo: source, index.
        packed = struct.pack("@16sI", source or bytes(16), index)
        return socket.IPPROTO_IPV6, options.IPV6_PKTINFO, packed
    if source is None and interface is not None:
        # Linux finds none on `lo`, where nothing else has one, and would send from 0.0.0.0.
        addresses = [each.ip.packed for each in interface.addresses if isinstance(each.ip, IPv4Address)]
        source = addresses[0] if addresses else None
    # struct in_pktinfo: index, source, address.
    packed = struct.pack("@i4s4s", index, source or bytes(4), bytes(4))
    return socket.IPPROTO_IP, options.IP_PKTINFO, packed


class Surroundings:
    """The interfaces of the machine, read again when an unknown one is met."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now: Interfaces = read_interfaces()

    def read_again(self) -> None:
        """Take the interfaces as they are now."""
        self.now = read_interfaces()

    def name(self, index: int) -> str | None:
        """Return the name of an interface; None when there is none of this index."""
        if index and index not in self.now.names:
            self.read_again()
        return self.now.names.get(index)

    def find(self, name_or_index: str | int) -> Interface:
        """Return an interface.

        Raises:
            OSError: ENODEV, naming the interfaces that exist.
        """
        try:
            return self.now.find(name_or_index)
        except OSError:
            self.read_again()
            return self.now.find(name_or_index)


async def look_up(
    host: str,
    port: int,
    interface: str | int | None,
    surroundings: Surroundings,
    *,
    source: str | None = None,
) -> Destination:
    """Look up a host, which may be a name or have a zone (`fe80::1%eth0`).

    Args:
        host: the first of its addresses is taken.
        port: of the peer.
        interface: name or index of where datagrams leave; None is the system's choice.
        surroundings: the interfaces there are.
        source: the address of this machine to send from; None is the system's choice.

    Raises:
        OSError: there is no such name or interface.
    """
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP)
    family, _, _, _, address = found[0]
    ip = parse_address(str(address[0]))
    destination = Destination(
        family=family,
        address=address,
        mode=surroundings.now.mode(ip),
        source=parse_address(source).packed if source is not None else None,
    )
    return destination if interface is None else _by(destination, surroundings.find(interface))


def _by(destination: Destination, interface: Interface) -> Destination:
    """Return the same destination by one interface."""
    address = destination.address
    ip = parse_address(str(address[0]))
    if isinstance(ip, IPv6Address) and (ip.is_link_local or ip.is_multicast):
        address = (*address[:3], interface.index)
    return attrs.evolve(destination, address=address, interface=interface)


async def look_up_all(
    host: str,
    port: int,
    interface: str | int | None,
    surroundings: Surroundings,
    *,
    source: str | None = None,
) -> tuple[Destination, ...]:
    """Look up a host; with `*` for the interface, by each that leads there.

    Returns:
        At least one; with `*` the interfaces are read anew.

    Raises:
        ValueError: `*`, and the host is one machine.
        OSError: there is no such name or interface.
    """
    if interface != EVERYWHERE:
        return (await look_up(host, port, interface, surroundings, source=source),)
    surroundings.read_again()
    found = await look_up(host, port, None, surroundings)
    if not found.shared:
        raise ValueError(f"{host} is one machine: interface=* is for groups and broadcasts")
    by_each = tuple(
        _by(found, each) for each in surroundings.now.reaching(parse_address(str(found.address[0])))
    )
    if not by_each:
        raise OSError(errno.ENODEV, f"no interface is up that leads to {host}")
    return by_each


async def find_destinations(endpoint: Endpoint, surroundings: Surroundings) -> tuple[Destination, ...]:
    """Look up where a UDP endpoint is; several with `interface=*`.

    Raises:
        EndpointError: an option that does not fit the address.
        OSError: there is no such name or interface.
    """
    try:
        found = await look_up_all(endpoint.host, endpoint.port, endpoint.interface, surroundings)
    except ValueError as error:
        raise EndpointError(f"{endpoint}: {error}") from None
    if endpoint.interface is not None and not found[0].shared:
        mode = found[0].mode
        raise EndpointError(f"{endpoint}: the option interface does not fit a call to a {mode} address")
    return found
