"""The rows of HTTP/1.1's response side, each on a raw connection."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from http_exchanges import exchange, get

import oread

TRUSTING = "?trusted_proxies=127.0.0.1"
KEPT = b"GET /bytes HTTP/1.1\r\nHost: a\r\n\r\n"
"""What shows, behind another request, that the connection was kept."""


def heads(received: bytes) -> list[bytes]:
    """Return the status lines that were received."""
    return re.findall(rb"HTTP/1\.1 [0-9]{3} [^\r]*", received)


def declares(length: str, *items: Any, extra: tuple[tuple[str, str], ...] = ()) -> Any:
    """Return a handler that streams items under a declared length."""

    def handler() -> Iterator[Any]:
        yield oread.HttpResponse(headers=[("Content-Length", length), *extra])
        yield from items

    return handler


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_declared_length_frames_a_stream(
    registry: oread.Registry, serve_memory: Any, version: str
) -> None:
    """As long as it says: bare bytes, no chunks, and the connection is kept, by 1.0 too."""
    registry.on("file", declares("6", "abc", "", "def"))
    async with serve_memory("http://:0") as memory:
        wire = get("/file", "Connection: keep-alive", version=version) + KEPT
        received = await exchange(memory.client, wire)
        head, _, rest = received.partition(b"\r\n\r\n")
        assert b"Content-Length: 6" in head
        assert b"chunked" not in head
        assert rest.startswith(b"abcdefHTTP/1.1 200 OK")


@pytest.mark.parametrize("items", [["abcd"], ["ab", "cd"], ["abc", "d"]])
async def test_what_is_longer_than_declared_is_never_sent(
    registry: oread.Registry, serve_memory: Any, items: list[str], caplog: Any
) -> None:
    """The item that goes too far stays here; the connection ends."""
    registry.on("file", declares("3", *items))
    async with serve_memory("http://:0") as memory:
        received = await exchange(memory.client, get("/file") + KEPT)
        body = received.partition(b"\r\n\r\n")[2]
        assert len(body) <= 3
        assert b"abcd".startswith(body)
        assert heads(received) == [b"HTTP/1.1 200 OK"]
        assert memory.service.statistics().endpoints[0].failures == 1
    assert "longer than its declared length" in caplog.text


async def test_what_is_shorter_than_declared_is_closed_never_padded(
    registry: oread.Registry, serve_memory: Any, caplog: Any
) -> None:
    """The peer can tell by the missing bytes."""
    registry.on("file", declares("9", "abc"))
    async with serve_memory("http://:0") as memory:
        received = await exchange(memory.client, get("/file") + KEPT)
        assert received.endswith(b"\r\n\r\nabc")
        assert heads(received) == [b"HTTP/1.1 200 OK"]
    assert "6 bytes before its declared length" in caplog.text


@pytest.mark.parametrize(
    ("length", "extra"),
    [
        ("3", (("content-length", "3"),)),
        ("3, 3", ()),
        ("-1", ()),
        ("+3", ()),
        ("0x3", ()),
        ("3", (("Transfer-Encoding", "chunked"),)),
        ("3", (("Connection", "keep-alive, x"),)),
        ("3", (("Trailer", "x"),)),
        ("3", (("X\n", "x"),)),
        ("3", ((1, "x"),)),
        ("3", (("X",),)),
        ("3", (("Content-Length",),)),
        (3, ()),
        ("3", (("X", "a\r\nb"),)),
        ("3", (("X", "a\0b"),)),
    ],
)
async def test_only_the_engine_frames(
    registry: oread.Registry, serve_memory: Any, length: str, extra: Any, caplog: Any
) -> None:
    """Refused before a byte is written: a 500, and the connection is kept."""
    registry.on("file", declares(length, "abc", extra=extra))
    registry.on("whole", lambda: oread.HttpResponse("abc", headers=[("Content-Length", length), *extra]))
    async with serve_memory("http://:0") as memory:
        for target in ("/file", "/whole"):
            received = await exchange(memory.client, get(target) + KEPT)
            assert heads(received) == [b"HTTP/1.1 500 Internal Server Error", b"HTTP/1.1 200 OK"]
            assert b"chunked" not in received


@pytest.mark.parametrize("status", [204, 304])
async def test_bodiless_statuses_have_no_body_and_no_length(
    registry: oread.Registry, serve_memory: Any, status: int
) -> None:
    """No Content-Length, no Transfer-Encoding, and the next answer stands right behind."""
    registry.on("none", lambda: oread.HttpResponse("never sent", status=status))
    async with serve_memory("http://:0") as memory:
        head, _, rest = (await exchange(memory.client, get("/none") + KEPT)).partition(b"\r\n\r\n")
        assert b"Content-Length" not in head
        assert b"Transfer-Encoding" not in head
        assert rest.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("kind", ["stream", "async", "text"])
async def test_head_has_no_body_whatever_the_handler_gives(
    registry: oread.Registry, serve_memory: Any, kind: str
) -> None:
    """A stream's head says chunked and has none; text's says its length."""

    def stream() -> Iterator[str]:
        yield "abc"

    async def astream() -> AsyncIterator[str]:
        yield "abc"

    registry.on("it", {"stream": stream, "async": astream, "text": lambda: "abc"}[kind])
    async with serve_memory("http://:0") as memory:
        head, _, rest = (await exchange(memory.client, get("/it", method="HEAD") + KEPT)).partition(
            b"\r\n\r\n"
        )
        assert (b"Content-Length: 3" in head) == (kind == "text")
        assert rest.startswith(b"HTTP/1.1 200 OK")


async def test_every_answer_has_a_date(registry: oread.Registry, serve_memory: Any) -> None:
    """2xx, 3xx, 4xx and 5xx, streamed or not, refused or not."""
    registry.on("moved", lambda: oread.HttpResponse(status=301, headers=[("Location", "/")]))
    registry.on("file", declares("3", "abc"))
    async with serve_memory("http://:0") as memory:
        for target in ("/bytes", "/moved", "/nowhere", "/fails", "/file", "/%"):
            received = await exchange(memory.client, get(target))
            assert received.count(b"\r\nDate: ") == 1, received


@pytest.mark.parametrize(
    ("url", "own", "sent"),
    [
        ("http://:0", (), None),
        ("http://:0?server=oread", (), b"oread"),
        ("http://:0?server=oread/1", (("Server", "mine"),), b"mine"),
        ("http://:0", (("Server", "mine"),), b"mine"),
    ],
)
async def test_the_server_field_is_sent_where_it_is_asked_for(
    registry: oread.Registry, serve_memory: Any, url: str, own: Any, sent: bytes | None
) -> None:
    """Not by default; the handler's own wins."""
    registry.on("own", lambda: oread.HttpResponse("x", headers=own))
    async with serve_memory(url) as memory:
        for target in ("/own", "/nowhere"):
            received = await exchange(memory.client, get(target))
            found = [line[8:] for line in received.split(b"\r\n") if line.startswith(b"Server: ")]
            named = target == "/own" or "server=" in url
            wanted = sent if target == "/own" else b"oread/1" if "/1" in url else b"oread"
            assert found == ([wanted] if sent is not None and named else [])


