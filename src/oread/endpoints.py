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
from oread.limits import DatagramLimits, HttpLimits, Limits, StreamLimits
from oread.messages import format_address

LIMITS: Mapping[str, type[Limits]] = {
    "tcp": StreamLimits,
    "unix": StreamLimits,
    "http": HttpLimits,
    "udp": DatagramLimits,
}
"""The schemes that are served, and the limits of each."""

JSONRPC = "jsonrpc"
"""The framing of documents that name their events."""

_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_TOKENS = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:,[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")

_PRODUCT = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}(/[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64})?")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

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
OPTIONS: Mapping[str, Mapping[str, Callable[[str], Any]]] = {
    "tcp": _STREAM_OPTIONS,
    "unix": {name: _STREAM_OPTIONS[name] for name in ("framing", "failure")} | {"event": _text},
    "http": {
        "reuse_port": _boolean,
        "openapi": _boolean,
        "rpc": _path,
        "origins": _origins,
        "subprotocols": _tokens,
        "ws_deflate": _boolean,
        "server": _product,
        "trusted_proxies": _networks,
        "failure": _STREAM_OPTIONS["failure"],
    },
    "udp": {
        "framing": _one_of("raw", JSONRPC),
        "reply": _one_of("none", "unicast"),
        "interface": _text,
        "source": _text,
        "allow_low_ports": _boolean,
        "receive_own": _boolean,
        "reuse_port": _boolean,
        "shared": _boolean,
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
    """The event that every message is dispatched under; empty where each names its own: `http`, `jsonrpc`."""
    limits: Limits
    framing: str = "raw"
    rpc: str | None = None
    """Of `http`: the path where JSON-RPC is served."""
    server: str | None = None
    """Of `http`: what the Server field says; None sends none, so that nobody learns what to try."""
    trusted_proxies: tuple[Network, ...] = ()
    """Of `http`: whose `Forwarded` or `X-Forwarded-*` fields are believed."""
    openapi: bool = False
    """Of `http`: whether GET /openapi.json describes what is served."""
    origins: tuple[str, ...] = ()
    """Of `http`: whose pages may open a WebSocket, `*` for any; () is the same origin alone."""
    subprotocols: tuple[str, ...] = ()
    """Of `http`: what a WebSocket may agree to speak."""
    ws_deflate: bool = False
    """Of `http`: whether messages of a WebSocket may be compressed (permessage-deflate)."""
    reply: str | None = None
    """`none` or `unicast`; None is the default of the address's mode."""
    interface: str | None = None
    source: str | None = None
    allow_low_ports: bool = False
    receive_own: bool = False
    reuse_port: bool = False
    shared: bool = False
    failure: str = "isolate"
    """One of `FAILURE_POLICIES`."""
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
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise EndpointError(f"{url!r}: {error}") from error
        scheme = parts.scheme
        if scheme not in LIMITS:
            raise EndpointError(f"{url!r}: scheme must be one of {', '.join(LIMITS)}")
        if parts.username is not None or parts.password is not None or parts.fragment or "#" in url:
            raise EndpointError(f"{url!r}: an endpoint has no user name and no fragment")
        options = _read_options(url, scheme, parts.query)
        event = unquote(parts.path[1:]) if scheme in ("tcp", "udp") else str(options.pop("event", ""))
        if scheme == "unix":
            _check_unix(url, parts.netloc, parts.path)
            host, port = unquote(parts.path), 0
        elif scheme == "http":
            port = 80 if port is None else port
            if parts.path not in ("", "/") and not calling:
                raise EndpointError(
                    f"{url!r}: an http endpoint has no path; the path of each request names its event"
                )
        if port is None:
            raise EndpointError(f"{url!r}: a port is needed (0 picks a free one)")
        names_own = scheme == "http" or options.get("framing") == JSONRPC
        if event and names_own and not calling:
            raise EndpointError(f"{url!r}: with framing=jsonrpc the method of each call names its event")
        if not event and not names_own and not calling:
            where = "?event=NAME" if scheme == "unix" else "/NAME"
            raise EndpointError(f"{url!r}: an event is needed: {scheme}://...{where}")
        return cls(scheme=scheme, host=host or LOOPBACK, port=port, event=event, query=parts.query, **options)

    @property
    def address(self) -> str:
        """`host:port` with IPv6 in brackets, or the path of a Unix socket."""
        return self.host if self.scheme == "unix" else format_address((self.host, self.port))

    def __str__(self) -> str:
        """Return the URL."""
        if self.scheme == "unix":
            return f"unix://{quote(self.host)}?{self.query}"
        path = f"/{quote(self.event, safe='/{}:')}" if self.event else ""
        return f"{self.scheme}://{self.address}{path}{'?' if self.query else ''}{self.query}"


def _check_unix(url: str, netloc: str, path: str) -> None:
    if netloc or len(path) < 2:
        raise EndpointError(f"{url!r}: write an absolute path: unix:///run/oread.sock?event=NAME")


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
        if name in options:
            raise EndpointError(f"{url!r}: option {name!r} is given twice")
        try:
            options[name] = known[name](text)
        except ValueError as error:
            raise EndpointError(f"{url!r}: option {name}={text!r}: {error}") from error
    limits = {name: options.pop(name) for name in bounds if name in options}
    try:
        return {**options, "limits": limits_type(**limits)}
    except ValueError as error:
        raise EndpointError(f"{url!r}: {error}") from error
