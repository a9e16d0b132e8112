"""Prove that responses parse elsewhere and no handler can inject."""

from __future__ import annotations

import email.utils
import http
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.errors import HandlerError
from oread.limits import HttpLimits
from oread.protocols import http1_reply
from oread.protocols.http1 import HttpServerProtocol
from oread.protocols.http1_head import RequestHead
from oread.protocols.http1_reply import (
    CONTINUE,
    LAST_CHUNK,
    encode_chunk,
    encode_refusal,
    encode_response,
    encode_stream_head,
    http_date,
)

DATE = http_date(784_111_777)


def head_of(method: str = "GET", version: str = "1.1", connection: str = "x") -> RequestHead:
    """Return the head of a request."""
    data = f"{method} / HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n"
    head = HttpServerProtocol(HttpLimits()).receive(data.encode())
    assert isinstance(head, RequestHead)
    return head


def encode(
    status: int = 200,
    body: bytes = b"hello",
    headers: Any = (),
    *,
    head: RequestHead | None = None,
    close: bool = False,
    content_type: str | None = None,
) -> bytes:
    """Encode with defaults."""
    return encode_response(
        status, body, headers, head_request=head, close=close, date=DATE, content_type=content_type
    )


def parse(data: bytes, method: str = "GET") -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Read one response with h11's client, which must find its end."""
    client = h11.Connection(our_role=h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += event.data
    assert client.trailing_data[0] == b""
    return response.status_code, list(response.headers), body


NAMES = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8).map(lambda name: f"X{name}")
VALUES = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20
).filter(lambda value: not any(0x7F <= ord(character) < 0xA0 for character in value))


@given(
    status=st.integers(200, 599),
    body=st.binary(max_size=50),
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=4),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    version=st.sampled_from(["1.0", "1.1"]),
    close=st.booleans(),
)
def test_responses_parse_elsewhere(
    status: int, body: bytes, headers: list[tuple[str, str]], method: str, version: str, close: bool
) -> None:
    """The client half of h11 reads status, fields and body back."""
    head = head_of(method, version, "keep-alive")
    data = encode(status, body, headers, head=head, close=close, content_type="text/plain")
    if status in (204, 205, 304) or method == "HEAD":
        body = b""
    read_status, read_headers, read_body = parse(data, method)
    assert (read_status, read_body) == (status, body)
    ours = {b"content-type", b"connection", b"date", b"content-length"}
    assert [pair for pair in read_headers if pair[0] not in ours] == [
        (name.lower().encode(), value.encode("latin-1")) for name, value in headers
    ]


def test_a_response_to_the_byte() -> None:
    """Status line, fields, date, length and body stand where they should."""
    assert encode(headers=(("X-A", "b"),), content_type="text/plain") == (
        b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Type: text/plain\r\n"
        b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 5\r\n\r\nhello"
    )
    assert encode(299, b"").startswith(b"HTTP/1.1 299 \r\n")
    assert CONTINUE == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    ("status", "length"),
    [(200, b"Content-Length: 5"), (204, b""), (304, b""), (205, b"Content-Length: 0")],
)
def test_bodiless_statuses(status: int, length: bytes) -> None:
    """204 and 304 have no body and no length, 205 says 0 (RFC 9110 8.6)."""
    data = encode(status, b"hello", content_type="text/plain")
    assert data.endswith(b"hello") == (status == 200)
    assert (b"Content-Type" in data) == (status == 200)
    assert [line for line in data.split(b"\r\n") if line.startswith(b"Content-Length")] == (
        [length] if length else []
    )


def test_head_gets_the_same_head_and_no_body() -> None:
    """A HEAD's response says the length that a GET's has (RFC 9110 9.3.2)."""
    get = encode(head=head_of("GET"), headers=(("ETag", '"x"'),), content_type="a/b")
    assert encode(head=head_of("HEAD"), headers=(("ETag", '"x"'),), content_type="a/b") + b"hello" == get


@pytest.mark.parametrize(
    ("head", "close", "connection"),
    [
        (head_of(), False, None),
        (head_of(), True, b"close"),
        (head_of(connection="close"), False, b"close"),
        (head_of(version="1.0"), False, b"close"),
        (head_of(version="1.0", connection="keep-alive"), False, b"keep-alive"),
        (head_of(version="1.0", connection="keep-alive"), True, b"close"),
        (None, False, None),
        (None, True, b"close"),
    ],
)
def test_connection_field(head: RequestHead | None, close: bool, connection: bytes | None) -> None:
    """Close is said when due, keep-alive only to a 1.0 client that asked."""
    fields = dict(parse(encode(head=head, close=close))[1])
    assert fields.get(b"connection") == connection


