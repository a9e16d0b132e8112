"""Set what UDP sockets need, and ask them what the kernel knows.

Set on every socket, with the reason:

* IP_MULTICAST_ALL=0: Linux's default delivers groups that *other* processes
  joined to any socket on the port.
* SO_BROADCAST=0: receiving does not need it, and an answer to a forged
  broadcast source then fails with EACCES in the kernel.
* IP_RECVERR=0, also where a socket handed in has it on: one peer's ICMP error
  would surface as the failure of a send to another (libuv #4447), and what is
  not fetched from the error queue keeps the socket ready for ever.
* Groups and broadcast: TTL 1 if no other is asked for, so that an answer to a
  forged far-away source ends on this link.

Not here: opening, binding and joining (`oread.sockets.datagrams`).
"""

from __future__ import annotations

import socket
import struct

from oread.endpoints import Endpoint
from oread.errors import EndpointError
from oread.limits import DatagramLimits
from oread.sockets import options
from oread.sockets.interfaces import Mode, parse_address

_GROUP_HOPS = 1
"""RFC 1112 6.1: the default reach of a multicast datagram, here of its answers too."""
_ECN_BITS = 2
"""The low bits of the field are not of the service class (RFC 3168 5)."""
_MEMORY_INFO = struct.Struct("=9I")


def limits_of(endpoint: Endpoint) -> DatagramLimits:
    """Return the limits of a UDP endpoint.

    Raises:
        EndpointError: it is an endpoint of another scheme.
    """
    if not isinstance(endpoint.limits, DatagramLimits):
        raise EndpointError(f"{endpoint}: not a udp endpoint")
    return endpoint.limits


def set_options(sock: socket.socket, endpoint: Endpoint, mode: Mode, host: str) -> None:
    """Set what an endpoint's socket needs, if possible before it is bound."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, limits_of(endpoint).receive_buffer_bytes)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 0)
    if sock.family == socket.AF_INET6 and options.LINUX:
        sock.setsockopt(socket.IPPROTO_IPV6, options.IPV6_MULTICAST_ALL, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, options.IPV6_RECVERR, 0)
    elif options.LINUX:
        sock.setsockopt(socket.IPPROTO_IP, options.IP_MULTICAST_ALL, 0)
        sock.setsockopt(socket.IPPROTO_IP, options.IP_RECVERR, 0)
    if mode != "unicast" or parse_address(host).is_unspecified:
        # Asked only once it is bound, the first datagrams would come without.
        _ask_destination(sock)
    hops = endpoint.ttl or (_GROUP_HOPS if mode != "unicast" else None)
    if hops is not None and sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, hops)
    elif hops is not None:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hops)
    if endpoint.dscp is not None and sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, endpoint.dscp << _ECN_BITS)
    elif endpoint.dscp is not None:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, endpoint.dscp << _ECN_BITS)


def set_manner(sock: socket.socket, *, hops: int | None, loop: bool, dscp: int) -> None:
    """Set how a socket sends; the arguments are those of `open_sending_socket`."""
    group_hops = _GROUP_HOPS if hops is None else hops
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, group_hops)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, int(loop))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << _ECN_BITS)
        if hops is not None:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, group_hops)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, int(loop))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << _ECN_BITS)
        if hops is not None:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)


def ask_details(sock: socket.socket) -> None:
    """Have the kernel tell destination, TTL, fragments and time of each datagram."""
    _ask_destination(sock)
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, options.IP_RECVTTL, 1)
        if options.IP_RECVFRAGSIZE != options.ABSENT:
            sock.setsockopt(socket.IPPROTO_IP, options.IP_RECVFRAGSIZE, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, options.IPV6_RECVHOPLIMIT, 1)
        if options.IPV6_RECVFRAGSIZE != options.ABSENT:
            sock.setsockopt(socket.IPPROTO_IPV6, options.IPV6_RECVFRAGSIZE, 1)
    if options.SO_TIMESTAMPNS != options.ABSENT:
        sock.setsockopt(socket.SOL_SOCKET, options.SO_TIMESTAMPNS, 1)


def _ask_destination(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, options.IP_PKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, options.IPV6_RECVPKTINFO, 1)


def kernel_drops(sock: socket.socket) -> int:
    """Return what the kernel dropped at an open socket: its buffer was full."""
    if options.SO_MEMINFO == options.ABSENT or not isinstance(sock, socket.socket) or sock.fileno() < 0:
        return 0
    # sock_diag(7): the ninth number, SK_MEMINFO_DROPS.
    numbers = sock.getsockopt(socket.SOL_SOCKET, options.SO_MEMINFO, _MEMORY_INFO.size)
    drops: int = _MEMORY_INFO.unpack(numbers)[8]
    return drops


def granted_bytes(sock: socket.socket) -> int:
    """Return the receive buffer in the unit it was asked for (socket(7))."""
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return granted // 2 if options.LINUX else granted
