"""What a registration says, and what takes it back.

Not here: what a change does to the compiled entries (`tree`).
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypedDict

import attrs

from oread.dispatch import Link
from oread.dispatch.signature import handler_name
from oread.errors import RegistrationError

Handler = Callable[..., Any]


class HandlerOptions(TypedDict, total=False):
    """What may be said of a handler when it is registered."""

    methods: tuple[str, ...] | None
    """The HTTP methods it serves; None is any but TRACE and CONNECT."""
    exposed: bool
    """False hides it from every endpoint: `emit` alone reaches it."""
    deadline: float | None
    """Seconds that an async or thread handler may take; then its caller gets `TimedOut`."""
    limit: int | None
    """Messages of the event that may be handled at a time, by all of its handlers; the smallest counts."""
    thread: bool
    """Run this sync handler in a worker thread."""
    shield: bool
    """Let it run on when its peer is gone; its reply is dropped then."""


@attrs.frozen(kw_only=True)
class Options:
    """The same, checked."""

    methods: tuple[str, ...] | None = None
    exposed: bool = True
    deadline: float | None = None
    limit: int | None = None
    thread: bool = False
    shield: bool = False

    def __attrs_post_init__(self) -> None:
        """Refuse what can't be meant.

        Raises:
            RegistrationError: with the value and what is allowed.
        """
        if self.methods is not None:
            _check_methods(self.methods)
        if self.deadline is not None and not self.deadline > 0:
            raise RegistrationError(f"deadline={self.deadline!r}: seconds above 0, or None")
        if self.limit is not None and (type(self.limit) is not int or self.limit < 1):
            raise RegistrationError(f"limit={self.limit!r}: a whole number, 1 or more, or None")


def _check_methods(methods: object) -> None:
    if (
        not isinstance(methods, (tuple, list))
        or not methods
        or not all(isinstance(method, str) and method.isupper() and method.isalpha() for method in methods)
    ):
        raise RegistrationError(f"methods={methods!r}: a tuple of HTTP methods in capitals is needed")


@attrs.frozen(kw_only=True)
class HandlerInfo:
    """One handler as the registry lists it."""

    event: str
    name: str
    """Module and qualified name."""
    kind: str
    """`sync`, `async`, `thread`, `subscription` or `session`."""
    payload: str | None
    """`bytes`, `memoryview`, `str`, `json`, `parts`, or None when it takes none."""
    methods: tuple[str, ...] | None
    exposed: bool
    once: bool
    handler: Handler
    deadline: float | None = None
    limit: int | None = None
    shield: bool = False


@attrs.define(eq=False)
class Attachment:
    """Something attached to a registry; a context manager that takes it back."""

    _undo: Callable[[], None] | None

    def remove(self) -> None:
        """Take it back; nothing happens when that was done already."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


@attrs.define(eq=False)
class Registration:
    """One handler under one event; a context manager that takes it back."""

    _drop: Callable[[Registration], None]
    event: str
    handler: Handler
    kind: str
    options: Options = Options()
    once: bool = False
    link: Link | None = None
    """None for a session."""
    on_removed: Callable[[], None] | None = None
    """For a subscription: whoever removes it ends it."""
    _spent: bool = False

    def remove(self) -> None:
        """Take this handler back; nothing happens when it is gone already."""
        self._drop(self)

    def take(self) -> bool:
        """For a `once` handler: True the first time; it is removed by then."""
        if self._spent:
            return False
        self._spent = True
        self.remove()
        return True

    def info(self, event: str) -> HandlerInfo:
        """Describe it under the name that the event has where it is listed."""
        link, options = self.link, self.options
        return HandlerInfo(
            event=event,
            name=handler_name(self.handler),
            kind=self.kind,
            payload=None if link is None else link.plan.payload,
            methods=options.methods,
            exposed=options.exposed,
            once=self.once,
            handler=self.handler,
            deadline=options.deadline,
            limit=options.limit,
            shield=options.shield,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
