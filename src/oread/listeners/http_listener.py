"""The listener of an `http` endpoint: handlers by path, room at the cap."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from oread.dispatch import Entry, Failed, isolate_call
from oread.dispatch.schema import INDEX
from oread.endpoints import Endpoint
from oread.errors import NotAllowed, NotFound
from oread.limits import HttpLimits
from oread.listeners.acceptor import ListeningSocket
from oread.listeners.connection import Connection
from oread.listeners.http import HttpConnection
from oread.listeners.http_log import logging_type
from oread.listeners.lifespan import Applications
from oread.listeners.listener import ConnectionListener
from oread.listeners.media_types import check_json_type
from oread.listeners.openapi import EVENT, make_openapi_entry
from oread.listeners.roles import Socket
from oread.listeners.runtime import Runtime
from oread.messages import Address, Forwarded, Headers, HttpResponse
from oread.protocols.access_log import AccessRecord
from oread.protocols.forwarded import TrustedProxies
from oread.protocols.http1_head import RequestHead
from oread.protocols.http1_reply import encode_start, http_date

_KNOWN_PATHS = 1_024
_KNOWN_TYPES = 64
SERVED_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


def _tell_options(_origin: object, _body: object) -> HttpResponse:
    return HttpResponse(status=204, headers=(("Allow", SERVED_METHODS),))


SERVER_OPTIONS = Entry(event="*", call=_tell_options)
"""What answers `OPTIONS *`, which asks of the server and of no event (RFC 9110 9.3.7)."""


def _make_options_entry(event: str, allowed: Sequence[str]) -> Entry:
    """Make what answers OPTIONS of an event whose handlers name other methods (RFC 9110 9.3.7)."""
    response = HttpResponse(status=204, headers=(("Allow", ", ".join(allowed)),))
    return Entry(event=event, call=lambda _origin, _body: response)


class HttpListener(ConnectionListener):
    """The open sockets of one `http` endpoint, with what they accepted.

    Raises:
        RegistrationError: an event has the name of a path that the endpoint
            itself serves; the sockets stay the caller's then.
    """

    limits: HttpLimits

    def __init__(self, runtime: Runtime, endpoint: Endpoint, sockets: Sequence[ListeningSocket]) -> None:
        super().__init__(runtime, endpoint, sockets)
        kind = self.connection_kind()
        self._make = kind if runtime.access_log is None else logging_type(kind)
        self._date = b""
        self._date_ends = -math.inf
        self._starts: dict[str | None, bytes] = {}
        self._routes = runtime.registry.routes
        self._table: object = None
        self._gets: dict[str, tuple[Entry, Mapping[str, str]]] = {}
        """Literal paths that were asked for since the registry has changed: finding one anew takes 0.4 us."""
        self._server = b"" if endpoint.server is None else b"\r\nServer: " + endpoint.server.encode("ascii")
        self.look_behind: Callable[[Address, Headers], Forwarded | None] | None = None
        if endpoint.trusted_proxies:
            self.look_behind = TrustedProxies(endpoint.trusted_proxies).look_behind
        self._eldest: deque[tuple[float, Connection]] = deque()
        self._own: dict[str, Entry] = {"*": SERVER_OPTIONS}
        if endpoint.openapi:
            self._own[f"/{EVENT}"] = make_openapi_entry(runtime.registry)
        self._reserved = runtime.registry.reserve(self.own_names())

    def own_names(self) -> dict[str, str]:
        """Return the names that no event may have beside it, and the options that ask for them."""
        return {EVENT: "openapi=true"} if self.endpoint.openapi else {}

    def abort(self) -> None:
        """Close every socket now."""
        super().abort()
        self._reserved.remove()

    def connection_kind(self) -> type[HttpConnection]:
        """Return the kind of connection that is made of each accepted socket."""
        return HttpConnection

    def make_connection(self, sock: Socket) -> Connection:
        """Make an HTTP connection, of the kind that is logged where it is to be."""
        return self._make(self, sock)

    def log_access(self, record: AccessRecord) -> None:
        """Hand a record to the access log; what that raises harms no request."""
        assert self.runtime.access_log is not None
        failed = isolate_call(self.runtime.access_log, record)
        if isinstance(failed, Failed):
            self.runtime.failures.report("access log", failed, record.peer)

    def find(self, head: RequestHead) -> tuple[Entry, Mapping[str, str]]:
        """Return the entry of a request and what its path captured.

        Raises:
            NotFound, NotAllowed, BadRequest: no handler serves it.
            NotJson: one of its handlers takes JSON, and its body is not said to be that.
        """
        if self._table is not self._routes.table:
            self._table, self._gets = self._routes.table, {}
        known = self._gets.get(head.path)
        if known is not None and head.method == "GET":
            return known
        found = self._look_up(head)
        if head.method == "GET" and not found[1] and len(self._gets) < _KNOWN_PATHS:
            self._gets[head.path] = found
        return found

    def _look_up(self, head: RequestHead) -> tuple[Entry, Mapping[str, str]]:
        own = self._own.get(head.path)
        if own is not None:
            return own.entry_for_method(head.method), {}
        found = self.runtime.registry.find(head.path[1:] or INDEX)
        if found is None:
            raise NotFound(f"nothing is served at {head.path}")
        entry, captures = found
        try:
            entry = entry.entry_for_method(head.method)
        except NotAllowed as error:
            if head.method != "OPTIONS":
                raise
            return _make_options_entry(entry.event, error.allowed), captures
        if entry.takes_json and head.length and head.method not in ("GET", "HEAD"):
            check_json_type(head.headers)
        return entry, captures

    @property
    def applications(self) -> Applications:
        """The ASGI applications of the service."""
        return self.runtime.applications

    def is_own(self, head: RequestHead) -> bool:
        """Tell whether a request is for what the listener answers itself."""
        return head.path in self._own

    def date(self) -> bytes:
        """Return the Date field's value, made once a second; behind it the Server field, if one is sent."""
        if self.reactor.now >= self._date_ends:
            now = time.time()
            self._date = http_date(now) + self._server
            self._date_ends = self.reactor.now + 1.0 - now % 1.0
            self._starts.clear()
        return self._date

    def response_start(self, content_type: str | None) -> bytes:
        """Return what a plain response of this second begins with; see `encode_start`.

        Raises:
            HandlerError: a content type that can't be sent.
        """
        if self.reactor.now >= self._date_ends:
            self.date()
        start = self._starts.get(content_type)
        if start is None:
            start = encode_start(content_type, self._date)
            if len(self._starts) < _KNOWN_TYPES:
                self._starts[content_type] = start
        return start

    def evict(self) -> bool:
        """Close the connection that is idle for longest; False when none is idle.

        The order is looked up for many at once: one scan per accept would make
        a full table expensive exactly when it is under attack.
        """
        for _ in range(2):
            while self._eldest:
                received, connection = self._eldest.popleft()
                if connection.evictable and connection.received == received:
                    self.count("evicted")
                    connection.close()
                    return True
            idle = [item for item in self.connections if item.evictable]
            self._eldest.extend(sorted(((item.received, item) for item in idle), key=lambda pair: pair[0]))
        return False
