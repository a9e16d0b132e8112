"""`framing=jsonrpc` on `udp`: one datagram is one document, any event.

Results are answered as every datagram is, within the guards; errors are
counted and never sent: they would go wherever a forged source points. A batch
is answered by one datagram with the results alone, none when all failed.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar

import attrs

from oread.dispatch import Entry, Failed, Origin
from oread.endpoints import Endpoint
from oread.listeners.arrivals import Arrival, Exchanges, Outlet
from oread.listeners.jsonrpc import NO_EVENT, Methods, Work
from oread.listeners.runtime import Runtime
from oread.messages import Message
from oread.registry import Slot


class JsonRpcExchanges(Exchanges):
    """What the sockets of one UDP endpoint of JSON-RPC share."""

    __slots__ = ("methods",)

    def __init__(self, runtime: Runtime, endpoint: Endpoint, on_idle: Callable[[], None]) -> None:
        super().__init__(runtime, endpoint, on_idle)
        self.methods = Methods(runtime.registry, runtime.context.copy)

    def find_slot(self) -> Slot:
        """Return a slot of its own: each document names its events."""
        # Any handler may ask how a datagram came, so all are read with what the kernel says.
        entry = Entry(event=NO_EVENT, call=self._serve, wants_message=True)
        return Slot(NO_EVENT, entry, {}, lambda _entry: None)

    def cancel_all(self) -> list[str]:
        """Cancel every handler, drop delayed replies; name each handler."""
        for job in self._jobs:
            if isinstance(job, JsonRpcArrival):
                job.work.give_up()
        return super().cancel_all()

    def begin_call(self, arrival: JsonRpcArrival) -> bool:
        """Have a runner begin an arrival's present call; False when too many are at work."""
        if arrival in self._jobs:
            self.runtime.runners.submit(arrival)  # it goes on with the calls behind the first
        else:
            self.submit(arrival)
        return arrival in self._jobs

    def _serve(self, origin: Origin, data: bytes) -> bytes | None:
        """Make the calls of one datagram; None when a runner goes on with them."""
        assert isinstance(origin, Arrival)
        arrival = JsonRpcArrival(self, origin._outlet, data)
        arrival.peer, arrival.source, arrival.route = origin.peer, origin.source, origin.route
        arrival.ancillary = origin.ancillary
        return arrival.work.response() if arrival.work.run() else None


class JsonRpcArrival(Arrival):
    """One datagram: the host of the document that it is."""

    __slots__ = ("work",)

    answers_errors: ClassVar[bool] = False
    waits_for_place: ClassVar[bool] = False
    _exchanges: JsonRpcExchanges

    def __init__(self, exchanges: JsonRpcExchanges, outlet: Outlet, data: bytes) -> None:
        super().__init__(exchanges, outlet)
        self.data = data
        self.work = Work(exchanges.methods, self, data)

    # as the host of a document

    def make_message(self, event: str, captures: Mapping[str, str], data: bytes | memoryview) -> Message:
        """Make the message of one call: the datagram, with what it asks of the event."""
        return attrs.evolve(self.message(data), event=event, captures=captures)

    def report_call(self, event: str, failed: Failed) -> None:
        """Count and log why one call failed."""
        self._exchanges.report(failed, self.peer, event)

    def submit_call(self) -> None:
        """Have a runner begin the present call, unless too many are at work."""
        if not self._exchanges.begin_call(self):
            self.work.abandon()

    # as a job

    def give_place(self) -> None:
        """Give back what the present call holds of a limited event."""
        self.work.give_place()

    def begin(self) -> Coroutine[Any, Any, Any] | None:
        """Make the coroutine of the present call; None when it was cancelled in the queue."""
        return None if self.cancelled else self.work.begin()

    def finish(self, result: Any) -> None:
        """Go on with the document; answer when it is done."""
        if self.work.take(result):
            super().finish(self.work.response())
