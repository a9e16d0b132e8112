"""Endpoints as URLs: where and how to listen or connect.

Grammar (RFC 3986): `scheme://host:port/event?option=value`. Every option that
is not one of the few below is a limit of the scheme, by its field name in
`limits`. An unknown option, a value out of range or a missing port is refused
with what would be right. An endpoint is a frozen value and holds no socket.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import attrs

from oread.errors import EndpointError
from oread.limits import DatagramLimits, HttpLimits, HttpsLimits, Limits, StreamLimits, TlsLimits
from oread.messages import format_address

LIMITS: Mapping[str, type[Limits]] = {
    "tcp": StreamLimits,
    "unix": StreamLimits,
    "http": HttpLimits,
    "tls": TlsLimits,
    "https": HttpsLimits,
    "udp": DatagramLimits,
}
"""The schemes that are served, and the limits of each."""

SECURE = ("tls", "https")
"""Schemes that speak TLS."""
HTTP_PORTS: Mapping[str, int] = {"http": 80, "https": 443}
"""Schemes that speak HTTP, and their ports where the URL has none."""

JSONRPC = "jsonrpc"
"""The framing of documents that name their events."""

_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_TOKENS = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:,[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")

_PRODUCT = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}(/[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64})?")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

EVERYWHERE = "*"
"""The `interface=` of all interfaces: what is sent leaves by each of them."""

LOOPBACK = "127.0.0.1"
"""What an empty host means: every interface has to be said."""


def _one_of(*allowed: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be {' or '.join(allowed)}")
        return text

    return convert


def _boolean(text: str) -> bool:
    return _one_of("true", "false", "1", "0")(text) in ("true", "1")


def _text(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _path(text: str) -> str:
    if not _PATH.fullmatch(text):
        raise ValueError("must be a path such as /rpc, with nothing in it that would be encoded")
    return text


MOST_HOPS = 255
"""The TTL, or hop limit, that shows that no router passed a datagram on (RFC 5082)."""


def _number(low: int, high: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise ValueError(f"must be a number from {low} to {high}")
        return int(text)

    return convert


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(text.lower().split(","))
    if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError("must be origins such as https://example.com, joined by commas, or *")
    return origins


def _tokens(text: str) -> tuple[str, ...]:
    if not _TOKENS.fullmatch(text):
        raise ValueError("must be names, joined by commas")
    return tuple(text.split(","))


def _product(text: str) -> str:
    if not _PRODUCT.fullmatch(text):
        raise ValueError("must be a product such as oread or oread/1.0 (RFC 9110 10.2.4)")
    return text


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(entry) for entry in text.split(","))


FAILURE_POLICIES = ("isolate", "close", "stop")
"""What a handler's failure ends: its exchange, also its connection, or the service."""
_STREAM_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "framing": _one_of("raw", "lines", "length", JSONRPC),
    "reuse_port": _boolean,
    "failure": _one_of(*FAILURE_POLICIES),
}
_HTTP_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "reuse_port": _boolean,
    "openapi": _boolean,
    "rpc": _path,
    "origins": _origins,
    "subprotocols": _tokens,
    "ws_deflate": _boolean,
    "server": _product,
    "trusted_proxies": _networks,
    "failure": _one_of(*FAILURE_POLICIES),
}
_REPEATED = ("cert", "key")
"""Options that may be given several times."""
_TLS_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(_REPEATED, _text),
    "client_ca": _text,
    "client_cert": _one_of("required", "optional"),
}
OPTIONS: Mapping[str, Mapping[str, Callable[[str], Any]]] = {
    "tcp": _STREAM_OPTIONS,
    "unix": {name: _STREAM_OPTIONS[name] for name in ("framing", "failure")} | {"event": _text},
    "http": _HTTP_OPTIONS,
    "tls": {**_STREAM_OPTIONS, **_TLS_OPTIONS},
    "https": {**_HTTP_OPTIONS, **_TLS_OPTIONS},
    "udp": {
        "framing": _one_of("raw", JSONRPC),
        "reply": _one_of("none", "unicast"),
        "interface": _text,
        "late_interface": _boolean,
        "source": _text,
        "ttl": _number(1, MOST_HOPS),
        "dscp": _number(0, 63),
        "link_only": _boolean,
        "mx": _boolean,
        "allow_low_ports": _boolean,
        "receive_own": _boolean,
        "reuse_port": _boolean,
        "shared": _boolean,
        "sequence": _one_of("u16", "u32", "u64"),
        "failure": _one_of(*FAILURE_POLICIES),
    },
}
"""The options of each scheme that are not limits."""


