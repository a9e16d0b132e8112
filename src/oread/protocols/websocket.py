"""Turn the bytes of a WebSocket into messages, pings and its end.

wsproto reads and writes the frames; this gives it bounds and the shape of the
other machines: one event a call, nothing parsed after an error, fragments put
together, control frames in between passed on as they come. How many fragments
a message has is not bounded: what they cost is, in memory by its length, and in
time by a look at few of them per call.

Not here: the handshake (websocket_handshake.py), sockets and deadlines.
Source: RFC 6455 5 to 8.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import wsproto.events as frames
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

REASON_BYTES = 123
"""What a close frame has room for behind its code (5.5)."""
NORMAL, GOING_AWAY = 1000, 1001
PROTOCOL_ERROR = 1002
NO_STATUS = 1005
"""The peer's close frame gave no code; never sent (7.4.1)."""
ABNORMAL = 1006
"""The peer went without a close frame; never sent."""
INVALID_PAYLOAD, POLICY, TOO_BIG = 1007, 1008, 1009
INTERNAL_ERROR = 1011
TRY_AGAIN = 1013

FRAMES_PER_CALL = 16
"""Looked at (12 µs each) before a caller has its say: 64 KiB of empty fragments would take 150 ms."""

_NO_BITS = RsvBits(False, False, False)


@attrs.frozen
class Incoming:
    """One whole message."""

    data: bytes
    text: bool
    """Whether it came as text, which is UTF-8 then."""


@attrs.frozen
class Ping:
    """The peer asks for a sign of life: answer with the same payload."""

    payload: bytes


@attrs.frozen
class Pong:
    """A sign of life."""

    payload: bytes


@attrs.frozen
class PeerClosed:
    """The peer's close frame: no message follows."""

    code: int
    """`NO_STATUS` when it said none."""
    reason: str


@attrs.frozen
class Fault:
    """What came breaks the rules or a limit: nothing more is parsed."""

    code: int
    """For the close frame."""
    reason: str


Event = Incoming | Ping | Pong | PeerClosed | Fault


class _FrameBound(Extension):
    """Refuse a frame by its head; wsproto lets extensions look there."""

    name = "oread-frame-bound"

    def __init__(self, frame_bytes: int) -> None:
        self._frame_bytes = frame_bytes

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 (wsproto's signature)
        opcode: Opcode,  # noqa: ARG002
        rsv: RsvBits,  # noqa: ARG002
        payload_length: int,
    ) -> CloseReason | RsvBits:
        return CloseReason.MESSAGE_TOO_BIG if payload_length > self._frame_bytes else _NO_BITS


class WebSocketProtocol:
    """One connection behind its handshake; the same events whatever the cuts.

    Args:
        message_bytes: longest message, of all its fragments, decompressed.
        frame_bytes: longest frame, as it says of itself.
        extension: what was agreed on in the handshake.
        client: whether this is the side that masks.
    """

    def __init__(
        self,
        *,
        message_bytes: int,
        frame_bytes: int,
        extension: Extension | None = None,
        client: bool = False,
    ) -> None:
        extensions: list[Extension] = [_FrameBound(frame_bytes)]
        if extension is not None:
            extensions.append(extension)
        kind = ConnectionType.CLIENT if client else ConnectionType.SERVER
        self._connection = Connection(kind, extensions)
        self._message_bytes = message_bytes
        self._frames: Iterator[frames.Event] = iter(())
        self._begun = bytearray()
        """What has come of a message: tiny fragments kept one by one would take 40 times their size."""
        self._over = False
        self.within_message = False
        """Whether a message has begun to come whose end has not."""
        self.paused = False
        """Whether the last call has not looked at all that is there."""

    @property
    def over(self) -> bool:
        """Whether nothing more is parsed: the peer has closed, or is at fault."""
        return self._over

    def receive(self, data: bytes) -> Event | None:
        """Take bytes in and return the next event, None when more is needed."""
        self.feed(data)
        return self.next_event()

    def feed(self, data: bytes) -> None:
        """Take bytes in for later; the caller bounds how many it reads ahead."""
        if not self._over:
            self._connection.receive_data(data)

    def next_event(self) -> Event | None:
        """Return the next event of what is there, None when more is needed, or when `paused`."""
        self.paused = False
        for _ in range(FRAMES_PER_CALL):
            if self._over:
                return None
            frame = next(self._frames, None)
            if frame is None:
                self._frames = self._connection.events()
                frame = next(self._frames, None)
            if frame is None:
                return None
            event = self._take(frame)
            if event is not None:
                return event
        self.paused = True
        return None

    def _take(self, frame: frames.Event) -> Event | None:
        if isinstance(frame, frames.TextMessage | frames.BytesMessage):
            return self._take_part(frame)
        if isinstance(frame, frames.Ping):
            return Ping(bytes(frame.payload))
        if isinstance(frame, frames.Pong):
            return Pong(bytes(frame.payload))
        assert isinstance(frame, frames.CloseConnection)
        self._over = True
        self._begun.clear()
        code, reason = int(frame.code), frame.reason or ""
        closed = self._connection.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED)
        if not closed and code == TOO_BIG:
            reason = "a frame or a message is too long"
        return PeerClosed(code, reason) if closed else Fault(code, reason)

    def _take_part(self, frame: frames.TextMessage | frames.BytesMessage) -> Event | None:
        text = isinstance(frame.data, str)
        part = frame.data.encode() if isinstance(frame.data, str) else bytes(frame.data)
        if len(self._begun) + len(part) > self._message_bytes:
            self._over = True
            self._begun.clear()
            return Fault(TOO_BIG, f"a message is longer than {self._message_bytes} bytes")
        self.within_message = not frame.message_finished
        if self.within_message:
            self._begun += part
            return None
        if self._begun:
            self._begun += part
            part = bytes(self._begun)
            self._begun = bytearray()
        return Incoming(part, text)

    # sending

    def encode(self, data: bytes | memoryview, *, text: bool) -> bytes:
        """Return one message as one frame.

        Raises:
            UnicodeDecodeError: text that is not UTF-8.
        """
        if text:
            return bytes(self._connection.send(frames.TextMessage(str(data, "utf-8"))))
        return bytes(self._connection.send(frames.BytesMessage(bytes(data))))

    def ping(self) -> bytes:
        """Return a ping: any byte that comes back answers it."""
        return bytes(self._connection.send(frames.Ping()))

    def pong(self, payload: bytes) -> bytes:
        """Return the answer to a ping."""
        return bytes(self._connection.send(frames.Pong(payload)))

    def close(self, code: int, reason: str = "") -> bytes:
        """Return a close frame, the last that is sent.

        Args:
            code: `NO_STATUS` sends a frame without one.
            reason: is cut to the room that there is.
        """
        if code == NO_STATUS:
            return bytes(self._connection.send(frames.CloseConnection(CloseReason.NO_STATUS_RCVD)))
        return bytes(self._connection.send(frames.CloseConnection(code, reason)))
