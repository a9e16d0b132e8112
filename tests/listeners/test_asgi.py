"""Mounted ASGI applications by raw bytes in memory: scopes, bodies, ends, lifespans."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from http_exchanges import exchange, get
from trio.testing import MockClock, wait_all_tasks_blocked
from websocket_frames import BINARY, CLOSE, PING, PONG, TEXT, close, frame, open_socket, upgrade

import oread
from listeners.asgi_applications import Call, answer, without_lifespan
from oread.errors import ApplicationError
from oread.listeners.asgi import PeerGoneError

LAST = "Connection: close"


async def test_the_scope_says_what_was_asked(registry: oread.Registry, serve_memory: Any) -> None:
    """As the specification has it, for a mount below a capture."""
    seen: list[dict[str, Any]] = []

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope)
        await answer(send)

    registry.mount_asgi("t/{tenant}/app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        await exchange(memory.client, get("/t/x%20y/app/a%2Fb/%C3%A4?q=%20", "X-A: \xe9", "x-a: 2", LAST))
        for path in ("/t/1/app", "/t/1/app/", "/t/1/app//b/"):
            await exchange(memory.client, get(path, LAST))
    scope = seen[0]
    assert {name: scope[name] for name in ("type", "http_version", "method", "scheme")} == {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
    }
    assert scope["asgi"]["version"] == "3.0"
    assert (scope["path"], scope["root_path"]) == ("/t/x y/app/a/b/ä", "/t/x y/app")
    assert scope["raw_path"] == b"/t/x%20y/app/a%2Fb/%C3%A4"
    assert scope["query_string"] == b"q=%20"
    assert (b"host", b"a") in scope["headers"]
    assert [value for name, value in scope["headers"] if name == b"x-a"] == [b"\xc3\xa9", b"2"]
    assert scope["client"][0] == scope["server"][0] == "memory"
    paths = [(scope["path"], scope["root_path"]) for scope in seen[1:]]
    root = "/t/1/app"
    assert paths == [("/t/1/app", root), ("/t/1/app/", root), ("/t/1/app//b/", root)]


async def test_other_events_go_before_an_application_that_has_the_whole_tree(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """`""` mounts it at the root; exact names win, `/` too when nobody has `index`."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, f"app {scope['path']}{scope['root_path']}".encode())

    mounted = registry.mount_asgi("", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        assert (await exchange(memory.client, get("/none", LAST))).startswith(b"HTTP/1.1 204 ")
        assert (await exchange(memory.client, get("/x/y", LAST))).endswith(b"\r\n\r\napp /x/y")
        assert (await exchange(memory.client, get("/", LAST))).endswith(b"\r\n\r\napp /")
        assert (await exchange(memory.client, get("/x", LAST, method="TRACE"))).startswith(b"HTTP/1.1 405 ")
        mounted.remove()
        assert (await exchange(memory.client, get("/x/y", LAST))).startswith(b"HTTP/1.1 404 ")


async def test_bodies_are_read_as_they_come(registry: oread.Registry, serve_memory: Any) -> None:
    """Part by part; 100-continue is sent when the application first asks."""
    parts: list[tuple[bytes, bool]] = []
    asked = trio.Event()

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await asked.wait()
        more = True
        while more:
            message = await receive()
            parts.append((message["body"], message["more_body"]))
            more = message["more_body"]
        await answer(send, b"".join(part for part, _ in parts))

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(get("/app", "Content-Length: 6", "Expect: 100-continue", LAST, method="POST"))
        await wait_all_tasks_blocked()
        asked.set()
        assert await client.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send_all(b"abc")
        await wait_all_tasks_blocked()
        await client.send_all(b"def")
        assert (await client.receive_all()).endswith(b"\r\nContent-Length: 6\r\n\r\nabcdef")
    assert parts == [(b"abc", True), (b"def", True), (b"", False)]


async def test_requests_behind_it_are_answered_in_order(registry: oread.Registry, serve_memory: Any) -> None:
    """Pipelined requests to an application and to handlers, with and without bodies."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        message = await receive()
        await answer(send, message["body"] + scope["path"].encode())

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        chunked = get("/app/2", "Transfer-Encoding: chunked", method="PUT") + b"1\r\nx\r\n0\r\n\r\n"
        received = await exchange(
            memory.client, get("/app/1") + chunked + get("/bytes") + get("/app/3", LAST)
        )
        at = [received.index(text) for text in (b"/app/1", b"x/app/2", b"octet-stream", b"/app/3")]
        assert at == sorted(at)
        assert received.count(b"HTTP/1.1 200 ") == 4


RESPONSES: dict[str, tuple[list[tuple[bytes, bytes]], int, list[bytes], bytes, bytes]] = {
    # fields, status, parts; what the head has, what the body is
    "whole": ([], 200, [b"abc"], b"Content-Length: 3", b"abc"),
    "streamed": (
        [],
        200,
        [b"ab", b"", b"c"],
        b"Transfer-Encoding: chunked",
        b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
    ),
    "declared": ([(b"content-length", b"3")], 200, [b"ab", b"c"], b"Content-Length: 3", b"abc"),
    "declared whole": ([(b"Content-Length", b"3")], 200, [b"abc"], b"Content-Length: 3", b"abc"),
    "its own framing": ([(b"transfer-encoding", b"chunked")], 200, [b"a"], b"Content-Length: 1", b"a"),
    "no content": ([], 204, [b""], b"HTTP/1.1 204 No Content", b""),
    "a body where none may be": ([], 304, [b"a", b"b"], b"HTTP/1.1 304 Not Modified", b""),
    "fields": (
        [(b"set-cookie", b"a"), (b"set-cookie", b"b")],
        200,
        [b""],
        b"set-cookie: a\r\nset-cookie: b",
        b"",
    ),
}


@pytest.mark.parametrize("name", RESPONSES)
async def test_responses_are_framed_by_the_engine(
    registry: oread.Registry, serve_memory: Any, name: str
) -> None:
    """By a length where it is known, else by chunks; HEAD has the head alone."""
    fields, status, parts, in_head, body = RESPONSES[name]

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": fields})
        for at, part in enumerate(parts, 1):
            await send({"type": "http.response.body", "body": part, "more_body": at < len(parts)})

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        head, _, received = (await exchange(memory.client, get("/app", LAST))).partition(b"\r\n\r\n")
        assert in_head in head
        assert received == body
        received = await exchange(memory.client, get("/app", method="HEAD") + get("/none", LAST))
        head, _, rest = received.partition(b"\r\n\r\n")
        assert in_head in head
        assert rest.startswith(b"HTTP/1.1 204 ")


async def test_to_http_1_0_a_streamed_body_ends_with_the_connection(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """No chunks, and `Connection: close` even if it asked for more."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["http_version"] == "1.0"
        await answer(send, b"a", more=True)
        await send({"type": "http.response.body", "body": b"b"})

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        received = await exchange(memory.client, get("/app", "Connection: keep-alive", version="1.0"))
        assert b"Transfer-Encoding" not in received
        assert received.endswith(b"\r\n\r\nab")


async def test_an_application_may_close_the_connection(registry: oread.Registry, serve_memory: Any) -> None:
    """`connection: close` is heeded; other words of it are the engine's."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send, headers=[(b"connection", b"close"), (b"keep-alive", b"9")])

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        received = await exchange(memory.client, get("/app") + get("/bytes"))
        assert received.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in received
        assert b"keep-alive" not in received


async def raise_before(scope: Any, receive: Any, send: Any) -> None:
    """Fail before the response."""
    raise LookupError("on purpose")


async def raise_after_start(scope: Any, receive: Any, send: Any) -> None:
    """Fail with nothing sent yet."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise LookupError("on purpose")


async def return_at_once(scope: Any, receive: Any, send: Any) -> None:
    """Answer nothing."""


async def declare_less(scope: Any, receive: Any, send: Any) -> None:
    """Send more than was declared."""
    await answer(send, b"abc", headers=[(b"content-length", b"2")])


async def declare_more(scope: Any, receive: Any, send: Any) -> None:
    """Send less than was declared, all at once."""
    await answer(send, b"abc", headers=[(b"content-length", b"4")])


async def send_body_first(scope: Any, receive: Any, send: Any) -> None:
    """Begin with the body."""
    await send({"type": "http.response.body", "body": b"x"})


async def send_bad_field(scope: Any, receive: Any, send: Any) -> None:
    """Try to smuggle a field."""
    await answer(send, headers=[(b"x-a", b"1\r\nx-b: 2")])


async def send_text_field(scope: Any, receive: Any, send: Any) -> None:
    """Give fields that are no bytes."""
    await answer(send, headers=[("x-a", "1")])


async def send_odd_status(scope: Any, receive: Any, send: Any) -> None:
    """Give a status that is none."""
    await answer(send, status=99)


async def send_unknown(scope: Any, receive: Any, send: Any) -> None:
    """Ask for what is not served."""
    await send({"type": "http.response.zerocopysend", "file": 1})


async def ask_for_trailers(scope: Any, receive: Any, send: Any) -> None:
    """Ask for trailers, which are an extension that is not offered."""
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})


