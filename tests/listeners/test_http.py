"""HTTP connections: exchanges, errors, deadlines, order, the cap."""

from __future__ import annotations

import json
import pathlib
import socket
from typing import Any

import pytest
import trio
from http_exchanges import exchange, read_responses
from trio.testing import MockClock, wait_all_tasks_blocked

import oread

ROWS = [
    json.loads(line)
    for line in (pathlib.Path(__file__).parent.parent / "protocols" / "bad_requests.jsonl")
    .read_text()
    .splitlines()
]
GET = b"GET /bytes HTTP/1.1\r\nHost: a\r\n\r\n"


class OddError(oread.MessageError):
    """An error of a user's, with a status that is none."""

    status = 600


def raises(error: Exception) -> None:
    """Raise it."""
    raise error


def released() -> memoryview:
    """Return a view that can't be read any more."""
    with memoryview(b"x") as view:
        return view


def post(path: str, body: bytes, *fields: str) -> bytes:
    """Write one request."""
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


async def ask(
    memory: Any, data: bytes, *methods: bytes, end: bool = True
) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """Send, half-close, read the responses."""
    return read_responses(await exchange(memory.client, data, end=end), methods or (b"POST",))


async def test_handlers_of_every_kind_are_served(registry: oread.Registry, serve_memory: Any) -> None:
    """bytes, text, a view, none, Reply, HttpResponse, the request itself, async."""
    registry.on("text", lambda data: "ä")
    registry.on("reply", lambda data: oread.Reply(b"{}", "application/json"))
    registry.on("teapot", lambda data: oread.HttpResponse("short", 418, [("X-Tea", "green")]))

    @registry.on("orders/{order_id}")
    async def order(order_id: int, request: oread.HttpRequest) -> str:
        await trio.lowlevel.checkpoint()
        words = (order_id, request.method, request.query, request.headers.get("x-a"), request.peer.transport)
        return " ".join(map(str, words))

    expected = {
        "/echo": (200, b"application/octet-stream", b"x"),
        "/bytes": (200, b"application/octet-stream", b"x"),
        "/async": (200, b"application/octet-stream", b"x"),
        "/waits": (200, b"application/octet-stream", b"x"),
        "/text": (200, b"text/plain; charset=utf-8", "ä".encode()),
        "/none": (204, None, b""),
        "/reply": (200, b"application/json", b"{}"),
        "/teapot": (418, None, b"short"),
        "/orders/7?q=1": (200, b"text/plain; charset=utf-8", b"7 POST q=1 b http"),
    }
    async with serve_memory("http://:0") as memory:
        for path, (status, content_type, body) in expected.items():
            [(code, headers, got)] = await ask(memory, post(path, b"x", "X-A: b"))
            assert (code, headers.get(b"content-type"), got) == (status, content_type, body)
            assert b"date" in headers


