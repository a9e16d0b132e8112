"""Every bound of the service, as frozen values with safe defaults.

A field's name is also the name of the URL option that sets it for one
endpoint: `tcp://127.0.0.1:7007/echo?message_bytes=65536`. Units stand in the
names. `math.inf` (in a URL: `inf`) means no bound where that makes sense.

Not here: who enforces them (protocols and listeners do).
"""

from __future__ import annotations

import math
from typing import Any

import attrs


def _range(low: float, high: float) -> Any:
    """Make an attrs validator that names field, value and allowed range."""

    def check(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"{attribute.name}={value} is outside {low} to {high}")

    return check


def _count(default: int, low: int, high: int) -> Any:
    return attrs.field(default=default, validator=_range(low, high))


def _seconds(default: float, low: float = 0.01) -> Any:
    check = _range(low, MOST_SECONDS)
    return attrs.field(default=default, validator=lambda *args: args[2] == math.inf or check(*args))


MOST_SECONDS = 1e9
"""Longest deadline but for `inf`: 31 years, which the arithmetic of clocks still bears."""


@attrs.frozen(kw_only=True)
class StreamLimits:
    """Bounds of one stream endpoint (`tcp`, `unix`)."""

    connections: int = _count(10_000, 1, 10_000_000)
    """Open at once; at the cap accepting pauses and the rest wait in the kernel's queue."""
    backlog: int = _count(1_024, 1, 65_535)
    """Connections the kernel queues for us (capped by net.core.somaxconn)."""
    message_bytes: int = _count(1 << 20, 1, 1 << 31)
    """One framed message (`lines`, `length`, a WebSocket), inclusive; raw chunks are one read at most."""
    pending_bytes: int = _count(65_536, 4_096, 1 << 30)
    """Unsent replies above which a connection is not read; reading resumes below half of it."""
    idle_seconds: float = _seconds(math.inf)
    """Nothing received and nothing owed for so long: the connection is closed."""
    stall_seconds: float = _seconds(30.0)
    """Replies pending and not a byte taken by the peer for so long: aborted (as nginx's send_timeout)."""
    linger_seconds: float = _seconds(2.0)
    """How long a closing connection reads away input, so that a reset does not destroy replies."""
    linger_bytes: int = _count(262_144, 0, 1 << 30)
    """How many bytes it reads away at most (as Go's net/http)."""


@attrs.frozen(kw_only=True)
class HttpLimits(StreamLimits):
    """Bounds of one `http` endpoint."""

    connections: int = _count(10_000, 1, 10_000_000)
    """At the cap the connection idle for longest gives way; when none is idle, accepting pauses."""
    method_bytes: int = _count(24, 3, 1_024)
    target_bytes: int = _count(8_192, 1, 1 << 20)
    """Longest request target; beyond it 414 (RFC 9112 3 recommends at least 8,000)."""
    header_bytes: int = _count(32_768, 64, 1 << 24)
    """The whole header section without the request line; beyond it 431."""
    field_bytes: int = _count(8_192, 16, 1 << 24)
    """One field line; beyond it 431."""
    fields: int = _count(100, 1, 10_000)
    body_bytes: int = _count(1 << 20, 0, 1 << 40)
    """A body as the handler gets it, decoded from its framing; beyond it 413."""
    stream_bytes: int = _count(1 << 30, 0, 1 << 50)
    """A body that its handler takes part by part (`AsyncIterator[bytes]`); beyond it 413."""
    chunk_line_bytes: int = _count(4_096, 16, 65_536)
    chunk_extension_bytes: int = _count(4_096, 0, 1 << 20)
    """All chunk extensions of one body together (CVE-2023-39326)."""
    trailer_bytes: int = _count(8_192, 2, 1 << 20)
    trailers: int = _count(32, 0, 1_000)
    first_byte_seconds: float = _seconds(10.0)
    """From accept to the first byte; then a silent close."""
    head_seconds: float = _seconds(10.0)
    """From the first byte of a request to the end of its head, absolute; then 408."""
    body_seconds: float = _seconds(20.0)
    """No progress within a body for so long: 408."""
    body_rate_bytes: int = _count(240, 0, 1 << 30)
    """Slowest body in bytes per second, looked at from 5 s after its head on; slower is 408."""
    keep_alive_seconds: float = _seconds(75.0)
    """Idle between two requests (longer than the 60 s of the usual load balancers)."""
    age_seconds: float = _seconds(3_600.0)
    """Oldest age at which a connection may begin another request."""
    gone_seconds: float = _seconds(1.0, 0.0)
    """From a peer's FIN, or the close frame of its WebSocket, to the cancelling of the handler for it."""
    ws_frame_bytes: int = _count(1 << 20, 1, 1 << 31)
    """One frame of a WebSocket; a message of several is bounded by `message_bytes`; beyond either 1009."""
    ws_ping_seconds: float = _seconds(20.0)
    """Silence of a WebSocket after which a ping is sent (proxies often cut off after 60 s)."""
    ws_pong_seconds: float = _seconds(20.0)
    """From a ping to the first byte that comes back; then 1011."""
    ws_close_seconds: float = _seconds(5.0)
    """From our close frame to the peer's; then the connection is closed without it."""


