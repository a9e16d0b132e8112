"""Describe events: JSON Schema 2020-12 of one handler, OpenAPI 3.1 of all.

Both are read from the signatures again, so they say what registration saw.
An annotation that has no schema (an object of the program's own as a reply)
is described as anything; nothing here refuses a handler that is served.

Not here: who asks for it (`oread handlers --json`, `?openapi=true`).

Source: https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

import collections.abc
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, get_args, get_origin
from urllib.parse import quote

import attrs
import msgspec

from oread.dispatch.parts import PARTS
from oread.dispatch.payload import BYTES_TYPE, JSON_TYPE, TEXT_TYPE
from oread.dispatch.signature import Plan, plain_kind, read_signature, resolve_signature, split_union
from oread.dispatch.table import Pattern
from oread.messages import FileReply, HttpResponse, Reply, ServerSentEvent

DIALECT = "https://json-schema.org/draft/2020-12/schema"
EVENTS_TYPE = "text/event-stream"
LINES_TYPE = "application/x-ndjson"
MEDIA_TYPES = {
    "bytes": BYTES_TYPE,
    "memoryview": BYTES_TYPE,
    PARTS: BYTES_TYPE,
    "str": TEXT_TYPE,
    "json": JSON_TYPE,
}
INDEX = "index"
"""The event of the path `/`."""
DESCRIBED_METHODS = ("GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE")
"""The methods that an OpenAPI path item can have."""

NOT_JSON = "415"
"""Told of what takes JSON alone."""

_NAME = re.compile(r"\{[^}]*\}")
_COMPONENTS = "#/components/{}/{}"
_STREAMS = (
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
)
_RETRY = {"Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer"}}}
_ALLOW = {"Allow": {"description": "The methods that are served.", "schema": {"type": "string"}}}
_FAULTS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "400": ("BadRequest", "The request is not what the handler takes; the text names the fault.", {}),
    "404": ("NotFound", "Nothing is served under this path.", {}),
    "405": ("NotAllowed", "The path is served, but not for this method.", _ALLOW),
    "413": ("TooLarge", "The body is larger than the endpoint takes.", {}),
    NOT_JSON: ("NotJson", "The Content-Type of the body says that it is not JSON, or nothing.", {}),
    "500": ("HandlerError", "The handler failed.", {}),
    "503": ("Busy", "There is no room for this request now.", _RETRY),
    "504": ("TimedOut", "The handler's deadline passed.", {}),
}
"""Status: name, meaning and header fields of what is answered instead of a reply."""


class Described(Protocol):
    """One handler as the registry lists it."""

    @property
    def event(self) -> str:
        """The name or pattern it is registered under."""

    @property
    def kind(self) -> str:
        """`session` and `subscription` answer no message; `asgi` describes itself."""

    @property
    def methods(self) -> tuple[str, ...] | None:
        """The HTTP methods it serves; None is any."""

    @property
    def exposed(self) -> bool:
        """Whether endpoints serve it."""

    @property
    def handler(self) -> Callable[..., Any]:
        """The function."""


@attrs.frozen
class _Reply:
    """One kind of what a handler may return."""

    media: str
    """Its media type; empty for no reply at all."""
    kind: Any = None
    """The annotation, where there is something to describe; of a stream that of one item."""
    streams: bool = False


@attrs.frozen(kw_only=True)
class _Contract:
    """What goes into one handler and what comes out, as types."""

    plan: Plan
    captures: Mapping[str, Any]
    """Every capture of the pattern; str where the handler doesn't take it."""
    replies: tuple[_Reply, ...]
    summary: str
    description: str

    @property
    def types(self) -> list[Any]:
        """Everything that a schema may be asked for."""
        taken = [self.plan.payload_type] if self.plan.decode is not None else []
        return [*taken, *self.captures.values(), *(reply.kind for reply in self.replies)]


def answers_messages(info: Described) -> bool:
    """Tell whether there is a payload and a reply to describe."""
    return info.kind not in ("session", "subscription", "asgi")


def event_schema(info: Described) -> dict[str, Any]:
    """Describe payload, reply and captures of one handler.

    Returns:
        `payload` and `reply` (None when there is none) and `captures` by
        name, each a JSON Schema that stands alone. What is not JSON is a
        string with a `contentMediaType`; of a stream of JSON values, one a
        line, `contentSchema` is that of a line. Several kinds of reply are
        `anyOf`.
    """
    contract = _read_contract(info)
    replies = [reply for reply in contract.replies if reply.media]
    plan = contract.plan
    return {
        "payload": plan.payload and _alone(_Reply(MEDIA_TYPES[plan.payload], plan.payload_type)),
        "reply": _alone(*replies) if replies else None,
        "captures": {name: _alone(_Reply(JSON_TYPE, kind)) for name, kind in contract.captures.items()},
    }


