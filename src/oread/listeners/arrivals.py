"""Keep what is in flight on one UDP endpoint: handlers, delayed replies.

`Exchanges` is shared by all sockets of an endpoint: the counters, the guards
and the bounds. An `Arrival` is one datagram on its way through the handlers.
Not here: sockets (`oread.listeners.receiver`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import trio

from oread.dispatch import Entry, Failed
from oread.dispatch.compiled import Call
from oread.dispatch.gate import Gate
from oread.endpoints import Endpoint
from oread.errors import MessageError, RegistrationError
from oread.listeners.guards import SERVED_PORTS, ReplyGuard, Source, Sources, read_mx
from oread.listeners.runtime import Runtime, is_refusal
from oread.messages import Datagram, Peer
from oread.reactor import Runner, Timer
from oread.registry import Slot
from oread.sockets.batches import Sockaddr
from oread.sockets.interfaces import Interfaces, read_client_ports, read_interfaces
from oread.sockets.routes import Ancillary, Route, read_details, sender_address
from oread.sockets.settings import limits_of


class Exchanges:
    """What the sockets of one UDP endpoint share.

    Args:
        runtime: of the service.
        endpoint: as bound, with its real port.
        on_idle: called when a handler, a delayed reply or a reading has ended.

    Raises:
        RegistrationError: no handler serves the event, or one that does
            can't be served by UDP.
    """

    __slots__ = (
        "_amplification_named",
        "_delayed",
        "_jobs",
        "closed",
        "endpoint",
        "failures",
        "fresh_context",
        "guard",
        "interfaces",
        "limits",
        "on_idle",
        "refused",
        "runtime",
        "slot",
        "sources",
    )

    def __init__(self, runtime: Runtime, endpoint: Endpoint, on_idle: Callable[[], None]) -> None:
        self.runtime = runtime
        self.endpoint = endpoint
        self.limits = limits_of(endpoint)
        self.interfaces = read_interfaces()
        self.sources = Sources(self.interfaces)
        self.guard = ReplyGuard(
            limits=self.limits,
            allow_low_ports=endpoint.allow_low_ports,
            served_ports=SERVED_PORTS.now,
            client_ports=read_client_ports(),
        )
        self.slot = self.find_slot()
        self.fresh_context = runtime.context.copy()
        """What the next inline call runs in: see `oread.listeners.roles.Owner`."""
        self.failures = 0
        self.refused: Counter[str] = Counter()
        self.closed = False
        self._amplification_named = False
        self.on_idle = on_idle
        self._jobs: set[Arrival] = set()
        self._delayed: set[DelayedReply] = set()

    def follow(self, interfaces: Interfaces) -> None:
        """Judge by these interfaces from now on."""
        self.interfaces = interfaces
        self.sources = Sources(interfaces)

    def find_slot(self) -> Slot:
        """Return what always has the entry of the endpoint's event."""
        return self.runtime.registry.attach(self.endpoint.event, _check)

    @property
    def idle(self) -> bool:
        """Return whether no handler runs and no reply waits."""
        return not self._jobs and not self._delayed

    def submit(self, job: Arrival) -> None:
        """Run an async handler, unless too many are at work."""
        if len(self._jobs) >= self.limits.in_flight:
            self.refused["busy"] += 1
            return
        gate = self.slot.entry.gate
        if gate is not None:
            if not gate.take():
                self.refused["busy"] += 1
                return
            job.gate = gate
        self._jobs.add(job)
        self.runtime.runners.submit(job)

    def end(self, job: Arrival) -> None:
        """Forget a job that has ended."""
        job.give_place()
        self._jobs.discard(job)
        self.on_idle()

    def delay(self, reply: DelayedReply, request: bytes) -> None:
        """Send a reply after a random delay, unless too many wait."""
        low, high = self.limits.delay_low_seconds, self.limits.delay_high_seconds
        if self.endpoint.mx:
            seconds = read_mx(request)
            if seconds is None:
                self.refused["no_mx"] += 1
                return
            low, high = 0.0, float(seconds)
        if len(self._delayed) >= self.limits.pending_replies:
            self.refused["pending_replies"] += 1
            return
        self._delayed.add(reply)
        # Not the reactor's time: a runner that answers may be well past it.
        when = trio.current_time() + self.runtime.random.uniform(low, high)
        reply.timer = self.runtime.reactor.call_at(when, reply.send)

    def end_delay(self, reply: DelayedReply) -> None:
        """Forget a delayed reply that was sent."""
        self._delayed.discard(reply)
        self.on_idle()

    def report(self, failed: Failed, peer: Sockaddr, event: str | None = None) -> None:
        """Count and log a failure; its peer hears nothing."""
        if isinstance(failed.error, MessageError) and is_refusal(failed.error):
            self.refused[failed.error.reason] += 1
        else:
            self.failures += 1
            if self.endpoint.failure == "stop":
                self.runtime.stop(failed)
        self.runtime.failures.report(event or self.slot.event, failed, Peer(peer[:2], "udp"))

    def refuse_reply(self, reason: str, request_bytes: int, reply_bytes: int) -> None:
        """Count a reply not sent; name the amplification bound once."""
        self.refused[reason] += 1
        if reason == "amplification" and not self._amplification_named:
            self._amplification_named = True
            self.runtime.log.warning(
                "%s: a reply of %d bytes to a request of %d was not sent: the option amplification=%g "
                "bounds what other machines get (said once; the rest is counted)",
                self.endpoint,
                reply_bytes,
                request_bytes,
                self.limits.amplification,
            )

    def cancel_all(self) -> list[str]:
        """Cancel every handler, drop delayed replies; name each handler."""
        self.refused["closing"] += len(self._delayed)
        for reply in self._delayed:
            reply.cancel()
        self._delayed.clear()
        cancelled = [job.describe() for job in self._jobs]
        for job in list(self._jobs):
            job.cancelled = True
            if job.runner is not None:
                self.runtime.runners.cancel(job)
            else:
                job.give_place()
                self._jobs.discard(job)
        return cancelled

    def give_places(self) -> None:
        """Give back what jobs still hold: a hard cancel ends them without a word."""
        for job in self._jobs:
            job.give_place()


