"""What the listeners of one service share, and tell of themselves."""

from __future__ import annotations

import contextvars
import logging
import random
import ssl
import sys
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs
import trio

from oread.dispatch import Failed
from oread.endpoints import Endpoint
from oread.errors import HandlerError, MessageError, TimedOut
from oread.listeners.lifespan import Applications
from oread.listeners.watch import InterfaceWatch
from oread.messages import Peer
from oread.protocols.access_log import AccessRecord
from oread.protocols.sequence import SequenceStatistics
from oread.reactor import Reactor, RunnerPool
from oread.registry import Failure, Registry
from oread.sockets.datagrams import DatagramSocket
from oread.sockets.vectors import BatchMemory

LOGS_PER_SECOND = 10
"""Handler failures logged with a traceback; one that fails for every message must not fill the disk."""

log = logging.getLogger("oread")


@attrs.frozen(kw_only=True)
class EndpointStatistics:
    """A snapshot of one endpoint's counters since its start."""

    endpoint: str
    open: int
    """Connections open now; 0 for UDP."""
    accepted: int
    messages: int
    replies: int
    failures: int
    """Handlers that raised."""
    refused: Mapping[str, int]
    """What was refused, dropped or closed by us, by reason."""
    sequence: SequenceStatistics | None = None
    """What the numbers of its payloads tell, where the endpoint says that they have one."""


def is_refusal(error: Exception) -> bool:
    """Tell whether an error is counted by its reason, and no failure for `failure=`.

    `TimedOut` is one here, though not to hooks and the log: a deadline was
    asked for, and kept.
    """
    return isinstance(error, MessageError) and not isinstance(error, HandlerError)


@attrs.define
class Failures:
    """Report what handlers raise: every one counted, so many a second logged."""

    _reactor: Reactor
    _registry: Registry | None = None
    """Whose hooks are told before anything is logged."""
    _second: float = 0.0
    _logged: int = 0
    _suppressed: int = 0

    def report(self, event: str, failed: Failed, peer: Peer) -> None:
        """Log one failure with its traceback, within the rate, unless a hook has it."""
        failure = Failure(event=event, handler=failed.handler, error=failed.error, peer=peer)
        if self._registry is not None and self._registry.report(failure):
            return
        if failure.is_refusal:
            log.debug("%s: %s from %s: %s", event, type(failed.error).__name__, peer, failed.error)
            return
        now = self._reactor.now
        if now - self._second >= 1.0:
            if self._suppressed:
                log.error("%d more handler failures were not logged", self._suppressed)
            self._second, self._logged, self._suppressed = now, 0, 0
        if self._logged >= LOGS_PER_SECOND:
            self._suppressed += 1
            return
        self._logged += 1
        if isinstance(failed.error, TimedOut):  # where it waited is not known any more
            log.warning("%s: %s, for %s", event, failed.error, peer)
            return
        name = failed.handler or "a handler"
        log.error("%s: %s failed for %s: %r", event, name, peer, failed.error, exc_info=failed.error)


@attrs.define(eq=False)
class Runtime:
    """What the listeners of one service share."""

    reactor: Reactor
    runners: RunnerPool
    registry: Registry
    context: contextvars.Context
    """Captured where the service was opened; each call of a handler runs in a copy."""
    failures: Failures
    room: int = sys.maxsize
    """Connections that all listeners may hold together (RLIMIT_NOFILE less a reserve)."""
    connections: int = 0
    """Connections that they hold now."""
    tls: ssl.SSLContext | None = None
    """What `tls` and `https` endpoints without files are served with."""
    waiting: set[Callable[[], None]] = attrs.field(factory=set)
    """To be called when one has closed: there is room again."""
    evictors: set[Callable[[], bool]] = attrs.field(factory=set)
    """Each closes a connection that may give way, or returns False."""
    failed: Failed | None = None
    """What ended the service, on an endpoint with `failure=stop`."""
    stopping: trio.Event = attrs.field(factory=trio.Event)
    """Set when something did."""
    access_log: Callable[[AccessRecord], object] | None = None
    """Is given a record of every HTTP request."""
    applications: Applications = attrs.field(factory=Applications)
    """The ASGI applications that have begun."""
    datagram_sockets: set[DatagramSocket] = attrs.field(factory=set)
    """The open ones of all UDP endpoints, which may let each other in at a port."""
    random: random.Random = attrs.field(factory=random.Random)
    log: logging.Logger = log
    _batch_memory: BatchMemory | None = None
    _watch: InterfaceWatch | None = None

    def batch_memory(self) -> BatchMemory:
        """Return where datagrams of all UDP sockets are received, made when it is first needed."""
        if self._batch_memory is None:
            self._batch_memory = BatchMemory()
        return self._batch_memory

    def interface_watch(self) -> InterfaceWatch:
        """Return who tells UDP endpoints of the interfaces, made when it is first needed."""
        if self._watch is None:
            self._watch = InterfaceWatch(self.reactor)
        return self._watch

    def stop(self, failed: Failed) -> None:
        """End the service with a handler's failure; the first one counts."""
        if self.failed is None:
            self.failed = failed
            self.stopping.set()


class Listener(Protocol):
    """The open sockets of one endpoint, with what they accepted."""

    endpoint: Endpoint
    """As bound: with its real port."""
    drained: trio.Event
    """Set when `begin_drain` was called and nothing is left."""

    def start(self) -> None:
        """Begin to serve."""

    def begin_drain(self) -> None:
        """Take nothing new; let what has begun come to its end."""

    def cancel_handlers(self) -> list[str]:
        """Cancel what still runs; return one line for each."""

    def abort(self) -> None:
        """Close everything at once; harmless when done already."""

    def statistics(self) -> EndpointStatistics:
        """Return the counters as they are now."""
