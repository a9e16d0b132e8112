"""Schemas of events, and the OpenAPI document: valid, complete, and what is left out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import attrs
import msgspec
import pytest
from openapi_spec_validator import validate

from oread.dispatch.schema import DIALECT, event_schema, openapi
from oread.messages import HttpRequest, HttpResponse, Message, Reply, ServerSentEvent


@attrs.define
class Item:
    """A part of a payload."""

    sku: str
    price: Annotated[float, msgspec.Meta(ge=0)] = 0.0


@attrs.define
class Order:
    """A payload."""

    items: list[Item]


@attrs.define
class Receipt:
    """A reply."""

    total: float


@attrs.frozen
class Info:
    """A handler as a registry lists it."""

    event: str
    handler: Callable[..., Any]
    kind: str = "sync"
    methods: tuple[str, ...] | None = None
    exposed: bool = True


class Opaque:
    """A type that has no schema."""


def order(order_id: Annotated[int, msgspec.Meta(ge=1)], order: Order, message: Message) -> Receipt | None:
    """Take an order.

    All of it.
    """


def echo(data: bytes) -> bytes:
    return data


def shout(text: str) -> str | Receipt:
    return text


def items(count: int = 3) -> Iterator[Item]:
    yield Item("a")


async def events() -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(b"")


async def lines() -> AsyncIterator[str]:
    yield ""


def untold(data):  # type: ignore[no-untyped-def]
    return data


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def opaque() -> Opaque | Reply:
    return Opaque()


async def session(stream: Any) -> None: ...


ALL = [
    Info("orders/{order_id}", order),
    Info("orders/{order_id}", echo, methods=("GET", "BREW")),
    Info("echo", echo),
    Info("shout", shout),
    Info("items", items),
    Info("events", events, kind="async"),
    Info("lines", lines, kind="async"),
    Info("untold", untold),
    Info("index", page),
    Info("opaque", opaque),
    Info("files/{rest:path}", page, methods=("GET",)),
    Info("files/{name}", echo),
    Info("a b/ä", echo),
    Info("only/brewed", echo, methods=("BREW",)),
    Info("only/{brewed}/too", echo, methods=("BREW",)),
    Info("hidden", echo, exposed=False),
    Info("chat", session, kind="session"),
    Info("heard", echo, kind="subscription"),
]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi("Shop", "2.1", ALL)


def test_document_is_valid(document: dict[str, Any]) -> None:
    """An independent validator of OpenAPI 3.1 finds no fault."""
    validate(document)
    assert document["openapi"] == "3.1.0"
    assert document["info"] == {"title": "Shop", "version": "2.1"}
    assert validate(openapi("Nothing", "1", [])) is None
    msgspec.json.encode(document)


def test_paths_and_methods_are_those_that_are_served(document: dict[str, Any]) -> None:
    """Hidden ones, sessions and methods without a place are left out; a capture wins over a tail."""
    assert {path: sorted(set(item) - {"parameters"}) for path, item in document["paths"].items()} == {
        "/orders/{order_id}": ["get", "post"],
        "/echo": ["post"],
        "/shout": ["post"],
        "/items": ["get", "post"],
        "/events": ["get"],
        "/lines": ["get"],
        "/untold": ["post"],
        "/": ["get", "post"],
        "/opaque": ["get"],
        "/files/{name}": ["post"],
        "/a%20b/%C3%A4": ["post"],
    }


def test_operation_says_what_goes_in_and_out(document: dict[str, Any]) -> None:
    """Summary, parameters, body, reply and the refusals, with shared components."""
    item = document["paths"]["/orders/{order_id}"]
    assert item["parameters"] == [
        {"name": "order_id", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}}
    ]
    post = item["post"]
    assert (post["summary"], post["description"]) == ("Take an order.", "All of it.")
    assert post["requestBody"] == {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}},
    }
    assert post["responses"]["200"]["content"] == {
        "application/json": {"schema": {"$ref": "#/components/schemas/Receipt"}}
    }
    assert sorted(post["responses"]) == ["200", "204", "400", "404", "405", "413", "415", "500", "503", "504"]
    assert "requestBody" not in item["get"]
    assert "415" not in item["get"]["responses"]
    assert sorted(document["components"]["schemas"]) == ["Item", "Order", "Receipt"]
    responses = document["components"]["responses"]
    assert responses["Busy"]["headers"]["Retry-After"]["schema"] == {"type": "integer"}
    assert "Allow" in responses["NotAllowed"]["headers"]


def test_replies_have_their_media_types(document: dict[str, Any]) -> None:
    """Bytes, text, JSON, streams of each, and what is said by the reply itself."""

    def media(path: str, method: str) -> list[str]:
        return sorted(document["paths"][path][method]["responses"]["200"]["content"])

    assert media("/echo", "post") == ["application/octet-stream"]
    assert media("/shout", "post") == ["application/json", "text/plain; charset=utf-8"]
    assert media("/items", "get") == ["application/x-ndjson", "text/event-stream"]
    assert media("/events", "get") == ["*/*", "text/event-stream"]
    assert media("/lines", "get") == ["text/event-stream", "text/plain; charset=utf-8"]
    assert media("/untold", "post") == media("/", "get") == ["*/*"]
    assert media("/opaque", "get") == ["*/*", "application/json"]
    assert document["paths"]["/items"]["post"]["requestBody"]["required"] is False


def test_event_schemas_stand_alone() -> None:
    """Payload, reply and captures of one handler, each with its own definitions."""
    schema = event_schema(ALL[0])
    assert schema["payload"]["$ref"] == "#/$defs/Order"
    assert sorted(schema["payload"]["$defs"]) == ["Item", "Order"]
    assert schema["reply"]["$ref"] == "#/$defs/Receipt"
    assert schema["captures"] == {"order_id": {"$schema": DIALECT, "type": "integer", "minimum": 1}}
    assert event_schema(Info("echo", echo)) == {
        "payload": {"$schema": DIALECT, "type": "string", "contentMediaType": "application/octet-stream"},
        "reply": {"$schema": DIALECT, "type": "string", "contentMediaType": "application/octet-stream"},
        "captures": {},
    }
    streamed = event_schema(Info("items", items))["reply"]
    assert streamed["contentSchema"] == {"$ref": "#/$defs/Item"}
    assert "Item" in streamed["$defs"]
    assert event_schema(Info("shout", shout))["reply"]["anyOf"][1] == {"$ref": "#/$defs/Receipt"}
    assert event_schema(Info("opaque", opaque))["payload"] is None
    assert event_schema(Info("opaque", opaque))["reply"]["anyOf"][1] == {}


async def nothing(message: Message) -> None: ...


def test_no_reply_has_no_schema() -> None:
    """A handler that never answers is described as one: 204 and no content."""
    assert event_schema(Info("nothing", nothing))["reply"] is None
    responses = openapi("t", "1", [Info("nothing", nothing)])["paths"]["/nothing"]["post"]["responses"]
    assert "204" in responses
    assert "200" not in responses
