"""Open, bind and join UDP sockets with the right options per mode.

One socket per exact address: on Linux a socket bound to a group or to a
broadcast address hears that address and nothing else, so it can be shared
without a way to steal unicast. Where that is not so (macOS) it is bound to
the wildcard and the listener filters by destination.

SO_REUSEADDR is set on group-bound sockets only: on unicast it lets any other
user bind the port and take its datagrams.

A group on more interfaces than one socket can join (20) has further sockets,
bound alike. Linux refuses a wildcard and a group on one port, though neither
hears what is for the other: sockets of one service let each other in for the
moment of binding, which opens the port to nobody else. Not here: reading loops, guards and handlers
(`oread.listeners.datagrams`); what follows when interfaces come and go
(`oread.sockets.following`); how several datagrams are read at once
(`oread.sockets.batches`); what is set on a socket (`oread.sockets.settings`).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from ipaddress import IPv4Address
from typing import Any

import attrs

from oread.endpoints import Endpoint
from oread.errors import EndpointError
from oread.sockets import options
from oread.sockets.interfaces import Mode, parse_address, read_interfaces
from oread.sockets.memberships import join
from oread.sockets.plans import Plan, plan_sockets
from oread.sockets.routes import Route
from oread.sockets.settings import (
    ask_details,
    granted_bytes,
    kernel_drops,
    limits_of,
    set_manner,
    set_options,
)

_PORT_TRIES = 16
"""Tries to find one free port on several addresses before EADDRINUSE is raised."""
_FULL = (errno.ENOBUFS, errno.ENOMEM)
"""A socket holds 20 memberships on Linux (net.ipv4.igmp_max_memberships)."""


@attrs.frozen(kw_only=True, eq=False)
class DatagramSocket:
    """One bound UDP socket and what it is for; the holder closes `sock`.

    Args:
        host: the address it serves, without a zone.
        wildcard: bound to every address, so the destination has to be asked.
        accepted: indexes of the interfaces it takes datagrams from, of a group
            those where it is joined; None is any. The one thing that changes.
        receive_buffer_bytes: what the kernel granted.
        scope: index of the link that it is bound to; 0 is none.
        adopted: somebody else's, whose memberships stay as they are.
    """

    sock: socket.socket
    mode: Mode
    host: str
    port: int
    wildcard: bool
    accepted: set[int] | None
    receive_buffer_bytes: int
    scope: int = 0
    adopted: bool = False

    @property
    def asks_destination(self) -> bool:
        """Return whether the destination decides about acceptance or answer."""
        return self.wildcard or self.mode != "unicast"

    def accepts(self, route: Route) -> bool:
        """Return whether what came this way was meant for this endpoint."""
        if self.mode != "unicast" and route.local != self.host:
            return False
        return route.mode == self.mode and (self.accepted is None or route.interface in self.accepted)

    def kernel_drops(self) -> int:
        """Return what the kernel dropped here: the receive buffer was full."""
        return kernel_drops(self.sock)

    def ask_details(self) -> None:
        """Have the kernel tell destination, TTL, fragments and time of each datagram."""
        ask_details(self.sock)


def open_datagram_sockets(
    endpoint: Endpoint, beside: Collection[DatagramSocket] = ()
) -> list[DatagramSocket]:
    """Open every socket of a UDP endpoint, or none of them.

    A host name is looked up in the system's resolver, which may block: look
    it up before (or call this in a thread) where that matters.

    Args:
        endpoint: with port 0 the kernel picks one.
        beside: those of the same service, whose ports a group, or the wildcard, may have too.

    Returns:
        At least one socket, all on one port; the caller closes them.

    Raises:
        EndpointError: an option does not fit what the address means here.
        OSError: as the system said it; what was already opened is closed.
    """
    limits_of(endpoint)
    interfaces = read_interfaces()
    plans = plan_sockets(endpoint, interfaces)
    for tries_left in reversed(range(_PORT_TRIES)):
        try:
            return _open_all(endpoint, plans, beside)
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
    set_options(sock, endpoint, mode, host)
    return attrs.evolve(_finish(sock, mode, str(parse_address(host)), None), adopted=True)


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


def _open_all(
    endpoint: Endpoint, plans: list[Plan], beside: Collection[DatagramSocket]
) -> list[DatagramSocket]:
    opened: list[DatagramSocket] = []
    port = endpoint.port
    with contextlib.ExitStack() as cleanup:
        for plan in plans:
            same = [_open(endpoint, plan, port, _neighbours(plan, port, beside))]
            cleanup.callback(same[0].sock.close)
            for index in plan.indexes or () if plan.mode == "multicast" else ():
                further = join_group(endpoint, same, index, beside)
                if further is not None:
                    cleanup.callback(further.sock.close)
                    same.append(further)
            opened += same
            port = same[0].port
        cleanup.pop_all()
    return opened


def join_group(
    endpoint: Endpoint, same: list[DatagramSocket], index: int, beside: Collection[DatagramSocket]
) -> DatagramSocket | None:
    """Join a group on one more interface.

    Args:
        endpoint: whose group it is.
        same: its sockets, of which one may have room.
        index: of the interface.
        beside: as for `open_datagram_sockets`.

    Returns:
        A further socket, joined, when these are full; the caller closes it.

    Raises:
        OSError: as the system said it.
    """
    for each in same:
        assert each.accepted is not None
        try:
            join(each.sock, each.host, index, endpoint.source)
        except OSError as error:
            if error.errno in _FULL:
                continue
            if error.errno != errno.EADDRINUSE:  # else it has joined already
                raise
        each.accepted.add(index)
        return None
    return _open_further(endpoint, same, index, beside)


def open_link(
    endpoint: Endpoint, host: str, index: int, port: int, beside: Collection[DatagramSocket]
) -> DatagramSocket:
    """Open the socket of a link-scoped group on one link, joined; the caller closes it.

    Raises:
        OSError: as the system said it.
    """
    plan = Plan(family=socket.AF_INET6, mode="multicast", host=host, scope=index, indexes=(index,))
    opened = _open(endpoint, plan, port, _neighbours(plan, port, beside))
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(opened.sock.close)
        join_group(endpoint, [opened], index, beside)
        cleanup.pop_all()
    return opened


def _open_further(
    endpoint: Endpoint, same: list[DatagramSocket], index: int, beside: Collection[DatagramSocket]
) -> DatagramSocket:
    """Open another socket on a group's address, joined on one interface."""
    first = same[0]
    plan = Plan(
        family=first.sock.family, mode=first.mode, host=first.host, scope=first.scope, indexes=(index,)
    )
    opened = _open(endpoint, plan, first.port, [*same, *_neighbours(plan, first.port, beside)])
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(opened.sock.close)
        join(opened.sock, opened.host, index, endpoint.source)
        assert opened.accepted is not None
        opened.accepted.add(index)
        cleanup.pop_all()
    return opened


