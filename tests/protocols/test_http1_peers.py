"""Compare what the server machine takes with what h11 and llhttp take.

Whatever we take as complete requests, they must take with the same method,
target and body. Deliberate exceptions, each written into `known_stricter`:
h11 and llhttp know no white space before a chunk extension (RFC 9112 7.1.1
says a recipient must), h11 no empty line before a request (RFC 9112 2.2 says
a server should); llhttp knows fixed lists of methods and versions, and no
tab behind a framing field's value (RFC 9110 5.5 allows it).
"""

from __future__ import annotations

import contextlib
import re

import h11
import httptools
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oread.limits import HttpLimits
from oread.protocols.http1 import END, HttpServerProtocol
from oread.protocols.http1_head import RequestHead
from oread.protocols.http1_lines import Refusal

Exchange = tuple[str, str, bytes]

METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "PATCH")
TARGETS = st.one_of(
    st.sampled_from(["/", "*", "/a?b=c&d", "//x", "/%zz", "http://b/p?q", "http://b:1", "x", "/#", "a:443"]),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x80), max_size=8).map(lambda text: f"/{text}"),
)
NAMES = st.sampled_from(
    [
        "X",
        "x-y",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Expect",
        "Host",
        "X Y",
        "Cookie",
        "a!#$",
    ]
)
VALUES = st.one_of(
    st.sampled_from(
        ["0", "2", "chunked", "gzip", "close", "keep-alive", "100-continue", "a", " b\t", "", "+2", "2, 2"]
    ),
    st.text(st.characters(min_codepoint=0x09, max_codepoint=0xFF), max_size=6),
)
NOISE = st.sampled_from([b"\r", b"\n", b" ", b"\t", b"\x00", b":", b";", b"\x80", b"0", b"\r\n", b"a"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Make a request that is mostly right, with a byte of noise at times."""
    version = draw(st.sampled_from(["1.1", "1.1", "1.0", "1.2"]))
    lines = [f"{draw(st.sampled_from(METHODS))} {draw(TARGETS)} HTTP/{version}", "Host: a"]
    lines += [f"{name}:{value}" for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=2))]
    body = draw(st.binary(max_size=20))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    data = b""
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
        data = body
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b" ;a", b'; a="\\"b"', b";a=b;c"]))
        data = b"%x%b\r\n%b\r\n" % (len(body), extension, body) if body else b""
        data += b"0\r\n" + draw(st.sampled_from([b"", b"T: v\r\n"])) + b"\r\n"
    stream = "\r\n".join([*lines, "", ""]).encode("latin-1") + data
    if draw(st.booleans()):
        at = draw(st.integers(0, len(stream)))
        stream = stream[:at] + draw(NOISE) + stream[at + draw(st.integers(0, 1)) :]
    return stream


def ours(data: bytes) -> list[Exchange] | None:
    """Return what we take of this input, None when any is refused."""
    machine = HttpServerProtocol(HttpLimits())
    taken: list[Exchange] = []
    event = machine.receive(data)
    while event is not None:
        if isinstance(event, Refusal):
            return None
        if isinstance(event, RequestHead):
            taken.append((event.method, event.target, b""))
        elif event is not END:
            method, target, body = taken.pop()
            assert isinstance(event, bytes)
            taken.append((method, target, body + event))
        event = machine.next_event()
    return None if machine.receive_eof() else taken


def by_h11(data: bytes) -> list[Exchange]:
    """Return the first request as h11 takes it."""
    connection = h11.Connection(our_role=h11.SERVER)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += event.data
    return [(request.method.decode(), request.target.decode(), body)]


class _Collector:
    def __init__(self) -> None:
        self.target = self.body = b""
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def by_llhttp(data: bytes) -> list[Exchange]:
    """Return the first request as llhttp takes it."""
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(data)
    except httptools.HttpParserError:
        # what stands behind the request, or behind a close, is no matter here
        if not collector.complete:
            raise
    assert collector.complete
    return [(parser.get_method().decode(), collector.target.decode(), collector.body)]


SEAMS = st.sampled_from(
    [
        *(
            b"\r\n",
            b"\r",
            b"\n",
            b" ",
            b"\t",
            b":",
            b";",
            b",",
            b"0",
            b"\x00",
            b"\x0b",
            b"\x85",
            b"\xa0",
            b"\xff",
        ),
        *(
            b"Host: b\r\n",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"0\r\n\r\n",
            b"3\r\nabc\r\n",
        ),
        *(
            b"Connection: close\r\n",
            b"chunked",
            b"+",
            b"0x",
            b"HTTP/1.0",
            b"GET /s HTTP/1.1\r\nHost: s\r\n\r\n",
        ),
    ]
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Make a few pipelined requests, cut, doubled and mixed in up to three places."""
    stream = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(stream)))
        gone = draw(st.integers(0, 9))
        stream = (
            stream[:at] + draw(st.one_of(SEAMS, st.just(stream[at : at + gone] * 2))) + stream[at + gone :]
        )
    return stream