def openapi(title: str, version: str, infos: Iterable[Described]) -> dict[str, Any]:
    """Describe what an http endpoint serves, as an OpenAPI 3.1 document.

    Handlers that are not exposed, sessions and methods that OpenAPI has no
    place for are left out. Of a handler that names no methods the ones are
    described that fit it: POST where it takes a payload, GET where it can do
    without. Where a tail and a capture are one template, the capture is told.
    """
    groups: dict[str, list[tuple[Described, _Contract]]] = {}
    for info in infos:
        if info.exposed and answers_messages(info):
            groups.setdefault(info.event, []).append((info, _read_contract(info)))
    kinds = [kind for group in groups.values() for _, contract in group for kind in contract.types]
    book = _Schemas.make(kinds, _COMPONENTS.format("schemas", "{name}"))
    paths: dict[str, Any] = {}
    for event in sorted(groups, key=_is_tail):
        item, path = _path_item(event, groups[event], book), _path(event)
        has_method = not item.keys() <= {"parameters"}
        if has_method and not any(_same_path(path, other) for other in paths):
            paths[path] = item
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": book.components,
            "responses": {name: _fault(text, headers) for name, text, headers in _FAULTS.values()},
        },
    }


@attrs.frozen(kw_only=True)
class _Schemas:
    """The schemas of many types, which share their components."""

    components: Mapping[str, Any]
    _known: Sequence[tuple[Any, Mapping[str, Any]]]

    @classmethod
    def make(cls, kinds: Iterable[Any], reference: str) -> _Schemas:
        kept = [kind for kind in kinds if kind is not None and _has_schema(kind)]
        schemas, components = msgspec.json.schema_components(kept, ref_template=reference)
        return cls(components=components, known=list(zip(kept, schemas, strict=True)))

    def find(self, kind: Any) -> Mapping[str, Any]:
        """Return the schema of a type; of what has none, that of anything."""
        return next((schema for known, schema in self._known if known is kind or known == kind), {})


def _has_schema(kind: Any) -> bool:
    try:
        msgspec.json.schema(kind)
    except (TypeError, ValueError, NameError, AttributeError, RecursionError):
        return False
    return True


def _alone(*replies: _Reply) -> dict[str, Any]:
    """Return one schema of one or several kinds, with its definitions."""
    book = _Schemas.make([reply.kind for reply in replies], "#/$defs/{name}")
    parts = [_part(reply, book) for reply in replies]
    whole = parts[0] if len(parts) == 1 else {"anyOf": parts}
    return {"$schema": DIALECT, **whole, **({"$defs": book.components} if book.components else {})}


def _part(reply: _Reply, book: _Schemas) -> dict[str, Any]:
    described = dict(book.find(reply.kind))
    if reply.media == JSON_TYPE:
        return described
    whole: dict[str, Any] = {"type": "string", "contentMediaType": reply.media}
    return whole | ({"contentSchema": described} if reply.media == LINES_TYPE else described)


def _read_contract(info: Described) -> _Contract:
    plan = read_signature(info.handler, Pattern.parse(info.event).captures)
    summary, _, rest = (inspect.getdoc(info.handler) or "").partition("\n")
    return _Contract(
        plan=plan,
        captures={name: plan.captures.get(name, str) for name in Pattern.parse(info.event).captures},
        replies=tuple(_replies(resolve_signature(info.handler).return_annotation)),
        summary=summary,
        description=rest.strip(),
    )


def _replies(annotation: Any) -> Iterator[_Reply]:
    """Yield what a handler may return, JSON kinds as one."""
    if annotation is inspect.Signature.empty or annotation is Any:
        yield _Reply("*/*")
        return
    kinds = []
    for each in split_union(annotation):
        origin = get_origin(each) or each
        if each is None or each is type(None):
            yield _Reply("")
        elif isinstance(origin, type) and issubclass(origin, (Reply, HttpResponse, FileReply)):
            yield _Reply("*/*")
        elif origin in _STREAMS:
            yield _stream((*get_args(each), Any)[0])
        elif plain_kind(each)[0] is not None:
            yield _Reply(MEDIA_TYPES[str(plain_kind(each)[0])])
        else:
            kinds.append(each)
    if kinds:
        together = kinds[0]
        for each in kinds[1:]:
            together = together | each
        yield _Reply(JSON_TYPE, together)


