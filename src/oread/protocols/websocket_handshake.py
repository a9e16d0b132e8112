"""The opening of a WebSocket: what asks for one, and what grants it.

A GET of HTTP/1.1 whose `Upgrade` names `websocket` asks; every other upgrade
is none, and the request is an ordinary one. What asks must ask well: it is
refused with what is wrong, never repaired.

Not here: HTTP itself (http1.py), and what comes afterwards (websocket.py).
Source: RFC 6455 4.2 and 4.4; RFC 6454 for origins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs
from wsproto.utilities import generate_accept_token

from oread.errors import BadRequest, MessageError
from oread.protocols.http1_client import encode_request
from oread.protocols.http1_head import RequestHead
from oread.protocols.http1_lines import TCHAR, field_pairs
from oread.protocols.http1_reply import field_lines

VERSION = "13"
"""The only version that became a standard (RFC 6455 4.1)."""

_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
_TOKEN = re.compile(rf"{TCHAR}+")
_ENGINE_FIELDS = frozenset(
    (
        "connection",
        "content-length",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-protocol",
        "transfer-encoding",
        "upgrade",
    )
)


_ANSWERED = frozenset(
    ("connection", "sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-protocol", "upgrade")
)
"""What a client looks at in the answer; it asks for no extension and no subprotocol."""


class WebSocketVersionError(MessageError):
    """The version of WebSocket that is asked for is not spoken."""

    status = 426
    reason = "ws_version"


class CrossOriginError(MessageError):
    """A page of another site asks for a WebSocket, with its visitor's cookies."""

    status = 403
    reason = "ws_origin"


@attrs.frozen(kw_only=True)
class Handshake:
    """What a client asks for."""

    key: str
    subprotocols: tuple[str, ...]
    """In the client's order of preference."""
    extensions: str
    """What it offers, as it was written."""
    origin: str | None
    """Of the page that asks; None when it is no browser."""


def read_handshake(head: RequestHead) -> Handshake | None:
    """Return what a request asks for; None when it asks for no WebSocket.

    Raises:
        BadRequest: it asks for one in a wrong way.
        WebSocketVersionError: by another version than 13.
    """
    if head.method != "GET" or head.version == "1.0" or head.length:
        return None
    headers = head.headers
    if "websocket" not in (name.lower() for name in _list(headers.get_all("upgrade"))):
        return None
    if "upgrade" not in (option.lower() for option in _list(headers.get_all("connection"))):
        return None  # RFC 9110 7.8: without it `Upgrade` may come from the client's proxy
    versions = headers.get_all("sec-websocket-version")
    if not versions:
        raise BadRequest("Sec-WebSocket-Version is missing")
    if versions != [VERSION]:
        raise WebSocketVersionError(f"version {VERSION} of WebSocket is spoken, no other")
    keys = headers.get_all("sec-websocket-key")
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise BadRequest("Sec-WebSocket-Key is not 16 bytes in base64, once")
    origins = headers.get_all("origin")
    if len(origins) > 1:
        raise BadRequest("Origin is repeated")
    subprotocols = _list(headers.get_all("sec-websocket-protocol"))
    if not all(_TOKEN.fullmatch(name) for name in subprotocols) or len(set(subprotocols)) < len(subprotocols):
        raise BadRequest("Sec-WebSocket-Protocol is not a list of different names")
    return Handshake(
        key=keys[0],
        subprotocols=tuple(subprotocols),
        extensions=", ".join(headers.get_all("sec-websocket-extensions")),
        origin=origins[0] if origins else None,
    )


def _list(values: Sequence[str]) -> list[str]:
    """Return the members of a list field; empty ones count for nothing (RFC 9110 5.6.1)."""
    return [item for value in values for part in value.split(",") if (item := part.strip(" \t"))]


def encode_asking(target: str, host: str, key: str, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return what a client asks with.

    Args:
        target: path and query.
        host: with its port, as it is addressed.
        key: 16 random bytes in base64.
        headers: more fields, for example `Origin`.

    Raises:
        ValueError: something that can't be sent.
    """
    asking = (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", VERSION),
    )
    plain = encode_request("GET", target, host, b"", headers)  # which knows how to refuse
    return (
        plain.removesuffix(b"\r\n")
        + "".join(f"{name}: {value}\r\n" for name, value in asking).encode()
        + b"\r\n"
    )


def is_accepted(head: str, key: str) -> bool:
    """Tell whether the head of a response is the 101 to this key, and agrees to nothing else.

    Source: RFC 6455 4.1, the client's side.
    """
    start = head.partition("\r\n")[0]
    fields = [(name, value) for name, value in field_pairs(head) if name in _ANSWERED]
    expected = generate_accept_token(key.encode()).decode()
    return (
        start.startswith("HTTP/1.1 101 ")
        and sorted((name, value.lower()) for name, value in fields if name != "sec-websocket-accept")
        == [("connection", "upgrade"), ("upgrade", "websocket")]
        and [value for name, value in fields if name == "sec-websocket-accept"] == [expected]
    )


def check_origin(handshake: Handshake, host: str, allowed: Sequence[str]) -> None:
    """Refuse what a page of another site asks for.

    A browser lets any page open a WebSocket anywhere, and sends the cookies
    of where it goes: without this, a page that a user visits talks to the
    service in the user's name.

    Args:
        handshake: of which `origin` counts; who has none is no browser.
        host: of the request, with its port as it was written.
        allowed: origins such as `https://example.com`, or `*` for any. None
            given: the page must come from the host that it asks.

    Raises:
        CrossOriginError: anything else.
    """
    origin = handshake.origin
    if origin is None or "*" in allowed:
        return
    origin = origin.lower()
    if origin in allowed if allowed else _authority(origin) == _without_port(host.lower(), origin):
        return
    raise CrossOriginError("a page of this origin may not open a WebSocket here")


def _authority(origin: str) -> str | None:
    scheme, mark, authority = origin.partition("://")
    return _without_port(authority, origin) if mark and scheme in ("http", "https") else None


def _without_port(authority: str, origin: str) -> str:
    """Leave out the default port of the origin's scheme."""
    return authority.removesuffix(":443" if origin.startswith("https:") else ":80")


def choose_subprotocol(handshake: Handshake, spoken: Sequence[str]) -> str | None:
    """Return the first that the client prefers of those that are spoken here."""
    return next((name for name in handshake.subprotocols if name in spoken), None)


def encode_acceptance(
    handshake: Handshake,
    *,
    subprotocol: str | None = None,
    extensions: str = "",
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """Return the 101, behind which frames begin.

    Raises:
        HandlerError: a field that can't be sent, or is the engine's.
    """
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {generate_accept_token(handshake.key.encode()).decode()}",
    ]
    if subprotocol is not None:
        lines += field_lines((("Sec-WebSocket-Protocol", subprotocol),), frozenset())
    if extensions:
        lines.append(f"Sec-WebSocket-Extensions: {extensions}")
    lines += field_lines(headers, _ENGINE_FIELDS)
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def encode_upgrade_required(reason: str, date: bytes, *, close: bool) -> bytes:
    """Return a 426 with what it has to say: which protocol and which version.

    Source: RFC 9110 15.5.22, RFC 6455 4.4.
    """
    body = f"{reason}\n".encode()
    return (
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade%b\r\n"
        b"Sec-WebSocket-Version: %b\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Date: %b\r\nContent-Length: %d\r\n\r\n%b"
        % (b", close" if close else b"", VERSION.encode(), date, len(body), body)
    )