async def test_errors_have_their_status_and_the_connection_goes_on(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """404, 405 with Allow, 400, 500: then the next request on the same connection is answered."""
    registry.on("get-only", lambda data: b"got", methods=("GET",))
    registry.on("wrong", lambda data: object())
    registry.on("injects", lambda data: oread.HttpResponse(headers=[("X", "a\r\nSet-Cookie: b")]))
    registry.on("frames", lambda data: oread.HttpResponse(headers=[("Content-Length", "5")]))

    @registry.on("text")
    def text(data: str) -> str:
        return data

    requests = [
        (post("/nowhere", b""), 404),
        (post("/get-only", b""), 405),
        (post("/text", b"\xff"), 400),
        (post("/fails", b""), 500),
        (post("/wrong", b""), 500),
        (post("/injects", b""), 500),
        (post("/frames", b""), 500),
        (post("/%zz", b""), 400),
        (b"TRACE /bytes HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (post("/session", b""), 404),
        (post("/bytes", b"fine"), 200),
    ]
    async with serve_memory("http://:0") as memory:
        answers = await ask(memory, b"".join(data for data, _ in requests), *[b"POST"] * len(requests))
        assert [status for status, _, _ in answers] == [status for _, status in requests]
        assert answers[1][1][b"allow"] == b"GET, HEAD, OPTIONS"
        assert b"on purpose" not in b"".join(body for _, _, body in answers), (
            "a handler's own words stay inside"
        )
        assert memory.service.statistics().endpoints[0].failures == 4
        assert memory.refused["http_500"] == 4


async def test_head_is_the_same_head_without_a_body(registry: oread.Registry, serve_memory: Any) -> None:
    """Content-Length tells what GET would send."""
    registry.on("page", lambda data: b"12345", methods=("GET",))
    async with serve_memory("http://:0") as memory:
        [(status, headers, body)] = await ask(memory, b"HEAD /page HTTP/1.1\r\nHost: a\r\n\r\n", b"HEAD")
        assert (status, headers[b"content-length"], body) == (200, b"5", b"")


async def test_pipelined_requests_are_answered_in_order(serve_memory: Any) -> None:
    """Sync and async handlers mixed; the bad one behind them gets its 400, then the connection closes."""
    paths = ["/bytes", "/waits", "/echo", "/async", "/waits"] * 40
    data = b"".join(post(path, b"%d" % number) for number, path in enumerate(paths))
    async with serve_memory("http://:0") as memory:
        answers = await ask(memory, data + b"BAD\r\n\r\n" + GET, *[b"POST"] * 201)
        assert [body for _, _, body in answers[:200]] == [b"%d" % number for number in range(200)]
        assert answers[200][0] == 400
        assert memory.refused["http_400"] == 1


async def test_chunked_body_and_continue(serve_memory: Any) -> None:
    """100 only when no byte of the body has come; a refused request gets none."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        head = b"POST %b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send_all(head % b"/bytes")
        assert await client.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send_all(b"3\r\nabc\r\n")
        await wait_all_tasks_blocked()
        await client.send_all(b"2\r\nde\r\n0\r\n\r\n")
        assert (await client.receive_some()).endswith(b"\r\n\r\nabcde")
        await client.send_all(head % b"/bytes" + b"1\r\na\r\n0\r\n\r\n")
        assert (await client.receive_some()).startswith(b"HTTP/1.1 200")
        await client.send_all(head % b"/nowhere")
        assert (await client.receive_all()).startswith(b"HTTP/1.1 404")


async def test_continue_comes_behind_the_replies_before_it(serve_memory: Any) -> None:
    """A 100 does not overtake the answer to a request that was pipelined before."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(
            GET + b"POST /bytes HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
        )
        received = await client.receive_some()
        assert received.startswith(b"HTTP/1.1 200 ")
        assert received.endswith(b"HTTP/1.1 100 Continue\r\n\r\n")


@pytest.mark.parametrize(
    "result",
    [
        lambda: memoryview(b"abcdef").cast("B", [2, 3]),
        released,
        lambda: oread.Reply(5),  # type: ignore[arg-type]
        lambda: oread.HttpResponse(None),  # type: ignore[arg-type]
        lambda: oread.HttpResponse(status=99),
        lambda: raises(oread.BadRequest("\udcff")),
        lambda: raises(OddError("odd")),
        lambda: raises(oread.NotAllowed(("GET\n",))),
    ],
)
@pytest.mark.parametrize("transport", ["http://:0", "tcp://:0/odd", "tcp://:0/odd?framing=lines"])
async def test_odd_results_harm_their_own_exchange_only(
    registry: oread.Registry, serve_memory: Any, result: Any, transport: str
) -> None:
    """Whatever a handler returns or raises, the service lives and the peer gets an end."""
    registry.on("odd", lambda data: result())
    async with serve_memory(transport) as memory:
        client = memory.client()
        await client.send_all(post("/odd", b"x", "Connection: close") if "http" in transport else b"x\n")
        await client.send_eof()
        received = await client.receive_all()
        assert received.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5", b"HTTP/1.1 200")) or "tcp" in transport
        assert memory.service.statistics().endpoints[0].messages == 1


async def test_short_idle_deadline_is_kept_after_the_first_request(
    serve_memory: Any, autojump_clock: MockClock
) -> None:
    """What is below first_byte_seconds counts from the reply all the same, sync or async."""
    for event in (b"bytes", b"waits", b"async"):
        option = "keep_alive_seconds" if event == b"bytes" else "idle_seconds"
        async with serve_memory(f"http://:0?{option}=2") as memory:
            client = memory.client()
            await client.send_all(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % event)
            await client.receive_some()
            begun = trio.current_time()
            assert await client.receive_some() == b""
            assert 1.9 < trio.current_time() - begun < 3


async def test_body_over_the_limit_is_refused_at_the_head(serve_memory: Any) -> None:
    """413 by Content-Length before a byte is read, by chunks as soon as it shows."""
    async with serve_memory("http://:0?body_bytes=10") as memory:
        [(status, headers, _)] = await ask(memory, post("/bytes", b"x" * 11), end=False)
        assert (status, headers[b"connection"]) == (413, b"close")
        chunked = (
            b"POST /bytes HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"6\r\n123456\r\n" * 2
        )
        [(status, _, _)] = await ask(memory, chunked, end=False)
        assert status == 413
        [(status, _, body)] = await ask(memory, post("/bytes", b"x" * 10))
        assert (status, len(body)) == (200, 10)


async def test_mebibyte_body_echoes_intact(serve_one: Any) -> None:
    """A body of exactly the default limit, over a real socket."""
    body = bytes(range(256)) * 4096
    async with serve_one("http://127.0.0.1:0") as service:
        stream = await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port)
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, post("/echo", body, "Connection: close"))
            received = bytearray()
            async for chunk in stream:
                received += chunk
        [(status, _, got)] = read_responses(bytes(received), [b"POST"])
        assert (status, got == body) == (200, True)


