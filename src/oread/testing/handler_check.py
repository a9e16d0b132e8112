"""Hold a handler to what every transport expects of it.

    async def test_orders_keeps_the_contract(autojump_clock):
        await oread.testing.check_handler(registry, "orders", {"item": "nut"})

The rules, by the names under which `ContractError` tells them:

* **blocking**: between two checkpoints at most `most_lines` lines of Python,
  and no call that waits in the system (see `oread.testing.steps`);
* **steps**: it ends, within `most_steps` checkpoints;
* **context**: it leaves no context variable changed for its caller;
* **task**, **descriptor**: what it began is over, what it opened is closed;
* **cancellation**: cancelled at any of its checkpoints it ends at once (what
  it shields comes to its end), leaves nothing behind, and the next call is
  answered as ever;
* **isolation**: calls side by side are answered as each would be alone;
* **transport**: every transport that can serve it gives the same reply, or
  the same class of error.
"""

from __future__ import annotations

import contextlib
import contextvars
import operator
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import trio
import trio.testing

from oread.client.payloads import write_payload
from oread.errors import MessageError, NotAllowed, NotFound, RegistrationError
from oread.messages import Message
from oread.registry import Registry
from oread.testing.clients import TRANSPORTS, EventClient, Transport, open_client
from oread.testing.contract import ContractError
from oread.testing.datagrams import MOST_BYTES
from oread.testing.steps import StepWatch

MOST_LINES = 100_000
"""About 5 ms of plain Python, in which an inline handler holds up every other one."""
MOST_STEPS = 1_000
SIDE_BY_SIDE = 3
DESCRIPTORS = "/dev/fd"
"""A directory of the open descriptors of this process, on Linux and macOS."""

Same = Callable[[bytes, bytes], bool]


@attrs.frozen(kw_only=True)
class HandlerReport:
    """What a check has seen."""

    reply: bytes | None
    """None when the handler raised."""
    error: type[Exception] | None
    checkpoints: int
    """At how many it was cancelled."""
    transports: tuple[Transport, ...]
    """Whose replies were compared."""


@attrs.frozen
class _Outcome:
    reply: bytes | None = None
    error: type[Exception] | None = None

    def __str__(self) -> str:
        return repr(self.reply) if self.error is None else f"{self.error.__name__} raised"

    def is_like(self, other: _Outcome, same: Same) -> bool:
        if self.reply is None or other.reply is None:
            return self == other
        return same(self.reply, other.reply)


async def check_handler(
    registry: Registry,
    event: str,
    payload: Any = b"",
    *,
    transports: Sequence[Transport] = TRANSPORTS,
    same: Same = operator.eq,
    most_lines: int = MOST_LINES,
    most_steps: int = MOST_STEPS,
) -> HandlerReport:
    """Check the handlers of an event against their contract.

    They are called many times: once for each of their checkpoints, and a few
    times more. With a mock clock (`autojump_clock`) that takes no time.

    Args:
        registry: is left as it was.
        event: a name, or a path that a pattern matches.
        payload: as for `EventClient.call`.
        transports: those to compare. One that can't serve the event is left
            out: raw TCP for typed handlers and empty payloads, `lines` for a newline, UDP for
            what no datagram holds, HTTP when no handler takes a POST.
        same: tells whether two replies count as the same; give one that
            leaves out a time or a counter.
        most_lines: of Python between two checkpoints.
        most_steps: checkpoints in one call.

    Returns:
        What was seen, when every rule was kept.

    Raises:
        ContractError: the first rule that was broken.
        NotFound: nothing serves this event.
        ValueError: a handler asks for an `HttpRequest` or a `Datagram`, so it
            belongs to one transport.
    """
    found = registry.find(event)
    if found is not None:
        _refuse_one_transport(event, [link.plan.message for link in found[0].links])
    async with open_client(registry, "emit") as client:
        check = _Check(client, event, payload, same, most_lines, most_steps)
        alone = (await check.watch()).outcome  # what it keeps for good, it has by now
        if alone.error is NotFound:
            raise NotFound(f"no handler for {event!r}")
        await check.check_once()
        checkpoints = await check.check_cancellation(alone)
        await check.check_side_by_side(alone)
    compared = [
        transport
        for transport in transports
        if (found is not None or transport == "emit")
        and await _compare(registry, transport, event, payload, alone, same)
    ]
    return HandlerReport(
        reply=alone.reply, error=alone.error, checkpoints=checkpoints, transports=tuple(compared)
    )


def _refuse_one_transport(event: str, wanted: Sequence[type[Message] | None]) -> None:
    for each in wanted:
        if each not in (None, Message):
            raise ValueError(f"{event!r} asks for {each.__name__}: such a handler belongs to one transport")


@attrs.define
class _Watched:
    """One call that was watched."""

    steps: int = 0
    outcome: _Outcome = _Outcome()
    changed: tuple[str, ...] = ()
    """Context variables that are not as they were."""


