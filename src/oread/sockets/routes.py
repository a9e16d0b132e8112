"""Read how a datagram came, and with it how an answer goes back.

The kernel says it in control messages: ip(7), RFC 3542 6, socket(7).
Not here: the options that ask for them (`oread.sockets.datagrams`).
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Mapping
from typing import Any

import attrs

from oread.sockets import options
from oread.sockets.interfaces import Interfaces, Mode, parse_address

Ancillary = list[tuple[int, int, bytes]]
"""Control messages in the shape of `socket.sendmsg`."""

CONTROL_BYTES = 256
"""Room for PKTINFO (v6: 40), TTL, fragments, UDP_GRO (24 each) and a timestamp (32), with their headers."""


@attrs.frozen(kw_only=True)
class Route:
    """How a datagram came in, and with it how an answer goes back.

    Args:
        local: the address it was sent to.
        interface: index of the interface it arrived on; 0 is unknown.
        ancillary: what an answer carries, to leave from the right address
            (unicast) or by the right interface (group, broadcast).
    """

    mode: Mode
    local: str
    interface: int = 0
    ancillary: Ancillary = attrs.field(factory=list)


def read_route(control: bytes, interfaces: Interfaces) -> Route:
    """Read a PKTINFO control message: 12 bytes for IPv4, 20 for IPv6.

    Source: ip(7), RFC 3542 6. The answer to a unicast pins the address and
    not the interface (asymmetric routes); that to a group or broadcast pins
    the interface, with the address the kernel proposes.
    """
    if len(control) == 20:
        destination, index = control[:16], int.from_bytes(control[16:20], sys.byteorder)
        mode: Mode = "multicast" if destination[0] == 0xFF else "unicast"
        answer = destination + bytes(4) if mode == "unicast" else bytes(16) + control[16:20]
        level, kind = socket.IPPROTO_IPV6, options.IPV6_PKTINFO
        local = socket.inet_ntop(socket.AF_INET6, destination)
    else:
        index, proposed, destination = int.from_bytes(control[:4], sys.byteorder), control[4:8], control[8:12]
        local = socket.inet_ntoa(destination)
        mode = interfaces.mode(parse_address(local))
        # Linux proposes another address only for what was not sent to one of
        # ours: true as well for an interface that is newer than the snapshot.
        if mode == "unicast" and proposed not in {destination, bytes(4)}:
            mode = "broadcast"
        answer = bytes(4) + destination + bytes(4)
        if mode != "unicast":
            answer = control[:4] + (proposed if options.LINUX else bytes(4)) + bytes(4)
        level, kind = socket.IPPROTO_IP, options.IP_PKTINFO
    return Route(mode=mode, local=local, interface=index, ancillary=[(level, kind, answer)])


def find_destination(ancillary: Ancillary) -> bytes:
    """Return the bytes of the PKTINFO control message, for `read_route`."""
    for level, kind, value in ancillary:
        if kind == options.IP_PKTINFO and level == socket.IPPROTO_IP:
            return value
        if kind == options.IPV6_PKTINFO and level == socket.IPPROTO_IPV6:
            return value
    return b""


def sender_address(sockaddr: tuple[Any, ...], names: Mapping[int, str]) -> tuple[str, int]:
    """Return who sent a datagram, with its zone if it has one (RFC 4007 11)."""
    host, port, *rest = sockaddr
    zone = rest[1] if rest else 0
    return (f"{host}%{names.get(zone, zone)}" if zone else host), port


@attrs.frozen(kw_only=True)
class Details:
    """What the control messages of one datagram said beside its way.

    Args:
        timestamp: seconds since the epoch.
        fragment_bytes: the longest of the IP fragments that it came in; None, it was whole.
    """

    ttl: int | None = None
    fragment_bytes: int | None = None
    timestamp: float | None = None


def read_details(ancillary: Ancillary) -> Details:
    """Read the control messages that `ask_details` asked for."""
    ttl, timestamp, fragment_bytes = None, None, None
    for level, kind, value in ancillary:
        match level, kind:
            case (socket.IPPROTO_IP, options.IP_TTL_CONTROL) | (socket.IPPROTO_IPV6, options.IPV6_HOPLIMIT):
                ttl = int.from_bytes(value, sys.byteorder)
            case (socket.IPPROTO_IP, options.IP_RECVFRAGSIZE) | (
                socket.IPPROTO_IPV6,
                options.IPV6_RECVFRAGSIZE,
            ):
                fragment_bytes = int.from_bytes(value, sys.byteorder)
            case (socket.SOL_SOCKET, options.SO_TIMESTAMPNS):
                seconds, nanoseconds = struct.unpack("@ll", value)
                timestamp = seconds + nanoseconds / 1e9
    return Details(ttl=ttl, timestamp=timestamp, fragment_bytes=fragment_bytes)
