"""Remember where datagrams go: each way is looked up once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypedDict

from oread.client.destinations import Destination, Surroundings, check_hops, look_up_all
from oread.endpoints import EVERYWHERE, Endpoint
from oread.messages import Datagram, Peer

_KEPT = 4_096
"""Destinations remembered, as many as one call takes answers; beyond it all are looked up anew."""


class Way(TypedDict, total=False):
    """Where one datagram goes, and how; what is left out is the endpoint's.

    * `to`: whom. A message is answered from the address that was asked; else
      `message.peer`, or host and port.
    * `interface`: name or index of where it leaves; `*` sends a group or
      broadcast one by each interface.
    * `hops`: how many links it may cross.
    """

    to: Datagram | Peer | tuple[str, int] | None
    interface: str | int | None
    hops: int | None


class AddressBook:
    """Destinations by what was said of them, until the interfaces change.

    Args:
        surroundings: the interfaces there are.
    """

    __slots__ = ("_interfaces", "_known", "_surroundings")

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._interfaces = surroundings.now
        self._known: dict[object, tuple[Destination, ...]] = {}

    async def find(self, way: Way, endpoint: Endpoint, *, speaks: bool) -> tuple[Destination, ...]:
        """Return where a datagram goes; several with the interface `*`.

        Args:
            way: what was said of it.
            endpoint: where it goes if nothing was.
            speaks: whether the endpoint is one to send to, not an address of our own.

        Raises:
            ValueError, TypeError: `to` is needed, or a value can't be meant.
            OSError: there is no such name or interface.
        """
        check_hops(self, None, way.get("hops"))
        to, interface, source = way.get("to"), way.get("interface"), None
        if isinstance(to, Datagram):
            if to.mode != "unicast":
                interface = to.interface if interface is None else interface
            elif isinstance(to.local, tuple):
                source = to.local[0]
            to = to.peer
        address = to.address if isinstance(to, Peer) else to
        if address is None:
            if not speaks:
                raise ValueError(f"{endpoint} is an address of this machine: say to whom, by to=")
            address = (endpoint.host, endpoint.port)
            interface = endpoint.interface if interface is None else interface
        if not isinstance(address, tuple):
            raise TypeError(f"to={address!r}: a datagram goes to a host and a port")
        if self._interfaces is not self._surroundings.now:
            self._interfaces = self._surroundings.now
            self._known.clear()
        key = (*address, interface, source)
        found = self._known.get(key)
        if found is None or interface == EVERYWHERE:
            found = await look_up_all(*address, interface, self._surroundings, source=source)
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[key] = found
        return found

    @contextlib.contextmanager
    def looking_again(self) -> Iterator[None]:
        """Forget everything when the system refuses: an interface may have been made anew."""
        try:
            yield
        except OSError:
            self._surroundings.read_again()
            raise