@attrs.frozen
class _Check:
    """The rules for one event that need no transport."""

    _client: EventClient
    _event: str
    _payload: Any
    _same: Same
    _most_lines: int
    _most_steps: int

    async def check_once(self) -> None:
        """Look at what one call leaves behind."""
        before = await _Left.now()
        watched = await self.watch()
        if watched.changed:
            names = ", ".join(watched.changed)
            raise ContractError("context", f"{self._event!r} leaves {names} changed for its caller")
        (await _Left.now()).compare(before, "")

    async def check_cancellation(self, alone: _Outcome) -> int:
        """Cancel at the first checkpoint, at the second, until it ends before that."""
        for step in range(1, self._most_steps + 1):
            before = await _Left.now()
            watched = await self.watch(step)
            where = f", cancelled at checkpoint {step}"
            (await _Left.now()).compare(before, where)
            if watched.steps < step:
                return step - 1
            outcome = await _call(self._client, self._event, self._payload)
            if not outcome.is_like(alone, self._same):
                raise ContractError("cancellation", f"the call after one{where}: {outcome}, not {alone}")
        return self._most_steps

    async def check_side_by_side(self, alone: _Outcome) -> None:
        """Make several calls at once."""
        outcomes: list[_Outcome] = []

        async def call() -> None:
            outcomes.append(await _call(self._client, self._event, self._payload))

        async with trio.open_nursery() as nursery:
            for _ in range(SIDE_BY_SIDE):
                nursery.start_soon(call)
        for outcome in outcomes:
            if not outcome.is_like(alone, self._same):
                raise ContractError("isolation", f"{outcome} beside other calls, {alone} alone")

    async def watch(self, cancel_at: int = 0) -> _Watched:
        """Make one call in a task of its own, step by step."""
        watch = StepWatch(most_lines=self._most_lines, most_steps=self._most_steps, cancel_at=cancel_at)
        watched = _Watched()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run, watch, watched)
        watched.steps = watch.steps
        if watch.fault is not None:
            raise watch.fault
        return watched

    async def _run(self, watch: StepWatch, watched: _Watched) -> None:
        before = dict(contextvars.copy_context())
        with watch.watching() as scope:
            watched.outcome = await _call(self._client, self._event, self._payload)
        after = dict(contextvars.copy_context())
        watched.changed = tuple(
            var.name for var in after if var not in before or after[var] is not before[var]
        )
        if watch.delivered and not scope.cancelled_caught:
            watch.note("cancellation", f"goes on after the one at checkpoint {watch.cancel_at}")


async def _call(client: EventClient, event: str, payload: Any) -> _Outcome:
    try:
        return _Outcome(reply=await client.call(event, payload))
    except MessageError as error:
        return _Outcome(error=type(error))


async def _compare(
    registry: Registry, transport: Transport, event: str, payload: Any, alone: _Outcome, same: Same
) -> bool:
    """Call by one transport; return whether it can serve the event at all."""
    sent, reply = write_payload(payload).data, alone.reply or b""
    if transport == "tcp" and not sent:
        return False
    if transport == "lines" and b"\n" in sent + reply:
        return False
    if transport == "udp" and max(len(sent), len(reply)) > MOST_BYTES:
        return False
    before = await _Left.now()
    try:
        async with open_client(registry, transport) as client:
            outcome = await _call(client, event, payload)
    except RegistrationError:
        return False
    if transport == "http" and outcome.error is NotAllowed:
        return False
    if not outcome.is_like(alone, same):
        raise ContractError("transport", f"{outcome} by {transport}, {alone} by emit")
    (await _Left.now()).compare(before, f" by {transport}")
    return True


@attrs.frozen
class _Left:
    """What there is beside the test itself: tasks, and open descriptors."""

    tasks: frozenset[trio.lowlevel.Task]
    descriptors: frozenset[int]

    @classmethod
    async def now(cls) -> _Left:
        """Look, when everything that is about to end has ended."""
        await trio.testing.wait_all_tasks_blocked()
        root = trio.lowlevel.current_root_task()
        return cls(frozenset(_tasks_below(root) if root is not None else ()), frozenset(_open_descriptors()))

    def compare(self, before: _Left, where: str) -> None:
        """Raise for what was not there before."""
        for task in self.tasks - before.tasks:
            raise ContractError("task", f"{task.name} is left running{where}")
        for descriptor in sorted(self.descriptors - before.descriptors):
            raise ContractError("descriptor", f"{_describe(descriptor)} is left open{where}")


def _tasks_below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _tasks_below(child)


def _open_descriptors() -> Iterator[int]:
    for name in os.listdir(DESCRIPTORS):
        with contextlib.suppress(OSError):  # the listing's own is closed by now
            os.fstat(int(name))
            yield int(name)


def _describe(descriptor: int) -> str:
    kinds = {stat.S_ISSOCK: "a socket", stat.S_ISFIFO: "a pipe", stat.S_ISREG: "a file"}
    mode = os.fstat(descriptor).st_mode
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "a descriptor")