@attrs.frozen(kw_only=True)
class Endpoint:
    """Where and how to listen or connect.

    Make one with `Endpoint.parse(url)`; `str()` of it is its URL.
    """

    scheme: str
    host: str = ""
    """A name or an address without brackets; for `unix` the path."""
    port: int = 0
    """0 lets the kernel pick one."""
    event: str = ""
    """The event that every message is dispatched under; empty where each names its own: HTTP, `jsonrpc`."""
    limits: Limits
    framing: str = "raw"
    rpc: str | None = None
    """Of HTTP: the path where JSON-RPC is served."""
    server: str | None = None
    """Of HTTP: what the Server field says; None sends none, so that nobody learns what to try."""
    trusted_proxies: tuple[Network, ...] = ()
    """Of HTTP: whose `Forwarded` or `X-Forwarded-*` fields are believed."""
    openapi: bool = False
    """Of HTTP: whether GET /openapi.json describes what is served."""
    origins: tuple[str, ...] = ()
    """Of HTTP: whose pages may open a WebSocket, `*` for any; () is the same origin alone."""
    subprotocols: tuple[str, ...] = ()
    """Of HTTP: what a WebSocket may agree to speak."""
    ws_deflate: bool = False
    """Of HTTP: whether messages of a WebSocket may be compressed (permessage-deflate)."""
    reply: str | None = None
    """`none` or `unicast`; None is the default of the address's mode."""
    interface: str | None = None
    late_interface: bool = False
    """Of `udp`: whether a group or broadcast is served before there is an interface for it."""
    source: str | None = None
    ttl: int | None = None
    """Of `udp`: how many links an answer may cross; None is 1 of a group or broadcast, else the system's."""
    dscp: int | None = None
    """Of `udp`: the service class of answers (RFC 2474)."""
    link_only: bool = False
    """Of `udp`: whether only senders on the link are heard."""
    mx: bool = False
    """Of `udp`: whether a group's requests name the longest delay of their answers, as SSDP's do."""
    allow_low_ports: bool = False
    receive_own: bool = False
    reuse_port: bool = False
    shared: bool = False
    sequence: str | None = None
    """Of `udp`: the type of the number that every payload begins with: `u16`, `u32` or `u64`."""
    failure: str = "isolate"
    """One of `FAILURE_POLICIES`."""
    cert: tuple[str, ...] = ()
    """Of TLS: files of certificates with their chains (PEM); the first is for names that none is for."""
    key: tuple[str, ...] = ()
    """Of TLS: the file of each certificate's key; none when they are in the same files."""
    client_ca: str | None = None
    """Of TLS: the file of the authorities that sign clients' certificates."""
    client_cert: str | None = None
    """Of TLS: `required` or `optional`; with authorities the default is `required`."""
    query: str = ""
    """The options as they were written."""

    @classmethod
    def parse(cls, url: str, *, calling: bool = False) -> Endpoint:
        """Read an endpoint's URL.

        Args:
            url: for example `tcp://127.0.0.1:7007/echo?framing=lines`.
            calling: the URL names a peer to call: an event is not needed.

        Raises:
            EndpointError: one line that names the fault and what is allowed.
        """
        try:
            parts = urlsplit(url)
            # RFC 6874: the mark before an IPv6 zone is itself encoded.
            host, port = (parts.hostname or "").replace("%25", "%"), parts.port
        except ValueError as error:
            raise EndpointError(f"{url!r}: {error}") from error
        scheme = parts.scheme
        if scheme not in LIMITS:
            raise EndpointError(f"{url!r}: scheme must be one of {', '.join(LIMITS)}")
        if parts.username is not None or parts.password is not None or parts.fragment or "#" in url:
            raise EndpointError(f"{url!r}: an endpoint has no user name and no fragment")
        options = _read_options(url, scheme, parts.query)
        _check_certificates(url, options)
        event = unquote(parts.path[1:]) if scheme in ("tcp", "tls", "udp") else str(options.pop("event", ""))
        if scheme == "unix":
            _check_unix(url, parts.netloc, parts.path)
            host, port = unquote(parts.path), 0
        elif scheme in HTTP_PORTS:
            port = HTTP_PORTS[scheme] if port is None else port
            if parts.path not in ("", "/") and not calling:
                raise EndpointError(
                    f"{url!r}: an {scheme} endpoint has no path; the path of each request names its event"
                )
        if port is None:
            raise EndpointError(f"{url!r}: a port is needed (0 picks a free one)")
        if not calling:
            _check_event(url, scheme, event, options)
        return cls(scheme=scheme, host=host or LOOPBACK, port=port, event=event, query=parts.query, **options)

    @property
    def is_secure(self) -> bool:
        """Whether TLS is spoken."""
        return self.scheme in SECURE

    @property
    def is_http(self) -> bool:
        """Whether HTTP is spoken."""
        return self.scheme in HTTP_PORTS

    @property
    def address(self) -> str:
        """`host:port` with IPv6 in brackets, or the path of a Unix socket."""
        return self.host if self.scheme == "unix" else format_address((self.host, self.port))

    def __str__(self) -> str:
        """Return the URL."""
        if self.scheme == "unix":
            return f"unix://{quote(self.host)}?{self.query}"
        path = f"/{quote(self.event, safe='/{}:')}" if self.event else ""
        address = self.address.replace("%", "%25")
        return f"{self.scheme}://{address}{path}{'?' if self.query else ''}{self.query}"


