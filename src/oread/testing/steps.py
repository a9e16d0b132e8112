"""Watch one task step by step: count, cancel at one of them, see it block.

A step is what a task does between two checkpoints. What blocks is found
without a clock: by the lines of Python that one step executes, and by calls
of what is known to wait in the system (`time.sleep`, a look-up of a name, a
socket that is not non-blocking, a child process). What waits inside an
extension module is not seen, nor what runs in a thread.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, FrameType
from typing import Any

import trio

from oread.testing.contract import ContractError

BLOCKING_CALLS = frozenset(
    (
        "time.sleep",
        "_socket.getaddrinfo",
        "_socket.gethostbyname",
        "select.select",
        "posix.system",
        "posix.wait4",
        "posix.waitpid",
        "_posixsubprocess.fork_exec",
    )
)
"""Builtins that wait, by module and name."""
BLOCKING_METHODS = frozenset(
    ("accept", "connect", "recv", "recv_into", "recvfrom", "recvmsg", "send", "sendall", "sendto")
)
"""Of a socket, unless it is non-blocking."""


class StepWatch(trio.abc.Instrument):
    """Watch the task that enters `watching`.

    Args:
        most_lines: of Python in one step.
        most_steps: in all.
        cancel_at: the step behind which the task is cancelled; 0 is never.
    """

    def __init__(self, *, most_lines: int, most_steps: int, cancel_at: int = 0) -> None:
        self._most_lines = most_lines
        self._most_steps = most_steps
        self.cancel_at = cancel_at
        self._task: trio.lowlevel.Task | None = None
        self._scope = trio.CancelScope()
        self._lines = 0
        self._cancelling = False
        self._outside: tuple[Any, Any] = (None, None)
        self.steps = 0
        """How many there were."""
        self.delivered = False
        """The cancellation reached the task where it was waiting."""
        self.fault: ContractError | None = None
        """What was found first."""

    @contextlib.contextmanager
    def watching(self) -> Iterator[trio.CancelScope]:
        """Watch this task during the block, which the cancellation ends."""
        self._task = trio.lowlevel.current_task()
        trio.lowlevel.add_instrument(self)
        try:
            with self._scope:
                yield self._scope
        finally:
            trio.lowlevel.remove_instrument(self)
            self._stop_tracing()

    # called by Trio

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Begin to count lines."""
        if task is self._task:
            self._lines = 0
            self._outside = sys.gettrace(), sys.getprofile()
            sys.setprofile(self._see_call)
            sys.settrace(self._see_line)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count the step; cancel behind the one that was chosen."""
        if task is not self._task:
            return
        self._stop_tracing()
        self.steps += 1
        if self.steps == self.cancel_at:
            self._cancelling = True
            self._scope.cancel()
            self._cancelling = False
        if self.steps > self._most_steps:
            self.note("steps", f"does not end within {self._most_steps} steps")
            self._scope.cancel()

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Note that the cancellation woke the task."""
        if task is self._task and self._cancelling:
            self.delivered = True

    # called by the interpreter

    def _stop_tracing(self) -> None:
        if sys.gettrace() == self._see_line or sys.getprofile() == self._see_call:
            trace, profile = self._outside
            sys.settrace(trace)
            sys.setprofile(profile)

    def _see_line(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            if self.steps > 2 * self._most_steps and self.fault is not None:
                raise self.fault  # it takes no cancellation: nothing else would end it
            self._lines += 1
            if self._lines > self._most_lines:
                where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise self.note("blocking", f"{self._most_lines} lines without a checkpoint, at {where}")
        return self._see_line

    def _see_call(self, frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and _waits(function):
            where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            self.note("blocking", f"{function.__name__} blocks the thread, at {where}")

    def note(self, rule: str, text: str) -> ContractError:
        """Keep what was found, if it is the first; return it."""
        error = ContractError(rule, text)
        self.fault = self.fault or error
        return error


def _waits(function: BuiltinFunctionType) -> bool:
    owner = getattr(function, "__self__", None)
    if isinstance(owner, socket.socket):
        return function.__name__ in BLOCKING_METHODS and owner.gettimeout() != 0
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', '')}" in BLOCKING_CALLS
