"""A socket that speaks TLS to its peer and plaintext to its connection.

It has the calls of a non-blocking socket, so a connection does not know of
it. What TLS adds is kept in terms that a connection understands:

* plaintext counts as sent when the last byte of its ciphertext is; until then
  the connection keeps it as pending, with water marks and stall deadline;
* what TLS itself has to send (an answer to a KeyUpdate, the end) and the
  kernel does not take makes the connection wait as for a reply of no bytes;
* behind the peer's close_notify, or a fault, receiving is shut down: so the
  poller reports the descriptor until the connection has heard of it;
* an end of the transport without close_notify is an error, as a reset is.

`close` is abrupt: without `shutdown` before it the peer sees a truncation.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from oread.sockets.streams import tcp_info
from oread.sockets.tls_machine import RECORD_BYTES, TlsMachine

CIPHERTEXT_BYTES = 3 * RECORD_BYTES - 1_024
"""Read at once: with an incomplete record before it, never more plaintext than 64 KiB."""
PLAINTEXT_BYTES = 4 * RECORD_BYTES
"""Encrypted at once; bounds the ciphertext that waits for the peer."""
CONTROL_BYTES = 65_536
"""Answers of the protocol that may wait for a peer that does not read, beyond its replies."""


class TlsSocket:
    """A connected socket behind a handshake.

    Args:
        transport: non-blocking; closed with it.
        machine: its handshake is complete; what it has received is kept.
        unsent: ciphertext of the handshake that the kernel has not taken yet.
        count: counts what the peer did wrong, by reason.
    """

    __slots__ = (
        "_count",
        "_ended",
        "_machine",
        "_owed",
        "_plaintext",
        "_recv",
        "_send",
        "_unsent",
        "keep",
        "transport",
    )

    def __init__(
        self, transport: Any, machine: TlsMachine, *, unsent: bytes, count: Callable[[str], None]
    ) -> None:
        self.transport = transport
        self._recv: Callable[[int], bytes] = transport.recv
        self._send: Callable[[bytes], int] = transport.send
        self._machine = machine
        self._count = count
        self._unsent = unsent
        self._owed = 0
        """Plaintext whose ciphertext is in `_unsent`."""
        self._ended = False
        """Whether the end of what is sent was said."""
        self._plaintext = b""
        self.keep: Callable[[bytes], None] | None = None
        """Told that something waits for the peer: a connection's `keep`."""

    # receiving

    def begin(self) -> bool:
        """Take up what the handshake left; True when `recv` has something already."""
        if self._unsent and self.keep is not None:
            self.keep(b"")
        with contextlib.suppress(ssl.SSLError):  # kept for `recv` to raise
            self._plaintext = self._decrypt(b"")
        return bool(self._plaintext)

    def recv(self, size: int, /) -> bytes:
        """Return plaintext; raise BlockingIOError when none is complete.

        What is left of a smaller read than 64 KiB is not told by a poller: who
        waits for readiness reads on until it blocks, or 64 KiB in all.

        Raises:
            ConnectionResetError: the peer ended the transport, but not what it sent.
            OSError: the transport failed, or the peer broke the protocol.
        """
        if self._plaintext:
            data, self._plaintext = self._plaintext[:size], self._plaintext[size:]
            return data
        machine = self._machine
        if machine.ended:
            return b""
        if machine.failed is not None:
            raise machine.failed
        ciphertext = self._recv(CIPHERTEXT_BYTES)
        if not ciphertext:
            if not self._ended:  # after our own end many peers just close
                self._count("tls_truncated")
            raise ConnectionResetError("the peer ended the connection without close_notify")
        data = self._decrypt(ciphertext)
        if len(data) > size:
            data, self._plaintext = data[:size], data[size:]
        if data:
            return data
        if self._machine.ended:
            return b""
        raise BlockingIOError("no record is complete")

    def _decrypt(self, ciphertext: bytes) -> bytes:
        machine = self._machine
        try:
            data = machine.decrypt(ciphertext)
        except ssl.SSLError as error:
            self._fail(error)
            raise
        if machine.failed is not None:
            self._fail(machine.failed)
            return data
        if machine.has_output:
            self._answer()
        if machine.ended:
            self._make_readable()
        return data

    def _make_readable(self) -> None:
        """Have the poller report the descriptor, whose next read tells the end."""
        with contextlib.suppress(OSError):  # reset meanwhile: the next read tells
            self.transport.shutdown(socket.SHUT_RD)

    def _fail(self, error: ssl.SSLError) -> None:
        """Count what the peer did, and tell it if the kernel takes the alert."""
        self._machine.failed = error
        self._make_readable()
        self._count("tls_error")
        self._unsent += self._machine.take()
        with contextlib.suppress(OSError):
            self._flush()

    def _answer(self) -> None:
        """Send what the protocol answers by itself."""
        self._unsent += self._machine.take()
        if len(self._unsent) > PLAINTEXT_BYTES + CONTROL_BYTES:
            self._count("tls_flood")
            raise ConnectionAbortedError("the peer asks for answers and does not read them")
        with contextlib.suppress(BlockingIOError):
            self._flush()
        if self._unsent and self.keep is not None:
            self.keep(b"")

    # sending

    def send(self, data: bytes | memoryview, /) -> int:
        """Encrypt and send; return how much the kernel has taken in full.

        What it has not taken is to be given again, as it was, with more or
        nothing behind it.
        """
        if self._unsent:
            self._flush()
            if self._unsent and data:
                return 0  # some was taken, which is progress
            if self._unsent:
                raise BlockingIOError("what TLS has to say is not taken in full")
            if self._owed:
                sent, self._owed = self._owed, 0
                return sent
        if not data:
            return 0
        size = len(data)
        if size > PLAINTEXT_BYTES:
            data, size = data[:PLAINTEXT_BYTES], PLAINTEXT_BYTES
        ciphertext = self._machine.encrypt(data)
        try:
            taken = self._send(ciphertext)
        except BlockingIOError:
            taken = 0
        if taken == len(ciphertext):
            return size
        self._unsent, self._owed = ciphertext[taken:], size
        return 0

    def _flush(self) -> None:
        """Send what is encrypted; raise BlockingIOError when nothing of it is taken."""
        if self._unsent:
            self._unsent = self._unsent[self._send(self._unsent) :]

    def shutdown(self, how: int, /) -> None:
        """Say the end of what is sent, then end that direction.

        Raises:
            BlockingIOError: the kernel takes it later: `send` nothing when it
                does, then call this again.
        """
        assert how == socket.SHUT_WR
        if not self._ended:
            self._ended = True
            self._unsent += self._machine.end()
        self._flush()
        if self._unsent:
            raise BlockingIOError("the end waits for the peer")
        self.transport.shutdown(how)

    # the rest is the transport's

    def close(self) -> None:
        """Close the transport without a word."""
        self.keep = None
        self.transport.close()

    def fileno(self) -> int:
        """Return the transport's descriptor."""
        number: int = self.transport.fileno()
        return number

    def setsockopt(self, level: int, option: int, value: bytes, /) -> None:
        """Set an option of the transport."""
        self.transport.setsockopt(level, option, value)

    def getpeername(self) -> Any:
        """Return the peer's address."""
        return self.transport.getpeername()

    def getsockname(self) -> Any:
        """Return its own address."""
        return self.transport.getsockname()

    def info(self) -> Mapping[str, Any]:
        """Return TCP_INFO, and under `tls` what was agreed with the peer.

        `peer_certificate` is as `ssl.SSLSocket.getpeercert` has it: None
        without one.
        """
        tls = self._machine.tls
        cipher = tls.cipher()
        return {
            **tcp_info(self.transport),
            "tls": {
                "version": tls.version(),
                "cipher": cipher[0] if cipher else None,
                "alpn": tls.selected_alpn_protocol(),
                "resumed": bool(tls.session_reused),
                "peer_certificate": tls.getpeercert() or None,
            },
        }