@pytest.mark.parametrize("server", ["", "a b", "a/b/c", "a%0D%0AX:y", "%C3%A4"])
def test_a_server_field_that_is_no_product_is_refused(server: str) -> None:
    """At start, with what would do."""
    with pytest.raises(oread.EndpointError, match="server"):
        oread.Endpoint.parse(f"http://:0?server={server}")


async def test_methods_that_are_not_served_are_told(registry: oread.Registry, serve_memory: Any) -> None:
    """405 with Allow; OPTIONS is answered by itself, unless a handler names it."""
    registry.on("some", lambda: "x", methods=("GET", "PUT"))
    registry.on("own", lambda: "mine", methods=("OPTIONS",))
    async with serve_memory("http://:0") as memory:
        received = await exchange(memory.client, get("/some", method="POST") + KEPT)
        assert heads(received) == [b"HTTP/1.1 405 Method Not Allowed", b"HTTP/1.1 200 OK"]
        assert b"\r\nAllow: GET, HEAD, OPTIONS, PUT\r\n" in received
        received = await exchange(memory.client, get("/some", method="OPTIONS") + KEPT)
        assert heads(received) == [b"HTTP/1.1 204 No Content", b"HTTP/1.1 200 OK"]
        assert b"\r\nAllow: GET, HEAD, OPTIONS, PUT\r\n" in received
        assert (await exchange(memory.client, get("/own", method="OPTIONS"))).endswith(b"mine")
        for method, status in (("TRACE", b"405"), ("HEAD", b"200")):
            received = await exchange(memory.client, get("/bytes", method=method))
            assert heads(received)[0].split()[1] == status


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
async def test_no_interim_answer_to_http_1_0(
    registry: oread.Registry, serve_memory: Any, expect: str
) -> None:
    """It would be taken for the final one; the body is read all the same."""
    async with serve_memory("http://:0") as memory:
        wire = get("/bytes", f"Expect: {expect}", "Content-Length: 3", method="POST", version="1.0")
        client = memory.client()
        await client.send_all(wire)
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(b"abc")
        received = await client.receive_all()
        assert heads(received) == [b"HTTP/1.1 200 OK"]
        assert b"\r\nConnection: close\r\n" in received
        assert received.endswith(b"abc")


async def test_http_1_0_keeps_alive_when_it_asks_and_is_told(serve_memory: Any) -> None:
    """Else it is closed; the answer says which."""
    async with serve_memory("http://:0") as memory:
        received = await exchange(
            memory.client, get("/bytes", "Connection: keep-alive", version="1.0") + KEPT
        )
        assert received.count(b"HTTP/1.1 200 OK") == 2
        assert b"\r\nConnection: keep-alive\r\n" in received
        received = await exchange(memory.client, get("/bytes", version="1.0") + KEPT)
        assert received.count(b"HTTP/1.1 200 OK") == 1
        assert b"\r\nConnection: close\r\n" in received


