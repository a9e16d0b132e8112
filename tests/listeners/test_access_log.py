"""The access log: one record for every request, answered, refused or given up."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from http_exchanges import exchange, get
from trio.testing import MockClock, wait_all_tasks_blocked

import oread
from oread.listeners.http import HttpConnection
from oread.messages import Headers, Peer
from oread.testing import MemoryNetwork

COMMON = re.compile(
    r'(\S+) - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "([^"]*)" (\d{3}|-) (\d+|-)'
)


@pytest.fixture
def records() -> list[oread.AccessRecord]:
    """What the log was told."""
    return []


@pytest.fixture
def serve_logged(registry: oread.Registry, records: list[oread.AccessRecord]) -> Any:
    """Serve in memory, with a log."""

    @asynccontextmanager
    async def serve(url: str = "http://:0", log: Any = records.append) -> AsyncIterator[Any]:
        network = MemoryNetwork()
        listening = network.listen()
        bound = oread.Bound(listening, url)
        async with oread.open_service(registry, bound, poller=network, access_log=log) as service:
            yield lambda: network.connect(listening), service

    return serve


def told(records: list[oread.AccessRecord]) -> list[tuple[Any, ...]]:
    """Return what matters of each record, and forget them."""
    found = [(each.method, each.target, each.status, each.sent_bytes, each.complete) for each in records]
    records.clear()
    return found


async def test_every_kind_of_answer_is_told(
    registry: oread.Registry, serve_logged: Any, records: list[oread.AccessRecord], tmp_path: Any
) -> None:
    """Inline, async, streamed, a file, none, HEAD, an error, pipelined: in order, with status and bytes."""
    (tmp_path / "file").write_bytes(b"x" * 100_000)

    @registry.on("stream")
    def stream() -> Iterator[str]:
        yield "ab"
        yield "cd"

    @registry.on("breaks")
    async def breaks() -> AsyncIterator[str]:
        yield "ab"
        raise LookupError

    @registry.on("breaks-early")
    async def breaks_early() -> AsyncIterator[str]:
        raise oread.NotFound("no")
        yield ""

    @registry.on("upload")
    async def upload(body: AsyncIterator[bytes]) -> str:
        return str(sum([len(part) async for part in body]))

    registry.on("file", lambda: oread.FileReply(tmp_path / "file"))
    registry.on("text", lambda: "four")
    async with serve_logged() as (connect, _):
        wire = get("/text?q=1") + get("/async", "Content-Length: 2", method="POST") + b"ab" + get("/none")
        wire += get("/file") + get("/file", "Range: bytes=0-9") + get("/text", method="HEAD")
        wire += get("/file", method="HEAD") + get("/stream") + get("/breaks-early") + get("/nowhere")
        wire += get("/upload", "Content-Length: 3", method="POST") + b"abc" + get("/fails") + get("/breaks")
        await exchange(connect, wire)
        assert told(records) == [
            ("GET", "/text?q=1", 200, 4, True),
            ("POST", "/async", 200, 2, True),
            ("GET", "/none", 204, 0, True),
            ("GET", "/file", 200, 100_000, True),
            ("GET", "/file", 206, 10, True),
            ("HEAD", "/text", 200, 0, True),
            ("HEAD", "/file", 200, 0, True),
            ("GET", "/stream", 200, len(b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"), True),
            ("GET", "/breaks-early", 404, 3, True),
            ("GET", "/nowhere", 404, len("nothing is served at /nowhere\n"), True),
            ("POST", "/upload", 200, 1, True),
            ("GET", "/fails", 500, len("the handler failed\n"), True),
            ("GET", "/breaks", 200, len(b"2\r\nab\r\n"), False),
        ]


async def test_what_is_refused_is_told(
    serve_logged: Any, records: list[oread.AccessRecord], autojump_clock: MockClock
) -> None:
    """By the machine, before a head or within a body; and by a deadline."""
    async with serve_logged() as (connect, _):
        await exchange(connect, b"GET / HTTP/1.1\r\n\r\n")
        assert told(records) == [(None, None, 400, len("no Host\n"), True)]
        await exchange(connect, get("/bytes", "Transfer-Encoding: chunked", method="POST") + b"zz\r\n")
        assert told(records)[0][:3] == ("POST", "/bytes", 400)
        for data, method in ((b"GET", None), (get("/bytes", "Content-Length: 2", method="POST"), "POST")):
            client = connect()
            await client.send_all(data)
            await client.receive_all()
            assert [each[::2] for each in told(records)] == [(method, 408, True)]


async def test_what_is_given_up_is_told(
    registry: oread.Registry, serve_logged: Any, records: list[oread.AccessRecord], tmp_path: Any
) -> None:
    """A peer that resets, a service that ends: no status, or that of the answer begun."""
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 24)
    registry.on("file", lambda: oread.FileReply(tmp_path / "sparse"))
    async with serve_logged() as (connect, _):
        client = connect()
        await client.send_all(get("/forever"))
        await wait_all_tasks_blocked()
        client.reset()
        await wait_all_tasks_blocked()
        assert told(records) == [("GET", "/forever", None, 0, False)]
        client = connect()
        await client.send_all(get("/file"))
        await wait_all_tasks_blocked()
        assert records == []
    [(*_, status, sent, complete)] = told(records)
    assert (status, complete) == (200, False)
    assert 0 < sent < 1 << 24


async def test_json_rpc_is_told_too(
    registry: oread.Registry, serve_logged: Any, records: list[oread.AccessRecord]
) -> None:
    """Its documents are requests like others, sync and async."""
    async with serve_logged("http://:0?rpc=/rpc") as (connect, _):
        for event in ("bytes", "waits"):
            body = f'{{"jsonrpc":"2.0","id":1,"method":"{event}","params":["x"]}}'
            fields = ("Content-Type: application/json", f"Content-Length: {len(body)}")
            await exchange(connect, get("/rpc", *fields, method="POST") + body.encode())
        assert [each[:3] for each in told(records)] == [("POST", "/rpc", 200)] * 2


async def test_a_log_that_fails_harms_no_request(serve_logged: Any, caplog: Any) -> None:
    """It is reported, and the answer goes out."""

    def fails(_record: oread.AccessRecord) -> None:
        raise OSError("disk full")

    async with serve_logged(log=fails) as (connect, _):
        assert b"200 OK" in await exchange(connect, get("/bytes"))
    assert "disk full" in caplog.text


async def test_the_client_is_whom_a_trusted_proxy_names(
    registry: oread.Registry, records: list[oread.AccessRecord]
) -> None:
    """On a real connection; the peer is told beside it, and malformed fields leave the peer."""
    url = "http://127.0.0.1:0?trusted_proxies=127.0.0.1"
    async with (
        oread.open_service(registry, url, access_log=records.append) as service,
        await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port) as stream,
    ):
        await stream.send_all(get("/bytes", "X-Forwarded-For: 203.0.113.9"))
        await stream.send_all(get("/bytes", "Forwarded: ="))
        await stream.send_eof()
        async for _ in stream:
            pass
    assert [(each.client.host, each.peer.host) for each in records] == [
        ("203.0.113.9", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1"),
    ]


async def test_without_a_log_plain_connections_are_made(registry: oread.Registry) -> None:
    """The choice is made once; nothing is looked at for each request."""
    network = MemoryNetwork()
    listening = network.listen()
    async with oread.open_service(registry, oread.Bound(listening, "http://:0"), poller=network) as service:
        assert service._listeners[0]._make is HttpConnection


def record(**changes: Any) -> oread.AccessRecord:
    """Make a record of a plain request, but for some changes."""
    fields: dict[str, Any] = {
        "began": 971_186_136.0,
        "seconds": 0.25,
        "peer": Peer(("127.0.0.1", 1), "http"),
        "client": Peer(("127.0.0.1", 1), "http"),
        "method": "GET",
        "target": "/apache_pb.gif",
        "version": "1.0",
        "headers": Headers((("referer", "http://a/"), ("user-agent", "curl"))),
        "event": "e",
        "status": 200,
        "sent_bytes": 2326,
        "complete": True,
    }
    return oread.AccessRecord(**(fields | changes))


def test_lines_to_the_byte() -> None:
    """The example of Apache's manual, and what is missing."""
    line = '127.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "GET /apache_pb.gif HTTP/1.0" 200 2326'
    assert record().common() == line
    assert record().combined() == f'{line} "http://a/" "curl"'
    nothing = record(method=None, target=None, version=None, status=None, sent_bytes=0, headers=Headers(()))
    assert nothing.combined() == '127.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "-" - - "-" "-"'


@pytest.mark.parametrize("evil", ['" 200 1\n1.2.3.4 - -', "\\", "\x00\r\n\x1b[2J", "ä\x85\u2028", '"'])
def test_no_request_can_forge_a_line(evil: str) -> None:
    """Whatever a peer writes stays in its field."""
    headers = Headers((("referer", evil), ("user-agent", evil)))
    client = Peer((f"1 {evil}", 1), "http")
    line = record(target=f"/{evil}", headers=headers, client=client).combined()
    assert line.isascii()
    assert line.isprintable()
    assert line.count('"') == 6
    assert COMMON.match(line)
    assert line.endswith('"')


def test_fields_are_names_and_values() -> None:
    """All of them can be written as JSON."""
    fields = record().fields()
    assert (fields["client"], fields["status"], fields["seconds"]) == ("127.0.0.1:1", 200, 0.25)
    assert fields["user_agent"] == "curl"
