"""What arrives and what goes back, as values that know no socket.

A `Message` is made only when a handler asks for one. What would cost a system
call (`peer`, `local`, `transport_info`) is computed when it is read: the
listener hands in a function, a test hands in the value.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

import attrs

Address = tuple[str, int] | str | None
"""`(host, port)`, the path of a Unix socket, or None when it is not known."""


@attrs.frozen
class Peer:
    """The other side of a connection, or the sender of a datagram."""

    address: Address
    transport: str

    @property
    def host(self) -> str | None:
        """The address without its port, or the path; None when it is not known."""
        return self.address[0] if isinstance(self.address, tuple) else self.address

    def __str__(self) -> str:
        """Return `127.0.0.1:50001`, `[::1]:50001`, a path, or `unknown`."""
        return format_address(self.address)


def format_address(address: Address) -> str:
    """Write an address as people type it, IPv6 in brackets."""
    if not address:
        return "unknown"
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Headers:
    """The field lines of one message, in order, names in lower case.

    Args:
        pairs: decoded names and values, or a function that makes them when
            the first of them is asked for.
    """

    __slots__ = ("_pairs",)

    def __init__(
        self, pairs: tuple[tuple[str, str], ...] | Callable[[], tuple[tuple[str, str], ...]]
    ) -> None:
        self._pairs = pairs

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """All `(name, value)` in the order of arrival."""
        if callable(self._pairs):
            self._pairs = self._pairs()
        return self._pairs

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of a name (any case), or the default."""
        name = name.lower()
        return next((value for key, value in self.pairs if key == name), default)

    def get_all(self, name: str) -> list[str]:
        """Return every value of a name, in order."""
        name = name.lower()
        return [value for key, value in self.pairs if key == name]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __repr__(self) -> str:
        return f"Headers({self.pairs!r})"


def _settle(message: Any, name: str) -> Any:
    """Return a lazily known value, computing it at most once."""
    value = getattr(message, name)
    if callable(value):
        value = value()
        object.__setattr__(message, name, value)
    return value


def _no_info() -> Mapping[str, Any]:
    return {}


@attrs.frozen(kw_only=True)
class Message:
    """One thing that arrived, with its context."""

    event: str
    data: bytes
    """The payload; an HTTP request's body, empty where the handler takes it part by part."""
    transport: str = "memory"
    """`tcp`, `unix`, `http`, `tls`, `https`, `ws`, `wss`, `udp` or `memory`."""
    captures: Mapping[str, str] = attrs.field(factory=dict)
    received: float = 0.0
    """When it was read, on Trio's clock."""
    _peer: Peer | Callable[[], Peer] = Peer(None, "memory")
    _local: Address | Callable[[], Address] = None
    _transport_info: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = attrs.field(
        default=_no_info, repr=False
    )

    @property
    def peer(self) -> Peer:
        """Who sent it; the address is None when the peer is gone by now."""
        peer: Peer = _settle(self, "_peer")
        return peer

    @property
    def local(self) -> Address:
        """The address it came in on."""
        local: Address = _settle(self, "_local")
        return local

    @property
    def transport_info(self) -> Mapping[str, Any]:
        """What is known of the connection: TCP_INFO, and under `tls` version, cipher, certificate."""
        info: Mapping[str, Any] = _settle(self, "_transport_info")
        return info


@attrs.frozen(kw_only=True)
class Forwarded:
    """What trusted proxies tell of a request (RFC 7239)."""

    address: tuple[str, int] | None
    """Of the client; the port is 0 where it was not told, and all is None where it was hidden."""
    scheme: str | None = None
    host: str | None = None


@attrs.frozen(kw_only=True)
class HttpRequest(Message):
    """A message that came by HTTP (RFC 9110, RFC 9112)."""

    method: str
    target: str
    """The request target exactly as it was sent."""
    path: str
    """The path of the target, still percent-encoded."""
    query: str = ""
    """What stands behind the `?`, still encoded; empty when there is none."""
    headers: Headers = Headers(())
    version: str = "1.1"
    _trailers: Headers | Callable[[], Headers] = attrs.field(default=Headers(()), repr=False)
    _look_behind: Callable[[Address, Headers], Forwarded | None] | None = attrs.field(
        default=None, repr=False, eq=False
    )

    @property
    def trailers(self) -> Headers:
        """The fields that came behind a chunked body, apart from `headers`.

        Nothing is in it before the body's end, where a handler takes the body
        part by part. What a trailer says is the peer's word alone: never take
        one for a field (RFC 9110 6.5.1).
        """
        return self._trailers() if callable(self._trailers) else self._trailers

    @property
    def client(self) -> Peer:
        """Who sent it, as trusted proxies tell (`trusted_proxies=`); without them the peer.

        Raises:
            BadRequest: what they tell is malformed. The same holds for `scheme` and `host`.
        """
        behind = self._forwarded()
        return self.peer if behind is None else Peer(behind.address, self.transport)

    @property
    def scheme(self) -> str:
        """What the client used: `http` or `https`."""
        behind = self._forwarded()
        if behind is not None and behind.scheme is not None:
            return behind.scheme
        return "https" if self.transport in ("https", "wss") else "http"

    @property
    def host(self) -> str:
        """The authority that the client asked for; empty when there is none (HTTP/1.0)."""
        behind = self._forwarded()
        if behind is not None and behind.host is not None:
            return behind.host
        if self.target.startswith("/"):
            return self.headers.get("host", "") or ""
        return self.target.partition("://")[2].partition("/")[0].partition("?")[0]

    def _forwarded(self) -> Forwarded | None:
        return None if self._look_behind is None else self._look_behind(self.peer.address, self.headers)

    @property
    def query_items(self) -> list[tuple[str, str]]:
        """The query, decoded (application/x-www-form-urlencoded)."""
        return parse_qsl(self.query, keep_blank_values=True)


