"""TLS as a machine without sockets: ciphertext in, plaintext out, and back.

OpenSSL works on two buffers in memory. What it can decrypt is always taken
out at once: nothing readable stays inside, so that a poller on the descriptor
tells the truth. The peer's end is its close_notify and nothing else: an end
of the transport before it is a truncation, which the caller tells by `ended`.

Source: RFC 8446, RFC 5246 7.2.1 (close_notify); ssl.SSLObject.
"""

from __future__ import annotations

import contextlib
import ssl

RECORD_BYTES = 16_384
"""Plaintext of one record at most (RFC 8446 5.1)."""


class TlsMachine:
    """One side of a TLS connection.

    Args:
        context: of the right side; stays the caller's.
        server_side: whether it answers a handshake.
        server_name: a client's: what the server's certificate must be for.
        session: a client's: from an earlier connection, to be resumed.

    Raises:
        ValueError, ssl.SSLError: the context does not fit the side or the name.
    """

    __slots__ = ("_incoming", "_outgoing", "_read", "_write", "ended", "failed", "tls")

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_name,
            session=session,
        )
        self._read = self.tls.read
        self._write = self.tls.write
        self.ended = False
        """Whether the peer has said that it will send nothing more."""
        self.failed: ssl.SSLError | None = None
        """What is wrong behind the plaintext that was returned last."""

    def handshake(self, ciphertext: bytes = b"") -> bool:
        """Go on with the handshake; True when it is complete.

        Raises:
            ssl.SSLError: it failed; `take` has the alert to be sent.
        """
        self._incoming.write(ciphertext)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Return the plaintext that is complete now; `b""` when none is.

        Raises:
            ssl.SSLError: the peer broke the protocol; `take` has the alert.
        """
        self._incoming.write(ciphertext)
        try:
            data = self._read(RECORD_BYTES)
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:  # instead of no data, when both sides have ended
            data = b""
        if data and not self._incoming.pending and not self.tls.pending():
            return data  # one record, the usual: asking again would cost an exception, 2 µs
        return self._read_on(data)

    def _read_on(self, data: bytes) -> bytes:
        """Read until OpenSSL has nothing more; a fault comes behind the data."""
        parts = []
        try:
            while data:
                parts.append(data)
                data = self._read(RECORD_BYTES)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            self.failed = error
        return b"".join(parts)

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """Return the ciphertext of some plaintext, behind what was to be sent before."""
        self._write(data)
        return self._outgoing.read()

    def end(self) -> bytes:
        """Return the ciphertext that says that nothing more will be sent."""
        with contextlib.suppress(ssl.SSLError):  # it waits for the peer's end, or the peer has failed
            self.tls.unwrap()
        return self._outgoing.read()

    @property
    def has_output(self) -> bool:
        """Whether `take` would return something: an answer of the protocol itself."""
        return bool(self._outgoing.pending)

    def take(self) -> bytes:
        """Return what is to be sent besides what `encrypt` returned."""
        return self._outgoing.read()
