"""Hold real connections to the table of what must happen on one.

Each row is what a client sends before it waits, the final statuses that it
gets, and whether the server ends the connection by itself.
"""

from __future__ import annotations

import re

import pytest
import trio

import oread

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSE = GET.replace(b"Host", b"Connection: close\r\nHost")
HALF_BODY = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"
EXPECT = b"POST /a HTTP/1.1\r\nHost: a\r\nExpect: %b\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def echo() -> oread.Registry:
    """Answer every path with what it was asked with."""
    registry = oread.Registry()

    @registry.on("{rest:path}")
    def rest(request: oread.HttpRequest) -> bytes:
        return request.method.encode() + b" " + request.data

    return registry


async def talk(service: oread.Service, *parts: bytes, half_close: bool = False) -> bytes:
    """Send, each part when the answer to the one before has come; return all until the server's end."""
    received = b""
    stream = await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port)
    async with stream:
        for number, part in enumerate(parts):
            if number:
                received += await stream.receive_some()
            await stream.send_all(part)
        if half_close:
            await stream.send_eof()
        async for chunk in stream:
            received += chunk
    return received


def statuses(answer: bytes) -> list[int]:
    """Return the statuses of all responses, interim ones too; no body here looks like one."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", answer)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (CLOSE + GET, [200]),
        (GET + GET + b"GET /\x00 HTTP/1.1\r\n\r\n" + GET, [200, 200, 400]),
        (GET + b"\x16\x03\x01" + b"x" * 100_000, [200, 400]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", [505]),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", [501]),
        (GET.replace(b"GET", b"TRACE") + CLOSE, [405, 200]),
        (GET.replace(b"GET", b"TRACE").replace(b"Host", b"Content-Length: 4\r\nHost") + GET, [405]),
        (EXPECT % (b"tea", 3) + b"abc" + GET, [417]),
        (EXPECT % (b"100-continue", 3) + b"abc" + CLOSE, [200, 200]),
        (EXPECT % (b"100-continue", 9_999_999), [413]),
        (EXPECT.replace(b"1.1", b"1.0") % (b"100-continue", 3) + b"abc", [200]),
        (GET.replace(b"1.1", b"1.0") + GET, [200]),
        (GET.replace(b"GET", b"HEAD") + CLOSE, [200, 200]),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + CLOSE, [204, 200]),
        (
            b"POST /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 3\r\n\r\nabc" + CLOSE,
            [200, 200],
        ),
        (b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n" + CLOSE, [200, 200]),
    ],
    ids=[
        "nothing behind a close",
        "bad behind good",
        "another protocol behind good, much unread",
        "HTTP/2 preface",
        "CONNECT",
        "TRACE",
        "TRACE with an unread body",
        "another expectation",
        "expectation with the body",
        "expectation of too much",
        "expectation in HTTP/1.0",
        "HTTP/1.0",
        "HEAD",
        "OPTIONS of the server, with a body",
        "h2c with a body",
        "empty line between requests",
    ],
)
async def test_row_ends_by_itself(echo: oread.Registry, data: bytes, expected: list[int]) -> None:
    """The client waits with its side open: the server answers so and closes."""
    async with oread.open_service(echo, "http://127.0.0.1:0") as service:
        with trio.fail_after(10):
            assert statuses(await talk(service, data)) == expected


@pytest.mark.parametrize(
    ("data", "expected", "cut_short"),
    [
        (GET[:-1], [], 1),
        (HALF_BODY, [], 1),
        (GET + HALF_BODY, [200], 1),
        (b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", [], 1),
        (GET, [200], 0),
        (HALF_BODY + b"defghi", [200], 0),
        (b"\r\n", [], 0),
    ],
    ids=["head", "body", "body behind good", "last chunk", "whole", "whole with a body", "empty line"],
)
async def test_half_close_is_no_end_of_a_request(
    echo: oread.Registry, data: bytes, expected: list[int], cut_short: int
) -> None:
    """What is whole is still answered; what was cut short is never passed on."""
    async with oread.open_service(echo, "http://127.0.0.1:0") as service:
        with trio.fail_after(10):
            assert statuses(await talk(service, data, half_close=True)) == expected
        assert service.statistics().endpoints[0].refused.get("cut_short", 0) == cut_short


async def test_continue_is_asked_for_once(echo: oread.Registry) -> None:
    """A client that waits for it gets one 100, also when its body has to wait behind other answers."""
    async with oread.open_service(echo, "http://127.0.0.1:0") as service:
        with trio.fail_after(10):
            answer = await talk(service, EXPECT % (b"100-continue", 3), b"abc" + CLOSE)
            assert statuses(answer) == [100, 200, 200]


async def test_500_pipelined_posts_come_back_in_order(echo: oread.Registry) -> None:
    """Both framings, all sent at once, more than is read or written in one piece."""
    requests = b""
    for number in range(250):
        body = b"%05d" % number * 100
        requests += b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n" + body
        requests += b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        requests += b"1f4\r\n" + body + b"\r\n0\r\n\r\n"
    async with oread.open_service(echo, "http://127.0.0.1:0") as service:
        stream = await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port)
        received = b""
        with trio.fail_after(20):
            async with stream, trio.open_nursery() as nursery:

                async def send() -> None:
                    await stream.send_all(requests)
                    await stream.send_eof()

                nursery.start_soon(send)
                async for chunk in stream:
                    received += chunk
    bodies = re.findall(rb"POST ((?:[0-9]{5}){100})", received)
    assert bodies == [b"%05d" % (number // 2) * 100 for number in range(500)]
