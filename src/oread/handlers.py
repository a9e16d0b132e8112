"""Answer as the classic services do, and tell what the server saw.

`echo` (RFC 862), `discard` (863), `chargen` (864), `daytime` (867), `time`
(868) and `inspect`, each for every transport. What speaks on connect is a
session on streams and a handler of messages everywhere else. `STOCK` names
them all, `register` adds them to a registry.

Over UDP a source may be forged, so nothing here answers another machine with
more bytes than it sent; what would be longer is refused as a bad request.
The listener's guards bound every handler besides.
"""

from __future__ import annotations

import base64
import ipaddress
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import attrs
import msgspec
import trio

from oread.errors import BadRequest
from oread.messages import Datagram, HttpRequest, Message, Peer, Reply, format_address

LINE_CHARACTERS = 72
"""RFC 864: the popular pattern, 72 characters a line."""
DATAGRAM_CHARACTERS = 512
"""RFC 864: a datagram of random length up to 512 characters."""
SECONDS_1900_TO_1970 = 2_208_988_800
"""RFC 868: the time is counted from 1 January 1900; time.time() from 1970."""

_PRINTABLE = bytes(range(32, 127))
_LINES = b"".join((_PRINTABLE * 2)[at : at + LINE_CHARACTERS] + b"\r\n" for at in range(len(_PRINTABLE)))
"""One turn of the pattern: 95 lines, 7,030 bytes."""

# strftime would speak the locale's language.
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


class Registrar(Protocol):
    """The part of a registry that `register` needs."""

    def on(self, event: str, handler: Callable[..., Any], /) -> object:
        """Add a handler of messages."""

    def session(self, event: str, handler: Callable[..., Any], /) -> object:
        """Add the session of an event."""


def echo(data: bytes) -> bytes:
    """Return what was sent (RFC 862)."""
    return data


def discard(data: bytes) -> None:
    """Throw away what was sent (RFC 863)."""


async def chargen_stream(stream: trio.abc.HalfCloseableStream) -> None:
    """Send lines of characters until the peer closes (RFC 864).

    The stream's flow control is the pace; what the peer sends is thrown away.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read_away, stream)
        try:
            while True:
                await stream.send_all(_LINES)
        except trio.BrokenResourceError:
            nursery.cancel_scope.cancel()  # closing is how a peer says that it has enough


async def _read_away(stream: trio.abc.ReceiveStream) -> None:
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        return  # the sending side is told as well, and ends the session


def chargen(message: Message) -> Reply:
    """Return up to 512 characters of the pattern (RFC 864)."""
    length = DATAGRAM_CHARACTERS
    if isinstance(message, Datagram):
        length = random.randint(0, DATAGRAM_CHARACTERS)  # noqa: S311 - a length, no secret
        if not _is_trusted(message.peer):
            length = min(length, len(message.data))
    return Reply(_LINES[:length], "text/plain; charset=us-ascii")


async def daytime_stream(stream: trio.abc.SendStream) -> None:
    """Send the date and time as a line, then close (RFC 867)."""
    await stream.send_all(format_daytime(time.time()).encode())


def daytime(message: Message) -> str:
    """Return the date and time as a line (RFC 867)."""
    line = format_daytime(time.time())
    _check_length(message, len(line))
    return line


def format_daytime(epoch_seconds: float) -> str:
    """Write a time as RFC 867 suggests: `Weekday, Month Day, Year Time-Zone`."""
    at = time.gmtime(epoch_seconds)
    day = f"{_DAYS[at.tm_wday]}, {_MONTHS[at.tm_mon - 1]} {at.tm_mday}, {at.tm_year}"
    return f"{day} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}-UTC\r\n"


async def time_stream(stream: trio.abc.SendStream) -> None:
    """Send the seconds since 1900 as 32 bits, then close (RFC 868)."""
    await stream.send_all(encode_time(time.time()))


def time_since_1900(message: Message) -> bytes:
    """Return the seconds since 1900 as 32 bits, big-endian (RFC 868)."""
    seconds = encode_time(time.time())
    _check_length(message, len(seconds))
    return seconds


def encode_time(epoch_seconds: float) -> bytes:
    """Pack a time as RFC 868 has it.

    The 32 bits are full on 7 February 2036 at 06:28:16 UTC and start again
    from 0, as NTP's do; a receiver that knows the decade can tell.
    """
    return ((int(epoch_seconds) + SECONDS_1900_TO_1970) % (1 << 32)).to_bytes(4, "big")


def inspect(message: Message) -> Reply:
    """Return the message as the server saw it, as JSON."""
    seen = _describe(message)
    body = msgspec.json.encode(seen)
    if isinstance(message, Datagram) and not _is_trusted(message.peer) and len(body) > len(message.data):
        body = msgspec.json.encode({**seen, "data": None, "encoding": "left out"})
        _check_length(message, len(body))
    return Reply(body, "application/json")


def _describe(message: Message) -> dict[str, Any]:
    text, encoding = _as_text(message.data)
    seen: dict[str, Any] = {
        "event": message.event,
        "transport": message.transport,
        "peer": _address_text(message.peer),
        "local": format_address(message.local),
        "received": message.received,
        "captures": dict(message.captures),
        "data": text,
        "encoding": encoding,
        "data_bytes": len(message.data),
    }
    if isinstance(message, HttpRequest):
        names = ("method", "target", "path", "query", "version")
        seen |= {name: getattr(message, name) for name in names}
        seen["headers"] = message.headers.pairs
    elif isinstance(message, Datagram):
        seen |= {name: getattr(message, name) for name in ("mode", "interface", "ttl", "timestamp")}
    elif message.transport_info:
        seen["tcp_info"] = {name: value for name, value in message.transport_info.items() if name != "tls"}
    if "tls" in message.transport_info:
        seen["tls"] = dict(message.transport_info["tls"])
    return seen


def _as_text(data: bytes) -> tuple[str, str]:
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(data).decode("ascii"), "base64"


def _address_text(peer: Peer) -> str | None:
    return str(peer) if peer.address else None


def _check_length(message: Message, reply_bytes: int) -> None:
    """Refuse a UDP request that is shorter than its answer.

    Raises:
        BadRequest: the peer is another machine and has not sent enough.
    """
    if isinstance(message, Datagram) and reply_bytes > len(message.data) and not _is_trusted(message.peer):
        raise BadRequest(f"by UDP a request is to be as long as its answer: {reply_bytes} bytes")


def _is_trusted(peer: Peer) -> bool:
    """Tell whether nobody else can be hit by an answer to this peer."""
    return isinstance(peer.address, tuple) and ipaddress.ip_address(peer.address[0]).is_loopback


@attrs.frozen(kw_only=True)
class Stock:
    """One stock service: its handler, and its session where it has one."""

    handler: Callable[..., Any]
    session: Callable[..., Awaitable[None]] | None = None


STOCK: Mapping[str, Stock] = {
    "echo": Stock(handler=echo),
    "discard": Stock(handler=discard),
    "chargen": Stock(handler=chargen, session=chargen_stream),
    "daytime": Stock(handler=daytime, session=daytime_stream),
    "time": Stock(handler=time_since_1900, session=time_stream),
    "inspect": Stock(handler=inspect),
}
"""Event: the stock service of that name."""


def register(registry: Registrar) -> None:
    """Add every stock service to a registry, under its own name.

    Raises:
        RegistrationError: an event has a session already.
    """
    for event, stock in STOCK.items():
        registry.on(event, stock.handler)
        if stock.session is not None:
            registry.session(event, stock.session)
