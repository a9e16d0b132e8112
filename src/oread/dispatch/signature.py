"""Read what a handler wants from its signature, once, at registration.

A parameter named like a capture gets the capture; one annotated `Message`,
`HttpRequest` or `Datagram` gets the whole message; the one that is left is
the payload and its annotation picks the decoding. What cannot be satisfied is
refused here, with the handler's name and what would work.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_origin

import attrs
import msgspec

from oread.errors import RegistrationError
from oread.messages import Message

PAYLOAD_KINDS: Mapping[object, str] = {
    inspect.Parameter.empty: "bytes",
    Any: "bytes",
    bytes: "bytes",
    memoryview: "memoryview",
    str: "str",
}
"""Annotation of the payload parameter: how the payload is given."""


@attrs.frozen(kw_only=True)
class Plan:
    """What a handler wants of each message, in the order of its parameters."""

    is_async: bool
    payload: str | None
    """A value of `PAYLOAD_KINDS`, or None when the handler takes no payload."""
    message: type[Message] | None
    captures: Mapping[str, Any]
    """Capture name: the annotation that its text is converted to."""
    positional: tuple[str, ...]
    keyword: tuple[str, ...]
    roles: Mapping[str, str]
    """Parameter name: `payload`, `message` or `capture`."""


def handler_name(handler: object) -> str:
    """Name a handler as a person would look for it in the source."""
    module = getattr(handler, "__module__", None)
    name = getattr(handler, "__qualname__", None) or type(handler).__qualname__
    return f"{module}.{name}" if module else str(name)


def _signature(handler: Callable[..., Any], name: str) -> inspect.Signature:
    try:
        return inspect.signature(handler, eval_str=True)
    except NameError as error:
        raise RegistrationError(f"{name}: annotation cannot be resolved: {error}") from error
    except (TypeError, ValueError) as error:
        raise RegistrationError(
            f"{name}: has no signature that can be read; wrap it in a function"
        ) from error


def is_async_callable(handler: Callable[..., Any]) -> bool:
    """Tell whether calling it gives a coroutine (partials and objects too)."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def _refuse_generators(handler: Callable[..., Any], name: str) -> None:
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise RegistrationError(f"{name}: handlers that yield are not served yet; return the whole reply")


def _is_message(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Message)


def read_signature(handler: Callable[..., Any], captures: tuple[str, ...]) -> Plan:
    """Work out the plan of one handler for a pattern with these captures.

    Raises:
        RegistrationError: a parameter that nothing can fill, two payloads, a
            payload type that is not served, a memoryview in an async handler.
    """
    name = handler_name(handler)
    _refuse_generators(handler, name)
    is_async = is_async_callable(handler)
    payload: str | None = None
    message: type[Message] | None = None
    wanted: dict[str, Any] = {}
    positional: list[str] = []
    keyword: list[str] = []
    roles: dict[str, str] = {}
    for parameter in _signature(handler, name).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation = parameter.annotation
        if parameter.name in captures:
            wanted[parameter.name], role = _capture_type(name, parameter), "capture"
        elif _is_message(annotation):
            message, role = annotation, "message"
        elif payload is None:
            payload, role = _payload_kind(name, parameter), "payload"
        elif parameter.default is not parameter.empty:
            if parameter.kind is not parameter.KEYWORD_ONLY:
                break  # later positional ones could not be reached without it
            continue
        else:
            raise RegistrationError(
                f"{name}: parameter {parameter.name!r} can't be filled: the payload is taken and the "
                f"pattern captures {', '.join(captures) or 'nothing'}"
            )
        roles[parameter.name] = role
        (keyword if parameter.kind is parameter.KEYWORD_ONLY else positional).append(parameter.name)
    if is_async and payload == "memoryview":
        raise RegistrationError(f"{name}: a memoryview is valid during a sync call only; take bytes")
    return Plan(
        is_async=is_async,
        payload=payload,
        message=message,
        captures=wanted,
        positional=tuple(positional),
        keyword=tuple(keyword),
        roles=roles,
    )


def _capture_type(name: str, parameter: inspect.Parameter) -> Any:
    annotation = parameter.annotation
    if annotation in (parameter.empty, Any, str):
        return str
    try:
        msgspec.convert("", annotation, strict=False)
    except msgspec.ValidationError:
        return annotation  # the type is fine, only the empty text is not
    except TypeError as error:
        raise RegistrationError(f"{name}: capture {parameter.name!r}: {error}") from error
    return annotation


def _payload_kind(name: str, parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    kind = None if get_origin(annotation) else PAYLOAD_KINDS.get(annotation)
    if kind is None:
        raise RegistrationError(
            f"{name}: payload {parameter.name!r} is annotated {annotation!r}; "
            f"served are bytes, memoryview, str, Message, HttpRequest and Datagram"
        )
    return kind
