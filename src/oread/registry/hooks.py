"""Tell those who asked: handlers that come and go, and failures.

Hooks are callbacks and never events, so no peer can reach them. They are sync
and must be quick; one that raises is logged and harms nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import attrs

from oread.dispatch import Failed, isolate_call
from oread.dispatch.signature import handler_name, is_async_callable
from oread.errors import HandlerError, MessageError, RegistrationError, TimedOut
from oread.messages import Peer
from oread.registry.registration import Attachment, HandlerInfo

log = logging.getLogger("oread")


@attrs.frozen(kw_only=True)
class Failure:
    """One thing that a handler raised, as `on_error` and `monitor` see it."""

    event: str
    handler: str
    """Its module and name; empty where it is not known."""
    error: Exception
    peer: Peer = Peer(None, "memory")
    """Who sent the message."""

    @property
    def is_refusal(self) -> bool:
        """Whether it says something of the message or its peer, not of the handler."""
        return isinstance(self.error, MessageError) and not isinstance(self.error, (HandlerError, TimedOut))


@attrs.frozen(kw_only=True)
class HandlerChange:
    """A handler that was added to a registry, or removed."""

    kind: Literal["added", "removed"]
    handler: HandlerInfo


@attrs.define(eq=False)
class Hooks:
    """The callbacks of one registry."""

    changes: list[Callable[[HandlerChange], object]] = attrs.field(factory=list)
    errors: list[Callable[[Failure], object]] = attrs.field(factory=list)
    monitors: list[Callable[[Failure], object]] = attrs.field(factory=list)

    def tell_change(self, change: HandlerChange) -> None:
        """Tell that a handler came or went; it has by now."""
        _call_all(self.changes, change)


def attach(callbacks: list[Callable[[Any], object]], callback: Callable[[Any], object]) -> Attachment:
    """Add a callback, behind the others, until it is removed.

    Raises:
        RegistrationError: it is async, or can't be called.
    """
    if not callable(callback) or is_async_callable(callback):
        raise RegistrationError(f"hook {callback!r}: a sync function of one argument is needed")
    callbacks.append(callback)
    return Attachment(lambda: callbacks.remove(callback))


def watch_failure(hooks: Iterable[Hooks], failure: Failure) -> None:
    """Tell the monitors of a failure that is raised to somebody."""
    for each in hooks:
        _call_all(each.monitors, failure)


def report_failure(hooks: Sequence[Hooks], failure: Failure) -> bool:
    """Tell monitors and error hooks, the innermost registry's first.

    Returns:
        True when an error hook has it: nobody else needs to log it.
    """
    watch_failure(hooks, failure)
    if failure.is_refusal:
        return False
    return any(_call_all(each.errors, failure) for each in hooks)


def report_or_log(hooks: Sequence[Hooks], failure: Failure) -> None:
    """Report what no listener logs: a failure beside the answer of an `emit`."""
    if report_failure(hooks, failure):
        return
    level = logging.DEBUG if failure.is_refusal else logging.ERROR
    log.log(
        level,
        "%s: %s failed: %r",
        failure.event,
        failure.handler or "a handler",
        failure.error,
        exc_info=failure.error,
    )


def _call_all(callbacks: Iterable[Callable[[Any], object]], argument: object) -> bool:
    """Call each; True when there was one that did not fail."""
    took = False
    for callback in tuple(callbacks):
        outcome = isolate_call(callback, argument)
        if isinstance(outcome, Failed):
            log.error("hook %s failed", handler_name(callback), exc_info=outcome.error)
        else:
            took = True
    return took
