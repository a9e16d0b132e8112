"""Serve one UDP endpoint: its sockets from start to drain.

Where a datagram becomes a message is `oread.listeners.receiver`; who is heard
and who is answered, `oread.listeners.guards`; what is in flight,
`oread.listeners.arrivals`. Left for later: following the interfaces (a change
of theirs means new `Sources` and empty routes).
"""

from __future__ import annotations

import attrs
import trio

from oread.endpoints import JSONRPC, Endpoint
from oread.listeners.arrivals import Exchanges
from oread.listeners.guards import SERVED_PORTS
from oread.listeners.jsonrpc_datagrams import JsonRpcExchanges
from oread.listeners.numbered import NumberedReceiver
from oread.listeners.receiver import Receiver
from oread.listeners.runtime import EndpointStatistics, Runtime
from oread.protocols.sequence import SequenceTracker
from oread.sockets.datagrams import DatagramSocket


class DatagramListener:
    """The open sockets of one UDP endpoint.

    Args:
        runtime: what the service's listeners share.
        endpoint: as it was written; the bound one is `endpoint`.
        sockets: from `open_datagram_sockets`, all on one port. `abort` closes
            them; when the constructor raises they still are the caller's.

    Raises:
        RegistrationError: no handler serves the event, or one that does
            can't be served by UDP.
    """

    __slots__ = ("_draining", "_exchanges", "_numbers", "_receivers", "_started", "drained", "endpoint")

    def __init__(self, runtime: Runtime, endpoint: Endpoint, sockets: list[DatagramSocket]) -> None:
        self.endpoint = attrs.evolve(endpoint, port=sockets[0].port)
        self.drained = trio.Event()
        self._draining = False
        self._started = False
        make_exchanges = JsonRpcExchanges if endpoint.framing == JSONRPC else Exchanges
        self._exchanges = make_exchanges(runtime, self.endpoint, self._settle)
        self._numbers = None
        if endpoint.sequence is not None:
            self._numbers = SequenceTracker(bits=int(endpoint.sequence.removeprefix("u")))
        self._receivers = [self._make_receiver(each) for each in sockets]

    def _make_receiver(self, opened: DatagramSocket) -> Receiver:
        if self._numbers is None:
            return Receiver(self._exchanges, opened)
        return NumberedReceiver(self._exchanges, opened, self._numbers)

    def start(self) -> None:
        """Begin to serve."""
        SERVED_PORTS.add(self.endpoint.port)
        self._started = True
        for receiver in self._receivers:
            receiver.start()

    def begin_drain(self) -> None:
        """Take what is queued now, then nothing; let handlers finish."""
        self._draining = True
        for receiver in self._receivers:
            receiver.begin_drain()
        self._settle()

    def cancel_handlers(self) -> list[str]:
        """Cancel what still runs, drop delayed replies; name each handler."""
        cancelled = self._exchanges.cancel_all()
        self._settle()
        return cancelled

    def abort(self) -> None:
        """Close everything at once; harmless when done already."""
        if self._exchanges.closed:
            return
        self._exchanges.closed = True
        self._exchanges.cancel_all()
        self._exchanges.give_places()
        if self._started:
            SERVED_PORTS.remove(self.endpoint.port)
        for receiver in self._receivers:
            receiver.close()
        self._exchanges.runtime.registry.detach(self._exchanges.slot)
        self.drained.set()

    def statistics(self) -> EndpointStatistics:
        """Return the counters as they are now."""
        return EndpointStatistics(
            endpoint=str(self.endpoint),
            open=0,
            accepted=0,
            messages=sum(receiver.messages for receiver in self._receivers),
            replies=sum(receiver.replies for receiver in self._receivers),
            failures=self._exchanges.failures,
            refused={reason: count for reason, count in self._exchanges.refused.items() if count},
            sequence=None if self._numbers is None else self._numbers.statistics(),
        )

    def _settle(self) -> None:
        """Close, and say so, once draining has come to its end."""
        reading = any(receiver.reading for receiver in self._receivers)
        if self._draining and not reading and self._exchanges.idle:
            self.abort()
