"""Pooled tasks in which async handlers run, the same for every transport.

A handler that does not suspend is followed by the next queued job without a
task switch; when one suspends, the next runner is woken for the rest of the
queue. So a task switch is paid only by handlers that wait.

A runner's cancel scope carries the cancelling of its present job (peer gone,
drain deadline) and is made anew only after a cancel.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, Protocol

import trio

from oread.dispatch import Failed, isolate
from oread.errors import HandlerCancelled
from oread.reactor.turns import TURN_SECONDS

IDLE_RUNNERS = 256
"""Parked tasks kept for reuse (about 3 KiB each); more end instead."""


class Job(Protocol):
    """One call of an async handler or a session."""

    runner: Runner | None
    """Set by the pool while the coroutine runs."""

    def begin(self) -> Coroutine[Any, Any, Any] | None:
        """Make the coroutine, or None when the job has become pointless."""

    def finish(self, result: Any) -> None:
        """Take the handler's value or `Failed`; called exactly once after `begin`."""


class Runner:
    """One task of the pool.

    Args:
        parked: the pool's list of those that wait for work.
    """

    __slots__ = ("_parked", "cancelled", "fresh", "job", "roused", "scope", "task")

    def __init__(self, parked: list[Runner]) -> None:
        self._parked = parked
        self.scope = trio.CancelScope()
        self.job: Job | None = None
        self.cancelled = False
        """Whether its scope was cancelled (`scope.cancel_called` reads the clock: 0.5 µs)."""
        self.roused = False
        """Whether it was woken for the queue and counts as awake."""
        self.fresh = False
        """Whether its task got a context of its own with that."""
        self.task: trio.lowlevel.Task | None = None
        """The wake slot: set only while the task is parked."""

    async def park(self) -> None:
        """Wait until it is roused."""
        self.task = trio.lowlevel.current_task()
        self._parked.append(self)
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self.task = None
        self._parked.remove(self)
        return trio.lowlevel.Abort.SUCCEEDED


