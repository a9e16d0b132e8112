"""Read one UDP socket: here a datagram becomes a message.

`Receiver.receive` is that place: read, judge the source, call the handler,
judge the reply, send. One turn takes a bounded number of datagrams from one
socket; what is left makes the socket ready again.

Two ways to read: in batches (`oread.sockets.batches`) where the socket is
bound to a unicast address and no handler asks for the message, else one by one
with how each came (`oread.listeners.ways`). The replies to a batch are sent
together as well.

Nothing waits: a source that asks too often, a handler over the bound, a reply
the system has no room for are dropped and counted under a name of
`oread.listeners.guards.REASONS`. No error is ever sent: it would go wherever
a forged source points.

Not here: which sources and replies are refused (guards), socket options
(sockets).
"""

from __future__ import annotations

import errno
from collections.abc import Hashable
from time import perf_counter
from typing import Any

import attrs

from oread.dispatch import Entry, Failed, encode_payload
from oread.endpoints import MOST_HOPS
from oread.errors import HandlerError
from oread.listeners.arrivals import Arrival, DelayedReply, Exchanges
from oread.listeners.guards import Source
from oread.listeners.streaming import discard_stream
from oread.listeners.ways import WayReader
from oread.reactor import TURN_SECONDS
from oread.sockets.batches import Batch, Sockaddr, open_batch
from oread.sockets.datagrams import DatagramSocket
from oread.sockets.routes import Route, read_details
from oread.sockets.vectors import MOST_AT_ONCE

_CLOCK_EVERY = 32
"""Datagrams between two looks at the turn's clock: about 0.2 ms of a turn's 1 ms."""
_MOST_OF_TRAINS = 4 * MOST_AT_ONCE
"""Datagrams of one batch where they come in trains; of others the batch itself takes fewer."""
_DRAIN_TURNS = 256
"""Turns of at least 32 datagrams while draining; 4 MiB of receive buffer hold about 5,000 small ones."""
_SENDERS_KEPT = 4_096
"""Senders (address and port) remembered per socket; one takes about 0.6 KiB."""
_SEND_REFUSALS = {
    errno.EAGAIN: "send_full",
    errno.ENOBUFS: "send_full",
    errno.EMSGSIZE: "reply_too_large",
}


@attrs.frozen
class _Sender:
    """What is known of a sender to a unicast address."""

    arrival: Arrival
    """For all its sync calls, one after the other; without their data, which nobody is to keep.

    On the wildcard each way by which it comes is another sender.
    """
    port: int
    refusal: str | None
    """Why nothing of it is heard, or None."""
    exempt: bool
    """Whether nothing but a served port can refuse a reply to it, and replies are sent."""


