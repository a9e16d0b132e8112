"""Read one UDP socket: here a datagram becomes a message.

`Receiver.receive` is that place: read, judge the source, call the handler,
judge the reply, send. One turn takes a bounded number of datagrams from one
socket; what is left makes the socket ready again.

Two ways to read: `recvfrom` where the socket is bound to one unicast address
and no handler asks for the message, else `recvmsg` with the control messages
that say how it came, which costs about 2 µs more.

Nothing waits: a source that asks too often, a handler over the bound, a reply
the system has no room for are dropped and counted under a name of
`oread.listeners.guards.REASONS`. No error is ever sent: it would go wherever
a forged source points.

Not here: which sources and replies are refused (guards), socket options
(sockets). Left for later: further ways to read (GRO, recvmmsg).
"""

from __future__ import annotations

import errno
from typing import Any

from oread.dispatch import Entry, Failed, encode_payload
from oread.errors import HandlerError
from oread.listeners.arrivals import Arrival, DelayedReply, Exchanges, Sockaddr
from oread.listeners.guards import Source
from oread.sockets.datagrams import DatagramSocket
from oread.sockets.interfaces import Interfaces, parse_address
from oread.sockets.routes import CONTROL_BYTES, Route, find_destination, read_route

_CLOCK_EVERY = 32
"""Datagrams between two looks at the turn's clock: about 0.2 ms of a turn's 1 ms."""
_DRAIN_TURNS = 256
"""Turns of at least 32 datagrams while draining; 4 MiB of receive buffer hold about 5,000 small ones."""
_ROUTES_KEPT = 1_024
"""Distinct (destination, interface) remembered per socket."""
_SEND_REFUSALS = {
    errno.EAGAIN: "send_full",
    errno.ENOBUFS: "send_full",
    errno.EMSGSIZE: "reply_too_large",
}