class _Resumed:
    """The rest of a coroutine after its first suspension, in its context; to be awaited."""

    __slots__ = ("_coroutine", "_run", "_trap")

    def __init__(self, trap: Any, coroutine: Coroutine[Any, Any, Any], run: Callable[..., Any]) -> None:
        self._trap, self._coroutine, self._run = trap, coroutine, run

    def __await__(self) -> _Resumed:
        return self

    def __iter__(self) -> _Resumed:
        return self

    def __next__(self) -> Any:
        """Hand the first trap to Trio; later steps come by `send`."""
        if self._trap is None:
            return self._run(self._coroutine.send, None)
        trap, self._trap = self._trap, None
        return trap

    def send(self, value: Any) -> Any:
        return self._run(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return self._run(self._coroutine.throw, *error)

    def close(self) -> None:
        self._coroutine.close()


class RunnerPool:
    """The runners of one service.

    One runner is roused for a queue, and works it off alone while handlers do
    not suspend. When one does, the next is roused; when the one before did so
    too, one for each job that waits, or every job would cost a pass of Trio's
    scheduler of its own.

    Args:
        context: what each handler's context is copied from.
        most: tasks at once; further jobs wait in the queue, which the
            listeners bound (one per stream connection, `in_flight` for UDP).
    """

    def __init__(self, context: contextvars.Context, *, most: int = 10_000) -> None:
        self._nursery: trio.Nursery | None = None
        self._context = context
        self._most = most
        self._queue: deque[Job] = deque()
        self._parked: list[Runner] = []
        self._count = 0
        self._awake = 0
        """Runners that take from the queue, or were roused to."""
        self._often = False
        """Whether the last job suspended."""
        self._closed = False
        self._working = 0
        self._idle: trio.Event | None = None
        self._turn_end = 0.0

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to work, with tasks that this nursery owns and can cancel."""
        self._nursery = nursery
        if self._queue:
            self._rouse()

    def submit(self, job: Job) -> None:
        """Queue a job and see that a runner comes for it; after `close`, drop it."""
        if self._closed:
            return
        self._queue.append(job)
        if not self._awake:
            self._turn_end = perf_counter() + TURN_SECONDS
            self._rouse()

    def cancel(self, job: Job) -> None:
        """Cancel a running job; one still queued must answer None from `begin`."""
        if job.runner is not None:
            job.runner.cancelled = True
            job.runner.scope.cancel()

    async def wait_idle(self) -> None:
        """Wait until no job runs and none is queued."""
        while self._working or self._queue:
            if self._idle is None or self._idle.is_set():  # else somebody waits for it already
                self._idle = trio.Event()
            await self._idle.wait()
        self._idle = None

    def close(self) -> None:
        """Begin no job any more."""
        self._closed = True
        self._queue.clear()

    def _rouse(self) -> bool:
        """Have one more runner take from the queue; False when there is none to be had."""
        if self._parked:
            runner = self._parked.pop()
            task, runner.task = runner.task, None
            assert task is not None
            if self._often:
                task.context = self._context.copy()
                runner.fresh = True
            trio.lowlevel.reschedule(task)
        elif self._nursery is not None and self._count < self._most:
            self._count += 1
            runner = Runner(self._parked)
            self._nursery.start_soon(self._run, runner)
        else:
            return False  # whichever runner ends its job first takes
        runner.roused = True
        self._awake += 1
        return True

    @trio.lowlevel.enable_ki_protection
    async def _run(self, runner: Runner) -> None:
        try:
            while await self._live(runner):
                pass
        finally:
            self._count -= 1

    async def _live(self, runner: Runner) -> bool:
        """Work until cancelled or superfluous; False when the runner is to end."""
        outcome = await isolate(self._work(runner))
        job, runner.job = runner.job, None
        if job is not None:  # its coroutine left through the scope: cancelled, perhaps with errors beside
            self._one_less()
            job.runner = None
            job.finish(outcome if isinstance(outcome, Failed) else Failed(HandlerCancelled("cancelled")))
            return True
        if isinstance(outcome, Failed):
            raise outcome.error  # ours, not a handler's: it ends the service
        return bool(outcome)

    async def _work(self, runner: Runner) -> bool:
        runner.cancelled = False
        with trio.CancelScope() as runner.scope:
            while True:
                if not runner.roused:
                    self._awake += 1
                runner.roused = False
                if runner.fresh:
                    runner.fresh = False
                    await self._take_one(runner)
                if not runner.cancelled:
                    await self._take_all(runner)
                if runner.cancelled:
                    return True  # a cancel that came too late for its job must not hit the next one
                if len(self._parked) >= IDLE_RUNNERS:
                    return False
                await runner.park()
        return True

    async def _take_one(self, runner: Runner) -> None:
        """Do one job in the context of the runner's task, which nobody else has been in.

        The queue is handed over before the job begins, since the one before it
        has suspended: so nothing has to stand between the handler and Trio to
        see when this one does, which costs 2 µs a job.
        """
        job = self._queue.popleft() if self._queue else None
        coroutine = job.begin() if job is not None else None
        if job is None or coroutine is None:
            return
        self._hand_over()
        runner.job, job.runner = job, runner
        self._end(runner, job, await coroutine)

    async def _take_all(self, runner: Runner) -> None:
        """Work off the queue until it is empty, or a late cancel hangs over this runner."""
        queue, copy_context = self._queue, self._context.copy
        while queue:
            job = queue.popleft()
            coroutine = job.begin()
            if coroutine is None:
                continue
            runner.job, job.runner = job, runner
            context = copy_context()
            try:
                trap = context.run(coroutine.send, None)
            except StopIteration as stop:
                runner.job = job.runner = None
                job.finish(stop.value)
                if runner.cancelled:  # by its own job, which met a reset and never waited
                    self._awake -= 1
                    return
                self._often = False
                if perf_counter() >= self._turn_end:
                    await trio.lowlevel.checkpoint()
                    self._turn_end = perf_counter() + TURN_SECONDS
                continue
            self._hand_over()
            self._often = True
            self._end(runner, job, await _Resumed(trap, coroutine, context.run))
            if runner.cancelled:
                return
        self._awake -= 1
        self._tell_idle()

    def _hand_over(self) -> None:
        """Leave the queue to other runners: this one suspends, or is taken to."""
        self._working += 1  # what does not suspend is never seen working by another task
        self._awake -= 1
        wanted = len(self._queue) if self._often else min(len(self._queue), 1)
        while self._awake < wanted and self._rouse():
            pass

    def _end(self, runner: Runner, job: Job, result: Any) -> None:
        """Take a job's result after the queue was handed over; count as awake again, unless cancelled."""
        runner.job = job.runner = None
        job.finish(result)
        self._one_less()
        if not runner.cancelled:
            self._awake += 1

    def _one_less(self) -> None:
        self._working -= 1
        self._tell_idle()

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._working and not self._queue:
            self._idle.set()
