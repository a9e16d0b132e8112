"""Make the calls of one JSON-RPC document, whatever it came by.

Calls are made in their order, one after the other. Sync handlers run where the
document was read; an async one is a job of its host (the connection, or the
datagram on its way), which goes on with the rest when it has ended. So every
call has a context of its own, and its event's middleware, limit, deadline and
shield hold as on every transport.

A failure of one call is its own: it is reported under its event and answered
in its place. Once the host's job was cancelled, no further call is begun.

Not here: the words of the protocol (`oread.protocols.jsonrpc`), what params
mean (`oread.dispatch.jsonrpc`), and how documents come and go.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

from oread.dispatch import Entry, Failed, Gate
from oread.dispatch.jsonrpc import ParamsRule, ResultError, encode_value, read_params, read_params_rule
from oread.errors import BadRequest, Busy, HandlerCancelled, HandlerError, MessageError, NotFound
from oread.listeners.runtime import is_refusal
from oread.listeners.streaming import discard_stream
from oread.messages import Message
from oread.protocols.jsonrpc import (
    INTERNAL_ERROR,
    RESERVED,
    Call,
    Fault,
    Invalid,
    encode_error,
    encode_result,
    fault_of,
    join_responses,
    read_document,
)
from oread.registry import Registry

NO_EVENT = "jsonrpc"
"""What a fault is reported under when no event can be named."""


class Methods:
    """The exposed events of a registry, as the methods of one endpoint.

    Args:
        registry: is asked for every call, so each change shows at once.
        copy_context: makes the context that one inline call runs in.
    """

    __slots__ = ("_registry", "_rules", "copy_context")

    def __init__(self, registry: Registry, copy_context: Callable[[], contextvars.Context]) -> None:
        self._registry = registry
        self._rules: WeakKeyDictionary[Entry, ParamsRule] = WeakKeyDictionary()
        self.copy_context = copy_context

    def find(self, method: str) -> tuple[Entry, Mapping[str, str]]:
        """Return the entry of a method and what its name captured.

        Raises:
            NotFound: no exposed event, or a name that the specification keeps.
        """
        # A method is a name and no URL: a percent sign in it stands for itself.
        found = None if method.startswith(RESERVED) else self._registry.find(method.replace("%", "%25"))
        if found is None:
            raise NotFound("no such method")
        return found

    def read_payload(self, entry: Entry, params: bytes) -> bytes:
        """Return the payload that params make for the handlers of an entry.

        Raises:
            BadRequest: they are not what the handlers take.
        """
        rule = self._rules.get(entry)
        if rule is None:
            rule = self._rules[entry] = read_params_rule(entry.links)
        return read_params(rule, params)


class Host(Protocol):
    """What a document came by, and the job that its async calls are."""

    answers_errors: ClassVar[bool]
    """Whether a failed call is answered; UDP sends no errors."""
    waits_for_place: ClassVar[bool]
    """Whether a call over its event's limit waits; else it is Busy."""

    def make_message(self, event: str, captures: Mapping[str, str], data: bytes | memoryview) -> Message:
        """Make the message of one call."""

    def report_call(self, event: str, failed: Failed) -> None:
        """Count and log why one call failed."""

    def submit_call(self) -> None:
        """Have a runner begin the present call of the work."""


class CallOrigin:
    """Where one call came from."""

    __slots__ = ("_host", "captures", "event")

    def __init__(self, host: Host, event: str, captures: Mapping[str, str]) -> None:
        self._host = host
        self.event = event
        self.captures = captures

    def message(self, data: bytes | memoryview) -> Message:
        """Make the message with its context."""
        return self._host.make_message(self.event, self.captures, data)

    def report(self, failed: Failed) -> None:
        """Count and log a failure that is not the outcome of the call."""
        self._host.report_call(self.event, failed)


