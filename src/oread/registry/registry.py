"""Register handlers under events; keep the compiled table up to date.

Every change builds a new entry and a new table and swaps them in, so a change
while serving takes effect for the next message and never for one in flight.
A change that some endpoint being served could not live with is refused before
anything is swapped.

All methods are to be called from the thread that runs Trio (or before it
runs). Not here: calling handlers, and every transport.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import attrs
import trio

from oread.dispatch import Entry, Link, Pattern, Table, compile_entry, read_signature
from oread.dispatch.signature import handler_name, is_async_callable
from oread.errors import RegistrationError

Handler = Callable[..., Any]
HandlerT = TypeVar("HandlerT", bound=Handler)


@attrs.frozen(kw_only=True)
class HandlerInfo:
    """One handler as the registry lists it."""

    event: str
    name: str
    """Module and qualified name."""
    kind: str
    """`sync`, `async` or `session`."""
    payload: str | None
    """`bytes`, `memoryview`, `str`, or None when it takes none."""
    methods: tuple[str, ...] | None
    exposed: bool
    once: bool
    handler: Handler


@attrs.define(eq=False)
class Registration:
    """One handler under one event; a context manager that takes it back."""

    _registry: Registry
    event: str
    handler: Handler
    once: bool
    link: Link | None = None
    """None for a session."""
    _spent: bool = False

    def remove(self) -> None:
        """Take this handler back; nothing happens when it is gone already."""
        self._registry._drop(self)

    def take(self) -> bool:
        """For a `once` handler: True the first time; it is removed by then."""
        if self._spent:
            return False
        self._spent = True
        self.remove()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


@attrs.define(eq=False)
class Slot:
    """What an endpoint with a fixed event holds: always its present entry."""

    event: str
    entry: Entry
    captures: Mapping[str, str]
    check: Callable[[Entry], None]
    """Raises RegistrationError for an entry that the endpoint can't serve."""


@attrs.define(eq=False)
class _Event:
    pattern: Pattern
    handlers: list[Registration] = attrs.field(factory=list)
    session: Registration | None = None

    def compile(self) -> Entry:
        entry = compile_entry(
            self.pattern.text,
            [item.link for item in self.handlers if item.link is not None and item.link.exposed],
            self.session.handler if self.session else None,
        )
        for function in (entry.call, entry.start, entry.session, *_method_callables(entry)):
            if function is not None:
                # marks our closure's code, never the user's: Ctrl-C may end a handler, not the loop around it
                trio.lowlevel.disable_ki_protection(function)
        return entry


def _method_callables(entry: Entry) -> list[Callable[..., Any] | None]:
    return [call for sub in (entry.by_method or {}).values() for call in (sub.call, sub.start)]


