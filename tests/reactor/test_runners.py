"""The runner pool: hand-over, cancelling, contexts, and its traps."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from oread.dispatch import Failed
from oread.errors import HandlerCancelled
from oread.reactor import Runner, RunnerPool

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


class Job:
    """A job that keeps its result."""

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, Any] | None]) -> None:
        self.runner: Runner | None = None
        self._begin = begin
        self.results: list[Any] = []

    def begin(self) -> Coroutine[Any, Any, Any] | None:
        return self._begin()

    def finish(self, result: Any) -> None:
        self.results.append(result)


@asynccontextmanager
async def pool(**options: int) -> AsyncIterator[RunnerPool]:
    """A pool that is cancelled at the end."""
    async with trio.open_nursery() as nursery:
        runners = RunnerPool(contextvars.copy_context(), **options)
        runners.start(nursery)
        yield runners
        nursery.cancel_scope.cancel()


async def test_jobs_that_do_not_suspend_share_a_task() -> None:
    """Ten such jobs run in one task, in order."""
    tasks: list[Any] = []

    async def work(number: int) -> int:
        tasks.append(trio.lowlevel.current_task())
        return number

    async with pool() as runners:
        jobs = [Job(lambda number=number: work(number)) for number in range(10)]
        for job in jobs:
            runners.submit(job)
        await wait_all_tasks_blocked()
    assert [job.results for job in jobs] == [[number] for number in range(10)]
    assert len(set(tasks)) == 1


async def test_a_job_that_suspends_hands_the_queue_over() -> None:
    """What waits does not hold up what is queued behind it, and the runners are used again."""
    gate = trio.Event()
    order: list[str] = []
    tasks: set[Any] = set()

    async def waits() -> None:
        order.append("waits")
        await gate.wait()
        order.append("goes on")

    async def quick() -> None:
        order.append("quick")
        tasks.add(trio.lowlevel.current_task())

    async with pool() as runners:
        for work in (waits, quick, waits, quick):
            runners.submit(Job(work))
        await wait_all_tasks_blocked()
        assert order == ["waits", "quick", "waits", "quick"]
        gate.set()
        await wait_all_tasks_blocked()
        for _ in range(5):
            runners.submit(Job(quick))
            await wait_all_tasks_blocked()
    assert order[4:6] == ["goes on", "goes on"]
    assert len(tasks) <= 3


async def test_full_pool_queues_and_goes_on() -> None:
    """At the most runners the rest waits, then runs."""
    gate = trio.Event()
    done: list[int] = []

    async def work(number: int) -> None:
        await gate.wait()
        done.append(number)

    async with pool(most=2) as runners:
        for number in range(6):
            runners.submit(Job(lambda number=number: work(number)))
        await wait_all_tasks_blocked()
        gate.set()
        await runners.wait_idle()
    assert sorted(done) == list(range(6))


async def test_cancel_ends_one_job_only() -> None:
    """The cancelled job finishes with HandlerCancelled; its runner serves on."""

    async def work() -> str:
        await trio.sleep_forever()
        return "never"

    async def quick() -> str:
        return "quick"

    async with pool() as runners:
        victim, other, after = Job(work), Job(work), Job(quick)
        runners.submit(victim)
        runners.submit(other)
        await wait_all_tasks_blocked()
        runners.cancel(victim)
        await wait_all_tasks_blocked()
        runners.submit(after)
        await wait_all_tasks_blocked()
        assert isinstance(victim.results[0].error, HandlerCancelled)
        assert (other.results, after.results) == ([], ["quick"])
        assert victim.runner is None


async def test_late_cancel_does_not_hit_the_next_job() -> None:
    """A handler that ends in spite of its cancel leaves no cancelled scope behind."""

    async def stubborn() -> str:
        with trio.CancelScope(shield=True):
            await gate.wait()
        return "done"

    async def waits() -> str:
        await trio.lowlevel.checkpoint()
        return "waited"

    gate = trio.Event()
    async with pool() as runners:
        first = Job(stubborn)
        runners.submit(first)
        await wait_all_tasks_blocked()
        runners.cancel(first)
        gate.set()
        await wait_all_tasks_blocked()
        second = Job(waits)
        runners.submit(second)
        await wait_all_tasks_blocked()
        assert (first.results, second.results) == (["done"], ["waited"])


async def test_errors_beside_a_cancel_are_the_jobs() -> None:
    """A handler whose nursery raises while it is cancelled harms itself only."""

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise LookupError("in the clean-up")

    async with pool() as runners:
        job = Job(work)
        runners.submit(job)
        await wait_all_tasks_blocked()
        runners.cancel(job)
        await wait_all_tasks_blocked()
        assert isinstance(job.results[0], Failed)
        after = Job(trio.lowlevel.checkpoint)
        runners.submit(after)
        await wait_all_tasks_blocked()
        assert after.results == [None]


async def test_error_of_our_own_ends_the_pool_loudly() -> None:
    """What `finish` raises is no handler's failure."""

    class Broken(Job):
        def finish(self, result: Any) -> None:
            raise LookupError("ours")

    with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        async with pool() as runners:
            runners.submit(Broken(trio.lowlevel.checkpoint))
            await trio.sleep_forever()


async def test_each_job_has_a_context_of_its_own() -> None:
    """What one handler sets, before and after it waits, the next does not see."""
    seen: list[str] = []

    async def work() -> None:
        seen.append(variable.get())
        variable.set("first")
        await trio.lowlevel.checkpoint()
        seen.append(variable.get())
        variable.set("second")

    async with pool() as runners:
        for _ in range(2):
            runners.submit(Job(work))
            await wait_all_tasks_blocked()
    assert seen == ["none", "first", "none", "first"]


async def test_wait_idle_learns_of_jobs_that_never_suspend() -> None:
    """What is queued and runs through at once ends the wait too."""

    async def quick() -> None:
        return None

    async with pool() as runners:
        runners.submit(Job(quick))
        with trio.fail_after(5):
            await runners.wait_idle()
            await runners.wait_idle()


async def test_a_job_that_cancels_itself_and_never_waits_ends_alone() -> None:
    """It met a reset at its first call: the next jobs run as ever, queued with it or later."""
    async with pool() as runners:

        async def meet_reset() -> None:
            runners.cancel(first)

        first, behind, later = Job(meet_reset), Job(trio.lowlevel.checkpoint), Job(trio.lowlevel.checkpoint)
        runners.submit(first)
        runners.submit(behind)
        await wait_all_tasks_blocked()
        runners.submit(later)
        await wait_all_tasks_blocked()
        assert (first.results, behind.results, later.results) == ([None], [None], [None])


async def test_pointless_jobs_are_skipped() -> None:
    """A job whose peer went while it was queued never runs and is not finished."""
    async with pool() as runners:
        job = Job(lambda: None)
        runners.submit(job)
        await wait_all_tasks_blocked()
        assert job.results == []
        runners.close()
        runners.submit(Job(lambda: pytest.fail("closed")))
        await wait_all_tasks_blocked()
