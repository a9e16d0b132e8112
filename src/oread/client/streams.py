"""Call over TCP and Unix sockets: raw, `lines`, `length`.

Raw connections have no messages, so the end of the connection is the end of
the reply, and each call is a connection of its own. Framed ones are kept.
What is only told goes by a second connection: a handler may answer it, and
that answer must not be taken for the next call's.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from oread.client.channel import Dial, Items, Outcome
from oread.client.payloads import Payload
from oread.client.sending import READ_BYTES, BoundedReader, Sent, send, sending
from oread.errors import BadRequest, HandlerError, MessageError
from oread.protocols.framing import Framing

LINGER_SECONDS = 2.0
"""How long a client waits at its end for the peer to have read what it was told."""
UNLIMITED = float("inf")


class Teller:
    """The connection for what is told and not asked; what comes back is dropped.

    Args:
        dial: opens it when something is told for the first time.
        nursery: in which what comes back is read away.
    """

    def __init__(self, dial: Dial, nursery: trio.Nursery) -> None:
        self._dial = dial
        self._nursery = nursery
        self._stream: trio.abc.HalfCloseableStream | None = None
        self._ended = trio.Event()

    async def tell(self, data: bytes) -> None:
        """Send; what the peer has closed before is a BrokenResourceError."""
        if self._stream is None:
            self._stream = await self._dial()
            self._nursery.start_soon(self._discard, self._stream)
        if self._ended.is_set():
            raise trio.BrokenResourceError("the peer has closed the connection")
        await self._stream.send_all(data)

    async def _discard(self, stream: trio.abc.HalfCloseableStream) -> None:
        try:
            while await stream.receive_some(READ_BYTES):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # told to whoever tells next
        finally:
            self._ended.set()

    async def finish(self) -> None:
        """End what is sent, and give the peer a while to read it."""
        if self._stream is None or self._ended.is_set():
            return
        with trio.move_on_after(LINGER_SECONDS):
            try:
                await self._stream.send_eof()
            except trio.BrokenResourceError:
                return
            await self._ended.wait()

    async def aclose(self) -> None:
        """Close it at once."""
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)


class RawChannel:
    """No framing: send, half-close, take all until the peer's end.

    Args:
        dial: opens one connection for each call.
        nursery: lives as long as the client.
    """

    tells_apart = True

    def __init__(self, dial: Dial, nursery: trio.Nursery) -> None:
        self._dial = dial
        self._nursery = nursery
        self._stream: trio.abc.HalfCloseableStream | None = None
        self._teller = Teller(dial, nursery)

    async def open(self) -> None:
        """Connect for the first call."""
        self._stream = await self._dial()

    async def exchange(self, event: str, payload: Payload) -> Outcome:  # noqa: ARG002 - the peer knows the event
        """Send and take everything that comes back."""
        stream = self._stream = self._stream or await self._dial()
        async with stream, sending(stream, payload.data) as sent:
            reader, parts = BoundedReader(stream), list[bytes]()
            while chunk := await reader.read():
                parts.append(chunk)
            if sent.broken:
                raise trio.BrokenResourceError("the peer closed before it had taken everything")
        self._stream = None
        return b"".join(parts)

    async def notify(self, event: str, payload: Payload) -> MessageError | None:  # noqa: ARG002
        """Send; how the peer cuts it into messages is up to the network."""
        await self._teller.tell(payload.data)
        return None

    async def open_items(self, event: str, payload: Payload) -> Items:  # noqa: ARG002
        """Give every chunk as it comes."""
        return StreamItems(await self._dial(), payload.data, None, self._nursery)

    async def finish(self) -> None:
        """Let what was told arrive."""
        await self._teller.finish()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._teller.aclose()
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)


class FramedChannel:
    """`lines` or `length`: one message each way, on one connection.

    Args:
        dial: opens a connection.
        nursery: lives as long as the client.
        make_framing: makes the machine of one connection.
    """

    tells_apart = True

    def __init__(self, dial: Dial, nursery: trio.Nursery, make_framing: Callable[[], Framing]) -> None:
        self._dial = dial
        self._nursery = nursery
        self._make_framing = make_framing
        self._framing = make_framing()
        self._stream: trio.abc.HalfCloseableStream | None = None
        self._teller = Teller(dial, nursery)

    async def open(self) -> None:
        """Connect."""
        await self._ready()

    async def _ready(self) -> trio.abc.HalfCloseableStream:
        if self._stream is None:
            self._stream = await self._dial()
        return self._stream

    async def exchange(self, event: str, payload: Payload) -> Outcome:  # noqa: ARG002 - the peer knows the event
        """Send one message and take one."""
        data = self._encode(payload.data)
        if isinstance(data, MessageError):
            return data
        stream, framing = await self._ready(), self._framing
        if framing.next_message() is not None or framing.unread():
            raise trio.BrokenResourceError("the peer has sent more than it was asked for")
        reader = BoundedReader(stream)
        async with sending(stream, data, half_close=False) as sent:
            message = None
            while message is None:
                chunk = await reader.read()
                message = framing.receive(chunk) if chunk else _read_end(framing)
            if not await sent.is_done():
                raise trio.BrokenResourceError("the peer answered before it was asked in full")
            return message

    def _encode(self, data: bytes) -> bytes | BadRequest:
        try:
            return self._make_framing().encode(data)
        except HandlerError as error:
            return BadRequest(str(error).replace("a reply", "a payload"))

    async def send(self, data: bytes) -> None:
        """Send one message on the connection of the calls: nothing comes back."""
        stream = await self._ready()
        await stream.send_all(self._framing.encode(data))

    async def notify(self, event: str, payload: Payload) -> MessageError | None:  # noqa: ARG002
        """Send one message by the other connection."""
        data = self._encode(payload.data)
        if isinstance(data, MessageError):
            return data
        await self._teller.tell(data)
        return None

    async def open_items(self, event: str, payload: Payload) -> Items:  # noqa: ARG002
        """Send one message, half-close, and give every message that comes."""
        data = self._encode(payload.data)
        if isinstance(data, MessageError):
            raise data
        return StreamItems(await self._dial(), data, self._make_framing(), self._nursery)

    async def finish(self) -> None:
        """Let what was told arrive, and end the connection of the calls in order."""
        await self._teller.finish()
        if self._stream is not None:
            await self._stream.aclose()

    async def aclose(self) -> None:
        """Close both connections."""
        await self._teller.aclose()
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)


def _read_end(framing: Framing) -> bytes:
    """Return what the end makes a message; there is nothing else to come."""
    try:
        message = framing.receive_eof()
    except BadRequest as error:
        raise trio.BrokenResourceError(f"the reply was cut short: {error}") from error
    if message is None:
        raise trio.BrokenResourceError("the peer closed the connection without a reply")
    return message


class StreamItems:
    """Chunks, or framed messages, until the peer ends the connection.

    Args:
        stream: is closed by `aclose`.
        data: the request, sent beside the reading.
        framing: None gives every chunk as it comes.
        nursery: in which is sent.
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        data: bytes,
        framing: Framing | None,
        nursery: trio.Nursery,
    ) -> None:
        self._stream = stream
        self._framing = framing
        self._reader = BoundedReader(stream, UNLIMITED)
        self._sent = Sent()
        nursery.start_soon(send, stream, data, True, self._sent)

    async def next_item(self) -> bytes | None:
        """Return the next chunk or message."""
        framing = self._framing
        if framing is None:
            return await self._read() or None
        message = framing.next_message()
        while message is None:
            chunk = await self._read()
            if not chunk:
                return self._end(framing)
            message = framing.receive(chunk)
        return message

    async def _read(self) -> bytes:
        chunk = await self._reader.read()
        if not chunk and self._sent.broken:
            raise trio.BrokenResourceError("the peer closed before it had taken everything")
        return chunk

    def _end(self, framing: Framing) -> bytes | None:
        try:
            return framing.receive_eof()
        except BadRequest as error:
            raise trio.BrokenResourceError(f"the reply was cut short: {error}") from error

    async def aclose(self) -> None:
        """Close the connection."""
        await trio.aclose_forcefully(self._stream)
