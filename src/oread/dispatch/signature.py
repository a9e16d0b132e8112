"""Read what a handler wants from its signature, once, at registration.

A parameter named like a capture gets the capture; one annotated `Message`,
`HttpRequest` or `Datagram` gets the whole message; of those that are left the
payload goes to the first without a default, else to the first, and its
annotation picks the decoding. What cannot be satisfied is refused here, with
the handler's name and what would work.
"""

from __future__ import annotations

import inspect
import types as python_types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

import attrs
import msgspec
import msgspec.inspect as types

from oread.dispatch.json_payload import check_json_type, make_json_decoder
from oread.dispatch.parts import PARTS, is_parts
from oread.errors import BadRequest, RegistrationError
from oread.messages import Message

PAYLOAD_KINDS: Mapping[object, str] = {
    inspect.Parameter.empty: "bytes",
    Any: "bytes",
    bytes: "bytes",
    memoryview: "memoryview",
    str: "str",
}
"""Annotation of the payload parameter: how the payload is given; `json` for every other."""

SERVED = (
    "served are bytes, memoryview, str, AsyncIterator[bytes], Message, HttpRequest, Datagram, and what JSON "
    "can be decoded into: attrs classes, dataclasses, TypedDict, unions, list, dict, int ..."
)

_TEXT_TYPES = (
    types.StrType,
    types.IntType,
    types.FloatType,
    types.BoolType,
    types.NoneType,
    types.DecimalType,
    types.UUIDType,
    types.DateTimeType,
    types.DateType,
    types.TimeType,
    types.TimeDeltaType,
    types.EnumType,
    types.LiteralType,
)
"""What the text of a capture can be converted to."""


@attrs.frozen(kw_only=True)
class Plan:
    """What a handler wants of each message, in the order of its parameters."""

    is_async: bool
    """A call gives a coroutine."""
    streams: bool = False
    """A call gives an iterator, or an async one: it is a generator function."""
    payload: str | None
    """A value of `PAYLOAD_KINDS`, `json`, `parts`, or None when the handler takes no payload."""
    payload_type: Any = None
    """The annotation of the payload parameter, where `decode` is set."""
    decode: Callable[[Any], Any] | None = None
    """`decode(data) -> value` for `json`; for the others a check of the value, where it has bounds."""
    message: type[Message] | None
    """What every message must be for this handler to be called; None when it does not ask for the message."""
    messages: Mapping[str, tuple[type[Message], ...]] = attrs.field(factory=dict)
    """Parameter name: the kinds of message that it takes."""
    captures: Mapping[str, Any]
    """Capture name: the annotation that its text is converted to."""
    positional: tuple[str, ...]
    keyword: tuple[str, ...]
    roles: Mapping[str, str]
    """Parameter name: `payload`, `message` or `capture`."""
    defaults: Mapping[str, Any] = attrs.field(factory=dict)
    """Parameter name: what it gets when there is nothing to give it."""


def handler_name(handler: object) -> str:
    """Name a handler as a person would look for it in the source."""
    module = getattr(handler, "__module__", None)
    name = getattr(handler, "__qualname__", None) or type(handler).__qualname__
    return f"{module}.{name}" if module else str(name)