def _stream(item: Any) -> _Reply:
    kind = plain_kind(item)[0]
    if kind is not None:
        return _Reply(MEDIA_TYPES[kind], streams=True)
    if isinstance(item, type) and issubclass(item, (Reply, HttpResponse, ServerSentEvent)):
        return _Reply("*/*", streams=True)
    return _Reply(LINES_TYPE, item, streams=True)


def _path(event: str) -> str:
    """Write a pattern as a path template; a tail looks like a capture there."""
    if event == INDEX:
        return "/"
    segments = Pattern.parse(event).segments
    return "/" + "/".join(
        quote(text, safe="!$&'()*+,;=:@~") if kind == "literal" else f"{{{text}}}" for kind, text in segments
    )


def _is_tail(event: str) -> bool:
    return any(kind == "tail" for kind, _ in Pattern.parse(event).segments)


def _same_path(path: str, other: str) -> bool:
    """Tell whether OpenAPI takes two templates for one: names in braces don't count."""
    return _NAME.sub("{}", path) == _NAME.sub("{}", other)


def _path_item(event: str, group: Sequence[tuple[Described, _Contract]], book: _Schemas) -> dict[str, Any]:
    tails = {name for kind, name in Pattern.parse(event).segments if kind == "tail"}
    captures = {name: kind for _, contract in reversed(group) for name, kind in contract.captures.items()}
    item: dict[str, Any] = {}
    if captures:
        item["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": book.find(kind),
                **({"description": "The tail of the path; slashes are part of it."} if name in tails else {}),
            }
            for name, kind in captures.items()
        ]
    for method in DESCRIBED_METHODS:
        serving = [contract for info, contract in group if method in _methods(info, contract.plan)]
        if serving:
            item[method.lower()] = _operation(method, serving, book)
    return item


def _methods(info: Described, plan: Plan) -> tuple[str, ...]:
    if info.methods is not None:
        return info.methods
    if plan.payload is None:
        return ("GET",) if plan.message is None else ("GET", "POST")
    return ("GET", "POST") if any(plan.roles[name] == "payload" for name in plan.defaults) else ("POST",)


def _operation(method: str, serving: Sequence[_Contract], book: _Schemas) -> dict[str, Any]:
    """Describe one method of a path; the first handler that says something speaks for all."""
    operation: dict[str, Any] = {}
    told = next((contract for contract in serving if contract.summary), serving[0])
    if told.summary:
        operation["summary"] = told.summary
    if told.description:
        operation["description"] = told.description
    taking = [contract.plan for contract in serving if contract.plan.payload is not None]
    if taking and method not in ("GET", "HEAD", "TRACE"):
        plan = next((plan for plan in taking if plan.payload == "json"), taking[0])
        operation["requestBody"] = _request_body(plan, book)
    takes_json = JSON_TYPE in operation.get("requestBody", {}).get("content", {})
    answering = [contract for contract in serving if any(reply.media for reply in contract.replies)]
    operation["responses"] = {
        **_responses((answering or serving)[0], book),
        **{
            status: {"$ref": _COMPONENTS.format("responses", name)}
            for status, (name, *_) in _FAULTS.items()
            if takes_json or status != NOT_JSON
        },
    }
    return operation


def _request_body(plan: Plan, book: _Schemas) -> dict[str, Any]:
    schema = {} if plan.decode is None else book.find(plan.payload_type)
    return {
        "required": plan.payload == "json"
        and not any(plan.roles[name] == "payload" for name in plan.defaults),
        "content": {MEDIA_TYPES[str(plan.payload)]: {"schema": schema} if schema else {}},
    }


def _responses(contract: _Contract, book: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    content: dict[str, Any] = {}
    for reply in contract.replies:
        if reply.media:
            name = "x-item-schema" if reply.media == LINES_TYPE else "schema"  # 3.1 has no word for an item's
            content[reply.media] = {} if reply.kind is None else {name: book.find(reply.kind)}
        if reply.streams:
            content[EVENTS_TYPE] = {}
    if content:
        responses["200"] = {"description": "The reply.", "content": content}
    if any(not reply.media for reply in contract.replies):
        responses["204"] = {"description": "No reply."}
    return responses


def _fault(text: str, headers: Mapping[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": text, "content": {TEXT_TYPE: {"schema": {"type": "string"}}}}
    return described | ({"headers": dict(headers)} if headers else {})
