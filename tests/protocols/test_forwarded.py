"""Who stands behind trusted proxies: both kinds of fields, walked from the right."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.errors import BadRequest
from oread.messages import Headers, HttpRequest, Peer
from oread.protocols.forwarded import TrustedProxies

PROXIES = TrustedProxies([ipaddress.ip_network(each) for each in ("10.0.0.0/8", "127.0.0.1", "fd00::/8")])
PEER = ("10.0.0.1", 5000)


def look(*fields: tuple[str, str], peer: Any = PEER) -> tuple[Any, str | None, str | None] | None:
    """Return address, scheme and host of a request with these fields."""
    found = PROXIES.look_behind(peer, Headers(fields))
    return None if found is None else (found.address, found.scheme, found.host)


@pytest.mark.parametrize(
    ("listed", "address"),
    [
        (["203.0.113.9"], ("203.0.113.9", 0)),
        (["203.0.113.9:4711"], ("203.0.113.9", 4711)),
        (["2001:db8::1"], None),
        (["[2001:db8::1]:80"], ("2001:db8::1", 80)),
        (["1.1.1.1, 203.0.113.9"], ("203.0.113.9", 0)),
        (["garbage, 203.0.113.9, 10.1.1.1"], ("203.0.113.9", 0)),
        (["1.1.1.1, 203.0.113.9", "10.9.9.9", "10.1.1.1"], ("203.0.113.9", 0)),
        (["10.2.2.2, 10.1.1.1"], ("10.2.2.2", 0)),
        ([], PEER),
    ],
)
def test_the_usual_fields_are_walked_over_trusted_hops(listed: list[str], address: Any) -> None:
    """The first that is not trusted is the client; what it said of itself is not read."""
    fields = [("x-forwarded-for", value) for value in listed]
    expected = ("2001:db8::1", 0) if address is None else address
    assert look(*fields) == (expected, None, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=203.0.113.9", (("203.0.113.9", 0), None, None)),
        ("For=203.0.113.9;Proto=HTTPS;Host=a.example", (("203.0.113.9", 0), "https", "a.example")),
        ('for="[2001:db8::1]:4711";by=_x', (("2001:db8::1", 4711), None, None)),
        ('for="203.0.113.9:_port"', (("203.0.113.9", 0), None, None)),
        ("for=1.1.1.1;host=evil, for=203.0.113.9;host=a", (("203.0.113.9", 0), None, "a")),
        ("===, for=203.0.113.9;proto=https, for=10.1.1.1;proto=http", (("203.0.113.9", 0), "https", None)),
        ("for=unknown;proto=https", (None, "https", None)),
        ("for=1.1.1.1, for=_hidden", (None, None, None)),
        ("for=1.1.1.1, proto=https", (None, "https", None)),
        ('for="203.0.113.9";x="a,b;\\"c"', (("203.0.113.9", 0), None, None)),
    ],
)
def test_the_standard_field_is_walked_over_trusted_hops(value: str, expected: Any) -> None:
    """RFC 7239; scheme and host are those of the same hop."""
    assert look(("forwarded", value)) == expected


def test_scheme_and_host_are_those_of_the_clients_hop() -> None:
    """One entry holds for all; a list is as long as that of the addresses, or longer."""
    chain = ("x-forwarded-for", "1.1.1.1, 203.0.113.9, 10.1.1.1")
    one = look(chain, ("x-forwarded-proto", "https"), ("x-forwarded-host", "a.example:8443"))
    assert one == (("203.0.113.9", 0), "https", "a.example:8443")
    assert look(chain, ("x-forwarded-proto", "http, https, http")) == (("203.0.113.9", 0), "https", None)
    assert look(("x-forwarded-proto", "https")) == (PEER, "https", None)


@pytest.mark.parametrize(
    "fields",
    [
        [("x-forwarded-for", "unknown")],
        [("x-forwarded-for", "203.0.113.9,")],
        [("x-forwarded-for", "")],
        [("x-forwarded-for", "203.0.113.300")],
        [("x-forwarded-for", "203.0.113.9:99999")],
        [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "gopher")],
        [("x-forwarded-for", "203.0.113.9, 10.1.1.1, 10.1.1.2"), ("x-forwarded-proto", "http, https")],
        [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-host", "a/b")],
        [("x-forwarded-proto", "http, https")],
        [("forwarded", "for=203.0.113.9"), ("x-forwarded-for", "203.0.113.9")],
        [("forwarded", "")],
        [("forwarded", "for")],
        [("forwarded", "for=203.0.113.9;for=1.1.1.1")],
        [("forwarded", "for=[2001:db8::1]")],
        [("forwarded", 'for="203.0.113.9')],
        [("forwarded", "for=203.0.113.9,")],
        [("forwarded", 'for=203.0.113.9;host="a b"')],
    ],
)
def test_what_a_trusted_proxy_says_wrongly_is_a_bad_request(fields: list[tuple[str, str]]) -> None:
    """Malformed where it counts, or said in two ways of which one may be the client's."""
    if fields == [("x-forwarded-for", "")]:
        assert look(*fields) == (PEER, None, None)
        return
    with pytest.raises(BadRequest):
        look(*fields)


@pytest.mark.parametrize("peer", [("203.0.113.1", 1), ("::1", 1), None, "/run/x.sock", ("memory", 1)])
def test_nobody_else_is_believed(peer: Any) -> None:
    """Whatever they send, malformed or not."""
    assert look(("x-forwarded-for", "1.1.1.1"), ("forwarded", "=="), peer=peer) is None


def test_mapped_and_scoped_addresses_are_the_same_hosts() -> None:
    """As a dual-stack socket tells them."""
    assert PROXIES.trusts("::ffff:10.0.0.1")
    assert PROXIES.trusts("fd00::1%eth0")
    assert not PROXIES.trusts("::ffff:11.0.0.1")


@given(st.text(st.characters(min_codepoint=9, max_codepoint=255), max_size=60))
def test_any_text_gives_an_answer_or_a_bad_request(text: str) -> None:
    """Never another error, and never much time."""
    for name in ("forwarded", "x-forwarded-for"):
        try:
            look((name, text))
        except BadRequest:
            continue


def test_a_request_tells_client_scheme_and_host() -> None:
    """By itself, and behind a proxy; the peer stays the peer."""

    def request(target: str, *fields: tuple[str, str], **options: Any) -> HttpRequest:
        return HttpRequest(
            event="e", data=b"", transport="http", method="GET", target=target, path="/",
            peer=Peer(PEER, "http"), headers=Headers(fields), **options,
        )  # fmt: skip

    plain = request("/", ("host", "a"), ("x-forwarded-for", "1.1.1.1"))
    assert (plain.client, plain.scheme, plain.host) == (Peer(PEER, "http"), "http", "a")
    assert request("http://b:80/x?y", ("host", "a")).host == "b:80"
    assert request("/").host == ""
    behind = request(
        "/",
        ("host", "a"),
        ("forwarded", "for=203.0.113.9;proto=https;host=c"),
        look_behind=PROXIES.look_behind,
    )
    assert (behind.client, behind.scheme, behind.host) == (Peer(("203.0.113.9", 0), "http"), "https", "c")
    assert (behind.peer, behind.peer.host, behind.client.host) == (
        Peer(PEER, "http"),
        "10.0.0.1",
        "203.0.113.9",
    )
