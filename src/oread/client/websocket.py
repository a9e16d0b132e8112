"""Call by WebSocket: messages to the event of the path, on a connection that is kept.

A message has no number, so calls are made one after the other, and a handler
that answers nothing leaves the caller waiting. What is only told goes by a
second connection. A close code says as an error what the service refused.

Not here: reconnecting, extensions, subprotocols.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from typing import TypeGuard
from urllib.parse import quote

import trio

from oread.client.calls import HTTP_LIMITS
from oread.client.channel import Dial, Items, Outcome
from oread.client.http import PATH_SAFE, read_status
from oread.client.payloads import Payload
from oread.client.sending import LIMIT_BYTES, READ_BYTES
from oread.client.target import Target
from oread.errors import BadRequest, Busy, EndpointError, HandlerError, MessageError, NotFound, TooLarge
from oread.protocols.http1_client import ClientResponse, HttpClientProtocol
from oread.protocols.http1_lines import Refusal
from oread.protocols.websocket import (
    GOING_AWAY,
    INTERNAL_ERROR,
    INVALID_PAYLOAD,
    NORMAL,
    POLICY,
    TOO_BIG,
    TRY_AGAIN,
    Fault,
    Incoming,
    PeerClosed,
    Ping,
    WebSocketProtocol,
)
from oread.protocols.websocket_handshake import encode_asking, is_accepted

CLOSE_SECONDS = 2.0
"""How long a client waits at its end for the service's close frame."""
IDLE_SECONDS = 15.0
"""A connection not used for so long is left: nobody reads it between calls, and answers its pings."""
HEAD_BYTES = 65_536
"""Longest head of the answer to the handshake."""

_ERRORS: dict[int, Callable[[str], MessageError]] = {
    GOING_AWAY: Busy,
    INVALID_PAYLOAD: BadRequest,
    POLICY: NotFound,
    TOO_BIG: TooLarge,
    TRY_AGAIN: Busy,
    INTERNAL_ERROR: HandlerError,
}


