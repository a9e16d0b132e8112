"""Write and read WebSocket frames byte by byte, also those that no client would send."""

from __future__ import annotations

import struct
from typing import Any

import trio

TEXT, BINARY, CLOSE, PING, PONG, MORE = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = b"\1\2\3\4"
) -> bytes:
    """Write one frame; a server's has no mask."""
    size = len(payload)
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    masked = 0x80 if mask is not None else 0
    if size < 126:
        head += bytes([masked | size])
    elif size < 65_536:
        head += bytes([masked | 126]) + struct.pack("!H", size)
    else:
        head += bytes([masked | 127]) + struct.pack("!Q", size)
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    """Write a client's close frame."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def read_frames(data: bytes) -> list[tuple[int, bytes]]:
    """Read a server's whole frames as opcode and payload; a close frame's code is text."""
    found = []
    while data:
        assert data[0] & 0x80, "the service sends no fragments"
        assert not data[1] & 0x80, "a server does not mask"
        size, at = data[1], 2
        if size == 126:
            (size,), at = struct.unpack("!H", data[2:4]), 4
        elif size == 127:
            (size,), at = struct.unpack("!Q", data[2:10]), 10
        assert len(data) >= at + size, "a frame was cut short"
        payload = data[at : at + size]
        if data[0] & 0x0F == CLOSE and payload:
            payload = b"%d %b" % (struct.unpack("!H", payload[:2])[0], payload[2:])
        found.append((data[0] & 0x7F, payload))
        data = data[at + size :]
    return found


def upgrade(path: str, *fields: str, drop: str = "", method: str = "GET", version: str = "1.1") -> bytes:
    """Write a handshake; `drop` leaves out the field of that name."""
    lines = [
        "Host: a",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
    ]
    kept = [line for line in lines if not drop or not line.startswith(drop)]
    return "\r\n".join([f"{method} {path} HTTP/{version}", *kept, *fields, "", ""]).encode()


class Socket:
    """A client of frames over a stream."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream: Any = stream
        self.head = b""
        self._received = b""

    async def open(self, path: str, *fields: str, behind: bytes = b"") -> None:
        """Ask for a WebSocket, with bytes behind the head in the same segment."""
        await self.stream.send_all(upgrade(path, *fields) + behind)
        while b"\r\n\r\n" not in self._received:
            chunk = await self.stream.receive_some()
            assert chunk, self._received
            self._received += chunk
        self.head, _, self._received = self._received.partition(b"\r\n\r\n")

    async def send(self, *frames: bytes) -> None:
        """Send frames in one segment."""
        await self.stream.send_all(b"".join(frames))

    async def receive(self, count: int = 1) -> list[tuple[int, bytes]]:
        """Receive so many frames."""
        while True:
            try:
                found = read_frames(self._received)
            except (AssertionError, IndexError, struct.error):
                found = []
            if len(found) >= count:
                self._received = b""
                return found
            chunk = await self.stream.receive_some()
            assert chunk, (self._received, found)
            self._received += chunk

    async def receive_rest(self) -> list[tuple[int, bytes]]:
        """Receive until the service ends the connection."""
        while chunk := await self.stream.receive_some():
            self._received += chunk
        return read_frames(self._received)


async def open_socket(memory: Any, path: str = "/echo", *fields: str, **options: Any) -> Socket:
    """Ask for a WebSocket on a connection of its own; `head` is what was answered."""
    socket = Socket(memory.client(**options))
    await socket.open(path, *fields)
    return socket
