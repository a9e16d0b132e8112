"""`openapi=true` on `http`: GET /openapi.json tells what the endpoint serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from oread.dispatch import Entry, Link, compile_entry, read_signature
from oread.dispatch.json_payload import encode_json
from oread.dispatch.payload import JSON_TYPE
from oread.dispatch.schema import Described, openapi
from oread.messages import HttpResponse

EVENT = "openapi.json"
"""What the document would be as an event; none may be called so beside it."""
TITLE = "oread"
VERSION = "1"
"""Of what is described; a registry has no version of its own."""


class Listing(Protocol):
    """The registry, as far as it is described."""

    def handlers(self) -> Sequence[Described]:
        """List all handlers."""


def make_openapi_entry(registry: Listing) -> Entry:
    """Make what answers GET /openapi.json.

    The document is made again when the handlers are others, and not for each
    request: that would cost milliseconds of the reactor at a peer's wish.
    """
    tell = _make_teller(registry.handlers)
    link = Link(handler=tell, name="openapi", plan=read_signature(tell, ()), methods=("GET",))
    return compile_entry(EVENT, [link])


def _make_teller(list_handlers: Callable[[], Sequence[Described]]) -> Callable[[], HttpResponse]:
    told: Sequence[Described] | None = None
    response = HttpResponse()

    def tell() -> HttpResponse:
        nonlocal told, response
        infos = list_handlers()
        if infos != told:
            body = encode_json(openapi(TITLE, VERSION, infos))
            told, response = infos, HttpResponse(body, headers=(("Content-Type", JSON_TYPE),))
        return response

    return tell