async def test_options_of_the_server_reach_no_handler(registry: oread.Registry, serve_memory: Any) -> None:
    """`OPTIONS *` is answered by the engine, with what it serves."""
    registry.on("index", lambda data: b"index")
    async with serve_memory("http://:0") as memory:
        [(status, headers, _)] = await ask(memory, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b"OPTIONS")
        assert status == 204
        assert b"GET" in headers[b"allow"]


async def test_get_has_no_payload(serve_memory: Any) -> None:
    """Content of a GET is framed and read, and means nothing."""
    async with serve_memory("http://:0") as memory:
        data = b"GET /bytes HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab" + GET
        answers = await ask(memory, data, b"GET", b"GET")
        assert [(status, body) for status, _, body in answers] == [(200, b""), (200, b"")]


async def test_half_closing_client_gets_its_answer_within_the_grace(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """A FIN cancels the handler only after a second."""
    ended: list[str] = []

    @registry.on("takes/{seconds}")
    async def takes(seconds: float) -> str:
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            ended.append("cancelled")
            raise
        return "done"

    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(b"GET /takes/0.5 HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.send_eof()
        assert (await client.receive_all()).endswith(b"done")
        client = memory.client()
        await client.send_all(b"GET /takes/60 HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.send_eof()
        begun = trio.current_time()
        await client.receive_all()
        assert trio.current_time() - begun < 3
        assert ended == ["cancelled"]
        assert memory.refused["peer_gone"] == 1


@pytest.mark.parametrize(
    ("data", "reason", "answered"),
    [
        (b"", "no_request", False),
        (b"GET /bytes HTT", "slow_head", True),
        (b"POST /bytes HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc", "slow_body", True),
        (GET, "idle", None),
    ],
)
async def test_slow_peers_end_at_their_deadline(
    serve_memory: Any, autojump_clock: MockClock, data: bytes, reason: str, answered: bool | None
) -> None:
    """First byte, head and body, idle: each by its own deadline, with 408 where a request was begun."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        begun = trio.current_time()
        if data:
            await client.send_all(data)
        received = await client.receive_all()
        if answered is not None:
            assert received.startswith(b"HTTP/1.1 408 ") is answered
        limit = {"no_request": 10, "slow_head": 10, "slow_body": 20, "idle": 75}[reason]
        assert trio.current_time() - begun <= limit + 1
        assert memory.refused[reason] == 1


@pytest.mark.parametrize("part", ["head", "body"])
async def test_drip_of_bytes_does_not_move_the_deadline(
    serve_memory: Any, autojump_clock: MockClock, part: str
) -> None:
    """A head has one absolute deadline, a body a least rate: a byte now and then does not keep them open."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        begun = trio.current_time()
        if part == "body":
            await client.send_all(b"POST /bytes HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        else:
            await client.send_all(b"GET /bytes HTTP/1.1\r\nX: ")
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await client.send_all(b"x")
                await trio.sleep(0.5)
        assert trio.current_time() - begun < 15
        assert memory.refused[f"slow_{part}"] == 1


async def test_cut_short_requests_are_never_passed_on(registry: oread.Registry, serve_memory: Any) -> None:
    """EOF inside a head or a body ends the connection; the handler sees nothing."""
    seen: list[bytes] = []
    registry.on("sees", seen.append)
    async with serve_memory("http://:0") as memory:
        for data in (b"POST /sees HT", post("/sees", b"whole")[:-1]):
            client = memory.client()
            await client.send_all(data)
            await client.send_eof()
            assert await client.receive_all() == b""
        assert seen == []
        assert memory.refused["cut_short"] == 2


async def test_oldest_idle_connection_gives_way_at_the_cap(
    serve_memory: Any, autojump_clock: MockClock
) -> None:
    """The one that is idle for longest; those at work stay."""
    async with serve_memory("http://:0?connections=3") as memory:
        clients = []
        for _ in range(3):
            clients.append(memory.client())
            await clients[-1].send_all(GET)
            await clients[-1].receive_some()
            await trio.sleep(1)
        await clients[0].send_all(GET)
        await clients[0].receive_some()
        fresh = memory.client()
        await fresh.send_all(GET)
        assert (await fresh.receive_some()).startswith(b"HTTP/1.1 200")
        assert await clients[1].receive_all() == b""
        for client in (clients[0], clients[2]):
            await client.send_all(GET)
            assert (await client.receive_some()).startswith(b"HTTP/1.1 200")
        assert memory.refused == {"evicted": 1}


async def test_cap_of_busy_connections_makes_others_wait(serve_memory: Any) -> None:
    """When none is idle, accepting pauses."""
    async with serve_memory("http://:0?connections=1") as memory:
        busy, waiting = memory.client(), memory.client()
        await busy.send_all(b"GET /forever HTTP/1.1\r\nHost: a\r\n\r\n")
        await waiting.send_all(GET)
        await wait_all_tasks_blocked()
        assert memory.service.statistics().endpoints[0].accepted == 1
        busy.reset()
        assert (await waiting.receive_some()).startswith(b"HTTP/1.1 200")


async def test_drain_closes_idle_and_finishes_what_runs(registry: oread.Registry, serve_memory: Any) -> None:
    """Idle connections close at once; the request in flight is answered with Connection: close."""
    gate = trio.Event()

    @registry.on("gated")
    async def gated(data: bytes) -> str:
        await gate.wait()
        return "answered"

    async with serve_memory("http://:0") as memory, trio.open_nursery() as nursery:
        idle, busy = memory.client(), memory.client()
        await idle.send_all(GET)
        await idle.receive_some()
        await busy.send_all(b"GET /gated HTTP/1.1\r\nHost: a\r\n\r\n")
        await wait_all_tasks_blocked()
        reports: list[oread.DrainReport] = []

        async def drain() -> None:
            reports.append(await memory.service.drain(30))

        nursery.start_soon(drain)
        assert await idle.receive_all() == b""
        await idle.aclose()
        gate.set()
        answer = await busy.receive_all()
        assert b"Connection: close" in answer
        assert answer.endswith(b"answered")
        await busy.aclose()
        await wait_all_tasks_blocked()
        assert reports
        assert (reports[0].cancelled, reports[0].closed) == ((), 0)


async def test_drain_lets_an_upload_come_to_its_end(serve_memory: Any) -> None:
    """A request whose head or body is still coming is in flight, not idle."""
    async with serve_memory("http://:0") as memory, trio.open_nursery() as nursery:
        client = memory.client()
        data = post("/bytes", b"upload")
        await client.send_all(data[:-3])
        await wait_all_tasks_blocked()
        nursery.start_soon(memory.service.drain, 30)
        await wait_all_tasks_blocked()
        await client.send_all(data[-3:])
        answer = await client.receive_all()
        assert b"Connection: close" in answer
        assert answer.endswith(b"upload")
        await client.aclose()


@pytest.fixture(scope="module")
def any_path() -> oread.Registry:
    """Answer any path and method 200 and echo a POST's body, as the rows ask for."""
    registry = oread.Registry()

    @registry.on("{rest:path}")
    def rest(request: oread.HttpRequest) -> bytes:
        return request.data if request.method == "POST" else b"ok"

    registry.on("index", rest)
    return registry


@pytest.mark.parametrize("pieces", ["whole", "bytes"])
async def test_bad_requests_over_real_sockets(any_path: oread.Registry, pieces: str) -> None:
    """Every row has its outcome on a served connection too, and the service lives."""
    async with oread.open_service(any_path, "http://127.0.0.1:0") as service:
        address = ("127.0.0.1", service.endpoints[0].port)
        for row in ROWS:
            raw = "".join(text * times for text, times in row["raw"]).encode("latin-1")
            if pieces == "bytes" and len(raw) > 2000:
                continue  # the machine's own tests cut these; here it would be 100,000 system calls
            answers = await _replay(address, raw, single=pieces == "bytes")
            statuses = [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]
            good = sum(status < 400 for status in statuses)
            wanted = {
                "reject": good == 0 and len(statuses) <= 1,
                "accept": good == len(statuses) == row["responses"],
                "first": good == 1 and len(statuses) == 2,
                "no2xx": good == 0,
                "one": len(statuses) <= 1,
            }[row["want"]]
            assert wanted, (row["id"], row["want"], answers[:200])


async def _replay(address: tuple[str, int], raw: bytes, *, single: bool) -> bytes:
    received = b""
    stream = await trio.open_tcp_stream(*address)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send() -> None:
        try:
            for piece in [raw[at : at + 1] for at in range(len(raw))] if single else [raw]:
                await stream.send_all(piece)
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass  # refused and closed before all was sent

    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            async for chunk in stream:
                received += chunk
        except trio.BrokenResourceError:
            pass
        nursery.cancel_scope.cancel()
    return received


async def test_an_overdue_handler_is_said_to_have_taken_too_long(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """504, and a warning without a traceback: it is the service that was slow, not the peer."""

    @registry.on("late", deadline=1)
    async def late() -> None:
        await trio.sleep_forever()

    async with serve_memory("http://:0?failure=stop") as memory:
        [(status, _, body)] = await ask(memory, post("/late", b"", "Connection: close"), end=False)
        assert (status, b"took too long" in body) == (504, True)
        assert memory.refused["timed_out"] == 1
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert "late took longer than 1 s" in record.getMessage()
