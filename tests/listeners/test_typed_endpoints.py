"""Typed handlers behind endpoints: JSON by HTTP and lines, the document, what raw refuses."""

from __future__ import annotations

import json
from typing import Annotated, Any

import attrs
import msgspec
import pytest

import oread
from listeners.jsonrpc_calls import AS_JSON
from listeners.test_http import ask, post
from oread.listeners.openapi import EVENT


@attrs.define
class Order:
    """A payload."""

    sku: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


def double(order: Order) -> Order:
    """Order twice as much."""
    return Order(order.sku, order.count * 2)


async def double_later(order: Order) -> Order:
    """Order twice as much."""
    return double(order)


def bytearray_of(data: bytes) -> bytearray:
    """Answer by something that can change."""
    return bytearray(data)


@pytest.fixture(autouse=True)
def typed(registry: oread.Registry) -> None:
    registry.on("double", double)
    registry.on("later", double_later)
    registry.on("number", lambda data: 3)
    registry.on("nan", lambda data: [float("nan")])
    registry.on("many", bytearray_of)


async def test_json_goes_in_and_out_by_http(serve_memory: Any) -> None:
    """The reply is application/json; a fault is 400 with its path; NaN is 500 and not told."""
    async with serve_memory("http://:0") as memory:
        for path in ("/double", "/later"):
            [(status, fields, body)] = await ask(memory, post(path, b'{"sku":"a","count":2}', AS_JSON))
            assert (status, fields[b"content-type"]) == (200, b"application/json")
            assert json.loads(body) == {"sku": "a", "count": 4}
            [(status, _, body)] = await ask(memory, post(path, b'{"sku":"a","count":0}', AS_JSON))
            assert (status, b"$.count: Expected `int` >= 1" in body) == (400, True)
            [(status, _, body)] = await ask(memory, post(path, b""))
            assert (status, b"order is needed as JSON" in body) == (400, True)
        [(status, fields, body)] = await ask(memory, post("/number", b""))
        assert (status, fields[b"content-type"], body) == (200, b"application/json", b"3")
        [(status, fields, body)] = await ask(memory, post("/many", b"x"))
        assert (status, fields[b"content-type"], body) == (200, b"application/octet-stream", b"x")
        [(status, _, body)] = await ask(memory, post("/nan", b""))
        assert (status, b"NaN" in body) == (500, False)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([], 200),
        (["Content-Type: text/plain"], 200),
        (["Content-Type: application/x-www-form-urlencoded"], 200),
        (["Origin: http://evil.example"], 415),
        (["Content-Type: text/plain; x=application/json", "Origin: null"], 415),
        (["Content-Type: application/x-www-form-urlencoded", "Origin: http://evil.example"], 415),
        (["Content-Type: multipart/form-data; boundary=x"], 415),
        (["Content-Type: application/xml"], 415),
        (["Content-Type: Application/JSON; charset=utf-8", "Origin: http://127.0.0.1"], 200),
        (["Content-Type: application/vnd.oread+json"], 200),
        (["Content-Type: application/octet-stream"], 200),
    ],
)
@pytest.mark.parametrize("event", ["double", "later"])
async def test_what_a_web_page_can_send_unasked_is_no_json(
    serve_memory: Any, event: str, fields: list[str], status: int
) -> None:
    """The type is looked at before the body is read, and only where there is one for a typed handler."""
    async with serve_memory("http://:0") as memory:
        [(given, _, body)] = await ask(memory, post(f"/{event}", b'{"sku":"a"}', *fields))
        assert given == status
        assert (b"Content-Type: application/json is needed" in body) == (status == 415)
        assert memory.refused == ({"http_415": 1} if status == 415 else {})
        [(given, *_)] = await ask(memory, post("/number", b"any", *fields))
        assert given == 200


@pytest.mark.parametrize("event", ["double", "later"])
async def test_json_goes_in_and_out_by_lines(serve_memory: Any, event: str) -> None:
    """One document a line, on the same handler."""
    async with serve_memory(f"tcp://:0/{event}?framing=lines") as memory:
        client = memory.client()
        await client.send_all(b'{"sku":"a"}\n{"sku":"b","count":3}\n')
        await client.send_eof()
        replies = (await client.receive_all()).splitlines()
    assert [json.loads(reply)["count"] for reply in replies] == [2, 6]


@pytest.mark.parametrize("event", ["double", "later"])
async def test_raw_endpoints_refuse_json(serve_memory: Any, event: str) -> None:
    """A chunk may be cut anywhere, which is said at start."""
    with pytest.raises(oread.RegistrationError, match=r"takes JSON, but a chunk .* add \?framing=lines"):
        async with serve_memory(f"tcp://:0/{event}"):
            pass


async def test_document_is_served_when_asked_for(registry: oread.Registry, serve_memory: Any) -> None:
    """GET and HEAD only, of the handlers as they are now; without the option there is none."""
    get = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
    async with serve_memory("http://:0?openapi=true") as memory:
        [(status, fields, body)] = await ask(memory, get, b"GET")
        assert (status, fields[b"content-type"]) == (200, b"application/json")
        assert "/double" in json.loads(body)["paths"]
        with registry.on("new", double):
            [(_, _, body)] = await ask(memory, get, b"GET")
            assert "/new" in json.loads(body)["paths"]
        replies = await ask(memory, get + get.replace(b"GET", b"HEAD"), b"GET", b"HEAD")
        assert "/new" not in json.loads(replies[0][2])["paths"]
        assert (replies[1][0], replies[1][2]) == (200, b"")
        [(status, fields, _)] = await ask(memory, post("/openapi.json", b""))
        assert (status, fields[b"allow"]) == (405, b"GET, HEAD, OPTIONS")
    async with serve_memory("http://:0") as memory:
        [(status, *_)] = await ask(memory, get, b"GET")
        assert status == 404


async def test_document_beside_an_event_of_its_name_is_refused(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """Which of the two would answer is not to be guessed."""
    registry.on(EVENT, lambda data: data)
    with pytest.raises(oread.RegistrationError, match=r"openapi=true serves what the event"):
        async with serve_memory("http://:0?openapi=true"):
            pass