@attrs.frozen(kw_only=True)
class WebSocketMessage(HttpRequest):
    """One message of a WebSocket, with the request that opened it (RFC 6455).

    `transport` is `ws`, or `wss` over TLS; `method`, `headers` and the others
    are those of that request.
    """

    text: bool = False
    """Whether it was sent as text; `data` is its UTF-8 then."""
    subprotocol: str | None = None
    """What was agreed on with the client."""


@attrs.frozen(kw_only=True)
class Datagram(Message):
    """A message that came by UDP."""

    mode: str = "unicast"
    """`unicast`, `multicast` or `broadcast`: how it was addressed."""
    interface: str | None = None
    """Name of the interface it arrived on, where the kernel says so."""
    ttl: int | None = None
    truncated: bool = False
    timestamp: float | None = None
    """Seconds since the epoch when the kernel received it, where it says so."""
    fragment_bytes: int | None = None
    """The longest IP fragment that it came in; None when it came whole, or the kernel does not say."""


def _to_bytes(value: bytes | bytearray | memoryview | str) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    raise TypeError(f"a body is bytes or str, not {type(value).__qualname__}")


@attrs.frozen
class Reply:
    """An answer in full, for any transport.

    Args:
        data: the payload; `str` is encoded as UTF-8.
        content_type: what HTTP says of it; other transports have no place for it.
    """

    data: bytes = attrs.field(default=b"", converter=_to_bytes)
    content_type: str | None = None


def _to_pairs(value: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(value)


@attrs.frozen
class HttpResponse:
    """An answer in full with HTTP's own words.

    On a transport that is not HTTP its body is sent and the rest has no place.

    Args:
        body: `str` is encoded as UTF-8.
        status: a final status, 200 to 599.
        headers: `(name, value)` pairs; framing fields (`Content-Length`,
            `Transfer-Encoding`, `Connection`, ...) are the engine's and refused.
    """

    body: bytes = attrs.field(default=b"", converter=_to_bytes)
    status: int = 200
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), converter=_to_pairs)


def _to_path(value: str | os.PathLike[str]) -> str:
    path = os.fspath(value)
    if not isinstance(path, str):
        raise TypeError("a path is a str or a PathLike of str")
    return path


@attrs.frozen
class FileReply:
    """An answer that is the content of a file.

    By HTTP it is sent by the kernel where it can (sendfile(2)), with its type,
    length and validators, as a part where one is asked for, and not at all to
    who has it already. On other transports its content is the payload, up to
    1 MiB. What is no regular file is `NotFound`.

    Args:
        path: of the file.
        root: a directory that the path, which must be relative then, may not
            leave: for paths that came from a peer. Who can write there while
            it is served is trusted.
        content_type: what HTTP says of it; None goes by its name.
        headers: more `(name, value)` pairs, such as `Cache-Control`.
    """

    path: str = attrs.field(converter=_to_path)
    root: str | None = attrs.field(default=None, kw_only=True, converter=attrs.converters.optional(_to_path))
    content_type: str | None = attrs.field(default=None, kw_only=True)
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), kw_only=True, converter=_to_pairs)


def _check_one_line(_instance: object, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is not None and any(mark in value for mark in "\r\n\0"):
        raise ValueError(f"{attribute.name}={value!r}: one line without NUL is needed")


def _check_milliseconds(_instance: object, attribute: attrs.Attribute[Any], value: int | None) -> None:
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"{attribute.name}={value!r}: whole milliseconds from 0 on are needed")


@attrs.frozen
class ServerSentEvent:
    """One item of a streamed reply, with what only event streams can say.

    Where the reply is no event stream (`Accept: text/event-stream` was not
    asked, or it goes by another transport) its data is the item.

    Args:
        data: what any item can be: text, UTF-8 bytes, a JSON-able value.
        event: its type; None is `message`.
        id: what a client that reconnects says it has seen last.
        retry: milliseconds a client is to wait before it reconnects.
    """

    data: Any
    event: str | None = attrs.field(default=None, validator=_check_one_line)
    id: str | None = attrs.field(default=None, validator=_check_one_line)
    retry: int | None = attrs.field(default=None, validator=_check_milliseconds)