def resolve_signature(handler: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a handler, its annotations evaluated.

    Raises:
        RegistrationError: an annotation names nothing, or there is no signature.
    """
    name = handler_name(handler)
    try:
        return inspect.signature(handler, eval_str=True)
    except (NameError, AttributeError, SyntaxError) as error:
        raise RegistrationError(
            f"{name}: annotation cannot be resolved: {error}; "
            f"types of handlers are defined in a module, not in a function"
        ) from error
    except (TypeError, ValueError) as error:
        raise RegistrationError(
            f"{name}: has no signature that can be read; wrap it in a function"
        ) from error


def is_async_callable(handler: Callable[..., Any]) -> bool:
    """Tell whether calling it gives a coroutine (partials and objects too)."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)


def is_async_generator_callable(handler: Callable[..., Any]) -> bool:
    """Tell whether calling it gives an async generator."""
    return inspect.isasyncgenfunction(handler) or inspect.isasyncgenfunction(type(handler).__call__)


def is_generator_callable(handler: Callable[..., Any]) -> bool:
    """Tell whether calling it gives a generator, sync or async."""
    return is_async_generator_callable(handler) or any(
        inspect.isgeneratorfunction(function) for function in (handler, type(handler).__call__)
    )


def read_signature(handler: Callable[..., Any], captures: tuple[str, ...]) -> Plan:
    """Work out the plan of one handler for a pattern with these captures.

    Raises:
        RegistrationError: a parameter that nothing can fill, two payloads, a
            payload type that is not served, a memoryview that would be used
            after the call.
    """
    name = handler_name(handler)
    parameters = [
        parameter
        for parameter in resolve_signature(handler).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    roles = _assign_roles(name, parameters, captures)
    positional, keyword = _order(parameters, roles)
    named = {parameter.name: parameter for parameter in parameters}
    messages = {each: _message_types(named[each].annotation) for each in roles if roles[each] == "message"}
    payload = next((named[each] for each in roles if roles[each] == "payload"), None)
    kind, decode = _read_payload(name, payload)
    is_async, streams = is_async_callable(handler), is_generator_callable(handler)
    if (is_async or streams) and kind == "memoryview":
        raise RegistrationError(f"{name}: a memoryview is valid during a sync call only; take bytes")
    if kind == PARTS and payload is not None:
        _check_parts(name, handler, payload)
    defaults = {
        each: named[each].default for each in roles if named[each].default is not inspect.Parameter.empty
    }
    optional = {each: None for each in messages if _allows_none(named[each].annotation)}
    return Plan(
        is_async=is_async,
        streams=streams,
        payload=kind,
        payload_type=payload.annotation if payload is not None and decode is not None else None,
        decode=decode,
        message=_needed_message(messages, optional | defaults),
        messages=messages,
        captures={each: _capture_type(name, named[each]) for each in roles if roles[each] == "capture"},
        positional=positional,
        keyword=keyword,
        roles=roles,
        defaults=optional | defaults,
    )


def _check_parts(name: str, handler: Callable[..., Any], parameter: inspect.Parameter) -> None:
    """Refuse what can't wait for the parts of its payload."""
    if not is_async_callable(handler) and not is_async_generator_callable(handler):
        raise RegistrationError(
            f"{name}: payload {parameter.name!r} comes part by part, which a handler has to await: "
            f"make it `async def`"
        )
    if parameter.default is not parameter.empty:
        raise RegistrationError(f"{name}: payload {parameter.name!r} is an iterator and has no default")


def _assign_roles(
    name: str, parameters: Sequence[inspect.Parameter], captures: tuple[str, ...]
) -> dict[str, str]:
    """Give each parameter its role, in their order; those that keep their default get none."""
    roles: dict[str, str] = {}
    free = []
    for parameter in parameters:
        if parameter.name in captures:
            roles[parameter.name] = "capture"
        elif _message_types(parameter.annotation):
            roles[parameter.name] = "message"
        else:
            free.append(parameter)
    needed = [parameter for parameter in free if parameter.default is parameter.empty]
    if len(needed) > 1:
        raise RegistrationError(
            f"{name}: parameter {needed[1].name!r} can't be filled: the payload goes to {needed[0].name!r} "
            f"and the pattern captures {', '.join(captures) or 'nothing'}"
        )
    for payload in (needed or free)[:1]:
        roles[payload.name] = "payload"
    return {parameter.name: roles[parameter.name] for parameter in parameters if parameter.name in roles}


def _order(
    parameters: Sequence[inspect.Parameter], roles: dict[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tell which arguments are given by position, and which by name.

    Behind one that keeps its default all others are named; one that can't be
    named keeps its default then too, and loses its role.
    """
    positional: list[str] = []
    keyword: list[str] = []
    skipped = False
    for parameter in parameters:
        if parameter.name not in roles:
            skipped = True
        elif not skipped and parameter.kind is not parameter.KEYWORD_ONLY:
            positional.append(parameter.name)
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            del roles[parameter.name]
        else:
            keyword.append(parameter.name)
    return tuple(positional), tuple(keyword)


def split_union(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation alone."""
    if get_origin(annotation) in (Union, python_types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _allows_none(annotation: Any) -> bool:
    return type(None) in split_union(annotation)


def _message_types(annotation: Any) -> tuple[type[Message], ...]:
    """Return the kinds of message that an annotation names, () when it is of something else."""
    named = [each for each in split_union(annotation) if each is not type(None)]
    if named and all(isinstance(each, type) and issubclass(each, Message) for each in named):
        return tuple(named)
    return ()


def _needed_message(
    messages: Mapping[str, tuple[type[Message], ...]], defaults: Mapping[str, Any]
) -> type[Message] | None:
    """Return the narrowest kind that some parameter can't do without."""
    if not messages:
        return None
    needed = [
        kinds[0]
        for name, kinds in messages.items()
        if name not in defaults and len(kinds) == 1 and kinds[0] is not Message
    ]
    return needed[0] if needed else Message


def _capture_type(name: str, parameter: inspect.Parameter) -> Any:
    annotation = parameter.annotation
    if annotation in (parameter.empty, Any, str):
        return str
    try:
        check_json_type(annotation)
    except TypeError as error:
        raise RegistrationError(f"{name}: capture {parameter.name!r}: {error}") from error
    info = types.type_info(annotation)
    while isinstance(info, types.Metadata):
        info = info.type
    for each in info.types if isinstance(info, types.UnionType) else (info,):
        if not isinstance(each, _TEXT_TYPES):
            raise RegistrationError(
                f"{name}: capture {parameter.name!r}: text is not converted to {annotation!r}; "
                f"take str, int, float, bool, UUID, Decimal, a date or time, an Enum or a Literal"
            )
    return annotation


def _read_payload(
    name: str, parameter: inspect.Parameter | None
) -> tuple[str | None, Callable[[Any], Any] | None]:
    """Return the kind of the payload, and its decoder where there is something to decode or to check."""
    if parameter is None:
        return None, None
    annotation = parameter.annotation
    kind, bounded = plain_kind(annotation)
    try:
        if is_parts(annotation):
            return PARTS, None
        if kind is None:
            check_json_type(annotation)
            _refuse_bytearray(annotation)
            return "json", make_json_decoder(annotation)
        if not bounded:
            return kind, None
        check_json_type(annotation)
        return kind, _make_bounds_check(annotation)
    except TypeError as error:
        raise RegistrationError(
            f"{name}: payload {parameter.name!r} is annotated {annotation!r}: {error}; {SERVED}"
        ) from error


def _refuse_bytearray(annotation: Any) -> None:
    if annotation is bytearray:
        raise TypeError(
            "in JSON it would be base64; take bytes"
        )  # a TypeError is told with parameter and handler


def plain_kind(annotation: Any) -> tuple[str | None, bool]:
    """Return the kind of bytes, memoryview and str, also as `| None` or with bounds; else None."""
    named = [each for each in split_union(annotation) if each is not type(None)]
    bounded = len(named) == 1 and get_origin(named[0]) is Annotated
    plain = get_args(named[0])[0] if bounded else named[0] if len(named) == 1 else None
    if get_origin(plain) is not None or plain is None:
        return None, False
    try:
        return PAYLOAD_KINDS.get(plain), bounded
    except TypeError:  # not hashable: no type at all, which is said by who looks at it next
        return None, False


def _make_bounds_check(annotation: Any) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        try:
            return msgspec.convert(value, annotation)
        except msgspec.ValidationError as error:
            raise BadRequest(f"payload: {error}") from error

    return check