def test_the_handler_may_set_date_and_content_type() -> None:
    """Its own Date and Content-Type replace ours; Server passes."""
    headers = [("date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("content-TYPE", "a/b"), ("Server", "s")]
    _, fields, body = parse(encode(headers=headers, content_type="text/plain"))
    assert body == b"hello"
    assert fields == [
        (b"date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
        (b"content-type", b"a/b"),
        (b"server", b"s"),
        (b"content-length", b"5"),
    ]


@pytest.mark.parametrize(
    "headers",
    [
        *[[(name, "x")] for name in ("", " X", "X ", "X:", "X\r\n", "X\n", "X\0", "X\x7f", "\xe9", "X(")],
        *[
            [("X", value)]
            for value in ("a\r\nSet-Cookie: b", "a\nb", "a\r", "a\0", "a\x01", "a\x7f", "\u20ac")
        ],
        [("Good", "g"), ("X\nY", "v")],
        *[[(name, "1")] for name in ("Content-Length", "content-length", "Transfer-Encoding", "CONNECTION")],
        *[[(name, "1")] for name in ("Keep-Alive", "Upgrade", "Trailer", "TE", "Proxy-Connection")],
        [("X",)],
        [("X", "a", "b")],
        ["ab"],
        [("X", 1)],
        [(b"X", b"a")],
        [None],
        5,
    ],
)
def test_no_injection_and_no_framing_by_handlers(headers: Any) -> None:
    """A field that cannot be sent raises before a byte exists, every time."""
    for _ in range(2):
        with pytest.raises(HandlerError):
            encode(headers=headers)
        with pytest.raises(HandlerError):
            encode_refusal(400, "no", DATE, headers)


@pytest.mark.parametrize("content_type", ["a\r\nX: b", "a\0", "\u20ac"])
def test_no_injection_by_content_type(content_type: str) -> None:
    """A content type is checked like any other value."""
    with pytest.raises(HandlerError):
        encode(content_type=content_type)


def test_an_enum_is_a_status() -> None:
    """`http.HTTPStatus` works where a number does."""
    assert encode(http.HTTPStatus.IM_A_TEAPOT).startswith(b"HTTP/1.1 418 I'm a Teapot\r\n")


@pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 600, -200, "200", True, None])
def test_only_final_statuses(status: Any) -> None:
    """A handler's status is 200 to 599."""
    with pytest.raises(HandlerError):
        encode(status)


def test_the_table_of_starts_is_bounded() -> None:
    """Responses that never repeat do not fill memory, nor do long ones."""
    for number in range(1_500):
        encode(headers=(("ETag", str(number)),))
        assert len(http1_reply._known_starts) <= 512
    before = len(http1_reply._known_starts)
    encode(headers=(("X", "v" * 4_096),))
    assert len(http1_reply._known_starts) == before


def test_repeated_responses_are_equal_but_for_date_and_length() -> None:
    """What is remembered does not depend on body, date or method."""
    headers = (("X-Once", "1"),)
    first = encode(headers=headers)
    second = encode_response(
        200, b"bye", headers, head_request=None, close=False, date=http_date(0), content_type=None
    )
    assert second == first.replace(b"5\r\n\r\nhello", b"3\r\n\r\nbye").replace(DATE, http_date(0))


def test_refusals() -> None:
    """A refusal is a short text, closes by default, takes more fields."""
    status, fields, body = parse(encode_refusal(405, "method not allowed", DATE, (("Allow", "GET, HEAD"),)))
    assert (status, body) == (405, b"method not allowed\n")
    assert dict(fields) == {
        b"allow": b"GET, HEAD",
        b"content-type": b"text/plain; charset=utf-8",
        b"connection": b"close",
        b"date": DATE,
        b"content-length": b"19",
    }
    kept = encode_refusal(404, "no such event", DATE, head_request=head_of("HEAD"), close=False)
    status, fields, body = parse(kept, "HEAD")
    assert (status, body) == (404, b"")
    assert b"connection" not in dict(fields)


@given(seconds=st.integers(0, 4_102_444_800))
def test_dates_are_imf_fixdates(seconds: int) -> None:
    """The standard library writes the same date, by a longer way."""
    assert http_date(seconds).decode() == email.utils.formatdate(seconds, usegmt=True)


@given(chunks=st.lists(st.binary(max_size=300), max_size=6), connection=st.sampled_from(["x", "close"]))
def test_streamed_response_parses_elsewhere(chunks: list[bytes], connection: str) -> None:
    """h11 reads a head, chunks and the last one as what was put in; empty ones do not end it."""
    head = head_of(connection=connection)
    data = encode_stream_head(
        200, (("X-A", "b"),), head_request=head, close=False, date=DATE, content_type="text/plain"
    )
    data += b"".join(map(encode_chunk, chunks)) + LAST_CHUNK
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response: Any = client.next_event()
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert body == b"".join(chunks)
    assert dict(response.headers)[b"x-a"] == b"b"
    assert (dict(response.headers).get(b"connection") == b"close") == (connection == "close")


def test_streamed_response_to_http_1_0_has_no_chunks() -> None:
    """It ends with the connection, whatever the client would keep."""
    head = head_of(version="1.0", connection="keep-alive")
    data = encode_stream_head(200, (), head_request=head, close=False, date=DATE, content_type=None)
    assert b"Connection: close\r\n" in data
    assert b"Transfer-Encoding" not in data


@pytest.mark.parametrize("status", [204, 205, 304])
def test_streamed_response_needs_a_status_with_a_body(status: int) -> None:
    """What has no body has none to stream."""
    with pytest.raises(HandlerError, match=str(status)):
        encode_stream_head(status, (), head_request=head_of(), close=False, date=DATE, content_type=None)


@pytest.mark.parametrize("fields", [(("X", "a\r\nb"),), (("Content-Length", "5"),), (({}, "x"),)])
def test_streamed_response_takes_no_injection(fields: Any) -> None:
    """Fields are checked as those of any response."""
    with pytest.raises(HandlerError):
        encode_stream_head(200, fields, head_request=head_of(), close=False, date=DATE, content_type=None)