@pytest.mark.parametrize(
    "serve",
    [
        raise_before,
        raise_after_start,
        return_at_once,
        declare_less,
        declare_more,
        send_body_first,
        send_bad_field,
        send_text_field,
        send_odd_status,
        send_unknown,
        ask_for_trailers,
    ],
)
async def test_what_fails_before_a_byte_was_sent_is_a_500(
    registry: oread.Registry, serve_memory: Any, serve: Call
) -> None:
    """It is counted as a failure, and the connection goes on."""
    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        received = await exchange(memory.client, get("/app") + get("/none", LAST))
        assert received.startswith(b"HTTP/1.1 500 ")
        assert b"HTTP/1.1 204 " in received
        assert memory.service.statistics().endpoints[0].failures == 1


@pytest.mark.parametrize("way", ["raise", "return", "short", "long"])
async def test_what_fails_in_the_middle_is_broken_off(
    registry: oread.Registry, serve_memory: Any, way: str
) -> None:
    """The client can tell: no last chunk, or less than was declared; nothing is padded."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        declared = [(b"content-length", b"9")] if way in ("short", "long") else []
        await answer(send, b"abc", headers=declared, more=True)
        if way == "raise":
            raise LookupError("on purpose")
        if way == "short":
            await send({"type": "http.response.body", "body": b"def"})
        if way == "long":
            await send({"type": "http.response.body", "body": b"defghijk"})

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        _, _, body = (await exchange(memory.client, get("/app") + get("/none"))).partition(b"\r\n\r\n")
        assert body == {"short": b"abcdef", "long": b"abc"}.get(way, b"3\r\nabc\r\n")
        await wait_all_tasks_blocked()
        assert memory.service.statistics().endpoints[0].failures == 1


async def test_the_peers_going_is_told_where_it_receives_and_where_it_sends(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """`http.disconnect`, and an OSError; it is not cancelled, and no failure."""
    heard: list[Any] = []
    ended = trio.Event()

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        heard.append(await receive())
        await answer(send, b"x", more=True)
        heard.append(await receive())
        try:
            await send({"type": "http.response.body", "body": b"y", "more_body": True})
        except OSError as error:
            heard.append(type(error))
            ended.set()
            raise

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(get("/app"))
        await wait_all_tasks_blocked()
        client.reset()
        await ended.wait()
        await wait_all_tasks_blocked()
        found = memory.service.statistics().endpoints[0]
        assert (found.failures, found.open) == (0, 0)
    body = {"type": "http.request", "body": b"", "more_body": False}
    assert heard == [body, {"type": "http.disconnect"}, PeerGoneError]


async def test_a_body_that_is_cut_short_is_a_disconnect(registry: oread.Registry, serve_memory: Any) -> None:
    """It never looks complete."""
    heard: list[Any] = []
    ended = trio.Event()

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while not heard or heard[-1]["type"] == "http.request":
            heard.append(await receive())
        ended.set()

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(get("/app", "Content-Length: 6", method="POST") + b"abc")
        await wait_all_tasks_blocked()
        await client.send_eof()
        await ended.wait()
    assert [message.get("body") for message in heard] == [b"abc", None]


async def test_a_body_over_the_limit_is_413(registry: oread.Registry, serve_memory: Any) -> None:
    """At the head where it says so, else when it gets there."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while (await receive())["type"] == "http.request":
            pass

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0?stream_bytes=10&body_bytes=10") as memory:
        received = await exchange(memory.client, get("/app", "Content-Length: 11", method="POST"))
        assert received.startswith(b"HTTP/1.1 413 ")
        chunks = b"5\r\nabcde\r\n6\r\nabcdef\r\n"
        received = await exchange(
            memory.client, get("/app", "Transfer-Encoding: chunked", method="POST") + chunks
        )
        assert received.startswith(b"HTTP/1.1 413 ")


