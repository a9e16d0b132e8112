"""The demo registry, what is announced to type, and the daemon's logs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

import oread
from oread.client import call_http, parse_target
from oread.daemon.demo import DEMO_ENDPOINTS, make_demo_registry
from oread.daemon.hints import suggest_call
from oread.daemon.logs import configure_logging
from oread.handlers import STOCK


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture(autouse=True)
def _keep_root_logger() -> Iterator[None]:
    """Give the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)


async def test_the_index_lists_every_event() -> None:
    """`GET /` is JSON for a program and HTML for a browser, each complete."""
    async with oread.open_service(make_demo_registry(), "http://127.0.0.1:0") as service:
        root = str(service.endpoints[0])
        as_json = await call_http(parse_target(root), b"", method="GET")
        as_html = await call_http(
            parse_target(root), b"", method="GET", headers=[("accept", "text/html,*/*;q=0.1")]
        )
        posted = await call_http(parse_target(root), b"", method="POST")
    rows = {row["event"]: row for row in json.loads(as_json.body)["events"]}
    assert set(rows) == {*STOCK, "index"}
    assert rows["echo"]["call"] == f"curl -d hello {root}/echo"
    assert rows["echo"]["does"] == "Return what was sent (RFC 862)."
    assert as_html.headers.get("content-type") == "text/html; charset=utf-8"
    assert all(f"<a href='/{event}'>".encode() in as_html.body for event in rows)
    assert (posted.status, posted.headers.get("allow")) == (405, "GET, HEAD, OPTIONS")


def test_the_demo_set_stays_on_loopback() -> None:
    """No endpoint of it can be reached from another machine."""
    for endpoint in map(oread.Endpoint.parse, DEMO_ENDPOINTS):
        assert endpoint.host.startswith("127.") or endpoint.interface == "lo"


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("tcp://127.0.0.1:7007/echo", "echo hello | nc -N 127.0.0.1 7007"),
        ("tcp://0.0.0.0:7007/echo", "echo hello | nc -N 127.0.0.1 7007"),
        ("tcp://[::]:7007/echo?framing=lines", "echo hello | nc -N ::1 7007"),
        (
            "tcp://127.0.0.1:7007/echo?framing=length",
            "oread call 'tcp://127.0.0.1:7007/echo?framing=length' hello",
        ),
        ("unix:///run/a%20b?event=echo", "echo hello | nc -NU '/run/a b'"),
        ("udp://127.0.0.1:7007/echo", "echo hello | nc -u -w 1 127.0.0.1 7007"),
        ("udp://localhost:7007/echo", "echo hello | nc -u -w 1 localhost 7007"),
        (
            "udp://239.255.70.7:7008/echo?interface=lo",
            "echo hello | socat -t 1 - UDP4-DATAGRAM:239.255.70.7:7008,ip-multicast-if=127.0.0.1",
        ),
        ("udp://239.255.70.7:7008/echo", "echo hello | socat -t 1 - UDP4-DATAGRAM:239.255.70.7:7008"),
        (
            "udp://239.255.70.7:7008/echo?interface=eth9",
            "oread call 'udp://239.255.70.7:7008/echo?interface=eth9' hello",
        ),
        ("udp://[ff15::7]:7008/echo", "oread call 'udp://[ff15::7]:7008/echo' hello"),
        (
            "udp://255.255.255.255:7009/echo",
            "echo hello | socat -t 1 - UDP4-DATAGRAM:255.255.255.255:7009,broadcast",
        ),
        ("http://127.0.0.1:7080", "curl http://127.0.0.1:7080/"),
        ("http://[::]:7080", "curl 'http://[::1]:7080/'"),
        ("https://0.0.0.0:7443?cert=c.pem", "curl -k https://127.0.0.1:7443/"),
        ("tls://:7443/echo?cert=c.pem", "oread call --insecure tls://127.0.0.1:7443 hello"),
        (
            "tls://[::]:7443/echo?framing=length&cert=c.pem",
            "oread call --insecure 'tls://[::1]:7443?framing=length' hello",
        ),
    ],
)
def test_the_hint_fits_the_endpoint(url: str, hint: str) -> None:
    """Each kind of endpoint has a line of shell that reaches it."""
    assert suggest_call(oread.Endpoint.parse(url), make_demo_registry()) == hint


def test_the_hint_names_an_event_that_exists() -> None:
    """Without an index the first plain event is asked for, quoted for a shell."""
    registry = oread.Registry()
    registry.on("orders/{order_id}", lambda: b"")
    registry.on("it's", lambda: b"")
    hint = suggest_call(oread.Endpoint.parse("http://127.0.0.1:7080"), registry)
    assert hint == "curl -d hello 'http://127.0.0.1:7080/it'\"'\"'s'"
    assert suggest_call(oread.Endpoint.parse("http://127.0.0.1:7080"), oread.Registry()) == (
        "curl http://127.0.0.1:7080/"
    )


def test_the_hint_for_json_rpc_is_a_whole_request() -> None:
    """It calls the first plain event, through a shell's quotes."""
    registry = oread.Registry()
    registry.on("it's", lambda: b"")
    request = """'{"jsonrpc": "2.0", "method": "it'"'"'s", "id": 1}'"""
    for url, client in {
        "tcp://127.0.0.1:7007?framing=jsonrpc": "nc -N 127.0.0.1 7007",
        "unix:///run/oread.sock?framing=jsonrpc": "nc -NU /run/oread.sock",
        "udp://127.0.0.1:7007?framing=jsonrpc": "nc -u -w 1 127.0.0.1 7007",
    }.items():
        assert suggest_call(oread.Endpoint.parse(url), registry) == f"echo {request} | {client}"


def log_a_failure() -> None:
    """Log one record with a traceback."""
    try:
        raise LookupError("on purpose")
    except LookupError:
        logging.getLogger("oread").exception("it failed for %s", "127.0.0.1:5")


def test_a_pipe_gets_json_lines() -> None:
    """One record is one line that a program reads, traceback included."""
    stream = io.StringIO()
    configure_logging(stream)
    log_a_failure()
    logging.getLogger("oread").debug("not written")
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert (record["event"], record["level"]) == ("it failed for 127.0.0.1:5", "error")
    assert record["exception"].endswith("LookupError: on purpose")
    assert record["timestamp"].endswith("Z")


def test_a_terminal_gets_lines_to_read() -> None:
    """The traceback stands as Python writes it, without local variables."""
    stream = Terminal()
    configure_logging(stream)
    log_a_failure()
    text = stream.getvalue()
    assert "it failed for 127.0.0.1:5" in text
    assert "Traceback (most recent call last)" in text
    assert not text.startswith("{")