async def test_nothing_is_processed_behind_a_close(registry: oread.Registry, serve_memory: Any) -> None:
    """Answered, echoed, and what follows never reaches a handler."""
    called: list[bytes] = []
    registry.on("counts", lambda data: called.append(data) or b"once", methods=("POST",))
    async with serve_memory("http://:0") as memory:
        one = get("/counts", "Connection: close", "Content-Length: 1", method="POST", body=b"x")
        received = await exchange(memory.client, one + one, end=False)
        assert heads(received) == [b"HTTP/1.1 200 OK"]
        assert b"\r\nConnection: close\r\n" in received
        assert called == [b"x"]


async def test_other_expectations_are_refused(serve_memory: Any) -> None:
    """417, and the end (RFC 9110 10.1.1)."""
    async with serve_memory("http://:0") as memory:
        wire = get("/bytes", "Expect: more", "Content-Length: 1", method="POST", body=b"x")
        assert heads(await exchange(memory.client, wire, end=False)) == [b"HTTP/1.1 417 Expectation Failed"]


@pytest.mark.parametrize("protocol", ["h2c", "foo/2", "TLS/1.0, h2c"])
async def test_unknown_upgrades_are_passed_over(serve_memory: Any, protocol: str) -> None:
    """The body is read, the answer is HTTP/1.1, and there is no 101."""
    async with serve_memory("http://:0") as memory:
        fields = ("Connection: Upgrade", f"Upgrade: {protocol}", "Content-Length: 3")
        received = await exchange(memory.client, get("/bytes", *fields, method="POST", body=b"abc") + KEPT)
        assert heads(received) == [b"HTTP/1.1 200 OK"] * 2
        assert b"\r\n\r\nabcHTTP/1.1" in received


async def test_a_bad_request_behind_good_ones_ends_the_connection(serve_memory: Any) -> None:
    """The good ones are answered first, in order; nothing behind it is."""
    async with serve_memory("http://:0") as memory:
        received = await exchange(memory.client, KEPT * 2 + b"GET / HTTP/1.1\r\n\r\n" + KEPT, end=False)
        codes = [line.split()[1] for line in heads(received)]
        assert codes == [b"200", b"200", b"400"]
        assert received.count(b"\r\nConnection: close\r\n") == 1


async def test_a_half_closed_client_is_answered(serve_memory: Any) -> None:
    """Its end of input ends nothing that it asked for (RFC 9112 9.6)."""
    async with serve_memory("http://:0") as memory:
        assert heads(
            await exchange(memory.client, get("/waits", "Content-Length: 1", method="POST", body=b"x"))
        )


@pytest.mark.parametrize(
    ("url", "fields", "answer"),
    [
        ("", ("X-Forwarded-For: 203.0.113.9",), "127.0.0.1 http a"),
        ("?trusted_proxies=10.0.0.0/8", ("X-Forwarded-For: 203.0.113.9",), "127.0.0.1 http a"),
        ("?trusted_proxies=10.0.0.0/8,127.0.0.1", ("X-Forwarded-For: 203.0.113.9",), "203.0.113.9 http a"),
        (
            "?trusted_proxies=127.0.0.1",
            ("Forwarded: for=203.0.113.9;proto=https;host=b",),
            "203.0.113.9 https b",
        ),
        (
            "?trusted_proxies=127.0.0.1",
            ("X-Forwarded-For: x",),
            "a trusted proxy sent a malformed X-Forwarded-For",
        ),
    ],
)
async def test_forwarded_fields_are_believed_from_configured_addresses_only(
    registry: oread.Registry, serve_one: Any, url: str, fields: tuple[str, ...], answer: str
) -> None:
    """On a real connection; malformed is a 400 where it is read."""

    @registry.on("who")
    def who(request: oread.HttpRequest) -> str:
        assert request.peer.address[0] == "127.0.0.1"
        return f"{request.client.address[0]} {request.scheme} {request.host}"

    async with (
        serve_one(f"http://127.0.0.1:0{url}") as service,
        await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port) as stream,
    ):
        await stream.send_all(get("/who", *fields))
        await stream.send_eof()
        received = b"".join([chunk async for chunk in stream])
    assert received.partition(b"\r\n\r\n")[2].decode().strip() == answer
    assert received.startswith(b"HTTP/1.1 400" if "malformed" in answer else b"HTTP/1.1 200")


@pytest.mark.parametrize("listed", ["", "x", "10.0.0.1/8", "127.0.0.1,", "10.0.0.0/33"])
def test_proxies_that_are_no_networks_are_refused(listed: str) -> None:
    """At start."""
    with pytest.raises(oread.EndpointError, match="trusted_proxies"):
        oread.Endpoint.parse(f"http://:0?trusted_proxies={listed}")