class Receiver:
    """One socket of a UDP endpoint.

    Args:
        exchanges: what the endpoint's sockets share.
        opened: is closed by `close`.
    """

    __slots__ = (
        "_answers",
        "_arrival",
        "_batch",
        "_exchanges",
        "_kernel_drops",
        "_most",
        "_reads_singly",
        "_senders",
        "_sendmsg",
        "_sendto",
        "_turns_left",
        "_ways",
        "messages",
        "port",
        "reading",
        "replies",
        "socket",
    )

    def __init__(self, exchanges: Exchanges, opened: DatagramSocket) -> None:
        self._exchanges = exchanges
        self.socket = opened
        self._kernel_drops = 0
        memory = exchanges.runtime.batch_memory()
        self._ways = WayReader(exchanges, opened)
        asks = opened.asks_destination
        self._batch: Batch = open_batch(
            opened.sock, exchanges.limits.datagram_bytes, memory, asks_destination=asks
        )
        self._reads_singly = (
            opened.mode != "unicast" or asks > self._batch.knows_destination or exchanges.endpoint.link_only
        )
        self._most = MOST_AT_ONCE
        """Datagrams of one batch; fewer when their handlers would take more than a turn."""
        self._senders: dict[Hashable, _Sender] = {}
        self._sendmsg = opened.sock.sendmsg
        self._sendto = opened.sock.sendto
        self._arrival = Arrival(exchanges, self)
        """One for all sync calls of what is read singly: it is not looked at after the call."""
        self._turns_left = 0
        default = "unicast" if opened.mode == "unicast" else "none"
        self._answers = (exchanges.endpoint.reply or default) == "unicast"
        self.port = opened.port
        self.messages = 0
        self.replies = 0
        self.reading = False

    def kernel_drops(self) -> int:
        """Return what the kernel dropped at this socket: nobody read it in time."""
        if self.socket.sock.fileno() < 0:
            return self._kernel_drops
        return self.socket.kernel_drops()

    def start(self) -> None:
        """Read from now on."""
        runtime, wanted = self._exchanges.runtime, self._exchanges.limits.receive_buffer_bytes
        if self.socket.receive_buffer_bytes < wanted:
            runtime.log.info(
                "%s: the receive buffer has %d bytes, not %d (net.core.rmem_max): bursts are dropped earlier",
                self._exchanges.endpoint,
                self.socket.receive_buffer_bytes,
                wanted,
            )
        if self._exchanges.slot.entry.wants_message or self._exchanges.endpoint.link_only:
            self._ways.ask()
        runtime.reactor.add(self.socket.sock.fileno(), self.on_ready)
        self.reading = True

    def begin_drain(self) -> None:
        """Take what is queued within a bound, turn by turn; then stop."""
        if self.reading:
            self._turns_left = _DRAIN_TURNS
            self._exchanges.runtime.reactor.defer(self._drain)

    def _drain(self) -> None:
        if not self.reading:
            return
        self._turns_left -= 1
        if self.receive() and self._turns_left:
            self._exchanges.runtime.reactor.defer(self._drain)
        elif not self._exchanges.closed:
            self._stop()
            self._exchanges.on_idle()

    def on_interfaces(self) -> None:
        """Forget what was concluded from the interfaces as they were."""
        self._ways.forget()
        self._senders.clear()

    def close(self) -> None:
        """Stop and close the socket."""
        self._stop()
        self._kernel_drops = self.kernel_drops()
        self._exchanges.runtime.reactor.close(self.socket.sock)

    def _stop(self) -> None:
        if self.reading:
            self.reading = False
            self._exchanges.runtime.reactor.remove(self.socket.sock.fileno())

    def on_ready(self, _ready: int) -> None:
        """Serve what has arrived, within this turn's bound."""
        self.receive()

    def receive(self) -> bool:
        """Read datagrams and have each handled; tell whether more may wait."""
        exchanges = self._exchanges
        over, left = exchanges.runtime.reactor.turn_is_over, exchanges.limits.batch
        while left > 0:
            if self._reads_singly or exchanges.slot.entry.wants_message:
                taken, more = self._receive_routed(min(left, _CLOCK_EVERY))
            else:
                taken, more = self._receive_batch(min(left, self._most))
            left -= taken
            if exchanges.closed:
                return False
            if not more or over():
                return more
        return True

    def _receive_batch(self, most: int) -> tuple[int, bool]:  # noqa: C901 (see below)
        """Read several at once, handle each, answer them together.

        Locals, and the usual verdicts looked at in place: 0.4 µs a datagram.
        Returns how many were taken, and whether more may wait.
        """
        exchanges, senders, slot = self._exchanges, self._senders, self._exchanges.slot
        refused, most_bytes = exchanges.refused, exchanges.limits.datagram_bytes
        context, served_ports = exchanges.fresh_context, exchanges.guard.served_ports
        begun = perf_counter()
        try:
            received = self._batch.receive(most)
        except OSError:
            # News of a datagram sent earlier; told once, then the next one can be read.
            refused["receive_failed"] += 1
            return 1, True
        replies: list[bytes | memoryview | None] = []
        silent, unheard = 0, 0
        last: Hashable = None
        sender: Any = None
        exempt = False
        for data, key in received:
            if key is not last:  # a train has one key
                last, sender = key, senders.get(key) or self._meet(key)
                exempt = sender.exempt and sender.port not in served_ports
            reply: Any = None
            if sender.refusal is not None or len(data) > most_bytes:
                refused[sender.refusal or "too_large"] += 1
                unheard += 1
            else:
                arrival, entry = sender.arrival, slot.entry
                call = entry.call
                if call is None:
                    self._submit(arrival, data)
                else:
                    reply = context.run(call, arrival, data)
                    if context:
                        context = exchanges.fresh_context = exchanges.runtime.context.copy()
                    if reply is not None and not (exempt and type(reply) is bytes):
                        reply = self._approve(arrival, data, reply, exchanges.runtime.reactor.now)
                if exchanges.closed:
                    return len(received), False
            if reply is None:
                silent += 1
            replies.append(reply)
        self.messages += len(received) - unheard
        if silent < len(replies):
            errors = self._batch.answer(replies)
            self.replies += len(replies) - silent - len(errors)
            for error in errors:
                refused[_SEND_REFUSALS.get(error, "send_failed")] += 1
        spent = perf_counter() - begun
        if received:
            self._most = max(1, min(_MOST_OF_TRAINS, int(TURN_SECONDS * len(received) / spent)))
        return len(received), self._batch.full

    def _meet(self, key: Hashable) -> _Sender:
        """Judge a sender that is not known, and remember it."""
        peer = self._batch.sockaddr(key)
        source = self._exchanges.sources.look_up(peer[0])
        route: Route | None = self._ways.own
        if self._batch.knows_destination:
            route = self._ways.find(self._batch.destination(key))
        if len(self._senders) >= _SENDERS_KEPT:
            self._senders.clear()  # as `Sources` does
        arrival = Arrival(self._exchanges, self)
        arrival.peer, arrival.source, arrival.route = peer, source, route or self._ways.own
        sender = self._senders[key] = _Sender(
            arrival,
            peer[1],
            self._refuse(peer, source, route),
            self._answers and self._exchanges.guard.exempts(source, peer[1]),
        )
        return sender

    def _receive_routed(self, most: int) -> tuple[int, bool]:
        """Read one by one, with how each came; results as `_receive_batch`."""
        exchanges, ways, slot = self._exchanges, self._ways, self._exchanges.slot
        refused, arrival, most_bytes = exchanges.refused, self._arrival, exchanges.limits.datagram_bytes
        known, look_up = exchanges.sources.known, exchanges.sources.look_up
        for taken in range(most):
            if slot.entry.wants_message:
                ways.ask()
            try:
                datagrams, arrival.ancillary, peer, route = ways.read()
            except BlockingIOError:
                return taken, False
            except OSError:
                refused["receive_failed"] += 1
                return taken + 1, True
            source = known.get(peer[0]) or look_up(peer[0])
            refusal = self._refuse(peer, source, route)
            for data in datagrams:
                if refusal is not None or route is None or len(data) > most_bytes:
                    refused[refusal or "too_large"] += 1
                    continue
                self.messages += 1
                self._handle(slot.entry, data, peer, source, route)
                if exchanges.closed:
                    return taken + 1, False
        return most, True

    def _refuse(self, peer: Sockaddr, source: Source, route: Route | None) -> str | None:
        """Return why no handler may see this datagram, or None."""
        if source.refusal is not None:
            return source.refusal
        if route is None:
            return "other_destination"
        if source.loopback and route.interface not in self._exchanges.interfaces.loopback_indexes:
            return "false_loopback"
        endpoint = self._exchanges.endpoint
        if route.mode != "unicast" and source.own and peer[1] == self.port and not endpoint.receive_own:
            return "own"
        if endpoint.link_only and self._came_from_afar(source, route):
            return "off_link"
        return None

    def _came_from_afar(self, source: Source, route: Route) -> bool:
        """Tell whether a router may have passed it on."""
        # Both sides of such a protocol send 255, which no router lets through (RFC 5082).
        sends_most = self._exchanges.endpoint.ttl == MOST_HOPS and not source.loopback
        if sends_most and read_details(self._arrival.ancillary).ttl != MOST_HOPS:
            return True
        return not source.own and not self._exchanges.interfaces.on_link(route.interface, source.address)

    def _handle(self, entry: Entry, data: bytes, peer: Sockaddr, source: Source, route: Route) -> None:
        """Call the handlers, or have a runner call them."""
        arrival, call = self._arrival, entry.call
        arrival.data, arrival.peer, arrival.source, arrival.route = data, peer, source, route
        if call is None:
            self._submit(arrival, data)
            return
        exchanges = self._exchanges
        context = exchanges.fresh_context
        reply = context.run(call, arrival, data)
        if context:
            exchanges.fresh_context = exchanges.runtime.context.copy()
        if reply is not None:
            self.answer(arrival, reply, exchanges.runtime.reactor.now)

    def _submit(self, present: Arrival, data: bytes) -> None:
        """Have a runner call the handlers, with what is in the shared arrival."""
        arrival = Arrival(self._exchanges, self)
        arrival.data, arrival.peer = data, present.peer
        arrival.source, arrival.route = present.source, present.route
        arrival.ancillary = present.ancillary
        self._exchanges.submit(arrival)

    def answer(self, arrival: Arrival, reply: Any, now: float) -> None:
        """Send what a handler returned, if nothing speaks against it."""
        payload = self._approve(arrival, arrival.data, reply, now)
        if payload is not None:
            self.send(payload, arrival.peer, arrival.route)

    def _approve(self, arrival: Arrival, request: bytes, reply: Any, now: float) -> bytes | memoryview | None:
        """Return what is to be sent at once; None when something speaks against it, or it is delayed."""
        if type(reply) is not bytes:
            reply = self._encode(arrival, reply)
            if reply is None:
                return None
        exchanges, peer = self._exchanges, arrival.peer
        if not self._answers:
            exchanges.refused["reply_off"] += 1
            return None
        payload: bytes | memoryview = reply
        refusal = exchanges.guard.refuse(arrival.source, peer[1], len(request), len(payload), now)
        if refusal is not None:
            exchanges.refuse_reply(refusal, len(request), len(payload))
            return None
        if exchanges.guard.comes_back(peer[:2], request, payload, now):
            exchanges.refused["returned"] += 1
            return None
        if arrival.route.mode != "unicast":
            exchanges.delay(DelayedReply(exchanges, self, bytes(payload), arrival), request)
            return None
        return payload

    def _encode(self, arrival: Arrival, reply: Any) -> bytes | memoryview | None:
        if type(reply) is Failed:
            arrival.report(reply)
            return None
        try:
            return encode_payload(reply)
        except HandlerError as error:
            discard_stream(reply)
            arrival.report(Failed(error))
            return None

    def send(self, payload: bytes | memoryview, peer: Sockaddr, route: Route) -> None:
        """Send one datagram now, or count why it could not be sent."""
        try:
            if route.ancillary:
                self._sendmsg((payload,), route.ancillary, 0, peer)
            else:
                self._sendto(payload, peer)
        except OSError as error:
            # One peer's network refused one reply: never the listener's end.
            self._exchanges.refused[_SEND_REFUSALS.get(error.errno or 0, "send_failed")] += 1
        else:
            self.replies += 1
