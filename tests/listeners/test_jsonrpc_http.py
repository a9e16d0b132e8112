"""JSON-RPC at a path of HTTP: what is refused at the head, and the endpoints of all transports."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

import oread
from listeners.jsonrpc_calls import AS_JSON, HTTP, Held, answer, batch, call, code_of, post
from oread.errors import EndpointError, RegistrationError

REFUSED = {
    "GET": (post("", method="GET"), 405, "Allow: POST"),
    "PUT": (post("{}", AS_JSON, method="PUT"), 405, "Allow: POST"),
    "no content type": (post(call("bytes"), "Origin: null"), 415, ""),
    "a form": (
        post(call("bytes"), "Content-Type: application/x-www-form-urlencoded", "Origin: null"),
        415,
        "",
    ),
    "plain text": (post(call("bytes"), "Content-Type: text/plain", "Origin: http://evil.example"), 415, ""),
    "xml": (post(call("bytes"), "Content-Type: text/xml"), 415, ""),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_no_post_of_json_is_refused_at_the_head(serve_memory: Any, case: str) -> None:
    """A web page can't make a browser send a call to its reader's own machine unasked."""
    request, status, field = REFUSED[case]
    async with serve_memory(HTTP) as memory:
        client = memory.client()
        await client.send_all(request)
        await client.send_eof()
        received = (await client.receive_all()).decode()
    assert received.startswith(f"HTTP/1.1 {status} ")
    assert field in received


async def test_http_serves_both_kinds_on_one_connection(serve_memory: Any) -> None:
    """The path of JSON-RPC is one of many; a content type may have parameters."""
    async with serve_memory(HTTP) as memory:
        client = memory.client()
        await client.send_all(
            post(call("async", "a"), "Content-Type: Application/JSON; charset=utf-8")
            + post("b", path="/waits")
            + post(call("bytes", "c", ""), AS_JSON)
            + post("oops", AS_JSON)
            + post("e", "Connection: close", path="/bytes")
        )
        responses = (await client.receive_all()).decode().split("HTTP/1.1 ")[1:]
    assert [each[:3] for each in responses] == ["200", "200", "204", "200", "200"]
    assert [each.rpartition("\r\n\r\n")[2] for each in (responses[0], responses[1], responses[4])] == [
        answer('"a"'),
        "b",
        "e",
    ]
    assert code_of(responses[3].rpartition("\r\n\r\n")[2]) == -32700


async def test_a_peer_gone_from_http_is_cancelled_after_its_grace(
    serve_memory: Any, registry: oread.Registry, autojump_clock: MockClock
) -> None:
    """The rest of the batch is not begun, and nothing is answered."""
    held = Held()
    registry.on("held", held)
    async with serve_memory(HTTP) as memory:
        client = memory.client()
        await client.send_all(post(batch(call("held", "a"), call("held", "b")), AS_JSON))
        await client.send_eof()
        assert await client.receive_all() == b""
        assert memory.refused["peer_gone"] == 1
    assert held.log == ["a began", "a was cancelled"]


# endpoints


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("tcp://:0/echo?framing=jsonrpc", "the method of each call names its event"),
        ("unix:///tmp/x?framing=jsonrpc&event=echo", "the method of each call names its event"),
        ("udp://:0/echo?framing=jsonrpc", "the method of each call names its event"),
        ("udp://:0/echo?framing=lines", "must be raw or jsonrpc"),
        ("http://:0?rpc=rpc", "must be a path such as /rpc"),
        ("http://:0?rpc=/", "must be a path such as /rpc"),
        ("http://:0?rpc=/a%2520b", "must be a path such as /rpc"),
        ("tcp://:0/echo?rpc=/rpc", "unknown option 'rpc'"),
    ],
)
def test_endpoints_that_make_no_sense_are_refused(url: str, words: str) -> None:
    """With what would."""
    with pytest.raises(EndpointError, match=words):
        oread.Endpoint.parse(url)


async def test_an_event_of_the_same_path_is_refused_at_start(registry: oread.Registry) -> None:
    """One of them could never be called."""
    registry.on("rpc/v1", lambda: None)
    with pytest.raises(RegistrationError, match="what the event 'rpc/v1' would"):
        async with oread.open_service(registry, "http://127.0.0.1:0?rpc=/rpc/v1"):
            pytest.fail("it is served")
    with pytest.raises(RegistrationError, match="openapi=true serves this path"):
        async with oread.open_service(registry, "http://127.0.0.1:0?openapi=true&rpc=/openapi.json"):
            pytest.fail("it is served")


async def test_an_event_of_the_same_path_is_refused_while_serving(registry: oread.Registry) -> None:
    """Nothing has changed then; a hidden event may have the name, and afterwards any."""
    mounted = oread.Registry()
    registry.mount("v1", mounted)
    async with (
        oread.open_service(registry, "http://127.0.0.1:0?rpc=/v1/rpc&openapi=true"),
        oread.open_service(registry, "http://127.0.0.1:0?rpc=/v1/rpc"),
    ):
        for target, event in ((registry, "v1/rpc"), (mounted, "rpc"), (registry, "openapi.json")):
            with pytest.raises(RegistrationError, match="serves what the event"):
                target.on(event, lambda: None)
            assert target.count(event) == 0
        registry.on("v1/{name}", lambda: None)
        with registry.on("v1/rpc", lambda: None, exposed=False):
            assert await registry.emit("v1/rpc") == [None]
    registry.on("v1/rpc", lambda: None)


async def test_a_start_that_failed_keeps_no_name(registry: oread.Registry) -> None:
    """All or nothing, of names as of sockets."""
    registry.on("rpc", lambda: None)
    with pytest.raises(RegistrationError, match="rpc=/rpc serves"):
        async with oread.open_service(registry, "http://127.0.0.1:0?openapi=true&rpc=/rpc"):
            pytest.fail("it is served")
    with pytest.raises(RegistrationError, match="no handler for event"):
        async with oread.open_service(registry, "http://127.0.0.1:0?rpc=/other", "udp://127.0.0.1:0/missing"):
            pytest.fail("it is served")
    registry.on("openapi.json", lambda: None)
    registry.on("other", lambda: None)
