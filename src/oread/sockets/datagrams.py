"""Open, bind and join UDP sockets with the right options per mode.

One socket per exact address: on Linux a socket bound to a group or to a
broadcast address hears that address and nothing else, so it can be shared
without a way to steal unicast. Where that is not so (macOS) it is bound to
the wildcard and the listener filters by destination.

Set on every socket, with the reason:

* IP_MULTICAST_ALL=0: Linux's default delivers groups that *other* processes
  joined to any socket on the port.
* SO_BROADCAST=0: receiving does not need it, and an answer to a forged
  broadcast source then fails with EACCES in the kernel.
* IP_RECVERR stays off: on an unconnected socket one peer's ICMP error would
  surface as the failure of a send to another (libuv #4447).
* SO_REUSEADDR only on group-bound sockets: on unicast it lets any other user
  bind the port and take its datagrams.
* Groups and broadcast: TTL 1, so that an answer to a forged far-away source
  ends on this link.

Not here: reading loops, guards and handlers (`oread.listeners.datagrams`).
How several are read at once is in `oread.sockets.batches`. Left for later:
UDP_GRO and UDP_SEGMENT; more than 20 memberships on one socket.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import attrs

from oread.endpoints import Endpoint
from oread.errors import EndpointError
from oread.limits import DatagramLimits
from oread.sockets import options
from oread.sockets.interfaces import Interface, Interfaces, Mode, parse_address, read_interfaces
from oread.sockets.routes import Route

_PORT_TRIES = 16
"""Tries to find one free port on several addresses before EADDRINUSE is raised."""
_GROUP_HOPS = 1
"""RFC 1112 6.1: the default reach of a multicast datagram, here of its answers too."""
_LINK_SCOPES = (1, 2)
"""Interface-local and link-local groups (RFC 4291 2.7) mean another group on every link."""
_STORAGE_BYTES = 128
"""sizeof(struct sockaddr_storage), the same on Linux and macOS."""


@attrs.frozen(kw_only=True, eq=False)
class DatagramSocket:
    """One bound UDP socket and what it is for; the holder closes `sock`.

    Args:
        host: the address it serves, without a zone.
        wildcard: bound to every address, so the destination has to be asked.
        accepted: indexes of the interfaces it takes datagrams from; empty is any.
        receive_buffer_bytes: what the kernel granted.
    """

    sock: socket.socket
    mode: Mode
    host: str
    port: int
    wildcard: bool
    accepted: frozenset[int]
    receive_buffer_bytes: int

    @property
    def asks_destination(self) -> bool:
        """Return whether the destination decides about acceptance or answer."""
        return self.wildcard or self.mode != "unicast"

    def accepts(self, route: Route) -> bool:
        """Return whether what came this way was meant for this endpoint."""
        if self.mode != "unicast" and route.local != self.host:
            return False
        return route.mode == self.mode and (not self.accepted or route.interface in self.accepted)

    def ask_details(self) -> None:
        """Have the kernel tell destination, TTL and time of each datagram."""
        ask_details(self.sock)


@attrs.frozen(kw_only=True)
class _Plan:
    """One socket to be opened: where to bind it and what to join."""

    family: socket.AddressFamily
    mode: Mode
    host: str
    scope: int
    joins: tuple[int, ...]


def ask_details(sock: socket.socket) -> None:
    """Have the kernel tell destination, TTL and time of each datagram."""
    _ask_destination(sock)
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, options.IP_RECVTTL, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, options.IPV6_RECVHOPLIMIT, 1)
    if options.SO_TIMESTAMPNS != options.ABSENT:
        sock.setsockopt(socket.SOL_SOCKET, options.SO_TIMESTAMPNS, 1)


def limits_of(endpoint: Endpoint) -> DatagramLimits:
    """Return the limits of a UDP endpoint.

    Raises:
        EndpointError: it is an endpoint of another scheme.
    """
    if not isinstance(endpoint.limits, DatagramLimits):
        raise EndpointError(f"{endpoint}: not a udp endpoint")
    return endpoint.limits


def open_datagram_sockets(endpoint: Endpoint) -> list[DatagramSocket]:
    """Open every socket of a UDP endpoint, or none of them.

    A host name is looked up in the system's resolver, which may block: look
    it up before (or call this in a thread) where that matters.

    Returns:
        At least one socket, all on one port; the caller closes them.

    Raises:
        EndpointError: an option does not fit what the address means here.
        OSError: as the system said it; what was already opened is closed.
    """
    limits_of(endpoint)
    interfaces = read_interfaces()
    plans = _plan(endpoint, interfaces)
    for tries_left in reversed(range(_PORT_TRIES)):
        try:
            return _open_all(endpoint, plans)
        except OSError as error:
            # Port 0 took one that another of the addresses has no longer free.
            if error.errno != errno.EADDRINUSE or endpoint.port or len(plans) == 1 or not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


def adopt_datagram_socket(sock: socket.socket, endpoint: Endpoint) -> DatagramSocket:
    """Take a bound socket of somebody else's, set as one of our own.

    The holder of the result closes it. Memberships stay as they are.

    Raises:
        EndpointError: it is not a bound UDP socket.
    """
    if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise EndpointError(f"{endpoint}: the socket handed in is not a UDP socket")
    host, port = sock.getsockname()[:2]
    if not port:
        raise EndpointError(f"{endpoint}: the socket handed in is not bound")
    mode = read_interfaces().mode(parse_address(host))
    sock.setblocking(False)
    _set_options(sock, endpoint, mode, host)
    return _finish(sock, mode, str(parse_address(host)), ())


def open_sending_socket(
    family: int,
    *,
    interface: int = 0,
    source: IPv4Address | None = None,
    hops: int | None = None,
    loop: bool = True,
    dscp: int = 0,
    broadcast: bool = True,
) -> socket.socket:
    """Open an unbound socket that may send to groups and broadcasts.

    It is for callers, never for a listener: SO_BROADCAST is on.

    Args:
        family: AF_INET or AF_INET6.
        interface: index of the interface for groups; 0 is the system's choice.
        source: the address on that interface to send from. Linux finds none
            on `lo`, where nothing else has one, and sends from 0.0.0.0.
        hops: how many links a datagram may cross; None is 1 for a group's,
            the system's default for others.
        loop: whether groups joined on this machine get a copy.
        dscp: the class of service, 0 to 63 (RFC 2474).
        broadcast: False leaves SO_BROADCAST off.
    """
    with contextlib.ExitStack() as cleanup:
        sock = cleanup.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sock.setblocking(False)
        set_manner(sock, hops=hops, loop=loop, dscp=dscp)
        if family == socket.AF_INET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, int(broadcast))
            if interface:
                # struct ip_mreqn: group, address, index.
                address = source.packed if source is not None else bytes(4)
                request = struct.pack("@4s4si", bytes(4), address, interface)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface)
        cleanup.pop_all()
        return sock


def set_manner(sock: socket.socket, *, hops: int | None, loop: bool, dscp: int) -> None:
    """Set how a socket sends; the arguments are those of `open_sending_socket`."""
    group_hops = _GROUP_HOPS if hops is None else hops
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, group_hops)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, int(loop))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)
        if hops is not None:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, group_hops)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, int(loop))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
        if hops is not None:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)


def _plan(endpoint: Endpoint, interfaces: Interfaces) -> list[_Plan]:
    """Say which sockets an endpoint needs, one per exact address."""
    found = socket.getaddrinfo(
        endpoint.host,
        endpoint.port,
        type=socket.SOCK_DGRAM,
        proto=socket.IPPROTO_UDP,
        flags=socket.AI_PASSIVE,
    )
    plans: list[_Plan] = []
    for family, _, _, _, sockaddr in found:
        address = parse_address(str(sockaddr[0]))
        mode = interfaces.mode(address)
        _check_options(endpoint, mode)
        zone = int(sockaddr[3]) if len(sockaddr) > 3 else 0
        chosen = _choose(endpoint, interfaces, family, mode, zone)
        indexes = tuple(each.index for each in chosen)
        by_link = isinstance(address, IPv6Address) and address.packed[1] & 0xF in _LINK_SCOPES
        if mode == "multicast" and by_link:
            # Such a group is bound with its link, and the socket then hears only that one.
            plans += [
                _Plan(family=family, mode=mode, host=str(address), scope=index, joins=(index,))
                for index in indexes
            ]
        else:
            plans.append(_Plan(family=family, mode=mode, host=str(address), scope=zone, joins=indexes))
    return list(dict.fromkeys(plans))


def _check_options(endpoint: Endpoint, mode: Mode) -> None:
    """Refuse the options that mean nothing for this mode."""
    wrong = {
        "source": endpoint.source is not None and mode != "multicast",
        "interface": endpoint.interface is not None and mode == "unicast",
        "shared": endpoint.shared and mode == "unicast",
        "reuse_port": endpoint.reuse_port and mode != "unicast",
    }
    for name, found in wrong.items():
        if found:
            raise EndpointError(f"{endpoint}: the option {name} does not fit a {mode} address")


def _choose(
    endpoint: Endpoint, interfaces: Interfaces, family: int, mode: Mode, zone: int
) -> tuple[Interface, ...]:
    """Return the interfaces a group or broadcast is heard on; () is any."""
    wanted = endpoint.interface if endpoint.interface is not None else zone or None
    if mode == "unicast":
        return ()
    if wanted is not None:
        return (interfaces.find(wanted),)
    if mode == "broadcast":
        return ()
    chosen = interfaces.joinable(family)
    if not chosen:
        raise OSError(errno.ENODEV, f"no interface is up that can join {endpoint.host}")
    return chosen


def _open_all(endpoint: Endpoint, plans: list[_Plan]) -> list[DatagramSocket]:
    opened: list[DatagramSocket] = []
    port = endpoint.port
    with contextlib.ExitStack() as cleanup:
        for plan in plans:
            sock = cleanup.enter_context(socket.socket(plan.family, socket.SOCK_DGRAM, socket.IPPROTO_UDP))
            opened.append(_open(sock, endpoint, plan, port))
            port = opened[-1].port
        cleanup.pop_all()
    return opened


def _open(sock: socket.socket, endpoint: Endpoint, plan: _Plan, port: int) -> DatagramSocket:
    """Set, bind and join one fresh socket, which the caller closes."""
    sock.setblocking(False)
    _set_options(sock, endpoint, plan.mode, plan.host)
    if plan.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if endpoint.reuse_port or (endpoint.shared and plan.mode == "broadcast"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    elif endpoint.shared and options.LINUX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    elif endpoint.shared:
        # The BSDs share a group's port only with this one.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    host = plan.host
    if plan.mode != "unicast" and not options.LINUX:
        host = "0.0.0.0" if plan.family == socket.AF_INET else "::"  # noqa: S104 - filtered by destination
    sock.bind((host, port) if plan.family == socket.AF_INET else (host, port, 0, plan.scope))
    if plan.mode == "multicast":
        for index in plan.joins:
            _join(sock, plan, index, endpoint.source)
    return _finish(sock, plan.mode, plan.host, plan.joins)


def _set_options(sock: socket.socket, endpoint: Endpoint, mode: Mode, host: str) -> None:
    """Set what an endpoint's socket needs, if possible before it is bound."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, limits_of(endpoint).receive_buffer_bytes)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 0)
    if sock.family == socket.AF_INET6 and options.IPV6_MULTICAST_ALL != options.ABSENT:
        sock.setsockopt(socket.IPPROTO_IPV6, options.IPV6_MULTICAST_ALL, 0)
    elif sock.family == socket.AF_INET and options.IP_MULTICAST_ALL != options.ABSENT:
        sock.setsockopt(socket.IPPROTO_IP, options.IP_MULTICAST_ALL, 0)
    if mode != "unicast" or parse_address(host).is_unspecified:
        # Asked only once it is bound, the first datagrams would come without.
        _ask_destination(sock)
    if mode != "unicast" and sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _GROUP_HOPS)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _GROUP_HOPS)
    elif mode != "unicast":
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _GROUP_HOPS)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _GROUP_HOPS)


