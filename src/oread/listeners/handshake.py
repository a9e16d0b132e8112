"""The TLS handshake of an accepted connection, before anybody serves it.

It is a connection of its listener: it counts against the cap, has a deadline
of its own, gives way at the cap and ends with a drain. Nothing is made for a
peer before its first bytes: what is no TLS is told at once by their first.

How it fails is the peer's affair: counted by reason, logged at debug only.

Source: RFC 8446 5.1 (records), 6 (alerts).
"""

from __future__ import annotations

import ssl
from typing import Protocol

from oread.limits import HttpsLimits, TlsLimits
from oread.listeners.connection import Connection
from oread.listeners.roles import Owner, Socket
from oread.listeners.runtime import log
from oread.listeners.states import CLOSED, LINGERING
from oread.sockets.tls_contexts import Credentials, describe_tls_error
from oread.sockets.tls_machine import RECORD_BYTES, TlsMachine
from oread.sockets.tls_socket import TlsSocket

HANDSHAKE_RECORD = 0x16
"""First byte of every connection (RFC 8446 5.1, ContentType)."""
NEWCOMER_SECONDS = 1.0
"""How long a handshake is safe from giving way to a newer connection."""
PLAIN_HTTP_REPLY = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 36\r\n"
    b"Connection: close\r\n\r\nThis port speaks TLS: use https://.\n"
)
"""As nginx and Go answer: a person who forgot the `s` is told."""

_REASONS = {
    "UNSUPPORTED_PROTOCOL": "tls_version",
    "VERSION_TOO_LOW": "tls_version",
    "NO_SHARED_CIPHER": "tls_cipher",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "tls_client_certificate",
    "CERTIFICATE_VERIFY_FAILED": "tls_client_certificate",
}
"""What OpenSSL says: what is counted; the rest is `tls_handshake`."""


class SecuringOwner(Owner, Protocol):
    """The listener, as a handshake sees it."""

    credentials: Credentials | None

    def secured(self, handshake: Handshake, sock: TlsSocket) -> None:
        """Serve what a handshake has made of its socket."""


class Handshake(Connection):
    """A connection until its TLS handshake is complete."""

    __slots__ = ("_began", "_machine")

    _owner: SecuringOwner

    def __init__(self, owner: SecuringOwner, sock: Socket) -> None:
        super().__init__(owner, sock)
        receive = sock.recv
        self._recv = lambda _size: receive(RECORD_BYTES)  # what is behind the handshake fits one read
        self._began = self.received
        self._machine: TlsMachine | None = None

    def on_data(self, data: bytes) -> None:
        """Take a step; hand the connection over when it was the last."""
        machine = self._machine
        if machine is None:
            if data[0] != HANDSHAKE_RECORD:
                self._refuse(data)
                return
            assert self._owner.credentials is not None
            context = self._owner.credentials.context(self._owner.reactor.now)
            machine = self._machine = TlsMachine(context, server_side=True)
        try:
            complete = machine.handshake(data)
        except ssl.SSLError as error:
            self._fail(machine, error)
            return
        answer = machine.take()
        if answer:
            self.write(answer)
        if complete and not self.flags & CLOSED:
            self._hand_over(machine)

    def _hand_over(self, machine: TlsMachine) -> None:
        unsent, self.pending = bytes(self.pending or b""), None
        self.flags = CLOSED  # for the reactor: it is another's socket now
        self._owner.reactor.disarm(self)
        self._owner.reactor.remove(self.fd)
        self._owner.secured(self, TlsSocket(self.socket, machine, unsent=unsent, count=self._owner.count))

    def _refuse(self, data: bytes) -> None:
        """End what is no TLS; HTTP is answered, so that a person is told."""
        is_http = data[:1].isalpha() and self._owner.endpoint.scheme == "https"
        self._owner.count("tls_plain_http" if is_http else "tls_missing")
        if is_http:
            self.write(PLAIN_HTTP_REPLY)
        self.finish_writing()

    def _fail(self, machine: TlsMachine, error: ssl.SSLError) -> None:
        self._owner.count(_REASONS.get(error.reason or "", "tls_handshake"))
        log.debug(
            "%s: no handshake with %s: %s", self._owner.endpoint, self.peer(), describe_tls_error(error)
        )
        alert = machine.take()
        if alert:
            self.write(alert)
        self.finish_writing()

    # ends

    @property
    def evictable(self) -> bool:
        """Whether it may give way at the cap: it has taken long."""
        return not self.flags and self._owner.reactor.now - self._began >= NEWCOMER_SECONDS

    def on_input_end(self) -> None:
        """Count a peer that left in the middle."""
        self._owner.count("tls_handshake")

    def on_reset(self) -> None:
        """Count a peer that left in the middle."""
        if not self.flags & LINGERING:
            self._owner.count("tls_handshake")

    def drain(self) -> None:
        """Close: nothing was asked yet."""
        self._owner.count("tls_drained")
        self.close()

    def next_deadline(self) -> float:
        """Return the deadline of the whole handshake."""
        if self.flags & LINGERING:
            return super().next_deadline()
        limits = self._owner.limits
        assert isinstance(limits, TlsLimits | HttpsLimits)
        return self._began + limits.handshake_seconds

    def on_expired(self) -> None:
        """Close it: it has taken too long."""
        if not self.flags & LINGERING:
            self._owner.count("tls_timeout")
        self.close()
