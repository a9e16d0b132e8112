"""Speak TLS on a stream of the client's: half-closeable, as a socket is.

The same machine as on the serving side, over any Trio stream. The peer's
close_notify is the end of what it sends; an end of the transport without it
is a `trio.BrokenResourceError`: what came may be a part only.

`send_eof` sends close_notify. TLS 1.3 lets the peer answer on; a peer by TLS
1.2 is to close at once (RFC 5246 7.2.1), which most do not.
"""

from __future__ import annotations

import contextlib
import operator
import ssl

import trio

from oread.endpoints import Endpoint
from oread.sockets.dialling import dial_stream
from oread.sockets.exclusive import Exclusive
from oread.sockets.tls_contexts import describe_tls_error
from oread.sockets.tls_machine import TlsMachine

READ_BYTES = 65_536
SEND_BYTES = 65_536
"""Encrypted at once."""
CLOSE_SECONDS = 1.0
"""How long a close waits for a peer that does not take the end."""


class TlsStream(trio.abc.HalfCloseableStream):
    """TLS over a stream; made by `open_tls_stream`, which has shaken hands.

    Cancellation: a `send_all` that is cancelled has broken the stream: part
    of a record may have been sent.
    """

    def __init__(self, transport: trio.abc.HalfCloseableStream, machine: TlsMachine) -> None:
        self._transport = transport
        self._machine = machine
        self._plaintext = b""
        self._transport_lock = trio.StrictFIFOLock()
        self._receiving = Exclusive("receiving from")
        self._sending = Exclusive("sending on")
        self._eof_sent = False
        self._broken = False
        self._closed = False

    async def do_handshake(self) -> None:
        """Shake hands.

        Raises:
            ssl.SSLError: the peer is not believed, or speaks no TLS that is taken.
            trio.BrokenResourceError: the peer broke off.
        """
        machine, received = self._machine, b""
        while True:
            try:
                complete = machine.handshake(received)
            except ssl.SSLError:
                with contextlib.suppress(trio.BrokenResourceError):  # the alert is for the peer's log only
                    await self._send(b"")
                raise
            await self._send(b"")
            if complete:
                break
            received = bytes(await self._transport.receive_some(READ_BYTES))
            if not received:
                raise trio.BrokenResourceError("the peer ended the connection in the TLS handshake")
        self._plaintext = machine.decrypt(b"")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive at least one byte, `b""` at the peer's end."""
        size = READ_BYTES if max_bytes is None else operator.index(max_bytes)
        if size < 1:
            raise ValueError("max_bytes must be >= 1")
        with self._receiving:
            self._check_open()
            await trio.lowlevel.checkpoint()
            while not self._plaintext:
                if self._machine.ended:
                    return b""
                await self._receive()
            data, self._plaintext = self._plaintext[:size], self._plaintext[size:]
            return data

    async def _receive(self) -> None:
        machine = self._machine
        if machine.failed is None:
            ciphertext = bytes(await self._transport.receive_some(READ_BYTES))
            if not ciphertext:
                raise trio.BrokenResourceError("the peer ended the connection without close_notify")
            try:
                self._plaintext = machine.decrypt(ciphertext)
            except ssl.SSLError as error:
                machine.failed = error
            if machine.has_output:
                await self._send(b"")
        if machine.failed is not None and not self._plaintext:
            raise trio.BrokenResourceError(describe_tls_error(machine.failed)) from machine.failed

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything."""
        with self._sending:
            self._check_sendable()
            await trio.lowlevel.checkpoint()
            with memoryview(data) as whole, whole.cast("B") as view:
                for begin in range(0, len(view), SEND_BYTES):
                    with view[begin : begin + SEND_BYTES] as part:
                        ciphertext = self._encrypt(part)
                    await self._send(ciphertext)

    def _encrypt(self, part: memoryview) -> bytes:
        try:
            return self._machine.encrypt(part)
        except ssl.SSLError as error:
            raise trio.BrokenResourceError(describe_tls_error(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the transport takes something."""
        with self._sending:
            self._check_sendable()
            async with self._transport_lock:
                await self._transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing more will be sent; input goes on."""
        with self._sending:
            self._check_open()
            await trio.lowlevel.checkpoint()
            if not self._eof_sent:
                self._eof_sent = True
                await self._send(self._machine.end())
                await self._transport.send_eof()

    async def aclose(self) -> None:
        """Say the end, then close; waits a second for it at most.

        Cancellation: closes without a word.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        try:
            with trio.move_on_after(CLOSE_SECONDS):
                await self._say_end()
        except (trio.BrokenResourceError, ssl.SSLError):
            pass  # it has closed or talks nonsense: it will hear nothing
        finally:
            await trio.aclose_forcefully(self._transport)

    async def _say_end(self) -> None:
        if self._broken or self._transport_lock.locked():
            return  # in the middle of a record nothing can be said
        if not self._eof_sent:
            await self._transport.send_all(self._machine.end())
        while self._awaits_ticket() and not self._receiving.held:
            ciphertext = bytes(await self._transport.receive_some(READ_BYTES))
            if not ciphertext:
                return
            self._machine.decrypt(ciphertext)

    def _awaits_ticket(self) -> bool:
        """Tell whether the server's tickets have not come yet.

        TLS 1.3 sends them behind the handshake, to a client that only sends
        too. Closing with them unread is a reset, which destroys what was sent.
        """
        tls = self._machine.tls
        session = tls.session
        return tls.version() == "TLSv1.3" and session is not None and not session.has_ticket

    async def _send(self, ciphertext: bytes) -> None:
        """Send ciphertext, and behind it what TLS itself has to say, in the order it was made."""
        async with self._transport_lock:
            if self._broken:
                raise trio.BrokenResourceError("an earlier send was cut off")
            self._broken = True
            await self._transport.send_all(ciphertext + self._machine.take())
            self._broken = False

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")

    def _check_sendable(self) -> None:
        self._check_open()
        if self._eof_sent:
            raise trio.ClosedResourceError("send_eof was called on this stream")


async def open_tls_stream(
    transport: trio.abc.HalfCloseableStream, context: ssl.SSLContext, server_name: str
) -> TlsStream:
    """Shake hands as a client.

    Args:
        transport: the stream's from then on: closed with it, and when this fails.
        context: a client's; says what is verified.
        server_name: what the server's certificate must be for: a name or an address.

    Raises:
        ssl.SSLError: the peer is not believed, or speaks no TLS that is taken.
        trio.BrokenResourceError: the peer broke off.

    Cancellation: closes the transport.
    """
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(trio.aclose_forcefully, transport)
        stream = TlsStream(transport, TlsMachine(context, server_name=server_name))
        await stream.do_handshake()
        stack.pop_all()
    return stream


async def dial(endpoint: Endpoint, context: ssl.SSLContext | None) -> trio.abc.HalfCloseableStream:
    """Connect to an endpoint, with TLS where it speaks it.

    Args:
        endpoint: of a stream.
        context: for `tls` and `https`; not used for others.

    Raises:
        OSError: as the system said it; `ssl.SSLError`, which is one, when TLS failed.
        trio.BrokenResourceError: the peer broke off in the handshake.

    Cancellation: closes what was opened.
    """
    transport = await dial_stream(endpoint)
    if not endpoint.is_secure:
        return transport
    assert context is not None
    return await open_tls_stream(transport, context, endpoint.host)