def _join(sock: socket.socket, plan: _Plan, index: int, source: str | None) -> None:
    """Join a group on one interface (RFC 3678 5.1), of one source if named."""
    level = socket.IPPROTO_IP if plan.family == socket.AF_INET else socket.IPPROTO_IPV6
    # `0L` aligns what follows as sockaddr_storage is; macOS packs to 4 bytes.
    request = struct.pack("@I0L" if options.LINUX else "@I", index) + _storage(plan.family, plan.host)
    if source is None:
        sock.setsockopt(level, options.MCAST_JOIN_GROUP, request)
        return
    try:
        request += _storage(plan.family, source)
    except OSError:
        raise EndpointError(f"source={source} is not an address of the group's kind") from None
    sock.setsockopt(level, options.MCAST_JOIN_SOURCE_GROUP, request)


def _storage(family: int, host: str) -> bytes:
    """Pack a sockaddr_storage without port.

    Raises:
        OSError: the host is no numeric address of this family.
    """
    packed = socket.inet_pton(family, host)
    gap = bytes(2) if family == socket.AF_INET else bytes(6)
    size = 16 if family == socket.AF_INET else 28
    head = struct.pack("=H", family) if options.LINUX else struct.pack("=BB", size, family)
    return (head + gap + packed).ljust(_STORAGE_BYTES, b"\0")


def _finish(sock: socket.socket, mode: Mode, host: str, joins: tuple[int, ...]) -> DatagramSocket:
    bound: tuple[Any, ...] = sock.getsockname()
    return DatagramSocket(
        sock=sock,
        mode=mode,
        host=host,
        port=bound[1],
        wildcard=parse_address(bound[0]).is_unspecified,
        accepted=frozenset(joins),
        receive_buffer_bytes=_granted_bytes(sock),
    )


def _ask_destination(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, options.IP_PKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, options.IPV6_RECVPKTINFO, 1)


def _granted_bytes(sock: socket.socket) -> int:
    """Return the receive buffer in the unit it was asked for (socket(7))."""
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return granted // 2 if options.LINUX else granted
