"""Serve one UDP endpoint: its sockets from start to drain.

Where a datagram becomes a message is `oread.listeners.receiver`; who is heard
and who is answered, `oread.listeners.guards`; what is in flight,
`oread.listeners.arrivals`; who notices that interfaces came or went,
`oread.listeners.watch`.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Set as AbstractSet

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
from oread.sockets.following import Group, follow_interfaces
from oread.sockets.interfaces import Interfaces


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

    __slots__ = (
        "_before",
        "_draining",
        "_exchanges",
        "_groups",
        "_numbers",
        "_receivers",
        "_refusal",
        "_started",
        "drained",
        "endpoint",
    )

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
        self._before: Counter[str] = Counter()
        """What the receivers counted whose link is gone."""
        self._groups = Group.of(sockets)
        self._refusal = ""

    def _make_receiver(self, opened: DatagramSocket) -> Receiver:
        self._exchanges.runtime.datagram_sockets.add(opened)
        if self._numbers is None:
            return Receiver(self._exchanges, opened)
        return NumberedReceiver(self._exchanges, opened, self._numbers)

    def _close(self, receiver: Receiver) -> None:
        self._exchanges.runtime.datagram_sockets.discard(receiver.socket)
        receiver.close()

    def start(self) -> None:
        """Begin to serve."""
        SERVED_PORTS.add(self.endpoint.port)
        self._started = True
        for receiver in self._receivers:
            receiver.start()
        if all(receiver.socket.accepted == set() for receiver in self._receivers):
            log = self._exchanges.runtime.log
            log.warning("%s: no interface is there yet: nothing is heard until it is", self.endpoint)
        if all(isinstance(receiver.socket.sock, socket.socket) for receiver in self._receivers):
            self._exchanges.runtime.interface_watch().follow(self)

    def on_interfaces(self, interfaces: Interfaces, gone: AbstractSet[int] | None) -> bool:
        """Judge by these interfaces, and be joined where they are; False is not yet all."""
        self._exchanges.follow(interfaces)
        sockets = [receiver.socket for receiver in self._receivers]
        beside = self._exchanges.runtime.datagram_sockets
        changes = follow_interfaces(self.endpoint, self._groups, sockets, interfaces, gone, beside)
        for receiver in [each for each in self._receivers if each.socket in changes.closing]:
            self._close(receiver)
            self._receivers.remove(receiver)
            self._before.update(_counts(receiver))
        for receiver in self._receivers:
            receiver.on_interfaces()
        for opened in changes.opened:
            receiver = self._make_receiver(opened)
            self._receivers.append(receiver)
            receiver.start()
        refusal = str(changes.failed or "")
        if refusal not in ("", self._refusal):
            self._exchanges.runtime.log.warning("%s: can't join, tried again: %s", self.endpoint, refusal)
        self._refusal = refusal
        return changes.failed is None

    def begin_drain(self) -> None:
        """Take what is queued now, then nothing; let handlers finish."""
        self._draining = True
        self._exchanges.runtime.interface_watch().leave(self)
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
        self._exchanges.runtime.interface_watch().leave(self)
        if self._started:
            SERVED_PORTS.remove(self.endpoint.port)
        for receiver in self._receivers:
            self._close(receiver)
        self._exchanges.runtime.registry.detach(self._exchanges.slot)
        self.drained.set()

    def statistics(self) -> EndpointStatistics:
        """Return the counters as they are now."""
        counts = Counter(self._before)
        for receiver in self._receivers:
            counts.update(_counts(receiver))
        refused = self._exchanges.refused + Counter(receive_full=counts["receive_full"])
        return EndpointStatistics(
            endpoint=str(self.endpoint),
            open=0,
            accepted=0,
            messages=counts["messages"],
            replies=counts["replies"],
            failures=self._exchanges.failures,
            refused=dict(refused),
            sequence=None if self._numbers is None else self._numbers.statistics(),
        )

    def _settle(self) -> None:
        """Close, and say so, once draining has come to its end."""
        reading = any(receiver.reading for receiver in self._receivers)
        if self._draining and not reading and self._exchanges.idle:
            self.abort()


def _counts(receiver: Receiver) -> dict[str, int]:
    return {
        "messages": receiver.messages,
        "replies": receiver.replies,
        "receive_full": receiver.kernel_drops(),
    }
