"""Call the handlers of an event from inside the program.

An emission is a message as any other: it is decoded by the handlers' own
signatures, passes the middleware, takes a place where calls are limited. The
policies differ in which handlers run, and when:

* `serial`: all, in order. `first`: in order, until one answers.
* `concurrent`: all, at once. `race`: all, at once, until one answers; the
  others are cancelled, and have ended when `emit` returns.

What fails is raised as on a transport: a failure beside an answer is an
observer's, reported and nothing else. `concurrent` alone raises whatever
failed. The policies in order raise the first failure, those at once raise one
ExceptionGroup; in every case only when all that runs has ended.

Not here: which entry it is (the registry).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, get_args

import attrs
import trio

from oread.dispatch import (
    Entry,
    Failed,
    Gate,
    Passage,
    Spent,
    compile_link,
    encode_payload,
    fold_async,
    fold_sync,
    isolate,
    isolate_call,
)
from oread.errors import HandlerError, NotFound
from oread.messages import Message
from oread.registry.hooks import Failure, Hooks, report_or_log, watch_failure

Policy = Literal["serial", "concurrent", "first", "race"]
AT_ONCE = ("concurrent", "race")
UNTIL_ANSWERED = ("first", "race")


@attrs.frozen(eq=False)
class Step:
    """One handler of an event, to be called alone."""

    call: Callable[[Emission, bytes], Any]
    is_async: bool


def compile_steps(entry: Entry) -> tuple[Step, ...]:
    """Compile the handlers of an event one by one."""
    return tuple(Step(compile_link(link), link.plan.is_async) for link in entry.links)


@attrs.define(eq=False)
class Emission:
    """One call of `emit`: the origin of its message."""

    entry: Entry
    steps: Sequence[Step]
    captures: Mapping[str, str]
    hooks: Sequence[Hooks]
    policy: Policy
    results: list[Any] = attrs.field(factory=list)
    _told: Exception | None = None
    """The failure that monitors have been told of."""

    def message(self, data: bytes | memoryview) -> Message:
        """Make the message, for a handler that asks for it."""
        return Message(
            event=self.entry.event,
            data=bytes(data),
            captures=self.captures,
            received=trio.current_time(),
        )

    def report(self, failed: Failed) -> None:
        """Report what is not raised."""
        report_or_log(self.hooks, self._failure(failed))

    async def run(self, data: bytes) -> list[Any]:
        """Run all of it; return the results.

        Raises:
            Exception: what a handler or the middleware raised.
        """
        if self.entry.call is not None:
            answer = self._run_inline(data)
        else:
            async with hold_place(self.entry.gate):
                answer = await self._run_async(data)
        if isinstance(answer, Failed):
            if answer.error is not self._told:
                watch_failure(self.hooks, self._failure(answer))
            raise answer.error
        self._put_answer(answer)
        return self.results

    def _run_inline(self, data: bytes) -> Any:
        def inner() -> Any:
            return self._conclude(_call_in_order(self.steps, self, data, until=self._until))

        if not self.entry.layers:
            return inner()
        passage = Passage(self.message(data), inner)
        outcome = isolate_call(fold_sync(self.entry.layers), passage)
        return passage.blame(outcome.error, self._middleware) if isinstance(outcome, Failed) else outcome

    async def _run_async(self, data: bytes) -> Any:
        async def inner() -> Any:
            if self.policy in AT_ONCE:
                return self._conclude(await self._call_at_once(data))
            return self._conclude(await _await_in_order(self.steps, self, data, until=self._until))

        if not self.entry.layers:
            return await inner()
        passage = Passage(self.message(data), inner)
        outcome = await isolate(fold_async(self.entry.layers)(passage))
        return passage.blame(outcome.error, self._middleware) if isinstance(outcome, Failed) else outcome

    @property
    def _until(self) -> Callable[[Any], bool]:
        return is_answer if self.policy in UNTIL_ANSWERED else _never

    @property
    def _middleware(self) -> str:
        return self.entry.layers[0].name

    async def _call_at_once(self, data: bytes) -> list[Any]:
        """Call all in a nursery; answers of a race stand in the order of finishing."""
        racing = self.policy == "race"
        outcomes: list[Any] = [] if racing else [None] * len(self.steps)

        async def run_one(nursery: trio.Nursery, at: int, step: Step) -> None:
            outcome = await _call(step, self, data)
            if not racing:
                outcomes[at] = outcome
                return
            outcomes.append(outcome)
            if is_answer(outcome):
                nursery.cancel_scope.cancel()

        async def run_all() -> None:
            async with trio.open_nursery() as nursery:
                for at, step in enumerate(self.steps):
                    nursery.start_soon(run_one, nursery, at, step)

        ended = False
        try:
            left = await isolate(run_all())
            ended = True
        finally:
            if not ended:  # cancelled from outside: nobody will see these
                for outcome in outcomes:
                    if isinstance(outcome, Failed) and not is_spent(outcome):
                        self.report(outcome)
        # What is left: a loser of a race raised something beside its Cancelled.
        return [*outcomes, left] if isinstance(left, Failed) else outcomes

    def _conclude(self, outcomes: list[Any]) -> Any:
        """Set the results; return the answer, or the failure that is to be raised."""
        outcomes = [outcome for outcome in outcomes if not is_spent(outcome)]
        if not outcomes:
            return Failed(NotFound(f"no handler for {self.entry.event!r}"))
        failures = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
        answer = next((outcome for outcome in outcomes if is_answer(outcome)), None)
        if failures and (answer is None or self.policy == "concurrent"):
            return self._fail(failures, len(outcomes))
        for failed in failures:
            self.report(failed)
        if self.policy in UNTIL_ANSWERED:
            self.results = [] if answer is None else [answer]
        else:
            self.results = [None if isinstance(outcome, Failed) else outcome for outcome in outcomes]
        return answer

    def _fail(self, failures: list[Failed], ran: int) -> Failed:
        failed, *others = failures
        if self.policy in AT_ONCE:
            for each in failures:
                watch_failure(self.hooks, self._failure(each))
            text = f"{len(failures)} of {ran} handlers of {self.entry.event!r} failed"
            failed = Failed(ExceptionGroup(text, [each.error for each in failures]))
        else:
            watch_failure(self.hooks, self._failure(failed))
            for each in others:
                self.report(each)
        self._told = failed.error
        return failed

    def _put_answer(self, answer: Any) -> None:
        """Put what the middleware made of the answer in its place."""
        at = next((at for at, result in enumerate(self.results) if result is not None), None)
        if at is None:
            if answer is not None:
                self.results.append(answer)
        elif self.results[at] is not answer:
            self.results[at] = answer

    def _failure(self, failed: Failed) -> Failure:
        return Failure(event=self.entry.event, handler=failed.handler, error=failed.error)


def is_answer(outcome: Any) -> bool:
    """Tell an answer from a failure, and from an observer's None."""
    return outcome is not None and not isinstance(outcome, Failed)


