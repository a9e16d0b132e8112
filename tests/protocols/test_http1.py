"""Prove that no cut matters, memory is bounded and faults end it."""

from __future__ import annotations

import itertools
import sys
import types

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.limits import HttpLimits
from oread.protocols import http1_head
from oread.protocols.http1 import END, Event, HttpServerProtocol, State
from oread.protocols.http1_head import RequestHead, parser_for
from oread.protocols.http1_lines import Refusal, find_line

LIMITS = HttpLimits()
SMALL = HttpLimits(
    method_bytes=7,
    target_bytes=40,
    header_bytes=200,
    field_bytes=60,
    fields=5,
    body_bytes=40,
    chunk_line_bytes=24,
    chunk_extension_bytes=20,
    trailer_bytes=40,
    trailers=2,
)
GET = b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def drain(machine: HttpServerProtocol, data: bytes) -> list[Event]:
    """Return all events that one piece of input completes."""
    events = []
    event = machine.receive(data)
    while event is not None:
        events.append(event)
        event = machine.next_event()
    return events


def plain(events: list[Event]) -> list[object]:
    """Make events comparable, and join the parts of each body."""
    result: list[object] = []
    for event in events:
        if isinstance(event, RequestHead):
            values = [
                getattr(event, field.name) for field in attrs.fields(RequestHead) if field.name[0] != "_"
            ]
            result.append((*values, event.headers.pairs))
        elif isinstance(event, bytes) and result and isinstance(result[-1], bytes):
            result[-1] += event
        else:
            result.append(event)
    return result


def run(data: bytes, cuts: list[int], limits: HttpLimits = LIMITS) -> list[object]:
    """Feed the data cut at these places, then its end."""
    machine = HttpServerProtocol(limits)
    events: list[Event] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        events += drain(machine, data[start:end])
    if (refusal := machine.receive_eof()) is not None:
        events.append(refusal)
    return plain(events)


def refusal_of(data: bytes, limits: HttpLimits = LIMITS) -> Refusal | None:
    """Return the refusal of this input, the same whole and in single bytes."""
    whole = [event for event in run(data, [], limits) if isinstance(event, Refusal)]
    single = [event for event in run(data, list(range(len(data))), limits) if isinstance(event, Refusal)]
    assert whole == single
    return whole[0] if whole else None


def status_of(data: bytes, limits: HttpLimits = LIMITS) -> int | None:
    """Return the status of the refusal of this input, None when it is taken."""
    refusal = refusal_of(data, limits)
    return refusal.status if refusal else None


PIECES = st.sampled_from(
    [
        b"GET ",
        b"POST ",
        b"OPTIONS ",
        b"LONGMETHOD ",
        b"/",
        b"/path?query=1",
        b"*",
        b"http://b:80/p",
        b"a:443",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b" HTTP/2.0",
        b" HTTP/1.7",
        b"\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"Host: a\r\n",
        b"host:[::1]:7\r\n",
        b"Host: a,b\r\n",
        b"X: 1\r\n",
        b"X: " + b"v" * 60,
        b"\x00",
        b"\xff",
        b":",
        b"Content-Length: 2\r\n",
        b"Content-Length: 50\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Expect: more\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive, x\r\n",
        b"0\r\n",
        b"2\r\nab\r\n",
        b"2;a=b\r\nab\r\n",
        b"28\r\n",
        b"a" * 40,
        b"ab",
        b"T: v\r\n",
        b';x="y"\r\n',
        GET,
        CHUNKED,
    ]
)
INPUTS = st.lists(PIECES, max_size=12).map(b"".join)


@given(data=INPUTS, cuts=st.lists(st.integers(0, 2_000), max_size=8), small=st.booleans())
def test_cuts_do_not_matter(data: bytes, cuts: list[int], small: bool) -> None:
    """Events, refusals and reasons are the same however the bytes were cut."""
    limits = SMALL if small else LIMITS
    whole = run(data, [], limits)
    assert run(data, cuts, limits) == whole
    assert run(data, list(range(len(data))), limits) == whole


