"""Compress and decompress messages: permessage-deflate, within bounds.

wsproto has this extension too, but decompresses without a bound: 64 KiB that
were read may become 64 MiB. This one stops at the longest message that is
taken. Neither side keeps a window between messages: zlib would hold 300 KiB
for each connection.

Source: RFC 7692.
"""

from __future__ import annotations

import re
import zlib

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

NAME = "permessage-deflate"
WINDOW_BITS = 15
LEVEL = 1
"""Of zlib: the fastest, since every other connection waits meanwhile."""
SMALLEST_BYTES = 128
"""Shorter messages are sent as they are: compressing would hardly pay."""

_TAIL = b"\0\0\xff\xff"
"""What is left out of every message (7.2.1)."""
_PARAMETER = re.compile(r"([a-z_]+)(?:[ \t]*=[ \t]*(?:\"([0-9]{1,2})\"|([0-9]{1,2})))?")
_WITHOUT_VALUE = ("server_no_context_takeover", "client_no_context_takeover")
_NO_BITS = RsvBits(False, False, False)
_COMPRESSED = RsvBits(True, False, False)


def choose_offer(extensions: str) -> tuple[str, int] | None:
    """Take the first offer of a client that can be taken.

    Returns:
        What the response says, and the window for what is sent; None when
        nothing of it is spoken here.
    """
    for offer in extensions.split(","):
        name, *parameters = (part.strip(" \t") for part in offer.split(";"))
        if name == NAME:
            bits = _read_parameters(parameters)
            if bits is not None:
                said = f"; server_max_window_bits={bits}" if bits != WINDOW_BITS else ""
                return f"{NAME}; {'; '.join(_WITHOUT_VALUE)}{said}", bits
    return None


def _read_parameters(parameters: list[str]) -> int | None:
    """Return the window for what is sent; None when something is not understood."""
    seen: dict[str, str | None] = {}
    for parameter in parameters:
        match = _PARAMETER.fullmatch(parameter)
        if match is None or match[1] in seen:
            return None
        seen[match[1]] = match[2] or match[3]
    server_bits = seen.pop("server_max_window_bits", str(WINDOW_BITS))
    client_bits = seen.pop("client_max_window_bits", None) or str(WINDOW_BITS)
    if any(seen.pop(name, None) is not None for name in _WITHOUT_VALUE) or seen:
        return None
    if server_bits is None or not 8 <= int(client_bits) <= WINDOW_BITS:
        return None
    # 8 is allowed, but zlib can't compress so (it makes a 9 of it).
    return int(server_bits) if 9 <= int(server_bits) <= WINDOW_BITS else None


class BoundedDeflate(Extension):
    """The extension on one connection.

    Args:
        message_bytes: longest message, decompressed.
        window_bits: of what is sent.
    """

    name = NAME

    def __init__(self, message_bytes: int, window_bits: int = WINDOW_BITS) -> None:
        self._limit = message_bytes
        self._window_bits = window_bits
        self._inflater: zlib._Decompress | None = None
        """Set within a compressed message."""
        self._left = 0
        self._within = False
        """Whether the present frame belongs to it: control frames come between."""

    def enabled(self) -> bool:
        """Take part."""
        return True

    def offer(self) -> bool | str:
        """Return what a client says."""
        return f"{NAME}; {'; '.join(_WITHOUT_VALUE)}"

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 (all of these: wsproto's signature)
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,  # noqa: ARG002
    ) -> CloseReason | RsvBits:
        """Take note of whether a frame is compressed."""
        if opcode.iscontrol() or opcode is Opcode.CONTINUATION:
            self._within = not opcode.iscontrol() and self._inflater is not None
            return CloseReason.PROTOCOL_ERROR if rsv.rsv1 else _NO_BITS
        self._within = rsv.rsv1
        self._inflater = zlib.decompressobj(-WINDOW_BITS) if rsv.rsv1 else None
        self._left = self._limit
        return _COMPRESSED

    def frame_inbound_payload_data(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        data: bytes,
    ) -> bytes | CloseReason:
        """Decompress a part of a message."""
        return self._inflate(data) if self._within else data

    def frame_inbound_complete(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        fin: bool,  # noqa: FBT001
    ) -> bytes | CloseReason | None:
        """Decompress the end of a message."""
        if not fin or not self._within:
            return None
        inflater, end = self._inflater, self._inflate(_TAIL)
        self._inflater = None
        assert inflater is not None
        if inflater.unused_data.lstrip(b"\0") not in (b"", b"\xff\xff"):  # 7.2.3.5: an empty block at most
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        return end

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        assert self._inflater is not None
        try:
            inflated = self._inflater.decompress(data, self._left + 1)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self._left -= len(inflated)
        return inflated if self._left >= 0 else CloseReason.MESSAGE_TOO_BIG

    def frame_outbound(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002
        opcode: Opcode,
        rsv: RsvBits,
        data: bytes,
        fin: bool,  # noqa: FBT001, ARG002 - messages are never sent in parts
    ) -> tuple[RsvBits, bytes]:
        """Compress a message, unless it is short."""
        if opcode.iscontrol() or len(data) < SMALLEST_BYTES:
            return rsv, data
        deflater = zlib.compressobj(LEVEL, zlib.DEFLATED, -self._window_bits)
        compressed = deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH)
        return RsvBits(True, rsv.rsv2, rsv.rsv3), compressed.removesuffix(_TAIL)
