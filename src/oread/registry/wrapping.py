"""Make a handler that runs in a thread, or within a deadline.

Both are wrapped around the handler itself when it is registered, so that they
hold for every transport and for `emit`, and cost nothing elsewhere.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from oread.dispatch import Plan
from oread.dispatch.signature import handler_name
from oread.errors import RegistrationError, TimedOut
from oread.registry.registration import Handler, Options


def wrap_handler(
    handler: Handler,
    plan: Plan,
    options: Options,
    *,
    limiter: trio.CapacityLimiter,
    abandoned: Callable[[], None],
) -> tuple[Handler, Plan]:
    """Return what is to be called instead of the handler, and its plan.

    Args:
        handler: as the user gave it.
        plan: what its signature says.
        options: of which `thread` and `deadline` count here.
        limiter: of the worker threads.
        abandoned: is called when a thread was given up while it ran.

    Raises:
        RegistrationError: options that this handler can't have.
    """
    name = handler_name(handler)
    if options.thread:
        _check_thread(plan, name)
        handler = _in_thread(handler, limiter, abandoned)
        plan = attrs.evolve(plan, is_async=True)
    if options.deadline is not None:
        if plan.streams:
            raise RegistrationError(f"{name}: a deadline is for one reply; this handler yields many")
        if not plan.is_async:
            raise RegistrationError(
                f"{name}: nothing can end an inline sync handler at a deadline; make it async, or thread=True"
            )
        handler = _within(handler, options.deadline, name)
    return handler, plan


def _check_thread(plan: Plan, name: str) -> None:
    if plan.is_async:
        raise RegistrationError(f"{name}: thread=True is for sync handlers; this one is async")
    if plan.payload == "memoryview":
        raise RegistrationError(f"{name}: a memoryview is valid during an inline call only; take bytes")
    if plan.streams:
        raise RegistrationError(
            f"{name}: a handler that yields can't run in a thread; return the whole reply"
        )


def _within(handler: Callable[..., Awaitable[Any]], seconds: float, name: str) -> Handler:
    async def run(*args: Any, **kwargs: Any) -> Any:
        with trio.move_on_after(seconds):
            return await handler(*args, **kwargs)
        raise TimedOut(f"{name} took longer than {seconds:g} s")

    return run


def _in_thread(handler: Handler, limiter: trio.CapacityLimiter, abandoned: Callable[[], None]) -> Handler:
    async def run(*args: Any, **kwargs: Any) -> Any:
        call = _ThreadCall(functools.partial(handler, *args, **kwargs))
        try:
            return await trio.to_thread.run_sync(call.run, abandon_on_cancel=True, limiter=limiter)
        finally:
            if call.leave():
                abandoned()

    return run


class _ThreadCall:
    """One call in a thread: not begun when nobody waits for it any more."""

    __slots__ = ("_function", "_left", "_lock", "_running")

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._left = self._running = False

    def run(self) -> Any:
        """Call, in the thread."""
        with self._lock:
            if self._left:
                return None
            self._running = True
        try:
            return self._function()
        finally:
            self._running = False

    def leave(self) -> bool:
        """Wait no longer, in Trio's thread; True when the call runs on."""
        with self._lock:
            self._left = True
            return self._running