@given(
    body=st.binary(max_size=300), sizes=st.lists(st.integers(1, 50), min_size=1, max_size=9), data=st.data()
)
def test_a_body_comes_out_as_it_went_in(body: bytes, sizes: list[int], data: st.DataObject) -> None:
    """Both framings give the body, and the next request behind it."""
    chunks, rest = b"", body
    for size in sizes:
        part, rest = rest[:size], rest[size:]
        if part:
            chunks += b"%x\r\n%b\r\n" % (len(part), part)
    if rest:
        chunks += b"%X;last\r\n%b\r\n" % (len(rest), rest)
    by_length = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    stream = by_length + CHUNKED + chunks + b"0\r\nTrailer: x\r\n\r\n" + GET
    events = run(stream, data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    assert [event for event in events if isinstance(event, bytes)] == [body] * (2 if body else 0)
    assert events.count(END) == (2 if body else 1)
    assert not any(isinstance(event, Refusal) for event in events)
    assert len([event for event in events if isinstance(event, tuple)]) == 3


@given(data=INPUTS, more=INPUTS)
def test_nothing_is_parsed_after_a_refusal(data: bytes, more: bytes) -> None:
    """Whatever comes behind a refusal is dropped and not even kept."""
    machine = HttpServerProtocol(SMALL)
    events = drain(machine, data)
    if any(isinstance(event, Refusal) for event in events):
        assert [type(event) is Refusal for event in events].index(True) == len(events) - 1
        assert drain(machine, more + GET) == []
        assert machine.buffered == 0
        assert machine.state is State.CLOSED
        assert machine.receive_eof() is None


@given(data=INPUTS)
def test_memory_is_bounded_when_fed_in_single_bytes(data: bytes) -> None:
    """What waits for more bytes is never longer than one head or one line."""
    machine = HttpServerProtocol(SMALL)
    most = SMALL.method_bytes + SMALL.target_bytes + SMALL.header_bytes + 14
    for value in data * 3:
        drain(machine, bytes([value]))
        assert machine.buffered <= most


@pytest.mark.parametrize(
    ("name", "head", "unit", "most"),
    [
        ("request line", b"", b"A", 8),
        ("target", b"GET /", b"a", 60),
        ("field", b"GET / HTTP/1.1\r\n", b"a", 62),
        ("fields", b"GET / HTTP/1.1\r\n", b"a:\r\n", 24),
        ("chunk size", CHUNKED, b"0", 26),
        ("chunk extension", CHUNKED + b"1;", b"a", 26),
        ("trailer", CHUNKED + b"0\r\n", b"a", 62),
        ("empty lines", b"", b"\r\n", 10),
    ],
)
def test_endless_input_is_refused(name: str, head: bytes, unit: bytes, most: int) -> None:
    """No part of a request can go on for ever."""
    limits = attrs.evolve(SMALL, target_bytes=41)
    machine = HttpServerProtocol(limits)
    drain(machine, head)
    for fed in range(0, most, len(unit)):
        for event in drain(machine, unit):
            assert isinstance(event, Refusal)
            assert fed + len(unit) > 1
            return
    pytest.fail(f"{name} is not bounded")


@pytest.mark.parametrize(
    "stream",
    [
        b"GET /" + b"a" * 8_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"v" * 5_000 + b"\r\n") * 5 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X:\r\n" * 99 + b"\r\n",
        CHUNKED + b"1;" + b"a" * 4_000 + b"\r\nb\r\n0\r\n\r\n",
        CHUNKED + b"1\r\nb\r\n" * 2_000 + b"0\r\n\r\n",
        CHUNKED + b"0\r\n" + (b"T: " + b"v" * 3_000 + b"\r\n") * 2 + b"\r\n",
    ],
    ids=["target", "long fields", "many fields", "extension", "tiny chunks", "trailers"],
)
def test_single_bytes_are_looked_at_a_fixed_number_of_times(stream: bytes) -> None:
    """What a dripping peer costs grows with its bytes, not with their square."""
    looked = 0

    def count(frame: types.FrameType, event: str, end: object) -> None:
        nonlocal looked
        if event == "return" and frame.f_code is find_line.__code__:
            assert isinstance(end, int)
            given = frame.f_locals
            upto = end + 2 if end >= 0 else len(given["buffer"])
            looked += upto - max(given["start"], given["searched"] - 1)

    machine = HttpServerProtocol(LIMITS)
    events: list[Event] = []
    sys.setprofile(count)
    try:
        for value in stream:
            events += drain(machine, bytes([value]))
    finally:
        sys.setprofile(None)
    assert isinstance(events[0], RequestHead)
    assert machine.state is State.IDLE
    assert looked <= 4 * len(stream)


