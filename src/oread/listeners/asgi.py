"""What calls of an ASGI application share: their scope, their task, their peer.

A call is a job of the service's runners and not of its connection: it may go
on when its response is complete (background tasks), or when its peer has gone.
The peer's going is told to it, by a message where it receives and by an error
where it sends; it is not cancelled, as with other servers. At the deadline of
a drain, and when the service ends, it is.

Not here: requests (`asgi_http`) and WebSockets (`asgi_websocket`).
Source: ASGI 3.0, https://asgi.readthedocs.io/en/latest/specs/www.html.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Iterable, Mapping, MutableMapping
from typing import Any, Protocol

import trio

from oread.dispatch import Application, Entry, Failed, isolate
from oread.dispatch.table import decode_path
from oread.errors import ApplicationError
from oread.listeners.http_streams import HttpOwner
from oread.listeners.lifespan import ASGI_VERSIONS
from oread.messages import Address, Peer
from oread.protocols.http1_head import RequestHead
from oread.reactor import Runner

log = logging.getLogger("oread")

TAIL = "rest"
"""The capture of an application's own part of the path."""


class PeerGoneError(OSError):
    """The peer of a call is gone: what an application sends has nowhere to go."""


class Wire(Protocol):
    """The connection of a call."""

    def peer(self) -> Peer:
        """Return the other side."""

    def local(self) -> Address:
        """Return the address that the peer connected to."""

    def close(self) -> None:
        """Close it now."""


class AsgiCall:
    """One call of an application; a job."""

    def __init__(
        self, owner: HttpOwner, wire: Wire, head: RequestHead, entry: Entry, captures: Mapping[str, str]
    ) -> None:
        assert entry.application is not None
        self._owner = owner
        self._application: Application = entry.application
        self._head = head
        self._captures = captures
        self._peer = wire.peer()
        self._local = wire.local()
        self._room = trio.Event()
        """Set and made anew whenever the peer has taken something."""
        self.entry = entry
        self.gone = trio.Event()
        """Set when nothing can be sent any more: the peer has gone, or has all."""
        self.told = False
        """Whether the application was told that its peer is gone: what it raises then is no failure."""
        self.runner: Runner | None = None

    # what a subclass says

    async def receive(self) -> dict[str, Any]:
        """Return the next message to the application."""
        raise NotImplementedError

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Take a message of the application."""
        raise NotImplementedError

    def make_scope(self) -> dict[str, Any]:
        """Return what the application is to know."""
        raise NotImplementedError

    def conclude(self, failed: Failed | None) -> None:
        """Take note that the application has returned, or what it raised."""
        raise NotImplementedError

    # job of the runner pool

    def begin(self) -> Coroutine[Any, Any, Any] | None:
        """Make the coroutine; None when the peer was gone before it began."""
        if self.gone.is_set():
            self._owner.release(self)
            return None
        return isolate(self._run())

    @trio.lowlevel.disable_ki_protection
    async def _run(self) -> None:
        scope = self.make_scope()
        state = await self._owner.applications.enter(self._application)
        scope["state"] = dict(state)
        await self._application(scope, self.receive, self.send)

    def finish(self, result: Any) -> None:
        """End the exchange, if the application has not done so."""
        failed = result if isinstance(result, Failed) else None
        if failed is not None and self.told:
            self._owner.count("peer_gone")
            log.debug("%s: ended by %r, its peer being gone", self.entry.event, failed.error)
            failed = None
        self.conclude(failed)
        self._owner.release(self)

    def report(self, failed: Failed) -> None:
        """Count and log what the application raised."""
        self._owner.report(self.entry.event, Failed(failed.error, self.entry.links[0].name), self._peer)

    # what its listener and its connection call

    def peer(self) -> Peer:
        """Return who asked."""
        return self._peer

    def cancel_handler(self) -> None:
        """Cancel it, at the end of a drain."""
        self._owner.runners.cancel(self)

    def give_place(self) -> None:
        """Give nothing back: it holds no place of a limited event."""

    def resume(self) -> None:
        """Let go on what waits for its peer to take something."""
        self._room.set()
        self._room = trio.Event()

    def let_go(self) -> None:
        """Let go of the connection; the application may run on."""
        self.gone.set()
        self.resume()
        self._owner.leave(self)

    async def wait_room(self) -> None:
        """Wait until the peer has taken something, or has gone."""
        await self._room.wait()

    # the scope

    def common_scope(self, kind: str, schemes: Mapping[str, str]) -> dict[str, Any]:
        """Return what requests and WebSockets have in common.

        Args:
            kind: of the scope.
            schemes: by that of HTTP.

        Raises:
            BadRequest: what trusted proxies tell is malformed.
        """
        head, look = self._head, self._owner.look_behind
        behind = None if look is None else look(self._peer.address, head.headers)
        scheme = self._owner.endpoint.scheme if behind is None else behind.scheme
        path = "/".join(decode_path(head.path))
        # What is left of the path without the application's own part: `/` before that is not the root's.
        root = path.removesuffix(self._captures.get(TAIL, "")).removesuffix("/")
        return {
            "type": kind,
            "asgi": ASGI_VERSIONS.copy(),
            "http_version": "1.0" if head.version == "1.0" else "1.1",
            "scheme": schemes[scheme or self._owner.endpoint.scheme],
            "path": path,
            "raw_path": head.path.encode("ascii"),
            "query_string": head.query.encode("ascii"),
            "root_path": root,
            "headers": [
                (name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers.pairs
            ],
            "client": _as_pair(self._peer.address if behind is None else behind.address),
            "server": _as_server(self._local),
        }


def _as_pair(address: Address) -> tuple[str, int] | None:
    return address if isinstance(address, tuple) else None


def _as_server(address: Address) -> tuple[str, int | None] | None:
    return (address, None) if isinstance(address, str) else address


def read_fields(pairs: Iterable[Any]) -> list[tuple[str, str]]:
    """Return an application's header fields as text.

    Raises:
        ApplicationError: they are not pairs of bytes.
    """
    fields = []
    for pair in pairs:
        try:
            name, value = pair
            fields.append((bytes(name).decode("latin-1"), bytes(value).decode("latin-1")))
        except (TypeError, ValueError) as error:
            raise ApplicationError(f"a header is not a pair of bytes: {pair!r}") from error
    return fields