def _handshake_seconds() -> Any:
    return _seconds(10.0)


@attrs.frozen(kw_only=True)
class TlsLimits(StreamLimits):
    """Bounds of one `tls` endpoint."""

    handshake_seconds: float = _handshake_seconds()
    """From accept to the end of the TLS handshake; then a silent close (Go and nginx allow more)."""


@attrs.frozen(kw_only=True)
class HttpsLimits(HttpLimits):
    """Bounds of one `https` endpoint."""

    handshake_seconds: float = _handshake_seconds()
    """From accept to the end of the TLS handshake; `first_byte_seconds` begin behind it."""


@attrs.frozen(kw_only=True)
class DatagramLimits:
    """Bounds of one `udp` endpoint, of which most keep it from being abused."""

    datagram_bytes: int = _count(65_535, 1, 65_535)
    """Longest datagram taken; what is longer is dropped, never cut."""
    receive_buffer_bytes: int = _count(4 << 20, 4_096, 1 << 30)
    """SO_RCVBUF asked for; the kernel caps it at net.core.rmem_max."""
    batch: int = _count(256, 1, 65_536)
    """Datagrams taken from one socket in one turn."""
    in_flight: int = _count(1_024, 1, 1_000_000)
    """Async handlers working for this endpoint at once; beyond it datagrams are dropped and counted."""
    prefix_rate: float = attrs.field(default=100.0, validator=_range(0.001, 1e9))
    """Replies per second to one source prefix (/24, /56)."""
    prefix_burst: int = _count(200, 1, 1_000_000_000)
    global_rate: float = attrs.field(default=10_000.0, validator=_range(0.001, 1e9))
    """Replies per second to everybody together, loopback exempt."""
    global_burst: int = _count(20_000, 1, 1_000_000_000)
    prefixes: int = _count(65_536, 1, 10_000_000)
    """Source prefixes remembered; a full table forgets the one refilled longest ago."""
    amplification: float = attrs.field(default=3.0, validator=_range(0.0, 65_535.0))
    """Reply bytes per request byte towards another machine (RFC 9000 8.1 allows 3)."""
    delay_low_seconds: float = _seconds(0.02, 0.0)
    """Shortest random delay of an answer to a group or broadcast (RFC 6762 6)."""
    delay_high_seconds: float = _seconds(0.12, 0.0)
    pending_replies: int = _count(1_024, 1, 1_000_000)
    """Delayed replies waiting at once; beyond it they are dropped and counted."""


Limits = StreamLimits | HttpLimits | DatagramLimits