def pad(line: bytes, size: int) -> bytes:
    """Make a field line of exactly this many bytes."""
    return line + b"v" * (size - len(line))


@pytest.mark.parametrize(
    ("at_limit", "status"),
    [
        (lambda more: b"M" * (7 + more) + b" / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (lambda more: b"GET /" + b"a" * (39 + more) + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (lambda more: b"OPTIONS /" + b"a" * (39 + more) + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (lambda more: b"GET / HTTP/1.1\r\nHost: a\r\n" + pad(b"X:", 60 + more) + b"\r\n\r\n", 431),
        (lambda more: b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * (4 + more) + b"\r\n", 431),
        (
            lambda more: (
                b"GET / HTTP/1.1\r\nHost: a\r\n"
                + (pad(b"X:", 58) + b"\r\n") * 3
                + pad(b"Y:", 200 - 9 - 180 - 2 + more)
                + b"\r\n\r\n"
            ),
            431,
        ),
        (
            lambda more: b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (40 + more) + b"b" * 40,
            413,
        ),
        (lambda more: CHUNKED + b"1\r\nb\r\n%x\r\n%b\r\n0\r\n\r\n" % (39 + more, b"b" * (39 + more)), 413),
        (lambda more: CHUNKED + b"1;" + b"a" * (19 + more) + b"\r\nb\r\n0\r\n\r\n", 400),
        (lambda more: CHUNKED + b"1;aaaaaaaaa\r\nb\r\n1;" + b"a" * (9 + more) + b"\r\nb\r\n0\r\n\r\n", 400),
        (lambda more: CHUNKED + b"0\r\n" + b"T: x\r\n" * (2 + more) + b"\r\n", 431),
        (lambda more: CHUNKED + b"0\r\n" + pad(b"T:", 38 + more) + b"\r\n\r\n", 431),
        (lambda more: b"\r\n" * (4 + more) + GET, 400),
        (lambda more: CHUNKED + b"0" * (14 + more) + b"1\r\nb\r\n0\r\n\r\n", 400),
    ],
    ids=[
        "method",
        "target",
        "target, longest line",
        "field",
        "fields",
        "section",
        "length",
        "chunks",
        "one extension",
        "extensions",
        "trailers",
        "trailer section",
        "empty lines",
        "chunk digits",
    ],
)
def test_each_limit_at_its_boundary(at_limit: object, status: int) -> None:
    """The limit itself is taken, one more is refused with its status."""
    assert callable(at_limit)
    assert status_of(at_limit(0), SMALL) is None
    assert status_of(at_limit(1), SMALL) == status


def test_a_long_chunk_line_is_refused_by_its_own_limit() -> None:
    """The line's limit holds where the extensions' limit is wider."""
    limits = attrs.evolve(SMALL, chunk_extension_bytes=100)
    good = CHUNKED + b"1;" + b"a" * 22 + b"\r\nb\r\n0\r\n\r\n"
    assert status_of(good, limits) is None
    assert refusal_of(good.replace(b"1;", b"1;a"), limits) == Refusal(400, "a chunk's first line is too long")


def test_length_over_the_limit_is_refused_at_the_head() -> None:
    """413 comes before a byte of the body was sent."""
    assert drain(HttpServerProtocol(SMALL), b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 41\r\n\r\n") == [
        Refusal(413, "the body is too long")
    ]


def test_a_raised_body_limit_holds_for_one_body() -> None:
    """A handler that takes more does not open the door for the next one."""
    machine = HttpServerProtocol(SMALL)
    drain(machine, CHUNKED)
    machine.body_limit = 100
    assert drain(machine, b"64\r\n" + b"b" * 100 + b"\r\n0\r\n\r\n") == [b"b" * 100, END]
    drain(machine, CHUNKED)
    assert drain(machine, b"64\r\n") == [Refusal(413, "the body is too long")]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (
            b"GET /p%41?q=1?2 HTTP/1.1\r\nHost: a:7\r\n",
            ("GET", "/p%41", "q=1?2", "1.1", "a:7", True, 0, False),
        ),
        (b"GET //e?|^[] HTTP/1.1\r\nHost: a\r\n", ("GET", "//e", "|^[]", "1.1", "a", True, 0, False)),
        (b"GET / HTTP/1.0\r\n", ("GET", "/", "", "1.0", "", False, 0, False)),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n", ("GET", "/", "", "1.0", "", True, 0, False)),
        (
            b"GET / HTTP/1.9\r\nHost: a\r\nConnection: x, Close\r\n",
            ("GET", "/", "", "1.1", "a", False, 0, False),
        ),
        (
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\nConnection:close\r\n",
            ("GET", "/", "", "1.0", "", False, 0, False),
        ),
        (
            b"GET / HTTP/1.1\r\nConnection: keep-alive\r\nHost: a\r\nConnection: close\r\n",
            ("GET", "/", "", "1.1", "a", False, 0, False),
        ),
        (
            b"GET / HTTP/1.1\r\nConnection: Keep-Alive\r\nhOST:a\r\nConnection: keep-alive\r\n",
            ("GET", "/", "", "1.1", "a", True, 0, False),
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, close\r\n",
            ("GET", "/", "", "1.1", "a", False, 0, False),
        ),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n", ("OPTIONS", "*", "", "1.1", "a", True, 0, False)),
        (b"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n", ("OPTIONS", "*", "", "1.1", "b", True, 0, False)),
        (b"GET HTTP://b:8?x HTTP/1.1\r\nHost: a\r\n", ("GET", "/", "x", "1.1", "b:8", True, 0, False)),
        (
            b"GET https://[::1]/p?x HTTP/1.1\r\nHost: a\r\n",
            ("GET", "/p", "x", "1.1", "[::1]", True, 0, False),
        ),
        (
            b"PUT / HTTP/1.1\r\nHost:a\t \r\nExpect: 100-Continue\r\ncontent-LENGTH:  3 \r\n",
            ("PUT", "/", "", "1.1", "a", True, 3, True),
        ),
        (
            b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 03\r\n",
            ("PUT", "/", "", "1.0", "", False, 3, False),
        ),
        (
            b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: Chunked\r\n",
            ("PUT", "/", "", "1.1", "a", True, -1, True),
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n",
            ("GET", "/", "", "1.1", "a", True, 0, False),
        ),
    ],
)
def test_what_a_head_says(head: bytes, expected: tuple[object, ...]) -> None:
    """The start line and the framing fields are read into the head."""
    event = HttpServerProtocol(LIMITS).receive(head + b"\r\n")
    assert isinstance(event, RequestHead)
    assert (
        event.method,
        event.path,
        event.query,
        event.version,
        event.host,
        event.keep_alive,
        event.length,
        event.expects_continue,
    ) == expected
    assert event.target == head.split(b" ")[1].decode()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect:\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: [::g]\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: [1::2::3]\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a%4\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n", 400),
        (b"GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET http:///p HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET ftp://b/p HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET http://b/p HTTP/1.1\r\n\r\n", 400),
        (b"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET http://b/#f HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"0" * 20 + b"\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 400),
        (CHUNKED + b"2\r\nab\rX", 400),
        (CHUNKED + b'2;a="b\r\n', 400),
        (CHUNKED + b"2;a=b c\r\n", 400),
        (CHUNKED + b"0\r\n folded: x\r\n\r\n", 400),
        (CHUNKED + b"0\r\nA: b\r\nContent-length: 0\r\n\r\n", 400),
        (CHUNKED + b"1\r\na\r\n0\r\ntransfer-encoding:chunked\r\n\r\n", 400),
        (CHUNKED + b"0\r\nHOST: b\r\n\r\n", 400),
    ],
)
def test_what_the_rows_do_not_have(data: bytes, status: int) -> None:
    """More that must be refused, each with its status."""
    assert status_of(data) == status