def _check_unix(url: str, netloc: str, path: str) -> None:
    if netloc or len(path) < 2:
        raise EndpointError(f"{url!r}: write an absolute path: unix:///run/oread.sock?event=NAME")


def _check_event(url: str, scheme: str, event: str, options: Mapping[str, Any]) -> None:
    """Refuse an event where each message names its own, and its absence elsewhere."""
    names_own = scheme in HTTP_PORTS or options.get("framing") == JSONRPC
    if event and names_own:
        raise EndpointError(f"{url!r}: with framing=jsonrpc the method of each call names its event")
    if not event and not names_own:
        where = "?event=NAME" if scheme == "unix" else "/NAME"
        raise EndpointError(f"{url!r}: an event is needed: {scheme}://...{where}")
    if names_own and "sequence" in options:
        raise EndpointError(f"{url!r}: a JSON-RPC document has no number before it; leave sequence out")


def _check_certificates(url: str, options: Mapping[str, Any]) -> None:
    certificates, keys = len(options.get("cert", ())), len(options.get("key", ()))
    if keys not in (0, certificates):
        raise EndpointError(f"{url!r}: each cert=FILE needs its key=FILE, unless all have their keys inside")
    if options.get("client_cert") and not options.get("client_ca"):
        raise EndpointError(f"{url!r}: client_cert needs client_ca=FILE, which says whom to believe")
    if options.get("client_ca") and not certificates:
        raise EndpointError(f"{url!r}: client_ca needs cert=FILE: a given context has its own authorities")


def _read_options(url: str, scheme: str, query: str) -> dict[str, Any]:
    """Convert the options; limits are gathered into one value."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as error:
        raise EndpointError(f"{url!r}: options are name=value, joined by &") from error
    limits_type = LIMITS[scheme]
    bounds = {
        field.name: float if isinstance(field.default, float) else int for field in attrs.fields(limits_type)
    }
    known = {**bounds, **OPTIONS[scheme]}
    options: dict[str, Any] = {}
    for name, text in pairs:
        if name not in known:
            raise EndpointError(f"{url!r}: unknown option {name!r}; {scheme} has {', '.join(sorted(known))}")
        if name in options and name not in _REPEATED:
            raise EndpointError(f"{url!r}: option {name!r} is given twice")
        try:
            value = known[name](text)
            options[name] = (*options.get(name, ()), value) if name in _REPEATED else value
        except ValueError as error:
            raise EndpointError(f"{url!r}: option {name}={text!r}: {error}") from error
    limits = {name: options.pop(name) for name in bounds if name in options}
    try:
        return {**options, "limits": limits_type(**limits)}
    except ValueError as error:
        raise EndpointError(f"{url!r}: {error}") from error