async def test_work_behind_a_response_holds_nobody_up(registry: oread.Registry, serve_memory: Any) -> None:
    """Its connection goes on, `receive` says so, and a drain waits for it."""
    free = trio.Event()
    heard: list[Any] = []

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await answer(send, b"done")
        heard.append(await receive())
        with pytest.raises(ApplicationError, match="complete"):
            await send({"type": "http.response.body"})
        await free.wait()
        heard.append("worked")

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        received = await exchange(memory.client, get("/app") + get("/none", LAST))
        assert received.count(b"HTTP/1.1 ") == 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.service.drain, 60)
            await wait_all_tasks_blocked()
            assert heard == [{"type": "http.disconnect"}]
            free.set()
    assert heard == [{"type": "http.disconnect"}, "worked"]


async def test_work_behind_responses_is_bounded(
    registry: oread.Registry, serve_memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection can't start any number of background tasks: 503 until some have ended."""
    monkeypatch.setattr("oread.listeners.listener.MOST_LEAVING", 3)
    free = trio.Event()

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await answer(send)
        await free.wait()

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        received = await exchange(memory.client, get("/app") * 5 + get("/none", LAST))
        assert received.count(b"HTTP/1.1 200 ") == 3
        assert received.count(b"HTTP/1.1 503 ") == 2
        free.set()
        await wait_all_tasks_blocked()
        assert (await exchange(memory.client, get("/app", LAST))).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("answered", [False, True])
async def test_a_drain_cancels_at_its_deadline(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock, answered: bool
) -> None:
    """Before and behind the response; each is named."""
    ends: list[str] = []

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if answered:
            await answer(send)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            ends.append("cancelled")
            raise

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(get("/app"))
        await wait_all_tasks_blocked()
        report = await memory.service.drain(3)
        assert len(report.cancelled) == 1
        assert ends == ["cancelled"]


async def test_a_slow_reader_holds_the_application_up(registry: oread.Registry, serve_memory: Any) -> None:
    """`send` waits above the water mark, and goes on when the peer reads."""
    sent = 0

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
            sent += 1
        await send({"type": "http.response.body"})

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        client = memory.client(room=1_000)
        await client.send_all(get("/app", LAST))
        await wait_all_tasks_blocked()
        assert sent < 10
        received = await client.receive_all()
        assert received.endswith(b"\r\n0\r\n\r\n")
        assert sent == 100


async def test_leaving_the_service_cancels_applications(registry: oread.Registry, serve_memory: Any) -> None:
    """In every state; nothing stays open."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/app/sent":
            await answer(send)
        if scope["path"] == "/app/begun":
            await answer(send, b"x", more=True)
        while (await receive())["type"] == "http.request":
            pass
        await trio.sleep_forever()

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        for path in ("/app", "/app/sent", "/app/begun"):
            client = memory.client()
            await client.send_all(get(path, "Content-Length: 9", method="POST") + b"abc")
        await wait_all_tasks_blocked()


# lifespan


class LifespanApp:
    """An application that records its lifespan."""

    def __init__(self, *, fail: str | None = None) -> None:
        self.log: list[Any] = []
        self.fail = fail

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.log.append(scope["state"])
            scope["state"]["mine"] = 1
            await answer(send)
            return
        assert (await receive())["type"] == "lifespan.startup"
        self.log.append("startup")
        scope["state"]["shared"] = 42
        if self.fail is not None:
            await send({"type": "lifespan.startup.failed", "message": self.fail})
            return
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        self.log.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})


async def test_lifespans_are_around_everything_that_is_served(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """One for each application, however often it is mounted; each request has a copy of the state."""
    app = LifespanApp()
    registry.mount_asgi("one", app)
    other = oread.Registry()
    other.mount_asgi("two", app)
    registry.mount("inner", other)
    async with serve_memory("http://:0") as memory:
        assert app.log == ["startup"]
        for path in ("/one", "/inner/two/x"):
            assert (await exchange(memory.client, get(path, LAST))).startswith(b"HTTP/1.1 200 ")
        assert "shutdown" not in app.log
    assert app.log == ["startup", {"shared": 42, "mine": 1}, {"shared": 42, "mine": 1}, "shutdown"]


async def test_an_application_that_cant_start_keeps_the_service_from_starting(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """With its words; those that had started have ended."""
    first, second = LifespanApp(), LifespanApp(fail="Traceback ...\nOSError: no database\n")
    registry.mount_asgi("first", first)
    registry.mount_asgi("second", second)
    with pytest.raises(ApplicationError, match="could not start: OSError: no database") as caught:
        async with serve_memory("http://:0"):
            pytest.fail("it has started")
    assert caught.value.details.startswith("Traceback")
    assert first.log == ["startup", "shutdown"]


async def test_no_lifespan_begins_where_no_http_is_served(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """A service of TCP alone has no use for it."""
    app = LifespanApp()
    registry.mount_asgi("app", app)
    async with serve_memory("tcp://:0/echo"):
        assert app.log == []


async def test_an_application_mounted_while_serving_starts_with_its_first_request(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """One that can't is answered 500."""
    app, failing = LifespanApp(), LifespanApp(fail="no")
    async with serve_memory("http://:0") as memory:
        registry.mount_asgi("late", app)
        registry.mount_asgi("bad", failing)
        assert (await exchange(memory.client, get("/late", LAST))).startswith(b"HTTP/1.1 200 ")
        assert (await exchange(memory.client, get("/bad", LAST))).startswith(b"HTTP/1.1 500 ")
    assert app.log == ["startup", {"shared": 42, "mine": 1}, "shutdown"]


async def test_an_application_that_does_not_end_is_not_waited_for(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """It is cancelled within a bound."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await trio.sleep_forever()

    registry.mount_asgi("app", app)
    begun = trio.current_time()
    async with serve_memory("http://:0"):
        pass
    assert trio.current_time() - begun <= 6


# registering


async def test_what_is_no_application_is_refused(registry: oread.Registry, serve_memory: Any) -> None:
    """With another signature, as a class, beside handlers; it can't be called by other transports."""

    async def old(scope: Any) -> None:
        pass

    for app in (old, LifespanApp, 7):
        with pytest.raises(oread.RegistrationError):
            registry.mount_asgi("app", app)  # type: ignore[arg-type]
    app = LifespanApp()
    registry.mount_asgi("app", app)
    with pytest.raises(oread.RegistrationError):
        registry.on("app/{rest:path}", lambda data: data)
    with pytest.raises(oread.RegistrationError):
        registry.mount_asgi("app", LifespanApp())
    with pytest.raises(oread.BadRequest):
        await registry.emit("app/x")
    [info] = registry.handlers("app/{rest:path}")
    assert (info.kind, info.name.rpartition(".")[2]) == ("asgi", "LifespanApp")
    with pytest.raises(oread.RegistrationError):
        async with serve_memory("tcp://:0/app/x"):
            pass
    assert registry.off("app/{rest:path}", app) == 1


# WebSocket


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Accept, and send every message back."""
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", "subprotocol": "v2", "headers": [(b"x-a", b"b")]})
    while (message := await receive())["type"] == "websocket.receive":
        data = {name: message[name] for name in ("text", "bytes") if message.get(name) is not None}
        await send({"type": "websocket.send", **data})


async def test_websockets_are_the_applications(registry: oread.Registry, serve_memory: Any) -> None:
    """Scope, accept with subprotocol and fields, messages of both kinds, pings beside them."""
    scopes: list[dict[str, Any]] = []

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, "/app/x?q", "Sec-WebSocket-Protocol: v1, v2")
        assert socket.head.startswith(b"HTTP/1.1 101 ")
        assert socket.head.endswith(b"\r\nSec-WebSocket-Protocol: v2\r\nx-a: b")
        await socket.send(frame(TEXT, "ä".encode()), frame(BINARY, b"\xff"), frame(PING))
        assert sorted(await socket.receive(3)) == [(TEXT, "ä".encode()), (BINARY, b"\xff"), (PONG, b"")]
        await socket.send(close(4_001, b"bye"))
        assert await socket.receive_rest() == [(CLOSE, b"4001 bye")]
    [scope] = scopes
    assert (scope["type"], scope["scheme"], scope["subprotocols"]) == ("websocket", "ws", ["v1", "v2"])
    assert (scope["path"], scope["root_path"], scope["query_string"]) == ("/app/x", "/app", b"q")
    assert "method" not in scope


async def test_its_disconnect_has_the_peers_code_behind_all_messages(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """Of a close frame, and 1006 for a reset; what it sends then is an OSError."""
    heard: list[Any] = []

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await trio.sleep(1)
        while not heard or heard[-1]["type"] != "websocket.disconnect":
            heard.append(await receive())
        with pytest.raises(OSError):
            await send({"type": "websocket.send", "text": "late"})

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, "/app")
        await socket.send(frame(TEXT, b"a"), frame(TEXT, b"b"), close(3_000, b"why"))
        await trio.sleep(2)
        assert [message.get("text") for message in heard] == ["a", "b", None]
        assert heard[-1] == {"type": "websocket.disconnect", "code": 3_000, "reason": "why"}
        heard.clear()
        socket = await open_socket(memory, "/app")
        socket.stream.reset()
        await trio.sleep(2)
        assert heard == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


@pytest.mark.parametrize(
    ("sent", "status", "body"),
    [
        ([{"type": "websocket.close"}], b"403", b""),
        (
            [
                {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-a", b"b")]},
                {"type": "websocket.http.response.body", "body": b"who ", "more_body": True},
                {"type": "websocket.http.response.body", "body": b"are you?"},
            ],
            b"401",
            b"who are you?",
        ),
        ([], b"500", b"the handler failed\n"),
        ([{"type": "websocket.send", "text": "early"}], b"500", b"the handler failed\n"),
        ([{"type": "websocket.accept", "subprotocol": "not offered"}], b"500", b"the handler failed\n"),
        ([{"type": "websocket.accept", "headers": [(b"upgrade", b"x")]}], b"500", b"the handler failed\n"),
    ],
)
async def test_what_it_does_not_accept_is_answered_by_http(
    registry: oread.Registry, serve_memory: Any, sent: list[Any], status: bytes, body: bytes
) -> None:
    """403, its own response, or 500 for what it can't say; the connection ends."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        for message in sent:
            await send(message)

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        received = await exchange(memory.client, upgrade("/app"))
        assert received.startswith(b"HTTP/1.1 " + status)
        assert b"\r\nConnection: close\r\n" in received
        assert received.partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize(
    ("end", "answered"),
    [
        ("return", b"1000 "),
        ("raise", b"1011 the application failed"),
        ("close", b"4000 enough"),
    ],
)
async def test_its_end_is_the_connections(
    registry: oread.Registry, serve_memory: Any, end: str, answered: bytes
) -> None:
    """By its own code, 1000 when it returns, 1011 when it fails."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": b"x"})
        if end == "raise":
            raise LookupError("on purpose")
        if end == "close":
            await send({"type": "websocket.close", "code": 4_000, "reason": "enough"})
            with pytest.raises(ApplicationError):
                await send({"type": "websocket.send", "text": "late"})

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        socket = await open_socket(memory, "/app")
        assert await socket.receive(2) == [(BINARY, b"x"), (CLOSE, answered)]
        await socket.send(close(1000))
        assert await socket.receive_rest() == []
        assert memory.service.statistics().endpoints[0].failures == (end == "raise")


async def test_what_it_does_not_take_waits_in_the_peers_socket(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """Above the water mark nothing more is read; in the end all arrives."""
    free = trio.Event()

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await free.wait()
        await echo_rest(receive, send)

    async def echo_rest(receive: Any, send: Any) -> None:
        await receive()
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(len(message["bytes"]))})

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0?ws_ping_seconds=inf") as memory:
        socket = await open_socket(memory, "/app")
        sent = 0
        with trio.move_on_after(0.5):
            while True:
                await socket.send(frame(BINARY, b"x" * 10_000))
                sent += 1
        assert 6 <= sent <= 30
        free.set()
        assert await socket.receive(sent) == [(TEXT, b"10000")] * sent


async def test_a_drain_tells_its_websockets_to_go(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """1001 to both sides; one that is not accepted yet is refused; what does not end is cancelled."""
    heard: list[Any] = []

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/app/slow":
            await trio.sleep_forever()
        await send({"type": "websocket.accept"})
        heard.append(await receive())
        if scope["path"] == "/app/stays":
            await trio.sleep_forever()

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        ends, stays = await open_socket(memory, "/app"), await open_socket(memory, "/app/stays")
        slow = memory.client()
        await slow.send_all(upgrade("/app/slow"))
        await wait_all_tasks_blocked()
        report = await memory.service.drain(10)
        assert len(report.cancelled) == 2
        for socket in (ends, stays):
            assert await socket.receive() == [(CLOSE, b"1001 the service is stopping")]
        assert (await slow.receive_all()).startswith(b"HTTP/1.1 503 ")
    assert heard == [{"type": "websocket.disconnect", "code": 1001, "reason": "the service is stopping"}] * 2


async def test_leaving_the_service_cancels_its_websockets(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """Accepted or not; nothing stays open."""

    async def serve(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/app/accepted":
            await send({"type": "websocket.accept"})
        await trio.sleep_forever()

    registry.mount_asgi("app", without_lifespan(serve))
    async with serve_memory("http://:0") as memory:
        await open_socket(memory, "/app/accepted")
        await memory.client().send_all(upgrade("/app"))
        await wait_all_tasks_blocked()