NAMES = [
    *("Host", "host", "hOST", "Hosts", "Hos", "Content-Length", "content-length", "CONTENT-LENGTH"),
    *("Content-Lengths", "Content-Type", "Transfer-Encoding", "transfer-encoding", "TE", "Trailer"),
    *("Connection", "CONNECTION", "Connections", "Cookie", "Expect", "expect", "Expected", "ETag"),
    *("Accept", "X-Host", "User-Agent", "_h", "!"),
]
VALUES = [
    *(
        "",
        " ",
        " a.example",
        "a.example",
        "\ta.example:80 ",
        " a b",
        " [::1]",
        " 5",
        " 05",
        " 5x",
        " -1",
        " 5, 5",
    ),
    *(" chunked", " identity", " keep-alive", " Keep-Alive", " keep-alive ", " close", " upgrade"),
    *(" 100-continue", " \xe4", " " + "9" * 20),
]
FIELDS = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES))


@given(
    start=st.sampled_from(
        ["GET / HTTP/1.1", "POST /a?b=c HTTP/1.1", "GET /a HTTP/1.0", "HEAD http://b/ HTTP/1.1"]
    ),
    fields=st.lists(FIELDS, max_size=6),
    host=st.booleans(),
)
def test_the_usual_heads_are_read_as_all_others(
    start: str, fields: list[tuple[str, str]], host: bool
) -> None:
    """An unknown option of Connection says nothing, but makes a head unusual: nothing else changes."""
    known = [("Host", " a.example"), *fields] if host else fields
    outcomes = []
    for more in ([], [("Connection", " x-nothing")]):
        text = "".join(f"{line}\r\n" for line in [start, *(f"{n}:{v}" for n, v in [*known, *more]), ""])
        for length in (len(text), 1):
            machine, event = HttpServerProtocol(HttpLimits()), None
            data = text.encode("latin-1")
            for at in range(0, len(data), length):
                event = machine.receive(data[at : at + length])
                if event is not None:
                    break
            outcomes.append(_outcome(event))
    assert outcomes.count(outcomes[0]) == 4


