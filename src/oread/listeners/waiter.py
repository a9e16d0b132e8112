"""Let one task wait for a callback of the reactor, at less than an Event's cost."""

from __future__ import annotations

import outcome
import trio


class Waiter:
    """At most one waiting task; its wake slot is cleared by its abort."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Wait for `wake`; raises the error it is given."""

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self, error: Exception | None = None) -> bool:
        """Wake the task, with an error if one is given; False when none waits."""
        task, self._task = self._task, None
        if task is None:
            return False
        trio.lowlevel.reschedule(task, outcome.Value(None) if error is None else outcome.Error(error))
        return True
