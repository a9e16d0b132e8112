"""Read datagrams one by one, each with how it came.

For sockets of groups and broadcasts, and for whatever a handler wants to know
of a datagram: it costs about 3 µs more than reading in batches. What was
concluded from a control message is remembered in a bounded table.

Not here: what becomes of a datagram (`oread.listeners.receiver`).
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from oread.listeners.arrivals import Exchanges
from oread.sockets import options
from oread.sockets.batches import Sockaddr
from oread.sockets.datagrams import DatagramSocket
from oread.sockets.interfaces import Interfaces, parse_address
from oread.sockets.routes import CONTROL_BYTES, Ancillary, Route, find_destination, read_route

_ROUTES_KEPT = 1_024
"""Distinct (destination, interface) remembered per socket."""
_WHOLE_BYTES = 65_536
"""Room for the longest datagram, or a train of the same length, and one byte."""


class WayReader:
    """One socket, and the ways by which datagrams came to it.

    Args:
        exchanges: what the endpoint's sockets share.
        opened: read by this; not closed.
    """

    __slots__ = ("_asked", "_exchanges", "_opened", "_recvmsg", "_routes", "own")

    def __init__(self, exchanges: Exchanges, opened: DatagramSocket) -> None:
        self._exchanges = exchanges
        self._opened = opened
        self._recvmsg = opened.sock.recvmsg
        self._routes: dict[bytes, Route | None] = {}
        self._asked = False
        self.own = _own_route(opened, exchanges.interfaces)
        """How everything comes to a socket that does not ask."""

    def ask(self) -> None:
        """Have the kernel tell destination, TTL and time of each datagram."""
        if not self._asked:
            self._opened.ask_details()
            self._asked = True

    def forget(self) -> None:
        """Conclude anew: the interfaces have changed."""
        self.own = _own_route(self._opened, self._exchanges.interfaces)
        self._routes.clear()

    def read(self) -> tuple[Sequence[bytes], Ancillary, Sockaddr, Route | None]:
        """Read one datagram, or a train of one sender, whole.

        Raises:
            OSError: as the system said it; BlockingIOError, nothing waits.
        """
        data, ancillary, _flags, peer = self._recvmsg(_WHOLE_BYTES, CONTROL_BYTES)
        # Usually the destination is all there is.
        alone = len(ancillary) == 1 and ancillary[0][0] != socket.IPPROTO_UDP
        control = ancillary[0][2] if alone else find_destination(ancillary)
        try:
            route = self._routes[control]
        except KeyError:
            route = self.find(control)
        if not alone:
            return _take_apart(data, ancillary), ancillary, peer, route
        return (data,), ancillary, peer, route

    def find(self, control: bytes) -> Route | None:
        """Return the way that the kernel told, None when it was not meant for this endpoint."""
        route = read_route(control, self._exchanges.interfaces) if control else None
        if route is None or (route.interface == 0 and not self._opened.asks_destination):
            # Queued before the option was set, on a socket that does without.
            return None if self._opened.asks_destination else self.own
        if len(self._routes) >= _ROUTES_KEPT:
            self._routes.clear()
        found = self._routes[control] = route if self._opened.accepts(route) else None
        return found


def _take_apart(data: bytes, ancillary: Ancillary) -> Sequence[bytes]:
    """Return the datagrams of a train: those queued while the socket was read in batches."""
    for level, kind, value in ancillary:
        if (level, kind) == (socket.IPPROTO_UDP, options.UDP_GRO):
            size = int.from_bytes(value, sys.byteorder)
            if 0 < size < len(data):
                return [data[at : at + size] for at in range(0, len(data), size)]
    return (data,)


def _own_route(opened: DatagramSocket, interfaces: Interfaces) -> Route:
    """Return how everything comes to a socket bound to one unicast address.

    Which interface is not asked there. For a loopback address it is known;
    elsewhere a loopback source can't prove itself and is not heard.
    """
    loopback = parse_address(opened.host).is_loopback
    index = min(interfaces.loopback_indexes, default=0) if loopback else 0
    return Route(mode=opened.mode, local=opened.host, interface=index)