def _outcome(event: object) -> object:
    if isinstance(event, RequestHead):
        told = attrs.asdict(event, recurse=False)
        return {name: value for name, value in told.items() if not name.startswith("_")}
    return event


def test_headers_are_built_when_asked_for() -> None:
    """Names are lower case, values stripped, order and repeats kept."""
    event = HttpServerProtocol(LIMITS).receive(
        b"GET / HTTP/1.1\r\nHost: a\r\nX-A:\t one \r\nx-a: t:w\xe9\r\nEmpty:\r\n\r\n"
    )
    assert isinstance(event, RequestHead)
    assert event.headers.pairs == (("host", "a"), ("x-a", "one"), ("x-a", "t:w\xe9"), ("empty", ""))
    assert event.headers is event.headers


def test_one_request_per_pull_and_the_rest_stays_bytes() -> None:
    """A pipelined request is not looked at before it is asked for."""
    machine = HttpServerProtocol(LIMITS)
    first = machine.receive(GET + b"BAD\x00")
    assert isinstance(first, RequestHead)
    assert machine.unread() == b"BAD\x00"
    assert machine.buffered == 4
    assert machine.state is State.HEAD
    machine.feed(b"more")
    assert machine.unread() == b"BAD\x00more"
    assert isinstance(machine.next_event(), Refusal)


