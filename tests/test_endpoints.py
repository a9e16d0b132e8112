"""Endpoint URLs: what is read, what is refused and how it is said."""

from __future__ import annotations

import math

import pytest

from oread.endpoints import Endpoint
from oread.errors import EndpointError
from oread.limits import HttpLimits, StreamLimits


@pytest.mark.parametrize(
    "url",
    [
        "tcp://127.0.0.1:7007/echo",
        "tcp://127.0.0.1:7007/echo?framing=lines&message_bytes=5",
        "tcp://[::1]:0/orders/{order_id}",
        "unix:///run/oread.sock?event=echo",
        "udp://239.255.70.7:7008/echo?interface=eth0&source=10.0.0.1",
        "http://127.0.0.1:7080",
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


@pytest.mark.parametrize(
    ("url", "says"),
    [
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
