"""Follow the numbers of the datagrams of one UDP endpoint: `?sequence=u32`.

A receiver of its own, so that others pay nothing. Handlers see payloads as
they came, number and all; a payload too short for one is handled all the same.
"""

from __future__ import annotations

from oread.dispatch import Entry
from oread.listeners.arrivals import Exchanges
from oread.listeners.guards import Source
from oread.listeners.receiver import Receiver
from oread.protocols.sequence import SequenceTracker
from oread.sockets.batches import Sockaddr
from oread.sockets.datagrams import DatagramSocket
from oread.sockets.routes import Route


class NumberedReceiver(Receiver):
    """One socket of an endpoint whose payloads begin with a number.

    Args:
        exchanges: what the endpoint's sockets share.
        opened: is closed by `close`.
        numbers: what the endpoint's sockets share too.
    """

    __slots__ = ("_numbers",)

    def __init__(self, exchanges: Exchanges, opened: DatagramSocket, numbers: SequenceTracker) -> None:
        super().__init__(exchanges, opened)
        self._numbers = numbers
        self._reads_singly = True  # where each passes `_handle`

    def _handle(self, entry: Entry, data: bytes, peer: Sockaddr, source: Source, route: Route) -> None:
        """Note the number of what was heard, then handle it."""
        self._numbers.note_payload(peer[:2], data)
        super()._handle(entry, data, peer, source, route)