def complete(data: bytes) -> list[Exchange]:
    """Return the requests that we take as complete, up to a refusal or a close."""
    machine = HttpServerProtocol(HttpLimits())
    taken: list[Exchange] = []
    head: RequestHead | None = None
    body = b""
    event = machine.receive(data)
    while event is not None and not isinstance(event, Refusal):
        if isinstance(event, RequestHead):
            head, body = event, b""
        elif event is not END:
            assert isinstance(event, bytes)
            body += event
        if event is END or (isinstance(event, RequestHead) and event.length == 0):
            assert head is not None
            taken.append((head.method, head.target, body))
        event = machine.next_event()
    return taken


def all_by_h11(data: bytes) -> tuple[list[Exchange], bool]:
    """Return the requests of a stream as h11 takes them, and whether it refused the rest."""
    connection = h11.Connection(our_role=h11.SERVER)
    connection.receive_data(data)
    taken: list[Exchange] = []
    method = target = body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                method, target, body = event.method, event.target, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                taken.append((method.decode(), target.decode("latin-1"), body))
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return taken, False
                connection.start_next_cycle()
            else:
                return taken, False
    except h11.RemoteProtocolError:
        return taken, True


class _StreamCollector:
    def __init__(self) -> None:
        self.taken: list[Exchange] = []
        self.parser = httptools.HttpRequestParser(self)
        self.target = self.body = b""

    def on_message_begin(self) -> None:
        self.target = self.body = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.taken.append((self.parser.get_method().decode(), self.target.decode("latin-1"), self.body))


@pytest.mark.slow
@settings(max_examples=600)
@given(data=streams())
def test_nobody_sees_other_requests_in_a_stream(data: bytes) -> None:
    """What h11 and llhttp take of a pipelined stream are the same requests in the same order.

    They may stop earlier: each by an exception named above, or at a fault that
    we meet within the next request.
    """
    ours = complete(data)
    theirs, refused = all_by_h11(data)
    assert theirs[: len(ours)] == ours[: len(theirs)]
    if len(theirs) < len(ours):
        assert refused
        assert (
            known_stricter(data)
            or b"\r\n\r\n\r\n" in data
            or b"\r\n\r\n" in b"".join(body for *_, body in ours)
        )
    collector = _StreamCollector()
    with contextlib.suppress(httptools.HttpParserError):
        collector.parser.feed_data(data)
    assert collector.taken[: len(ours)] == ours[: len(collector.taken)]


def known_stricter(data: bytes) -> bool:
    """Return whether the others are known to refuse what the RFC allows here."""
    white_space = re.search(rb"\n[0-9a-fA-F]+(?:;[^\r]*)?[ \t]|\t\r\n", data)
    return data.startswith(b"\r\n") or b"HTTP/1.2" in data or white_space is not None


@pytest.mark.slow
@settings(max_examples=300)
@given(data=requests())
def test_what_we_take_the_others_take_alike(data: bytes) -> None:
    """Method, target and body of an accepted request are the same everywhere."""
    taken = ours(data)
    assume(taken and not known_stricter(data))
    assert taken is not None
    if len(taken) == 1:
        assert by_h11(data) == taken
        if taken[0][0] in METHODS:
            assert by_llhttp(data) == taken


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2 ;a\r\nab\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\t;\ta = b\r\nab\r\n0\r\n\r\n",
    ],
)
def test_bad_white_space_in_chunk_extensions_is_our_exception(data: bytes) -> None:
    """RFC 9112 7.1.1 allows it, and it cannot be read in two ways."""
    assert ours(data) == [("POST", "/", b"ab")]
    with pytest.raises(h11.RemoteProtocolError):
        by_h11(data)


@pytest.mark.parametrize("line", ["FROB / HTTP/1.1", "GET / HTTP/1.2"])
def test_unknown_methods_and_minor_versions_are_our_exception(line: str) -> None:
    """RFC 9110 2.5 and 9.1 leave both to the server, which is the router here."""
    data = f"{line}\r\nHost: a\r\n\r\n".encode()
    assert ours(data) == by_h11(data)
    with pytest.raises(httptools.HttpParserError):
        by_llhttp(data)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET http:///p HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;=\r\nab\r\n0\r\n\r\n",
    ],
)
def test_we_are_stricter_than_h11(data: bytes) -> None:
    """What h11 lets through here is refused by us."""
    by_h11(data)
    assert ours(data) is None
