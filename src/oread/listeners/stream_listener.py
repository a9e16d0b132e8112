"""The listener of `tcp` and `unix` endpoints: one event, one framing."""

from __future__ import annotations

from collections.abc import Sequence

from oread.dispatch import Entry
from oread.endpoints import Endpoint
from oread.errors import RegistrationError
from oread.listeners.acceptor import ListeningSocket
from oread.listeners.connection import Connection
from oread.listeners.listener import ConnectionListener
from oread.listeners.roles import Socket
from oread.listeners.runtime import Runtime
from oread.listeners.sessions import SessionConnection
from oread.listeners.streams import FramedConnection, RawConnection
from oread.messages import Message
from oread.protocols.framing import FRAMINGS


class StreamListener(ConnectionListener):
    """The open sockets of one `tcp` or `unix` endpoint, and what came in.

    Raises:
        RegistrationError: the registry has no handler that this endpoint can
            serve; the sockets stay the caller's then.
    """

    def __init__(self, runtime: Runtime, endpoint: Endpoint, sockets: Sequence[ListeningSocket]) -> None:
        super().__init__(runtime, endpoint, sockets)
        self._machine = FRAMINGS.get(endpoint.framing)
        self.slot = runtime.registry.attach(
            endpoint.event, _check_raw if self._machine is None else _check_framed
        )

    def make_connection(self, sock: Socket) -> Connection:
        """Make the connection that the framing, or a session, asks for."""
        if self._machine is not None:
            return FramedConnection(self, sock, self._machine(self.limits.message_bytes))
        if self.slot.entry.session is not None:
            return SessionConnection(self, sock)
        return RawConnection(self, sock)

    def abort(self) -> None:
        """Close every socket now."""
        super().abort()
        self.runtime.registry.detach(self.slot)


def _check_raw(entry: Entry) -> None:
    """Refuse what a chunk, cut anywhere, can't be."""
    if entry.session is not None:
        return
    _check_framed(entry)
    for link in entry.links:
        if link.plan.payload in ("str", "json"):
            taken = "str" if link.plan.payload == "str" else "JSON"
            raise RegistrationError(
                f"{link.name} takes {taken}, but a chunk of a raw stream may be cut anywhere: "
                f"take bytes, or add ?framing=lines"
            )


def _check_framed(entry: Entry) -> None:
    if not entry.links:
        raise RegistrationError(f"event {entry.event!r} has a session only, which framing=raw serves")
    for link in entry.links:
        wanted = link.plan.message
        if wanted is not None and wanted is not Message:
            raise RegistrationError(f"{link.name} takes {wanted.__name__}, which no stream endpoint has")
