"""Endpoint URLs: what is read, what is refused and how it is said."""

from __future__ import annotations

import math

import pytest

from oread.endpoints import Endpoint
from oread.errors import EndpointError
from oread.limits import HttpLimits, HttpsLimits, StreamLimits, TlsLimits


@pytest.mark.parametrize(
    "url",
    [
        "tcp://127.0.0.1:7007/echo",
        "tcp://127.0.0.1:7007/echo?framing=lines&message_bytes=5",
        "tcp://[::1]:0/orders/{order_id}",
        "unix:///run/oread.sock?event=echo",
        "udp://239.255.70.7:7008/echo?interface=eth0&source=10.0.0.1",
        "http://127.0.0.1:7080",
        "tls://127.0.0.1:7443/echo?framing=lines&cert=a.pem&key=a.key&cert=b.pem&key=b.key",
        "https://127.0.0.1:7443?cert=c.pem&client_ca=ca.pem&client_cert=optional&rpc=/rpc",
    ],
)
def test_url_reads_and_writes_back(url: str) -> None:
    """str() of an endpoint is its URL."""
    assert str(Endpoint.parse(url)) == url


def test_empty_host_is_loopback() -> None:
    """Every interface has to be said."""
    assert Endpoint.parse("tcp://:7007/echo").host == "127.0.0.1"
    assert Endpoint.parse("tcp://0.0.0.0:7007/echo").host == "0.0.0.0"


def test_limits_are_options_by_their_field_name() -> None:
    """Each bound can be set for one endpoint."""
    limits = Endpoint.parse("tcp://:1/e?idle_seconds=2.5&connections=7").limits
    assert limits == StreamLimits(idle_seconds=2.5, connections=7)
    assert Endpoint.parse("tcp://:1/e?idle_seconds=inf").limits == StreamLimits(idle_seconds=math.inf)
    assert isinstance(Endpoint.parse("http://:1").limits, HttpLimits)


def test_certificates_are_pairs_in_their_order() -> None:
    """`cert` and `key` are the only options that may be given several times."""
    endpoint = Endpoint.parse("tls://:1/e?cert=a.pem&key=a.key&cert=b.pem&key=b.key&handshake_seconds=3")
    assert (endpoint.cert, endpoint.key) == (("a.pem", "b.pem"), ("a.key", "b.key"))
    assert endpoint.limits == TlsLimits(handshake_seconds=3)
    assert Endpoint.parse("https://example.org").port == 443
    assert isinstance(Endpoint.parse("https://:1?cert=a.pem").limits, HttpsLimits)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("tls://:1/e?cert=a.pem&cert=b.pem&key=b.key", "each cert=FILE needs its key=FILE"),
        ("tls://:1/e?key=b.key", "each cert=FILE needs its key=FILE"),
        ("tls://:1/e?cert=", "must not be empty"),
        ("tls://:1/e?cert=a.pem&client_cert=optional", "client_cert needs client_ca"),
        ("tls://:1/e?client_ca=a.pem", "client_ca needs cert"),
        ("https://:1?cert=a.pem&client_ca=b.pem&client_cert=never", "must be required or optional"),
        ("https://:1/path?cert=a.pem", "an https endpoint has no path"),
        ("tls://:1?cert=a.pem", "an event is needed: tls://"),
        ("tcp://:1/e?cert=a.pem", "unknown option 'cert'"),
        ("tcp://:1/e?handshake_seconds=1", "unknown option 'handshake_seconds'"),
        ("ftp://a:1/x", "scheme must be one of"),
        ("tcp://127.0.0.1/echo", "a port is needed"),
        ("tcp://127.0.0.1:99999/echo", "Port out of range"),
        ("tcp://127.0.0.1:x/echo", "Port could not be cast"),
        ("tcp://127.0.0.1:1", "an event is needed"),
        ("tcp://u@127.0.0.1:1/echo", "no user name"),
        ("tcp://127.0.0.1:1/echo#x", "no fragment"),
        ("tcp://127.0.0.1:1/echo?framing=netstring", "must be raw or lines or length"),
        ("tcp://127.0.0.1:1/echo?color=red", "unknown option 'color'; tcp has backlog"),
        ("tcp://127.0.0.1:1/echo?framing", "name=value"),
        ("tcp://127.0.0.1:1/echo?framing=raw&framing=raw", "given twice"),
        ("tcp://127.0.0.1:1/echo?connections=0", "connections=0 is outside 1 to"),
        ("tcp://127.0.0.1:1/echo?idle_seconds=nan", "outside"),
        ("tcp://127.0.0.1:1/echo?idle_seconds=1e308", "outside 0.01 to"),
        ("tcp://127.0.0.1:1/echo?reuse_port=yes", "must be true or false"),
        ("http://127.0.0.1:1/echo", "has no path"),
        ("unix://run/x.sock?event=echo", "absolute path"),
        ("unix:///run/x.sock", r"\?event=NAME"),
        ("udp://[::1:1/echo", "Invalid IPv6"),
    ],
)
def test_refusals_say_what_is_wrong(url: str, says: str) -> None:
    """One line names the fault and what is allowed."""
    with pytest.raises(EndpointError, match=says) as caught:
        Endpoint.parse(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "written", ["udp://[ff02::7777%25eth0]:7008/echo", "udp://[ff02::7777%eth0]:7008/echo"]
)
def test_zone_of_an_ipv6_address(written: str) -> None:
    """A zone is read encoded, as RFC 6874 has it, and plain; it is written encoded."""
    endpoint = Endpoint.parse(written)
    assert endpoint.host == "ff02::7777%eth0"
    assert str(endpoint) == "udp://[ff02::7777%25eth0]:7008/echo"
