"""Prove the calling half against our own server half and against h11's."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.limits import HttpLimits
from oread.protocols.http1 import END, HttpServerProtocol
from oread.protocols.http1_client import ClientResponse, HttpClientProtocol, encode_request
from oread.protocols.http1_head import RequestHead
from oread.protocols.http1_lines import Refusal
from oread.protocols.http1_reply import CONTINUE, encode_response, http_date

LIMITS = HttpLimits(body_bytes=100, header_bytes=200, field_bytes=100, fields=4)
OK = b"HTTP/1.1 200 OK\r\n"


def call(
    data: bytes, cuts: list[int], method: str = "GET", *, end: bool = False
) -> ClientResponse | Refusal | None:
    """Feed a response cut at these places; it may answer once."""
    machine = HttpClientProtocol(LIMITS, method)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    answers = [machine.receive(data[start:stop]) for start, stop in zip(edges, edges[1:], strict=False)]  # noqa: RUF007
    if end:
        answers.append(machine.receive_eof())
    found = [answer for answer in answers if answer is not None]
    assert len(found) <= 1
    return found[0] if found else None


CUTS = st.lists(st.integers(0, 400), max_size=6)


@given(
    status=st.integers(200, 599),
    body=st.binary(max_size=100),
    cuts=CUTS,
    method=st.sampled_from(["GET", "HEAD"]),
)
def test_our_own_responses(status: int, body: bytes, cuts: list[int], method: str) -> None:
    """What the server half encodes the client half reads, cut anywhere."""
    data = encode_response(
        status, body, (("X-A", "b"),), head_request=None, close=False, date=http_date(0), content_type=None
    )
    if method == "HEAD" and status not in (204, 205, 304):
        data = data.removesuffix(body)
    response = call(CONTINUE + data, cuts, method)
    assert isinstance(response, ClientResponse)
    assert response.status == status
    assert response.headers.get("x-a") == "b"
    assert response.body == (b"" if method == "HEAD" or status in (204, 205, 304) else body)
    assert response.keep_alive


@given(
    body=st.lists(st.binary(min_size=1, max_size=20), max_size=5),
    framing=st.sampled_from(["length", "chunked", "close"]),
    cuts=CUTS,
)
def test_responses_of_h11(body: list[bytes], framing: str, cuts: list[int]) -> None:
    """Length, chunks and read-until-close from another server are read alike."""
    server = h11.Connection(our_role=h11.SERVER)
    version = "1.0" if framing == "close" else "1.1"
    server.receive_data(f"GET / HTTP/{version}\r\nHost: a\r\n\r\n".encode())
    while server.next_event() is not h11.NEED_DATA and server.their_state is not h11.DONE:
        pass
    headers = [("Content-Length", str(len(b"".join(body))))] if framing == "length" else []
    data = server.send(h11.Response(status_code=200, reason="Fine", headers=headers)) or b""
    for part in body:
        data += server.send(h11.Data(data=part)) or b""
    data += server.send(h11.EndOfMessage()) or b""
    response = call(data, cuts, end=framing == "close")
    assert isinstance(response, ClientResponse)
    assert (response.reason, response.body) == ("Fine", b"".join(body))
    assert response.keep_alive == (framing != "close")


@given(
    body=st.binary(max_size=60),
    value=st.text("abc \xe9", max_size=9),
    method=st.sampled_from(["GET", "POST", "X"]),
)
def test_requests_are_read_by_the_server_half(body: bytes, value: str, method: str) -> None:
    """Our server half and h11 read back what the client half encodes."""
    data = encode_request(method, "/p?q", "[::1]:80", body, [("X-A", value)])
    machine = HttpServerProtocol(HttpLimits())
    head = machine.receive(data)
    assert isinstance(head, RequestHead)
    assert (head.method, head.path, head.query, head.host) == (method, "/p", "q", "[::1]:80")
    assert (head.length, head.keep_alive) == (len(body), False)
    assert head.headers.get("x-a") == value.strip(" ")
    assert ("content-length" in head.headers) == (bool(body) or method == "POST")
    if body:
        assert [machine.next_event(), machine.next_event()] == [body, END]
    oracle = h11.Connection(our_role=h11.SERVER)
    oracle.receive_data(data)
    request = oracle.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (method.encode(), b"/p?q")


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "GE T"},
        {"method": ""},
        {"target": "p"},
        {"target": "/a b"},
        {"target": "/\r\nX: y"},
        {"target": "/#f"},
        {"target": "/\xe9"},
        {"host": ""},
        {"host": "a b"},
        {"host": "a\r\nX: y"},
        {"headers": [("X", "a\r\nb")]},
        {"headers": [("X y", "a")]},
        {"headers": [("Content-Length", "1")]},
        {"headers": [("host", "b")]},
    ],
)
def test_requests_that_cannot_be_sent(wrong: dict[str, Any]) -> None:
    """Nothing that would change the request's framing or address is encoded."""
    right: dict[str, Any] = {"method": "GET", "target": "/", "host": "a", "body": b"", "headers": []}
    assert encode_request(**right, close=False) == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with pytest.raises(ValueError):
        encode_request(**{**right, **wrong})


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 600 No\r\n\r\n",
        b"HTTP/1.1 2000 No\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        OK + b"X : y\r\n\r\n",
        OK + b"X: y\r\n z\r\n\r\n",
        OK + b"X: \x00\r\n\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        OK + b"Content-Length: -1\r\n\r\nx",
        OK + b"Content-Length: 101\r\n\r\n",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n65\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n63\r\n" + b"x" * 99 + b"\r\n2\r\n",
        OK + b"A: 1\r\n" * 5 + b"\r\n",
        OK + b"A: " + b"x" * 400,
        OK + b"\r\n" + b"x" * 101,
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        CONTINUE * 17,
    ],
)
def test_responses_that_are_refused(data: bytes) -> None:
    """An ambiguous or too long response is refused however it is cut."""
    refusal = call(data, [])
    assert isinstance(refusal, Refusal)
    assert refusal.status == 502
    assert call(data, list(range(len(data)))) == refusal


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1",
        CONTINUE,
        OK + b"Content-Length: 2\r\n\r\nx",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
    ],
)
def test_a_short_response_is_refused(data: bytes) -> None:
    """An end before the response's own end is never taken for it."""
    assert call(data, [], end=True) == Refusal(502, "the connection ended before the response did")