class Registry:
    """Events and their ordered handlers.

    Sharing one registry between services is fine; each sees every change.
    """

    def __init__(self) -> None:
        self._events: dict[str, _Event] = {}
        self._slots: set[Slot] = set()
        self._entries: dict[str, Entry] = {}
        self._table: Table[Entry] = Table()

    # registering

    @overload
    def on(
        self, event: str, *, methods: tuple[str, ...] | None = None, exposed: bool = True
    ) -> Callable[[HandlerT], HandlerT]: ...
    @overload
    def on(
        self, event: str, handler: Handler, *, methods: tuple[str, ...] | None = None, exposed: bool = True
    ) -> Registration: ...
    def on(
        self,
        event: str,
        handler: Handler | None = None,
        *,
        methods: tuple[str, ...] | None = None,
        exposed: bool = True,
    ) -> Any:
        """Add a handler behind those that the event has.

        Args:
            event: a name or a pattern such as `orders/{order_id}`.
            handler: without it, a decorator is returned.
            methods: the HTTP methods it serves; None is any but TRACE and CONNECT.
            exposed: False hides it from every endpoint.

        Returns:
            The `Registration` (also a context manager), or the decorator,
            which returns the handler unchanged.

        Raises:
            RegistrationError: the signature can't be satisfied, the pattern
                is malformed or matches what another one does, or an endpoint
                being served can't take such a handler.
        """
        return self._register(event, handler, methods=methods, exposed=exposed)

    @overload
    def once(
        self, event: str, *, methods: tuple[str, ...] | None = None, exposed: bool = True
    ) -> Callable[[HandlerT], HandlerT]: ...
    @overload
    def once(
        self, event: str, handler: Handler, *, methods: tuple[str, ...] | None = None, exposed: bool = True
    ) -> Registration: ...
    def once(
        self,
        event: str,
        handler: Handler | None = None,
        *,
        methods: tuple[str, ...] | None = None,
        exposed: bool = True,
    ) -> Any:
        """Add a handler that is removed just before its first call; see `on`."""
        return self._register(event, handler, methods=methods, exposed=exposed, once=True)

    @overload
    def prepend(
        self, event: str, *, methods: tuple[str, ...] | None = None, exposed: bool = True
    ) -> Callable[[HandlerT], HandlerT]: ...
    @overload
    def prepend(
        self, event: str, handler: Handler, *, methods: tuple[str, ...] | None = None, exposed: bool = True
    ) -> Registration: ...
    def prepend(
        self,
        event: str,
        handler: Handler | None = None,
        *,
        methods: tuple[str, ...] | None = None,
        exposed: bool = True,
    ) -> Any:
        """Add a handler before those that the event has; see `on`."""
        return self._register(event, handler, methods=methods, exposed=exposed, first=True)

    @overload
    def session(self, event: str) -> Callable[[HandlerT], HandlerT]: ...
    @overload
    def session(self, event: str, handler: Handler) -> Registration: ...
    def session(self, event: str, handler: Handler | None = None) -> Any:
        """Let `async def handler(stream)` own whole stream connections.

        An event may have one session, and handlers beside it: the session
        serves stream endpoints, the handlers serve messages.

        Raises:
            RegistrationError: not async, or the event has a session already.
        """
        if handler is None:
            return lambda function: (self.session(event, function), function)[1]
        if not is_async_callable(handler):
            raise RegistrationError(f"{handler_name(handler)}: a session is an async function of a stream")
        if event in self._events and self._events[event].session is not None:
            raise RegistrationError(f"event {event!r} has a session already")
        registration = Registration(self, event, handler, once=False)
        self._change(event, lambda target: setattr(target, "session", registration))
        return registration

    def off(self, event: str, handler: Handler | None = None) -> int:
        """Remove a handler from an event, or all of its handlers.

        Args:
            event: the name it was registered under.
            handler: the function; None removes all, the session too.

        Returns:
            How many were removed; 0 when there was none.
        """
        target = self._events.get(event)
        if target is None:
            return 0
        found = [
            registration
            for registration in (*target.handlers, target.session)
            if registration is not None and (handler is None or registration.handler == handler)
        ]
        for registration in found:
            registration.remove()
        return len(found)

    # listing

    def events(self) -> list[str]:
        """Return the names and patterns that have a handler, oldest first."""
        return list(self._events)

    def handlers(self, event: str | None = None) -> list[HandlerInfo]:
        """List the handlers of one event in their order, or of all."""
        targets = (
            self._events.values() if event is None else [self._events[event]] if event in self._events else []
        )
        return [
            _info(registration)
            for target in targets
            for registration in (*target.handlers, *([target.session] if target.session else []))
        ]

    # for the floors above

    def find(self, path: str) -> tuple[Entry, Mapping[str, str]] | None:
        """Return the exposed entry and the captures of a path, or None.

        Raises:
            BadRequest: the path can't be decoded.
        """
        return self._table.find(path)

    def attach(self, event: str, check: Callable[[Entry], None]) -> Slot:
        """Give an endpoint its slot, which is kept up to date until `detach`.

        Raises:
            RegistrationError: nothing serves this event (naming what exists),
                or `check` refuses what does.
        """
        found = self._table.find(event)
        if found is None:
            known = ", ".join(sorted(self._entries)) or "none"
            raise RegistrationError(f"no handler for event {event!r}; there are: {known}")
        check(found[0])
        slot = Slot(event, found[0], found[1], check)
        self._slots.add(slot)
        return slot

    def detach(self, slot: Slot) -> None:
        """End the updates of a slot."""
        self._slots.discard(slot)

    # inside

    def _register(
        self,
        event: str,
        handler: Handler | None,
        *,
        methods: tuple[str, ...] | None,
        exposed: bool,
        once: bool = False,
        first: bool = False,
    ) -> Any:
        if handler is None:

            def decorate(function: HandlerT) -> HandlerT:
                self._register(event, function, methods=methods, exposed=exposed, once=once, first=first)
                return function

            return decorate
        if not callable(handler):
            raise RegistrationError(f"event {event!r}: {handler!r} is not callable")
        registration = Registration(self, event, handler, once=once)
        registration.link = Link(
            handler=handler,
            name=handler_name(handler),
            plan=read_signature(handler, Pattern.parse(event).captures),
            methods=_check_methods(methods),
            exposed=exposed,
            take=registration.take if once else None,
        )
        self._change(
            event, lambda target: target.handlers.insert(0 if first else len(target.handlers), registration)
        )
        return registration

    def _drop(self, registration: Registration) -> None:
        target = self._events.get(registration.event)
        if target is None or (registration not in target.handlers and target.session is not registration):
            return

        def remove(event: _Event) -> None:
            if event.session is registration:
                event.session = None
            else:
                event.handlers.remove(registration)

        self._change(registration.event, remove)

    def _change(self, event: str, edit: Callable[[_Event], None]) -> None:
        """Edit one event on a copy, check it against the slots, swap it in."""
        old = self._events.get(event)
        new = (
            _Event(Pattern.parse(event))
            if old is None
            else _Event(old.pattern, list(old.handlers), old.session)
        )
        if old is None:
            self._refuse_same_shape(new.pattern)
        edit(new)
        events = {**self._events, event: new}
        entries = dict(self._entries)
        if not new.handlers and new.session is None:
            del events[event]
            entries.pop(event, None)
        elif new.session is None and not any(item.link and item.link.exposed for item in new.handlers):
            entries.pop(event, None)  # reachable by emit only: no endpoint may see it
        else:
            entries[event] = new.compile()
        table = Table.build((events[name].pattern, entry) for name, entry in entries.items())
        changed = [(slot, *_resolve(table, slot.event)) for slot in self._slots]
        for slot, entry, _ in changed:
            if entry is not slot.entry and entry.links:
                slot.check(entry)
        self._events, self._entries, self._table = events, entries, table
        for slot, entry, captures in changed:
            slot.entry, slot.captures = entry, captures

    def _refuse_same_shape(self, pattern: Pattern) -> None:
        for other in self._events.values():
            if other.pattern.shape == pattern.shape:
                raise RegistrationError(
                    f"event {pattern.text!r} matches exactly what {other.pattern.text!r} does"
                )


def _resolve(table: Table[Entry], event: str) -> tuple[Entry, Mapping[str, str]]:
    found = table.find(event)
    return found if found is not None else (compile_entry(event, ()), {})


def _check_methods(methods: Sequence[str] | None) -> tuple[str, ...] | None:
    if methods is None:
        return None
    if (
        isinstance(methods, str)
        or not methods
        or not all(method.isupper() and method.isalpha() for method in methods)
    ):
        raise RegistrationError(f"methods={methods!r}: a tuple of HTTP methods in capitals is needed")
    return tuple(methods)


def _info(registration: Registration) -> HandlerInfo:
    link = registration.link
    return HandlerInfo(
        event=registration.event,
        name=handler_name(registration.handler),
        kind="session" if link is None else "async" if link.plan.is_async else "sync",
        payload=None if link is None else link.plan.payload,
        methods=None if link is None else link.methods,
        exposed=True if link is None else link.exposed,
        once=registration.once,
        handler=registration.handler,
    )