def test_nothing_is_parsed_behind_a_close() -> None:
    """A request that says close is the last one (RFC 9112 9.6)."""
    last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for stream in (last, last.replace(b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\nContent-Length: 2") + b"ab"):
        machine = HttpServerProtocol(LIMITS)
        assert len([event for event in drain(machine, stream + GET) if isinstance(event, RequestHead)]) == 1
        assert machine.state is State.CLOSED
        assert drain(machine, GET) == []


def test_states_follow_the_stream() -> None:
    """Idle, head, body and closed are told apart, as deadlines need it."""
    machine = HttpServerProtocol(LIMITS)
    states = [machine.state]
    for piece in (
        b"\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\n",
        b"Content-Length: 2\r\n\r\n",
        b"a",
        b"b",
        b"\x00",
    ):
        drain(machine, piece)
        states.append(machine.state)
    assert states == [State.IDLE, State.IDLE, State.HEAD, State.BODY, State.BODY, State.IDLE, State.CLOSED]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", None),
        (GET, None),
        (b"\r\n", None),
        (GET[:-1], "the connection ended within a head"),
        (GET + b"G", "the connection ended within a head"),
        (CHUNKED, "the connection ended within a body"),
        (CHUNKED + b"2\r\nab\r\n0\r\n", "the connection ended within a body"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na", "the connection ended within a body"),
    ],
)
def test_an_end_in_the_middle_is_a_refusal(data: bytes, reason: str | None) -> None:
    """A short request is never passed on as a whole one."""
    machine = HttpServerProtocol(LIMITS)
    drain(machine, data)
    assert machine.receive_eof() == (Refusal(400, reason) if reason else None)
    assert machine.next_event() is None


def test_an_end_behind_whole_requests_waits_for_them() -> None:
    """A half-closing client's whole requests are served, then the fault."""
    machine = HttpServerProtocol(LIMITS)
    assert isinstance(machine.receive(GET * 2 + b"GE"), RequestHead)
    assert machine.receive_eof() is None
    assert isinstance(machine.next_event(), RequestHead)
    assert machine.next_event() == Refusal(400, "the connection ended within a head")
    assert machine.next_event() is None


def test_repeated_reads_share_one_head() -> None:
    """A read that is one request is parsed once for all connections."""
    limits = HttpLimits(target_bytes=8_191)
    request = b"GET /shared HTTP/1.1\r\nHost: a\r\n\r\n"
    HttpServerProtocol(limits).receive(request)
    second = HttpServerProtocol(limits).receive(request)
    assert HttpServerProtocol(HttpLimits(target_bytes=8_191)).receive(request) is second
    assert HttpServerProtocol(LIMITS).receive(request) is not second


def test_the_cache_is_bounded_and_takes_only_whole_bodyless_requests() -> None:
    """No input makes it grow, and what is not one plain request is not in it."""
    limits = HttpLimits(target_bytes=8_190)
    known = parser_for(limits).known
    others = (
        GET * 2,
        b"\r\n" + GET,
        GET.replace(b"Host", b"Content-Length: 4\r\nHost"),
        GET.replace(b"Host", b"Connection: close\r\nHost"),
        GET.replace(b"Host", b"X: " + b"x" * http1_head.CACHED_BYTES + b"\r\nHost"),
        GET.replace(b"GET /", b"GET "),
    )
    for data in others * 2:
        drain(HttpServerProtocol(limits), data)
    assert not known
    machine = HttpServerProtocol(limits)
    for number in range(1_500):
        for _ in range(2):
            machine.receive(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        assert 0 < len(known) <= 512


def test_requests_that_never_repeat_do_not_push_out_those_that_do() -> None:
    """A head is remembered when its read comes again; of others only hashes are, so many."""
    limits = HttpLimits(target_bytes=8_189)
    parser = parser_for(limits)
    machine = HttpServerProtocol(limits)
    for number in range(10_000):
        machine.receive(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        assert len(parser._seen) <= 1_024
        if number < 2:
            machine.receive(GET)
    assert list(parser.known) == [GET]


def test_a_cached_request_inside_a_body_is_body() -> None:
    """The cache is not asked while a body, a head or an empty line is open."""
    machine = HttpServerProtocol(LIMITS)
    assert isinstance(machine.receive(GET), RequestHead)
    drain(machine, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(GET))
    assert drain(machine, GET) == [GET, END]
    drain(machine, b"POST / HTTP/1.1\r\nHost: a\r\nX: ")
    assert drain(machine, GET) == [Refusal(400, "the field host is repeated")]
    machine = HttpServerProtocol(LIMITS)
    drain(machine, b"\r")
    assert drain(machine, GET) == [Refusal(400, "the request does not begin with a method and a space")]
