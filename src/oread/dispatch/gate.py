"""Bound how many calls of one event run at a time.

A gate counts places; whoever wants one and finds none leaves a callback and
is called, in order, when a place is free. It belongs to the event and not to
an entry, so it survives every change of the handlers.

Not here: waiting as such (emit parks a task, a connection stops reading).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable


class Gate:
    """So many places, given in the order of asking.

    Args:
        limit: places; 1 or more.
    """

    __slots__ = ("_waiting", "limit", "running")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        """Places that are taken."""
        self._waiting: OrderedDict[Callable[[], object], None] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._waiting)

    def take(self) -> bool:
        """Take a place; False when there is none."""
        if self.running >= self.limit:
            return False
        self.running += 1
        return True

    def give(self) -> None:
        """Give a place back: once for each successful `take`."""
        assert self.running, "a place was given back that nobody took"
        self.running -= 1
        self._call_waiting()

    def when_free(self, callback: Callable[[], object]) -> None:
        """Call back once when a place is free: now, or behind those who wait.

        The callback takes the place, if it still wants it; when it does not,
        the next one is called. A callback that waits already keeps its turn.
        """
        self._waiting[callback] = None
        self._call_waiting()

    def forget(self, callback: Callable[[], object]) -> None:
        """Call this one no more; nothing happens when it does not wait."""
        self._waiting.pop(callback, None)

    def resize(self, limit: int) -> None:
        """Change the number of places; fewer take effect as places come back."""
        self.limit = limit
        self._call_waiting()

    def _call_waiting(self) -> None:
        while self._waiting and self.running < self.limit:
            callback, _ = self._waiting.popitem(last=False)
            callback()