class Receiver:
    """One socket of a UDP endpoint.

    Args:
        exchanges: what the endpoint's sockets share.
        opened: is closed by `close`.
    """

    __slots__ = (
        "_answers",
        "_arrival",
        "_asks_details",
        "_exchanges",
        "_own_route",
        "_recvfrom",
        "_recvmsg",
        "_routes",
        "_sendmsg",
        "_sendto",
        "_socket",
        "_turns_left",
        "messages",
        "port",
        "reading",
        "replies",
    )

    def __init__(self, exchanges: Exchanges, opened: DatagramSocket) -> None:
        self._exchanges = exchanges
        self._socket = opened
        self._recvfrom = opened.sock.recvfrom
        self._recvmsg = opened.sock.recvmsg
        self._sendmsg = opened.sock.sendmsg
        self._sendto = opened.sock.sendto
        self._own_route = _own_route(opened, exchanges.interfaces)
        self._routes: dict[bytes, Route | None] = {}
        self._asks_details = False
        self._arrival = Arrival(exchanges, self)
        """One for all sync calls: it is not looked at after the call."""
        self._turns_left = 0
        default = "unicast" if opened.mode == "unicast" else "none"
        self._answers = (exchanges.endpoint.reply or default) == "unicast"
        self.port = opened.port
        self.messages = 0
        self.replies = 0
        self.reading = False

    def start(self) -> None:
        """Read from now on."""
        runtime, wanted = self._exchanges.runtime, self._exchanges.limits.receive_buffer_bytes
        if self._socket.receive_buffer_bytes < wanted:
            runtime.log.info(
                "%s: the receive buffer has %d bytes, not %d (net.core.rmem_max): bursts are dropped earlier",
                self._exchanges.endpoint,
                self._socket.receive_buffer_bytes,
                wanted,
            )
        if self._exchanges.slot.entry.wants_message:
            self._ask_details()
        runtime.reactor.add(self._socket.sock.fileno(), self.on_ready)
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

    def close(self) -> None:
        """Stop and close the socket."""
        self._stop()
        self._exchanges.runtime.reactor.close(self._socket.sock)

    def _stop(self) -> None:
        if self.reading:
            self.reading = False
            self._exchanges.runtime.reactor.remove(self._socket.sock.fileno())

    def on_ready(self, _ready: int) -> None:
        """Serve what has arrived, within this turn's bound."""
        self.receive()

    def receive(self) -> bool:
        """Read datagrams and have each handled; tell whether more may wait.

        Locals, and the usual verdict looked at in place: 0.2 µs a datagram.
        """
        exchanges, slot = self._exchanges, self._exchanges.slot
        recvfrom, handle, refused = self._recvfrom, self._handle, exchanges.refused
        known, look_up = exchanges.sources.known, exchanges.sources.look_up
        asks_destination, own_route = self._socket.asks_destination, self._own_route
        on_loopback = own_route.interface != 0
        most_bytes, over = exchanges.limits.datagram_bytes, exchanges.runtime.reactor.turn_is_over
        for taken in range(1, exchanges.limits.batch + 1):
            entry = slot.entry
            route: Route | None = own_route
            try:
                # One byte more than allowed tells what is too long.
                if asks_destination or entry.wants_message:
                    data, peer, route = self._read_routed(entry, most_bytes + 1)
                else:
                    data, peer = recvfrom(most_bytes + 1)
            except BlockingIOError:
                return False
            except OSError:
                # News of a datagram sent earlier; told once, then the next one can be read.
                refused["receive_failed"] += 1
                return True
            source = known.get(peer[0]) or look_up(peer[0])
            # A clean source on the plain path needs no further question.
            if route is not own_route or source.refusal or source.loopback is not on_loopback:
                refusal = self._refuse(peer, source, route)
                if refusal is not None or route is None:
                    refused[refusal or "other_destination"] += 1
                    continue
            if len(data) > most_bytes:
                refused["too_large"] += 1
                continue
            self.messages += 1
            handle(entry, data, peer, source, route)
            if exchanges.closed:
                return False
            if taken % _CLOCK_EVERY == 0 and over():
                return True
        return True

    def _read_routed(self, entry: Entry, most_bytes: int) -> tuple[bytes, Sockaddr, Route | None]:
        """Read one datagram with what the kernel says of its way."""
        if entry.wants_message and not self._asks_details:
            self._ask_details()
        data, ancillary, _flags, peer = self._recvmsg(most_bytes, CONTROL_BYTES)
        self._arrival.ancillary = ancillary
        # Usually the destination is all there is.
        control = ancillary[0][2] if len(ancillary) == 1 else find_destination(ancillary)
        try:
            return data, peer, self._routes[control]
        except KeyError:
            return data, peer, self._find_route(control)

    def _ask_details(self) -> None:
        self._socket.ask_details()
        self._asks_details = True

    def _find_route(self, control: bytes) -> Route | None:
        """Return the route, or None for what was not meant for this endpoint."""
        route = read_route(control, self._exchanges.interfaces) if control else None
        if route is None or (route.interface == 0 and not self._socket.asks_destination):
            # Queued before the option was set, on a socket that does without.
            return None if self._socket.asks_destination else self._own_route
        if len(self._routes) >= _ROUTES_KEPT:
            self._routes.clear()
        found = self._routes[control] = route if self._socket.accepts(route) else None
        return found

    def _refuse(self, peer: Sockaddr, source: Source, route: Route | None) -> str | None:
        """Return why no handler may see this datagram, or None."""
        if source.refusal is not None:
            return source.refusal
        if route is None:
            return "other_destination"
        if source.loopback and route.interface not in self._exchanges.interfaces.loopback_indexes:
            return "false_loopback"
        own = route.mode != "unicast" and source.own and peer[1] == self.port
        return "own" if own and not self._exchanges.endpoint.receive_own else None

    def _handle(self, entry: Entry, data: bytes, peer: Sockaddr, source: Source, route: Route) -> None:
        """Call the handlers, or have a runner call them."""
        arrival, call = self._arrival, entry.call
        if call is None:
            arrival = Arrival(self._exchanges, self)
            arrival.ancillary = self._arrival.ancillary
        arrival.data, arrival.peer, arrival.source, arrival.route = data, peer, source, route
        if call is None:
            self._exchanges.submit(arrival)
            return
        runtime = self._exchanges.runtime
        reply = runtime.context.copy().run(call, arrival, data)
        if reply is not None:
            self.answer(arrival, reply, runtime.reactor.now)

    def answer(self, arrival: Arrival, reply: Any, now: float) -> None:
        """Send what a handler returned, if nothing speaks against it."""
        if type(reply) is not bytes:
            reply = self._encode(arrival, reply)
            if reply is None:
                return
        exchanges, peer = self._exchanges, arrival.peer
        if not self._answers:
            exchanges.refused["reply_off"] += 1
            return
        refusal = exchanges.guard.refuse(arrival.source, peer[1], len(arrival.data), len(reply), now)
        if refusal is not None:
            exchanges.refuse_reply(refusal, len(arrival.data), len(reply))
        elif arrival.route.mode == "unicast":
            self.send(reply, peer, arrival.route)
        else:
            exchanges.delay(DelayedReply(exchanges, self, bytes(reply), arrival))

    def _encode(self, arrival: Arrival, reply: Any) -> bytes | memoryview | None:
        if type(reply) is Failed:
            arrival.report(reply)
            return None
        try:
            return encode_payload(reply)
        except HandlerError as error:
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


def _own_route(opened: DatagramSocket, interfaces: Interfaces) -> Route:
    """Return how everything comes to a socket bound to one unicast address.

    Which interface is not asked there. For a loopback address it is known;
    elsewhere a loopback source can't prove itself and is not heard.
    """
    loopback = parse_address(opened.host).is_loopback
    index = min(interfaces.loopback_indexes, default=0) if loopback else 0
    return Route(mode=opened.mode, local=opened.host, interface=index)
