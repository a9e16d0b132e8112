"""Say where a datagram goes, and by which interface.

The interface stands in a control message of each datagram (ip(7), RFC 3542 6),
so one socket sends by all of them, and needs no privilege.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import attrs
import trio

from oread.endpoints import Endpoint
from oread.errors import EndpointError
from oread.sockets import options
from oread.sockets.interfaces import Interface, Interfaces, Mode, parse_address
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
        if self.interface is not None:
            found.append(_leave_by(self.family, self.interface))
        if hops is not None and self.family == socket.AF_INET:
            found.append((socket.IPPROTO_IP, socket.IP_TTL, struct.pack("@i", hops)))
        elif hops is not None:
            found.append((socket.IPPROTO_IPV6, options.IPV6_HOPLIMIT, struct.pack("@i", hops)))
        return found


def _leave_by(family: int, interface: Interface) -> tuple[int, int, bytes]:
    """Make the PKTINFO of a datagram that leaves by one interface."""
    if family == socket.AF_INET6:
        # struct in6_pktinfo: source, index.
        return socket.IPPROTO_IPV6, options.IPV6_PKTINFO, struct.pack("@16sI", bytes(16), interface.index)
    # struct in_pktinfo: index, source, address. Linux finds no source on `lo`, and would send from 0.0.0.0.
    sources = [each.ip.packed for each in interface.addresses if isinstance(each.ip, IPv4Address)]
    source = sources[0] if sources else bytes(4)
    return socket.IPPROTO_IP, options.IP_PKTINFO, struct.pack("@i4s4s", interface.index, source, bytes(4))


async def look_up(host: str, port: int, interface: str | int | None, interfaces: Interfaces) -> Destination:
    """Look up a host, which may be a name or have a zone (`fe80::1%eth0`).

    Args:
        host: the first of its addresses is taken.
        port: of the peer.
        interface: name or index of where datagrams leave; None is the system's choice.
        interfaces: those there are.

    Raises:
        OSError: there is no such name or interface.
    """
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP)
    family, _, _, _, address = found[0]
    ip = parse_address(str(address[0]))
    chosen = interfaces.find(interface) if interface is not None else None
    if chosen is not None and isinstance(ip, IPv6Address) and (ip.is_link_local or ip.is_multicast):
        address = (*address[:3], chosen.index)
    return Destination(family=family, address=address, mode=interfaces.mode(ip), interface=chosen)


async def find_destination(endpoint: Endpoint, interfaces: Interfaces) -> Destination:
    """Look up where a UDP endpoint is.

    Raises:
        EndpointError: an option that does not fit the address.
        OSError: there is no such name or interface.
    """
    found = await look_up(endpoint.host, endpoint.port, endpoint.interface, interfaces)
    if endpoint.interface is not None and not found.shared:
        raise EndpointError(f"{endpoint}: the option interface does not fit a call to a {found.mode} address")
    return found
