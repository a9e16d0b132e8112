"""Register handlers under events; call them, watch them, put registries together.

Every change makes a new model and new entries and swaps them in, so a change
while serving takes effect for the next message and never for one in flight.
A change that some endpoint being served could not live with is refused before
anything is swapped.

All methods are to be called from the thread that runs Trio (or before it
runs). Not here: making registrations (`registrar`), compiling and swapping
(`tree`), the policies of `emit` (`emission`), and every transport.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, Unpack, overload

import trio

from oread.dispatch import Application, Entry, Pattern, read_middleware
from oread.errors import NotFound, RegistrationError
from oread.messages import Message
from oread.registry import hooks
from oread.registry.emission import Emission, Policy, Step, check_policy, compile_steps, encode_emitted
from oread.registry.hooks import Failure, HandlerChange
from oread.registry.registrar import Registrar
from oread.registry.registration import (
    Attachment,
    Handler,
    HandlerInfo,
    HandlerOptions,
    Options,
    Registration,
)
from oread.registry.subscription import Overflow, Subscription
from oread.registry.tree import Mount, Node, Routes, Slot, Use

HandlerT = TypeVar("HandlerT", bound=Handler)


class Registry:
    """Events and their ordered handlers.

    Sharing one registry between services is fine; each sees every change.

    Args:
        most_handlers: an event with more of them gets a `HandlerLeakWarning`,
            once; None is never. As in Node, it is a hint and no limit.
        most_threads: `thread=True` handlers that run at a time.
    """

    def __init__(self, *, most_handlers: int | None = 10, most_threads: int = 40) -> None:
        self._node = Node()
        self._registrar = Registrar(self._node, most_handlers=most_handlers, most_threads=most_threads)
        self._steps: weakref.WeakKeyDictionary[Entry, tuple[Step, ...]] = weakref.WeakKeyDictionary()

    # registering

    @overload
    def on(self, event: str, **options: Unpack[HandlerOptions]) -> Callable[[HandlerT], HandlerT]: ...
    @overload
    def on(self, event: str, handler: Handler, **options: Unpack[HandlerOptions]) -> Registration: ...
    def on(self, event: str, handler: Handler | None = None, **options: Unpack[HandlerOptions]) -> Any:
        """Add a handler behind those that the event has.

        Args:
            event: a name or a pattern such as `orders/{order_id}`.
            handler: without it, a decorator is returned.
            options: see `HandlerOptions`.

        Returns:
            The `Registration` (also a context manager), or the decorator,
            which returns the handler unchanged.

        Raises:
            RegistrationError: the signature can't be satisfied, the pattern
                is malformed or matches what another one does, the options
                don't fit the handler, or an endpoint being served can't take
                such a handler. Nothing has changed then.
        """
        return self._registrar.register(event, handler, Options(**options))

    @overload
    def once(self, event: str, **options: Unpack[HandlerOptions]) -> Callable[[HandlerT], HandlerT]: ...
    @overload
    def once(self, event: str, handler: Handler, **options: Unpack[HandlerOptions]) -> Registration: ...
    def once(self, event: str, handler: Handler | None = None, **options: Unpack[HandlerOptions]) -> Any:
        """Add a handler that is removed just before its first call; see `on`.

        A message that is refused, because its payload is not what the handler
        takes, is no call.
        """
        return self._registrar.register(event, handler, Options(**options), once=True)

    @overload
    def prepend(self, event: str, **options: Unpack[HandlerOptions]) -> Callable[[HandlerT], HandlerT]: ...
    @overload
    def prepend(self, event: str, handler: Handler, **options: Unpack[HandlerOptions]) -> Registration: ...
    def prepend(self, event: str, handler: Handler | None = None, **options: Unpack[HandlerOptions]) -> Any:
        """Add a handler before those that the event has; see `on`."""
        return self._registrar.register(event, handler, Options(**options), first=True)

    @overload
    def prepend_once(
        self, event: str, **options: Unpack[HandlerOptions]
    ) -> Callable[[HandlerT], HandlerT]: ...
    @overload
    def prepend_once(
        self, event: str, handler: Handler, **options: Unpack[HandlerOptions]
    ) -> Registration: ...
    def prepend_once(
        self, event: str, handler: Handler | None = None, **options: Unpack[HandlerOptions]
    ) -> Any:
        """Add a handler before the others, for one call; see `once` and `on`."""
        return self._registrar.register(event, handler, Options(**options), once=True, first=True)

    @overload
    def session(self, event: str) -> Callable[[HandlerT], HandlerT]: ...
    @overload
    def session(self, event: str, handler: Handler) -> Registration: ...
    def session(self, event: str, handler: Handler | None = None) -> Any:
        """Let `async def handler(stream)` own whole stream connections.

        An event may have one session, and handlers beside it: the session
        serves stream endpoints, the handlers serve messages. Middleware is
        for messages and does not go around a session.

        Raises:
            RegistrationError: not async, or the event has a session already.
        """
        return self._registrar.register_session(event, handler)

    def off(self, event: str, handler: Handler | None = None) -> int:
        """Remove a handler from an event, or all of its handlers.

        Args:
            event: the name it was registered under.
            handler: the function, however often it is registered; None
                removes all handlers and subscriptions, and the session.

        Returns:
            How many were removed; 0 when there was none.
        """
        return self._registrar.remove_all(event, handler)

    # listing

    def events(self) -> list[str]:
        """Return the names and patterns that have a handler, oldest first.

        Those of mounted registries come last, with their prefix.
        """
        return list(self._node.state.compiled.offers)

    def handlers(self, event: str | None = None) -> list[HandlerInfo]:
        """List the handlers of one event in their order, or of all."""
        offers = self._node.state.compiled.offers
        names = offers if event is None else [event] if event in offers else []
        return [each.info(name) for name in names for each in offers[name].registrations]

    def count(self, event: str | None = None) -> int:
        """Count the handlers of one event, or of all."""
        return len(self.handlers(event))

    # watching

    def on_change(self, callback: Callable[[HandlerChange], object]) -> Attachment:
        """Call back after each handler that is added to, or removed from, this registry.

        Args:
            callback: sync; it may register and remove. What happens in a
                mounted registry is told by that one.
        """
        return hooks.attach(self._node.hooks.changes, callback)

    def on_error(self, callback: Callable[[Failure], object]) -> Attachment:
        """Call back for each failure of a handler, instead of logging it.

        Every callback is called. What a peer did wrong (`Failure.is_refusal`)
        is not told, nor what `emit` raises to its caller. Failures of a
        mounted registry go to its own callbacks; where it has none, here.
        """
        return hooks.attach(self._node.hooks.errors, callback)

    def monitor(self, callback: Callable[[Failure], object]) -> Attachment:
        """Call back for every failure, whoever else takes care of it."""
        return hooks.attach(self._node.hooks.monitors, callback)

    def report(self, failure: Failure) -> bool:
        """Tell monitors and error hooks of a failure.

        Returns:
            True when an error hook has it, so that nobody else need log it.
        """
        return hooks.report_failure(self._node.hooks_of(failure.event), failure)

    # putting together

    def use(self, middleware: Callable[..., Any], event: str | None = None) -> Attachment:
        """Put middleware around the handlers of every event, or of one.

        Global ones are outside, those of one event inside, each in the order
        of `use`. Taken are, of the `Message`: a function made by
        `@contextmanager` (inline handlers stay inline) or
        `@asynccontextmanager` (makes the event async), or a class of such;
        and `def middleware(message, call_next)`, `async` with
        `await call_next()`, sync for events of sync handlers only. These
        return the answer, the one they were given or another. Each is around
        all handlers of the event: `call_next()` returns the answer or raises
        the failure that would go to the peer.

        Args:
            middleware: one of these forms.
            event: a name or pattern as it is registered, now or later; with
                its prefix when it is mounted.

        Raises:
            RegistrationError: no such form, or a sync wrapping one around an
                async handler.
        """
        name = None if event is None else Pattern.parse(event).text
        return Attachment(self._node.use(Use(read_middleware(middleware), name)))

    def mount(self, prefix: str, other: Registry) -> Attachment:
        """Offer the events of another registry under `prefix/`, live.

        Its changes show here at once. Its middleware and hooks go on to hold
        for its events, inside of those of this registry.

        Args:
            prefix: one or more segments; they may be captures.
            other: may be mounted in several registries.

        Raises:
            RegistrationError: a malformed prefix, a circle, or events that
                match what others do. The same is raised by a later change of
                `other` that can't be offered here.
        """
        if Pattern.parse(prefix).segments[-1][0] == "tail":
            raise RegistrationError(f"mount {prefix!r}: nothing can stand behind a tail")
        if other._node.reaches(self._node):
            raise RegistrationError(f"mount {prefix!r}: a registry can't hang in itself")
        return Attachment(self._node.mount(Mount(prefix, other._node)))

    def mount_asgi(self, prefix: str, application: Application) -> Registration:
        """Let an ASGI 3 application serve every path under `prefix/`, and `prefix` itself.

        It takes HTTP requests and WebSockets of `http` endpoints; other events
        that match a path more exactly go before it. It has its own middleware:
        that of the registry does not go around it. Its lifespan begins before
        a service serves anything, and ends with the service.

        Args:
            prefix: one or more segments, which may be captures; `""` is the
                whole tree. The application sees it as `root_path`.
            application: `async def application(scope, receive, send)`, run by Trio.

        Returns:
            The `Registration`, which takes it back.

        Raises:
            RegistrationError: it can't be called as one, or its paths are taken.
        """
        return self._registrar.register_application(prefix, application)

    # calling

    async def emit(self, event: str, payload: Any = b"", *, policy: Policy = "serial") -> list[Any]:
        """Call the handlers of an event, exposed or not; return their results.

        Args:
            event: a name, or a path that a pattern matches.
            payload: bytes, text, or a value that becomes JSON, as a reply
                does. Every handler decodes it as if it had come by a socket.
            policy: `serial` runs all in order, `concurrent` all at once;
                `first` runs them in order until one answers, `race` at once
                until one answers, and cancels the others.

        Returns:
            `serial` and `concurrent`: what each returned, in their order,
            None for a failed observer. `first` and `race`: the one answer in
            a list, or an empty list. Values are as the handlers gave them.

        Raises:
            NotFound: nothing serves this event.
            Exception: what a handler raised. In order: the first failure, if
                nobody answered. `concurrent`: an ExceptionGroup of all
                failures; `race`: the same, if nobody answered.

        Cancellation: is a checkpoint, before anything is called. What was
        begun is cancelled and has ended; a thread may run on. Waits for a
        place where the event has a `limit`: a handler that emits its own
        event then may wait for itself.
        """
        check_policy(policy)
        data = encode_emitted(payload)
        await trio.lowlevel.checkpoint()
        compiled = self._node.state.compiled
        found = compiled.every_table.find(event)
        if found is None or not found[0].links:
            raise NotFound(f"no handler for {event!r}")
        entry, captures = found
        steps = self._steps.get(entry)
        if steps is None:
            steps = self._steps[entry] = compile_steps(entry)
        chain = compiled.offers[entry.event].hooks
        emission = Emission(entry=entry, steps=steps, captures=captures, hooks=chain, policy=policy)
        return await emission.run(data)

    def subscribe(
        self, event: str, *, capacity: int = 64, overflow: Overflow = "block", exposed: bool = True
    ) -> AbstractAsyncContextManager[Subscription]:
        """Take the messages of an event as an async iterator, while in its scope.

        It is a handler that answers nothing, behind those that the event has;
        alone it makes the event exist, as any handler does.

        Args:
            event: a name or a pattern, as it is (or could be) registered.
            capacity: messages that wait to be taken, 1 or more.
            overflow: what happens to one more. `block` lets its handling wait,
                which makes the event async; `drop_oldest` and `drop_newest`
                count what is lost; `error` ends the iteration with
                `SubscriptionOverflow`.
            exposed: False sees what is emitted only.

        Raises:
            RegistrationError: as `on`.
        """
        return self._registrar.subscribe(Subscription(event, capacity, overflow), exposed=exposed)

    async def wait_for(self, event: str) -> Message:
        """Wait for the next message of an event; see `subscribe`.

        Raises:
            RuntimeError: the event's handlers were removed meanwhile.
        """
        async with self.subscribe(event, capacity=1, overflow="drop_newest") as messages:
            async for message in messages:
                return message
        raise RuntimeError(f"nothing can arrive any more: the handlers of {event!r} were removed")

    # for the floors above

    def find(self, path: str) -> tuple[Entry, Mapping[str, str]] | None:
        """Return the exposed entry and the captures of a path, or None.

        Raises:
            BadRequest: the path can't be decoded.
        """
        return self._node.routes.table.find(path)

    @property
    def routes(self) -> Routes:
        """What always has the present table of exposed events."""
        return self._node.routes

    def applications(self) -> list[Application]:
        """Return the ASGI applications that are mounted, each once, oldest first."""
        entries = self._node.state.compiled.exposed.values()
        return list(dict.fromkeys(entry.application for entry in entries if entry.application is not None))

    def attach(self, event: str, check: Callable[[Entry], None]) -> Slot:
        """Give an endpoint its slot, which is kept up to date until `detach`.

        Raises:
            RegistrationError: nothing serves this event (naming what exists),
                or `check` refuses what does.
        """
        found = self.find(event)
        if found is None:
            known = ", ".join(sorted(self._node.state.compiled.exposed)) or "none"
            raise RegistrationError(f"no handler for event {event!r}; there are: {known}")
        check(found[0])
        slot = Slot(event, found[0], found[1], check)
        self._node.slots.add(slot)
        return slot

    def reserve(self, names: Mapping[str, str]) -> Attachment:
        """Keep events from having names that an endpoint has another use for.

        Args:
            names: each with the option of the endpoint that uses it.

        Raises:
            RegistrationError: an exposed event has such a name; while it is
                kept, registering one raises the same.
        """
        return Attachment(self._node.reserve(names))

    def detach(self, slot: Slot) -> None:
        """End the updates of a slot."""
        self._node.slots.discard(slot)