class WebSocketStream:
    """One open WebSocket, as its client."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self._protocol = WebSocketProtocol(message_bytes=LIMIT_BYTES, frame_bytes=LIMIT_BYTES, client=True)
        self._sending = trio.Lock()
        self._goodbye_said = False
        self.used = trio.current_time()
        """When it was last sent to or received from."""

    @classmethod
    async def open(
        cls, dial: Dial, target: str, host: str, headers: Sequence[tuple[str, str]] = ()
    ) -> WebSocketStream:
        """Connect and ask for a WebSocket.

        Raises:
            ValueError: target or fields can't be sent.
            MessageError: what the status of another answer says.
            OSError, trio.BrokenResourceError: the service can't be reached, or talks nonsense.

        Cancellation: closes the connection.
        """
        key = base64.b64encode(os.urandom(16)).decode()
        request = encode_asking(target, host, key, headers)
        stream = await dial()
        opened = False
        try:
            await stream.send_all(request)
            received = b""
            while b"\r\n\r\n" not in received:
                chunk = await stream.receive_some(READ_BYTES)
                received += chunk
                if not chunk or len(received) > HEAD_BYTES:
                    raise trio.BrokenResourceError("no answer to the handshake")
            head, _, behind = received.partition(b"\r\n\r\n")
            if not is_accepted(head.decode("latin-1") + "\r\n\r\n", key):
                raise await _read_refusal(stream, received)
            socket = cls(stream)
            socket._protocol.feed(behind)
            opened = True
        finally:
            if not opened:
                await trio.aclose_forcefully(stream)
        return socket

    async def send(self, payload: Payload) -> None:
        """Send one message: as text, unless it is bytes that are not UTF-8."""
        try:
            data = self._protocol.encode(payload.data, text=True)
        except UnicodeDecodeError:
            data = self._protocol.encode(payload.data, text=False)
        await self._send(data)

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            await self._stream.send_all(data)
        self.used = trio.current_time()

    async def receive(self) -> bytes | None:
        """Return the next message; None when the service has closed without a complaint.

        Raises:
            MessageError: the reason that it closed for.
            trio.BrokenResourceError: it broke off, or talks nonsense.
        """
        while True:
            event = self._protocol.next_event()
            if isinstance(event, Incoming):
                self.used = trio.current_time()
                return event.data
            if isinstance(event, Ping):
                await self._send(self._protocol.pong(event.payload))
            elif isinstance(event, PeerClosed):
                await self._say_goodbye(event.code)
                if event.code in _ERRORS:
                    raise _ERRORS[event.code](event.reason or f"closed with {event.code}")
                return None
            elif isinstance(event, Fault):
                raise trio.BrokenResourceError(f"the service sends what it may not: {event.reason}")
            elif self._protocol.paused:
                await trio.lowlevel.checkpoint()
            elif event is None:
                chunk = await self._stream.receive_some(READ_BYTES)
                if not chunk:
                    raise trio.BrokenResourceError("the peer ended the connection without a close frame")
                self._protocol.feed(bytes(chunk))

    async def finish(self) -> None:
        """Say goodbye, and wait a while for the service's."""
        with trio.move_on_after(CLOSE_SECONDS):
            try:
                await self._say_goodbye(NORMAL)
                while not self._protocol.over and await self.receive() is not None:
                    pass
            except (MessageError, trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _say_goodbye(self, code: int) -> None:
        if not self._goodbye_said:
            self._goodbye_said = True
            await self._send(self._protocol.close(code))

    async def aclose(self) -> None:
        """Close the connection at once."""
        await trio.aclose_forcefully(self._stream)


async def _read_refusal(stream: trio.abc.ReceiveStream, received: bytes) -> Exception:
    """Return what an answer other than the 101 says."""
    machine = HttpClientProtocol(HTTP_LIMITS, "GET")
    response: ClientResponse | Refusal | None = machine.receive(received)
    while response is None:
        chunk = await stream.receive_some(READ_BYTES)
        response = machine.receive(bytes(chunk)) if chunk else machine.receive_eof()
    if isinstance(response, Refusal):
        return trio.BrokenResourceError(response.reason)
    return read_status(response) or HandlerError(f"it answers {response.status}: it is no WebSocket")


class WebSocketChannel:
    """Messages one after the other on one connection for each event in turn.

    Args:
        target: its path goes before every event.
        dial: opens a connection.
        headers: more fields of every handshake.

    Raises:
        EndpointError: the URL has a query, or the fields can't be sent.
    """

    tells_apart = True

    def __init__(self, target: Target, dial: Dial, *, headers: Sequence[tuple[str, str]]) -> None:
        self._prefix, mark, _ = target.request_target.partition("?")
        if mark:
            raise EndpointError(f"{target.endpoint}: the URL of a client has no query")
        self._prefix = self._prefix.rstrip("/")
        self._host = target.host_field
        self._dial = dial
        self._headers = tuple(headers)
        self._asking: tuple[str, WebSocketStream] | None = None
        self._telling: tuple[str, WebSocketStream] | None = None
        try:
            encode_asking("/", self._host, "", self._headers)
        except ValueError as error:
            raise EndpointError(str(error)) from error

    async def open(self) -> None:
        """Do nothing: which event is asked for is not known yet."""

    async def _connect(self, event: str) -> WebSocketStream:
        path = f"{self._prefix}/{quote(event, safe=PATH_SAFE)}"
        return await WebSocketStream.open(self._dial, path, self._host, self._headers)

    async def exchange(self, event: str, payload: Payload) -> Outcome:
        """Send one message and take one."""
        socket = await self._socket_for_calls(event)
        if isinstance(socket, MessageError):
            return socket
        await socket.send(payload)
        try:
            reply = await socket.receive()
        except MessageError as error:
            self._asking = None
            await socket.aclose()
            return error
        if reply is None:
            raise trio.BrokenResourceError("the service closed the connection without a reply")
        return reply

    async def _socket_for_calls(self, event: str) -> WebSocketStream | MessageError:
        if _serves(self._asking, event):
            return self._asking[1]
        if self._asking is not None:
            _, before = self._asking
            self._asking = None
            await before.aclose()
        try:
            self._asking = event, await self._connect(event)
        except MessageError as error:
            return error
        return self._asking[1]

    async def notify(self, event: str, payload: Payload) -> MessageError | None:
        """Send one message by the other connection."""
        if self._telling is not None and not _serves(self._telling, event):
            _, before = self._telling
            await before.finish()
            await before.aclose()
            self._telling = None
        if self._telling is None:
            try:
                self._telling = event, await self._connect(event)
            except MessageError as error:
                return error
        await self._telling[1].send(payload)
        return None

    async def open_items(self, event: str, payload: Payload) -> Items:
        """Send one message, and give every message that comes until the service closes."""
        socket = await self._connect(event)
        sent = False
        try:
            await socket.send(payload)
            sent = True
        finally:
            if not sent:
                await socket.aclose()
        return WebSocketItems(socket)

    async def finish(self) -> None:
        """Say goodbye, so that what was told arrives."""
        for held in (self._telling, self._asking):
            if held is not None:
                await held[1].finish()

    async def aclose(self) -> None:
        """Close the connections."""
        for held in (self._telling, self._asking):
            if held is not None:
                await held[1].aclose()


def _serves(held: tuple[str, WebSocketStream] | None, event: str) -> TypeGuard[tuple[str, WebSocketStream]]:
    """Tell whether a connection is there for this event, and was used lately."""
    return held is not None and held[0] == event and trio.current_time() - held[1].used < IDLE_SECONDS


class WebSocketItems:
    """Messages until the service closes."""

    def __init__(self, socket: WebSocketStream) -> None:
        self._socket = socket

    async def next_item(self) -> bytes | None:
        """Return the next message."""
        return await self._socket.receive()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._socket.aclose()


async def call_websocket(target: Target, dial: Dial, data: bytes) -> bytes:
    """Send one message by a WebSocket of its own, and return the first that comes back.

    Raises:
        ValueError: the path can't be sent as it is.
        MessageError: the service refused.
        OSError, trio.BrokenResourceError: it can't be reached, or broke off.

    Cancellation: closes the connection.
    """
    socket = await WebSocketStream.open(dial, target.request_target, target.host_field)
    try:
        await socket.send(Payload(data=data, kind="bytes"))
        reply = await socket.receive()
        if reply is None:
            raise trio.BrokenResourceError("the service closed the connection without a reply")
        await socket.finish()
    finally:
        await socket.aclose()
    return reply