def _neighbours(plan: Plan, port: int, beside: Collection[DatagramSocket]) -> list[DatagramSocket]:
    """Return who has the port, and hears nothing that the plan is for.

    One address of this machine beside another, or the wildcard, is not among
    them: there the kernel's refusal shows a mistake. Nor is anybody where a
    group's socket is bound to the wildcard as well (macOS).
    """
    if not options.LINUX:
        return []
    return [
        each
        for each in beside
        if each.port == port
        and isinstance(each.sock, socket.socket)
        and each.sock.fileno() >= 0
        and each.sock.family == plan.family
        and each.host != plan.host
        and {each.mode, plan.mode} != {"unicast"}
    ]


@contextlib.contextmanager
def _lent(sock: socket.socket, neighbours: Sequence[DatagramSocket]) -> Iterator[None]:
    """Let a socket be bound beside its neighbours, for a block.

    SO_REUSEPORT is looked at when another socket is bound, and of a program of
    the same user only: before and after nobody comes beside them.
    """
    with contextlib.ExitStack() as restored:
        for each in (sock, *(neighbour.sock for neighbour in neighbours)) if neighbours else ():
            before = each.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            restored.callback(each.setsockopt, socket.SOL_SOCKET, socket.SO_REUSEPORT, before)
        yield


def _open(endpoint: Endpoint, plan: Plan, port: int, neighbours: Sequence[DatagramSocket]) -> DatagramSocket:
    """Open, set and bind one socket, which the caller closes; join nothing."""
    with contextlib.ExitStack() as cleanup:
        sock = cleanup.enter_context(socket.socket(plan.family, socket.SOCK_DGRAM, socket.IPPROTO_UDP))
        sock.setblocking(False)
        set_options(sock, endpoint, plan.mode, plan.host)
        if plan.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _set_sharing(sock, endpoint, plan.mode)
        host = plan.host
        if plan.mode != "unicast" and not options.LINUX:
            host = "0.0.0.0" if plan.family == socket.AF_INET else "::"  # noqa: S104 - filtered by destination
        with _lent(sock, neighbours):
            sock.bind((host, port) if plan.family == socket.AF_INET else (host, port, 0, plan.scope))
        # A group is accepted where it is joined, which comes next.
        accepted = () if plan.mode == "multicast" else plan.indexes
        opened = _finish(sock, plan.mode, plan.host, accepted)
        cleanup.pop_all()
    return attrs.evolve(opened, scope=plan.scope)


def _set_sharing(sock: socket.socket, endpoint: Endpoint, mode: Mode) -> None:
    if endpoint.reuse_port or (endpoint.shared and mode == "broadcast"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if endpoint.shared and mode == "multicast" and options.LINUX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    elif endpoint.shared:
        # The BSDs share a group's port only with this one.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _finish(
    sock: socket.socket, mode: Mode, host: str, accepted: AbstractSet[int] | tuple[int, ...] | None
) -> DatagramSocket:
    bound: tuple[Any, ...] = sock.getsockname()
    return DatagramSocket(
        sock=sock,
        mode=mode,
        host=host,
        port=bound[1],
        wildcard=parse_address(bound[0]).is_unspecified,
        accepted=None if accepted is None else set(accepted),
        receive_buffer_bytes=granted_bytes(sock),
    )
