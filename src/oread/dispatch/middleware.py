"""Tell the forms of middleware apart, and fold them around a dispatch.

Four forms are taken. A context manager made from the message, sync or async,
sees the message and what was raised. A function of the message and
`call_next` also sees the answer, and may give another. What stands inside
raises through all of them, as if the handler had been called right there.

Not here: the isolation of what they raise (`entry`), and what of it is
reported.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any

import attrs

from oread.dispatch.compiled import Failed, Layer
from oread.dispatch.signature import handler_name, is_async_callable
from oread.errors import RegistrationError
from oread.messages import Message

FORMS = (
    "a function made by @contextmanager or @asynccontextmanager, a class of context managers, "
    "or a function of (message, call_next)"
)


@attrs.define(eq=False)
class Passage:
    """One message on its way through the layers."""

    message: Message
    inner: Callable[[], Any]
    """Calls what the layers are around: gives the answer or `Failed`, or a coroutine of these."""
    failed: Failed | None = None

    def unwrap(self, outcome: Any) -> Any:
        """Return the answer of what stands inside, or raise its failure."""
        if isinstance(outcome, Failed):
            self.failed = outcome
            raise outcome.error
        return outcome

    def blame(self, error: Exception, name: str) -> Failed:
        """Say whose failure came out: a handler's, or one of the layers'."""
        if self.failed is not None and self.failed.error is error:
            return self.failed
        return Failed(error, name)


Step = Callable[[Passage], Any]


def read_middleware(middleware: Callable[..., Any]) -> Layer:
    """Find out the form of one middleware.

    Raises:
        RegistrationError: it is none that can be called.
    """
    name = handler_name(middleware)
    if not callable(middleware):
        raise RegistrationError(f"middleware {middleware!r} is not callable; needed is {FORMS}")
    return Layer(kind=_kind(middleware, name), function=middleware, name=name)


def _kind(middleware: Callable[..., Any], name: str) -> str:
    function = middleware
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, type):
        if hasattr(function, "__enter__"):
            return "context"
        if hasattr(function, "__aenter__"):
            return "async context"
    wrapped = getattr(function, "__wrapped__", None)
    if inspect.isgeneratorfunction(wrapped):
        return "context"
    if inspect.isasyncgenfunction(wrapped):
        return "async context"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise RegistrationError(
            f"middleware {name} yields: put @contextmanager or @asynccontextmanager on it"
        )
    if _needed_parameters(middleware, name) != 2:
        raise RegistrationError(f"middleware {name}: needed is {FORMS}")
    return "async wrapping" if is_async_callable(middleware) else "wrapping"


def _needed_parameters(middleware: Callable[..., Any], name: str) -> int:
    try:
        parameters = inspect.signature(middleware).parameters.values()
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"middleware {name}: has no signature that can be read") from error
    return sum(
        each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        for each in parameters
    )


def fold_sync(layers: Sequence[Layer]) -> Step:
    """Make `step(passage) -> answer` of layers that are sync, outermost first."""
    step: Step = _enter
    for layer in reversed(layers):
        step = (_step_context if layer.kind == "context" else _step_wrapping)(layer.function, step)
    return step


def fold_async(layers: Sequence[Layer]) -> Step:
    """Make `step(passage) -> coroutine`; sync context managers may be among them."""
    step: Step = _enter_async
    for layer in reversed(layers):
        step = _ASYNC_STEPS[layer.kind](layer.function, step)
    return step


def _enter(passage: Passage) -> Any:
    return passage.unwrap(passage.inner())


async def _enter_async(passage: Passage) -> Any:
    return passage.unwrap(await passage.inner())


def _step_context(function: Callable[..., AbstractContextManager[object, bool]], inside: Step) -> Step:
    def step(passage: Passage) -> Any:
        with function(passage.message):
            return inside(passage)
        return None  # it suppressed what was raised: no answer

    return step


def _step_wrapping(function: Callable[..., Any], inside: Step) -> Step:
    return lambda passage: function(passage.message, functools.partial(inside, passage))


def _step_context_in_async(
    function: Callable[..., AbstractContextManager[object, bool]], inside: Step
) -> Step:
    async def step(passage: Passage) -> Any:
        with function(passage.message):
            return await inside(passage)
        return None

    return step


def _step_async_context(
    function: Callable[..., AbstractAsyncContextManager[object, bool]], inside: Step
) -> Step:
    async def step(passage: Passage) -> Any:
        async with function(passage.message):
            return await inside(passage)
        return None

    return step


_ASYNC_STEPS: dict[str, Callable[[Callable[..., Any], Step], Step]] = {
    "context": _step_context_in_async,
    "async context": _step_async_context,
    "async wrapping": _step_wrapping,
}