def test_nothing_is_read_behind_the_response() -> None:
    """The first final response is the answer; nothing later changes it."""
    machine = HttpClientProtocol(LIMITS, "GET")
    data = OK + b"Content-Length: 0\r\n\r\n"
    assert isinstance(machine.receive(CONTINUE * 16 + data + data), ClientResponse)
    assert machine.receive(data) is None
    assert machine.receive_eof() is None


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\none\r\n2;x=y\r\ntw\r\n1\r\no\r\n0\r\nA: b\r\n\r\n"
)


def test_chunks_are_pieces_however_they_are_cut() -> None:
    """With `in_pieces` every chunk is one piece, at every single cut and byte by byte."""
    for cuts in ([len(CHUNKED)], range(1, len(CHUNKED)), *([at] for at in range(1, len(CHUNKED)))):
        machine = HttpClientProtocol(HttpLimits(), "GET", in_pieces=True)
        pieces, response = [], None
        for begin, end in zip([0, *cuts], [*cuts, len(CHUNKED)], strict=True):
            response = machine.receive(CHUNKED[begin:end]) or response
            pieces += machine.take_pieces()
        assert pieces == [b"one", b"tw", b"o"]
        assert isinstance(response, ClientResponse)
        assert (response.body, response.keep_alive) == (b"", True)


def test_pieces_are_bounded_each_and_not_together() -> None:
    """A stream without an end is fine; one chunk over the bound is not."""
    limits = HttpLimits(body_bytes=10)
    machine = HttpClientProtocol(limits, "GET", in_pieces=True)
    machine.receive(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(100):
        assert machine.receive(b"a\r\n0123456789\r\n") is None
    assert machine.take_pieces() == [b"0123456789"] * 100
    assert isinstance(machine.receive(b"b\r\n0123456789x"), Refusal)


def test_a_response_with_something_behind_it_is_the_last() -> None:
    """What nobody asked for ends the reuse of the connection."""
    response = HttpClientProtocol(HttpLimits(), "GET").receive(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP"
    )
    assert isinstance(response, ClientResponse)
    assert (response.body, response.keep_alive) == (b"ok", False)