def is_spent(outcome: Any) -> bool:
    """Tell a `once` handler that had its call already from all others."""
    return isinstance(outcome, Failed) and isinstance(outcome.error, Spent)


def _never(_outcome: Any) -> bool:
    return False


def check_policy(policy: str) -> None:
    """Refuse a policy that is none.

    Raises:
        ValueError: naming those that there are.
    """
    if policy not in get_args(Policy):
        raise ValueError(f"policy={policy!r}: one of {', '.join(get_args(Policy))}")


def encode_emitted(payload: Any) -> bytes:
    """Make bytes of what is emitted, as of a reply; None is an empty payload.

    Raises:
        TypeError: a value that nothing can be made of.
    """
    try:
        data = encode_payload(payload)
    except HandlerError as error:
        raise TypeError(f"a payload of {type(payload).__qualname__} can't be emitted: {error}") from error
    return b"" if data is None else bytes(data)


async def _call(step: Step, emission: Emission, data: bytes) -> Any:
    outcome = step.call(emission, data)
    return _keep(await outcome if step.is_async else outcome)


def _call_in_order(
    steps: Sequence[Step], emission: Emission, data: bytes, *, until: Callable[[Any], bool]
) -> list[Any]:
    outcomes = []
    for step in steps:
        outcomes.append(_keep(step.call(emission, data)))
        if until(outcomes[-1]):
            break
    return outcomes


async def _await_in_order(
    steps: Sequence[Step], emission: Emission, data: bytes, *, until: Callable[[Any], bool]
) -> list[Any]:
    outcomes = []
    for step in steps:
        outcomes.append(await _call(step, emission, data))
        if until(outcomes[-1]):
            break
    return outcomes


def _keep(outcome: Any) -> Any:
    """Copy a view: it is valid during the call only."""
    return bytes(outcome) if isinstance(outcome, memoryview) else outcome


@asynccontextmanager
async def hold_place(gate: Gate | None) -> AsyncIterator[None]:
    """Hold a place of a gate, having waited for it."""
    if gate is None:
        yield
        return
    if not gate.take():
        await _wait_for_place(gate)
    try:
        yield
    finally:
        gate.give()


async def _wait_for_place(gate: Gate) -> None:
    """Wait until a place is free, and take it.

    Cancellation: the place is not kept.
    """
    free = trio.Event()
    taken = entered = False

    def take() -> None:
        nonlocal taken
        taken = gate.take()
        free.set()

    gate.when_free(take)
    try:
        await free.wait()
        entered = True
    finally:
        if not entered:
            gate.forget(take)
            if taken:
                gate.give()
