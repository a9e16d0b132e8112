"""The errors of oread, split by whose fault they are.

Errors about a *message* derive from `MessageError` and carry the HTTP status
that says the same thing; every transport maps them once (DESIGN.md, Errors).
Errors about *use* (a bad URL, a bad signature) are raised to the programmer
before anything is served.

Not here: anything that knows a socket or a protocol. `OSError` stays `OSError`.
"""

from __future__ import annotations

from typing import ClassVar


class OreadError(Exception):
    """The parent of every error that oread itself raises."""


class MessageError(OreadError):
    """One message could not be answered; `status` is the HTTP word for it."""

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "failed"
    """Under which it is counted."""


class BadRequest(MessageError):
    """The message is not what the handler takes: the peer's fault."""

    status = 400
    reason = "bad_request"


class NotFound(MessageError):
    """No handler serves this event."""

    status = 404
    reason = "not_found"


class NotAllowed(MessageError):
    """The event exists, but not for this HTTP method (RFC 9110 15.5.6).

    Args:
        allowed: the methods that are served, for the `Allow` field.
    """

    status = 405
    reason = "not_allowed"

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__(f"method not allowed; allowed: {', '.join(allowed)}")
        self.allowed = allowed


class TooLarge(MessageError):
    """The message is larger than the limit of its endpoint."""

    status = 413
    reason = "too_large"


class CutShort(BadRequest):
    """The peer left before its message was complete."""

    reason = "cut_short"


class SlowBody(MessageError):
    """The body of a request came too slowly (RFC 9110 15.5.9)."""

    status = 408
    reason = "slow_body"


class HandlerError(MessageError):
    """The handler failed, or returned what its transport cannot send."""

    status = 500
    reason = "handler_failed"


class Busy(MessageError):
    """The service has no room for this message now; ask again later.

    Args:
        retry_seconds: what `Retry-After` says (RFC 9110 10.2.3).
    """

    status = 503
    reason = "busy"

    def __init__(self, message: str = "busy", *, retry_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class HandlerCancelled(MessageError):
    """The handler was cancelled: its peer is gone, or the service is stopping."""

    status = 503
    reason = "cancelled"


class TimedOut(MessageError):
    """The handler's deadline passed."""

    status = 504
    reason = "timed_out"


class EndpointError(OreadError, ValueError):
    """An endpoint's URL, or one of its options, cannot be used."""


class RegistrationError(OreadError, TypeError):
    """A handler cannot be registered as it is."""


class ApplicationError(OreadError):
    """A mounted application could not start, or asks for what is not served.

    Args:
        words: what it is about.
        details: all that the application said, which may be a traceback.
    """

    def __init__(self, words: str, details: str = "") -> None:
        super().__init__(words)
        self.details = details


class HandlerAbandoned(OreadError):
    """A handler's thread runs on after its call was given up.

    A thread can't be cancelled: what it still returns is dropped.
    """


class SubscriptionOverflow(OreadError):
    """A subscription was full, and was asked to fail then.

    Args:
        event: what was subscribed to.
        capacity: how many messages it held.
    """

    def __init__(self, event: str, capacity: int) -> None:
        super().__init__(f"subscription to {event!r}: more than {capacity} messages wait to be taken")
        self.event = event
        self.capacity = capacity


class HandlerLeakWarning(RuntimeWarning):
    """An event has more handlers than expected: some may never be removed."""
