"""The opening of a WebSocket: what is granted, refused, and not seen as one."""

from __future__ import annotations

import pytest
from websocket_frames import KEY, upgrade

from oread.errors import BadRequest, HandlerError, MessageError
from oread.limits import HttpLimits
from oread.protocols.http1 import HttpServerProtocol
from oread.protocols.http1_head import RequestHead
from oread.protocols.websocket_handshake import (
    CrossOriginError,
    Handshake,
    WebSocketVersionError,
    check_origin,
    choose_subprotocol,
    encode_acceptance,
    read_handshake,
)


def head_of(data: bytes) -> RequestHead:
    """Read one request."""
    head = HttpServerProtocol(HttpLimits()).receive(data)
    assert isinstance(head, RequestHead)
    return head


def test_the_rfcs_own_example_is_answered_as_it_says() -> None:
    """RFC 6455 1.3, with what was agreed on."""
    head = head_of(upgrade("/", "Origin: http://a", "Sec-WebSocket-Protocol: chat, superchat"))
    assert head.upgrade
    handshake = read_handshake(head)
    assert handshake == Handshake(
        key=KEY, subprotocols=("chat", "superchat"), extensions="", origin="http://a"
    )
    answer = encode_acceptance(handshake, subprotocol="superchat", headers=[("Set-Cookie", "a=b")])
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert b"\r\nSec-WebSocket-Protocol: superchat\r\nSet-Cookie: a=b\r\n\r\n" in answer
    assert answer.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "data",
    [
        upgrade("/", method="POST"),
        upgrade("/", version="1.0"),
        upgrade("/", drop="Upgrade"),
        upgrade("/", drop="Connection"),
        upgrade("/", "Content-Length: 1"),
        upgrade("/", "Upgrade: h2c", drop="Upgrade"),
    ],
)
def test_what_asks_for_no_websocket_is_an_ordinary_request(data: bytes) -> None:
    """Another method, version or protocol, a body, or no word in Connection."""
    assert read_handshake(head_of(data)) is None


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (upgrade("/", drop="Sec-WebSocket-Version"), BadRequest),
        (
            upgrade("/", "Sec-WebSocket-Version: 8", drop="Sec-WebSocket-Version"),
            WebSocketVersionError,
        ),
        (upgrade("/", "Sec-WebSocket-Version: 13"), WebSocketVersionError),
        (upgrade("/", drop="Sec-WebSocket-Key"), BadRequest),
        (upgrade("/", f"Sec-WebSocket-Key: {KEY}"), BadRequest),
        (upgrade("/", "Sec-WebSocket-Key: c2hvcnQ=", drop="Sec-WebSocket-Key"), BadRequest),
        (upgrade("/", "Sec-WebSocket-Protocol: a b"), BadRequest),
        (upgrade("/", "Sec-WebSocket-Protocol: a, a"), BadRequest),
        (upgrade("/", "Origin: http://a", "Origin: http://a"), BadRequest),
    ],
)
def test_what_asks_wrongly_is_refused(data: bytes, kind: type[MessageError]) -> None:
    """A missing, repeated or malformed field."""
    with pytest.raises(kind):
        read_handshake(head_of(data))


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "passes"),
    [
        (None, "a", (), True),
        ("http://a", "a", (), True),
        ("http://A:80", "a", (), True),
        ("https://a", "a:443", (), True),
        ("https://a", "a", (), True),
        ("http://a:8080", "a:8080", (), True),
        ("http://[::1]:80", "[::1]", (), True),
        ("http://a:8080", "a", (), False),
        ("http://b", "a", (), False),
        ("http://a.b", "a", (), False),
        ("null", "null", (), False),
        ("file://", "", (), False),
        ("http://b", "a", ("http://b",), True),
        ("http://a", "a", ("http://b",), False),
        ("null", "a", ("*",), True),
    ],
)
def test_pages_of_other_sites_are_refused(
    origin: str | None, host: str, allowed: tuple[str, ...], passes: bool
) -> None:
    """The same host alone, or the origins that are named."""
    handshake = Handshake(key=KEY, subprotocols=(), extensions="", origin=origin)
    try:
        check_origin(handshake, host, allowed)
    except CrossOriginError:
        assert not passes
    else:
        assert passes


def test_the_clients_preference_decides_the_subprotocol() -> None:
    """The first of its names that is spoken here; none when none is."""
    handshake = Handshake(key=KEY, subprotocols=("b", "a"), extensions="", origin=None)
    assert choose_subprotocol(handshake, ("a", "b")) == "b"
    assert choose_subprotocol(handshake, ("c",)) is None


@pytest.mark.parametrize(
    "pair", [("Upgrade", "x"), ("a b", "x"), ("a", "x\r\ny"), ("Sec-WebSocket-Accept", "x")]
)
def test_fields_that_cant_be_sent_are_refused(pair: tuple[str, str]) -> None:
    """The engine's own, and what is no field."""
    handshake = Handshake(key=KEY, subprotocols=(), extensions="", origin=None)
    with pytest.raises(HandlerError):
        encode_acceptance(handshake, headers=[pair])
