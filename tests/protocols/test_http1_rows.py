"""Hold the server machine to every row of bad_requests.jsonl.

`want` of a row: `reject` is 4xx or 5xx and close, or a silent close, and never
a 2xx; `accept` is exactly `responses` final responses below 400; `first` is a
2xx, then 4xx and close; `no2xx` and `one` (final response at most) speak for
themselves.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from oread.limits import HttpLimits
from oread.protocols.http1 import END, HttpServerProtocol
from oread.protocols.http1_head import RequestHead
from oread.protocols.http1_lines import Refusal
from oread.protocols.http1_reply import encode_refusal, encode_response, http_date

ROWS: list[dict[str, Any]] = [
    json.loads(line)
    for line in pathlib.Path(__file__).with_name("bad_requests.jsonl").read_text().splitlines()
]
DATE = http_date(0)


class EchoServer:
    """Answer any method and path with 200, and a POST with its body."""

    def __init__(self) -> None:
        self.machine = HttpServerProtocol(HttpLimits())
        self.answers: list[tuple[int, bytes]] = []
        self.sent = b""
        self.closed = False
        self._head: RequestHead | None = None
        self._body = b""

    def receive(self, data: bytes) -> None:
        """Take bytes in and answer whatever is complete."""
        event = self.machine.receive(data)
        while event is not None and not self.closed:
            self._take(event)
            event = None if self.closed else self.machine.next_event()

    def receive_eof(self) -> None:
        """Take the client's end; a refusal then closes without an answer."""
        if not self.closed:
            self.machine.receive_eof()
        self.closed = True

    def _take(self, event: object) -> None:
        if isinstance(event, Refusal):
            self.answers.append((event.status, b""))
            self.sent += encode_refusal(event.status, event.reason, DATE)
            self.closed = True
        elif isinstance(event, RequestHead):
            self._head, self._body = event, b""
            if event.length == 0:
                self._answer(event)
        elif isinstance(event, bytes):
            self._body += event
        elif event is END and self._head is not None:
            self._answer(self._head)

    def _answer(self, head: RequestHead) -> None:
        body = self._body if head.method == "POST" else b"hello"
        self.answers.append((200, body))
        self.sent += encode_response(
            200, body, (), head_request=head, close=not head.keep_alive, date=DATE, content_type=None
        )
        self.closed = not head.keep_alive


def judge(row: dict[str, Any], statuses: list[int], refused: bool) -> bool:
    """Return whether these final responses are what the row wants."""
    want = row["want"]
    if want == "accept":
        return len(statuses) == row["responses"] and max(statuses) < 400
    if want == "first":
        return len(statuses) == 2 and statuses[0] < 300 and 400 <= statuses[1] < 500 and refused
    if want == "one":
        return len(statuses) <= 1
    no_success = all(status >= 400 for status in statuses)
    return no_success and (want == "no2xx" or len(statuses) <= 1)


def serve(data: bytes, step: int) -> EchoServer:
    """Feed the data in pieces of one size, then its end."""
    server = EchoServer()
    for start in range(0, len(data), step):
        server.receive(data[start : start + step])
    server.receive_eof()
    return server


@pytest.mark.parametrize("row", [pytest.param(row, id=row["id"]) for row in ROWS])
def test_row_whole_and_in_single_bytes(row: dict[str, Any]) -> None:
    """A row is answered as it wants, and the same however it is cut."""
    data = "".join(text * times for text, times in row["raw"]).encode("latin-1")
    whole = serve(data, len(data))
    single = serve(data, 1)
    statuses = [status for status, _ in whole.answers]
    assert judge(row, statuses, refused=any(status >= 400 for status in statuses)), statuses
    assert single.answers == whole.answers
    assert single.sent == whole.sent


def test_all_rows_are_there() -> None:
    """The file has its 117 rows, each with a name of its own."""
    assert len({row["id"] for row in ROWS}) == len(ROWS) == 117


@pytest.mark.parametrize(
    ("row_id", "status"),
    [
        ("RL-ver-2.0", 505),
        ("RL-ver-0.9", 505),
        ("RL-h2-preface", 505),
        ("RL-http09", 400),
        ("RL-tls-hello", 400),
        ("L-method-64k", 501),
        ("L-target-64k", 414),
        ("L-hdr-64k", 431),
        ("L-hdr-count-10k", 431),
        ("F-te-gzip-chunked", 501),
        ("F-te-not-final", 400),
        ("F-cl-te", 400),
        ("C-trailer-100k", 431),
    ],
)
def test_refusals_have_the_right_status(row_id: str, status: int) -> None:
    """A refusal's status says which rule was broken, not only that one was."""
    row = next(row for row in ROWS if row["id"] == row_id)
    data = "".join(text * times for text, times in row["raw"]).encode("latin-1")
    assert [answer[0] for answer in serve(data, len(data)).answers] == [status]


def test_chunked_echo_is_decoded() -> None:
    """What a chunked POST echoes is the data without the framing."""
    row = next(row for row in ROWS if row["id"] == "C-ext-quoted")
    data = "".join(text * times for text, times in row["raw"]).encode("latin-1")
    assert serve(data, len(data)).answers == [(200, b"ab")]
