"""Make registrations of handlers, and take them back.

Reads the signature, wraps what runs in a thread or within a deadline, and
hands the new model to the tree; tells the hooks once it holds.

Not here: the names users call (`registry`), and compiling (`tree`).
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import trio

from oread.dispatch import Application, Link, Pattern, read_signature
from oread.dispatch.signature import handler_name, is_async_callable
from oread.errors import HandlerAbandoned, HandlerLeakWarning, RegistrationError
from oread.registry.applications import TAIL, MountedApplication
from oread.registry.hooks import Failure, HandlerChange, report_or_log
from oread.registry.registration import Handler, Options, Registration
from oread.registry.subscription import Subscription
from oread.registry.tree import Compiled, EventModel, Node
from oread.registry.wrapping import wrap_handler

HandlerT = TypeVar("HandlerT", bound=Handler)

FRAMES_TO_USER = 5
"""From the leak warning to the line that registers: by a method of `Registry`, or by its decorator."""


class Registrar:
    """Adds to one node of the tree, and removes from it.

    Args:
        node: what is changed.
        most_handlers: handlers of an event before a leak is suspected.
        most_threads: worker threads at a time.
    """

    def __init__(self, node: Node, *, most_handlers: int | None, most_threads: int) -> None:
        self._node = node
        self._most_handlers = most_handlers
        self._warned: set[str] = set()
        self._threads = trio.CapacityLimiter(most_threads)

    def register(
        self,
        event: str,
        handler: Handler | None,
        options: Options,
        *,
        once: bool = False,
        first: bool = False,
    ) -> Any:
        """Register a handler, or return the decorator that does.

        Raises:
            RegistrationError: nothing has changed then.
        """
        if handler is None:

            def decorate(function: HandlerT) -> HandlerT:
                self.register(event, function, options, once=once, first=first)
                return function

            return decorate
        return self._register(event, handler, options, once=once, first=first)

    def register_session(self, event: str, handler: Handler | None) -> Any:
        """Register a session, or return the decorator that does.

        Raises:
            RegistrationError: not async, or the event has a session already.
        """
        if handler is None:

            def decorate(function: HandlerT) -> HandlerT:
                self.register_session(event, function)
                return function

            return decorate
        if not is_async_callable(handler):
            raise RegistrationError(f"{handler_name(handler)}: a session is an async function of a stream")
        target = self._event(event)
        if target.session is not None:
            raise RegistrationError(f"event {event!r} has a session already")
        registration = Registration(self._drop, event, handler, "session")
        return self._add(registration, attrs.evolve(target, session=registration))

    def register_application(self, prefix: str, application: Application) -> Registration:
        """Register an ASGI application for all paths under a prefix.

        Raises:
            RegistrationError: it can't be called as one, or its paths are taken.
        """
        event = f"{prefix}/{TAIL}" if prefix else TAIL
        mounted = MountedApplication(application)
        target = self._event(event)
        registration = Registration(self._drop, event, mounted, "asgi")
        registration.link = Link(
            handler=mounted,
            name=mounted.__qualname__,
            plan=read_signature(mounted, target.pattern.captures),
            application=application,
        )
        return self._add_handler(registration, target, first=False)

    def remove_all(self, event: str, handler: Handler | None) -> int:
        """Remove every registration of a handler, or everything; return how many."""
        target = self._node.state.model.events.get(event)
        found = [
            registration
            for registration in (target.registrations if target is not None else ())
            if handler is None or registration.handler == handler
        ]
        self._remove(event, found)
        return len(found)

    @asynccontextmanager
    async def subscribe(self, subscription: Subscription, *, exposed: bool) -> AsyncIterator[Subscription]:
        """Register a subscription for as long as the scope lasts."""
        event, handler = subscription.event, subscription.handler
        target = self._event(event)
        registration = Registration(self._drop, event, handler, "subscription", Options(exposed=exposed))
        registration.link = Link(
            handler=handler,
            name=f"subscription to {event}",
            plan=read_signature(handler, target.pattern.captures),
            exposed=exposed,
        )
        registration.on_removed = subscription.end
        self._add_handler(registration, target, first=False)
        try:
            yield subscription
        finally:
            registration.remove()
            subscription.close()

    # inside

    def _event(self, event: str) -> EventModel:
        found = self._node.state.model.events.get(event)
        return found if found is not None else EventModel(Pattern.parse(event))

    def _register(
        self, event: str, handler: Handler, options: Options, *, once: bool, first: bool
    ) -> Registration:
        if not callable(handler):
            raise RegistrationError(f"event {event!r}: {handler!r} is not callable")
        target = self._event(event)
        plan = read_signature(handler, target.pattern.captures)
        kind = "thread" if options.thread else "async" if plan.is_async else "sync"
        called, plan = wrap_handler(
            handler, plan, options, limiter=self._threads, abandoned=lambda: self._abandon(event, handler)
        )
        registration = Registration(self._drop, event, handler, kind, options, once)
        registration.link = Link(
            handler=called,
            name=handler_name(handler),
            plan=plan,
            methods=None if options.methods is None else tuple(options.methods),
            exposed=options.exposed,
            take=registration.take if once else None,
            limit=options.limit,
            shield=options.shield,
        )
        return self._add_handler(registration, target, first=first)

    def _add_handler(self, registration: Registration, target: EventModel, *, first: bool) -> Registration:
        event = registration.event
        handlers = (registration, *target.handlers) if first else (*target.handlers, registration)
        leaking = self._most_handlers is not None and len(handlers) > self._most_handlers
        if leaking and event not in self._warned:
            # Before anything has changed: where warnings are errors, this one refuses the handler.
            text = f"event {event!r} has {len(handlers)} handlers; see Registry(most_handlers=)"
            warnings.warn(text, HandlerLeakWarning, stacklevel=FRAMES_TO_USER)
            self._warned.add(event)
        return self._add(registration, attrs.evolve(target, handlers=handlers))

    def _add(self, registration: Registration, target: EventModel) -> Registration:
        event = registration.event

        def check(compiled: Compiled) -> None:
            if registration.options.limit is not None and compiled.every[event].call is not None:
                raise RegistrationError(
                    f"event {event!r}: limit= is for handlers that are async, run in a thread or yield; "
                    f"inline ones run one at a time"
                )

        self._node.change(self._node.state.model.with_event(event, target), check)
        self._node.hooks.tell_change(HandlerChange(kind="added", handler=registration.info(event)))
        return registration

    def _drop(self, registration: Registration) -> None:
        target = self._node.state.model.events.get(registration.event)
        if target is not None and registration in target.registrations:
            self._remove(registration.event, [registration])

    def _remove(self, event: str, gone: list[Registration]) -> None:
        """Take these out of an event in one change."""
        if not gone:
            return
        target = self._event(event)
        left = attrs.evolve(
            target,
            handlers=tuple(each for each in target.handlers if each not in gone),
            session=None if target.session in gone else target.session,
        )
        self._node.change(self._node.state.model.with_event(event, left))
        for each in gone:
            if each.on_removed is not None:
                each.on_removed()
        for each in gone:
            self._node.hooks.tell_change(HandlerChange(kind="removed", handler=each.info(event)))

    def _abandon(self, event: str, handler: Handler) -> None:
        name = handler_name(handler)
        error = HandlerAbandoned(f"{name} runs on in its thread; what it returns is dropped")
        report_or_log((self._node.hooks,), Failure(event=event, handler=name, error=error))