class Work:
    """The calls of one document, made in their order.

    Args:
        methods: of the endpoint.
        host: is told by `submit_call` when an async handler is next; it calls
            `begin` as its job begins and `take` with what that came to.
        data: the document, as it came.
    """

    __slots__ = (
        "_at",
        "_document",
        "_gate",
        "_given_up",
        "_holds_place",
        "_host",
        "_methods",
        "_present",
        "_responses",
        "_running",
        "_stopped",
        "cancelled",
        "failed",
    )

    def __init__(self, methods: Methods, host: Host, data: bytes) -> None:
        self._methods = methods
        self._host = host
        self._document = read_document(data)
        self._at = 0
        self._responses: list[bytes] = []
        self._present: tuple[Entry, CallOrigin, bytes] | None = None
        """The async call that waits or runs."""
        self._gate: Gate | None = None
        self._holds_place = False
        self._running = False
        self._stopped = self._given_up = False
        self.cancelled = False
        """Whether the last call that ran was cancelled."""
        self.failed = False
        """Whether a handler failed, for the endpoint's `failure=`."""

    @property
    def shield(self) -> bool:
        """Whether the present call goes on when its peer is gone."""
        return self._present is not None and self._present[0].shield

    @property
    def waits(self) -> bool:
        """Whether the present call waits for a place."""
        return self._gate is not None and not self._holds_place

    def run(self) -> bool:
        """Make the calls from where it stands; False when one waits or is now a job."""
        items = self._document.items
        while self._at < len(items) and not self._stopped:
            item = items[self._at]
            if isinstance(item, Invalid):
                self._refuse(item)
            elif self._given_up or self.cancelled:
                self._fail(item, NO_EVENT, Failed(HandlerCancelled("not begun: its job was cancelled")))
            elif not self._make(item):
                return False
            self._at += 1
        return True

    def begin(self) -> Coroutine[Any, Any, Any] | None:
        """Make the coroutine of the present call; None when it has become pointless."""
        if self._stopped or self._present is None:
            return None
        entry, origin, data = self._present
        assert entry.start is not None
        self._running = True
        return entry.start(origin, data)

    def take(self, result: Any) -> bool:
        """Take what the present call came to, then go on as `run`."""
        assert self._present is not None
        origin, item = self._present[1], self._document.items[self._at]
        assert isinstance(item, Call)
        self._running, self._present = False, None
        self.give_place()
        # Its own words name a handler; the runner's do not.
        self.cancelled = (
            isinstance(result, Failed) and isinstance(result.error, HandlerCancelled) and not result.handler
        )
        self._settle(item, origin.event, result)
        self._at += 1
        return self.run()

    def give_up(self) -> None:
        """Answer the calls behind the present one as cancelled, whatever that one comes to."""
        self._given_up = True

    def abandon(self) -> None:
        """Begin no further call; one that runs may end, and `take` is still owed."""
        self._stopped = True
        if not self._running:
            self.give_place()

    def response(self) -> bytes | None:
        """Return the document that answers; None when nothing is to be answered."""
        return join_responses(self._responses, is_batch=self._document.is_batch)

    # one call

    def _make(self, item: Call) -> bool:
        """Make one call; False when it is now for a runner."""
        event = NO_EVENT
        try:
            entry, captures = self._methods.find(item.method)
            event = entry.event
            data = self._methods.read_payload(entry, item.params)
        except MessageError as error:
            self._fail(item, event, Failed(error))
            return True
        origin = CallOrigin(self._host, event, captures)
        if entry.call is not None:
            self._settle(item, event, self._methods.copy_context().run(entry.call, origin, data))
            return True
        if entry.gate is not None and not entry.gate.take():
            if not self._host.waits_for_place:
                self._fail(item, event, Failed(Busy(f"{event} is at its limit of calls")))
                return True
            self._present, self._gate = (entry, origin, data), entry.gate
            entry.gate.when_free(self._enter)
            return False
        self._present, self._gate = (entry, origin, data), entry.gate
        self._holds_place = entry.gate is not None
        self._host.submit_call()
        return False

    def _enter(self) -> None:
        assert self._gate is not None
        self._holds_place = self._gate.take()
        self._host.submit_call()

    def give_place(self) -> None:
        """Give the present call's place back, or wait for one no more."""
        gate, held = self._gate, self._holds_place
        self._gate, self._holds_place = None, False
        if gate is not None:
            if held:
                gate.give()
            else:
                gate.forget(self._enter)

    # outcomes

    def _settle(self, item: Call, event: str, reply: Any) -> None:
        if isinstance(reply, Failed):
            self._fail(item, event, reply)
        elif item.id is None:
            discard_stream(reply)
        else:
            try:
                self._responses.append(encode_result(item.id, encode_value(reply)))
            except HandlerError as error:
                discard_stream(reply)
                self._fail(item, event, Failed(error))

    def _fail(self, item: Call, event: str, failed: Failed) -> None:
        self._host.report_call(event, failed)
        self.failed |= not is_refusal(failed.error)
        if item.id is None or not self._host.answers_errors:
            return
        error = failed.error
        fault = (
            Fault(INTERNAL_ERROR, "Internal error", str(error))
            if isinstance(error, ResultError)
            else fault_of(error, in_handler=bool(failed.handler))
        )
        self._responses.append(encode_error(item.id, fault))

    def _refuse(self, item: Invalid) -> None:
        self._host.report_call(NO_EVENT, Failed(BadRequest(f"{item.fault.message}: {item.fault.data}")))
        if self._host.answers_errors:
            self._responses.append(encode_error(item.id, item.fault))