class Outlet(Protocol):
    """The socket by which an arrival is answered."""

    @property
    def port(self) -> int:
        """The port it is bound to."""

    def answer(self, arrival: Arrival, reply: Any, now: float) -> None:
        """Send what a handler returned, if nothing speaks against it."""

    def send(self, payload: bytes | memoryview, peer: Sockaddr, route: Route) -> None:
        """Send one datagram now."""


class Arrival:
    """One datagram on its way through the handlers: an origin, and a job."""

    __slots__ = (
        "_exchanges",
        "_outlet",
        "ancillary",
        "cancelled",
        "data",
        "gate",
        "peer",
        "route",
        "runner",
        "source",
    )

    data: bytes
    peer: Sockaddr
    source: Source
    route: Route

    def __init__(self, exchanges: Exchanges, outlet: Outlet) -> None:
        self._exchanges = exchanges
        self._outlet = outlet
        self.ancillary: Ancillary = []
        self.runner: Runner | None = None
        self.cancelled = False
        self.gate: Gate | None = None
        """Where it holds a place."""

    # as an origin

    @property
    def captures(self) -> Mapping[str, str]:
        """What the endpoint's event gave to the pattern."""
        return self._exchanges.slot.captures

    def message(self, data: bytes | memoryview) -> Datagram:
        """Make the message, for a handler that asks for it."""
        details = read_details(self.ancillary)
        exchanges = self._exchanges
        return Datagram(
            event=exchanges.slot.event,
            data=bytes(data),
            transport="udp",
            captures=self.captures,
            received=exchanges.runtime.reactor.now,
            peer=Peer(sender_address(self.peer, exchanges.interfaces.names), "udp"),
            local=(self.route.local, self._outlet.port),
            mode=self.route.mode,
            interface=exchanges.interfaces.names.get(self.route.interface),
            ttl=details.ttl,
            timestamp=details.timestamp,
            fragment_bytes=details.fragment_bytes,
        )

    def report(self, failed: Failed) -> None:
        """Count and log a failure."""
        self._exchanges.report(failed, self.peer)

    # as a job

    def give_place(self) -> None:
        """Give its place back, if it holds one."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.give()

    def begin(self) -> Coroutine[Any, Any, Any] | None:
        """Make the coroutine of the handlers as they are now."""
        if self.cancelled:
            return None
        entry = self._exchanges.slot.entry
        if entry.call is not None:
            # Its last async handler was removed while this one was queued.
            return _run(entry.call, self, self.data)
        return entry.start(self, self.data) if entry.start is not None else None

    def finish(self, result: Any) -> None:
        """Answer with what the handlers returned."""
        # A cancelled one too: what it returned behind a shield is its goodbye.
        if result is not None and not self._exchanges.closed:
            self._outlet.answer(self, result, trio.current_time())
        self._exchanges.end(self)

    def describe(self) -> str:
        """Say what is running, for the report of a drain."""
        return (
            f"{self._exchanges.slot.event!r} for {Peer(self.peer[:2], 'udp')} on {self._exchanges.endpoint}"
        )


async def _run(call: Call, arrival: Arrival, payload: bytes) -> Any:
    return call(arrival, payload)


class DelayedReply:
    """One reply that waits for its random time."""

    __slots__ = ("_exchanges", "_outlet", "_payload", "_peer", "_route", "timer")

    def __init__(self, exchanges: Exchanges, outlet: Outlet, payload: bytes, arrival: Arrival) -> None:
        self._exchanges = exchanges
        self._outlet = outlet
        self._payload = payload
        self._peer = arrival.peer
        self._route = arrival.route
        self.timer: Timer | None = None

    def send(self) -> None:
        """Send it: its time has come."""
        self._outlet.send(self._payload, self._peer, self._route)
        self._exchanges.end_delay(self)

    def cancel(self) -> None:
        """Do not send it."""
        if self.timer is not None:
            self.timer.cancel()


def _check(entry: Entry) -> None:
    """Refuse handlers that can't be called with a datagram.

    Raises:
        RegistrationError: with what would be needed.
    """
    if not entry.links:
        raise RegistrationError(f"event {entry.event!r} has no handler of messages; udp needs one")
    for link in entry.links:
        wanted = link.plan.message
        if wanted is not None and not issubclass(Datagram, wanted):
            name = wanted.__name__
            raise RegistrationError(f"event {entry.event!r}: {link.name} asks for {name}; udp has none")
        if link.plan.streams:
            raise RegistrationError(
                f"event {entry.event!r}: {link.name} yields its reply item by item, but a reply by udp is "
                f"one datagram"
            )
