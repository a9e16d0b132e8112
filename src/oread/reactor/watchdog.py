"""Name the inline handler that holds up the reactor.

While a handler blocks, nothing in Trio's thread can look; so a thread does,
now and then, at the time of the turn that the reactor keeps anyway. It costs
nothing per message. What it finds is told in Trio's thread when the turn has
ended, and at once when it goes on for long.

A turn must be seen twice before it is blamed: when the whole process was
stopped, or had no CPU, the thread did not run either.

Not here: async handlers between two awaits. They run in tasks of their own,
of whose steps nothing is noted.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import traceback
from time import perf_counter
from types import FrameType, TracebackType
from typing import Self

import attrs
import trio

from oread.dispatch import isolate
from oread.reactor.reactor import Reactor

STALL_SECONDS = 0.1
"""How long a turn may take before somebody is named (Node's and asyncio's debug modes say the same)."""
LOST_SECONDS = 5.0
"""How long a turn takes before it is told while it still goes on."""
REPEAT_SECONDS = 60.0
"""How often one handler is named in the log."""
MOST_NAMES = 256
"""Handlers whose last naming is remembered."""

_ENTRY_FILE = isolate.__code__.co_filename

log = logging.getLogger("oread")


@attrs.frozen
class Stall:
    """One turn that took too long, and where it stood when it was seen."""

    begun: float
    """On `perf_counter`."""
    handler: str
    stack: str


class Watchdog:
    """Watch a reactor for the length of a block, from a thread of its own.

    Args:
        reactor: whose turns are watched; run by the thread that enters the block.
        stall_seconds: how long is too long; `math.inf` watches nothing and starts no thread.
    """

    def __init__(self, reactor: Reactor, stall_seconds: float = STALL_SECONDS) -> None:
        if not stall_seconds > 0:
            raise ValueError(f"stall_seconds={stall_seconds!r} is not above 0")
        self._reactor = reactor
        self._stall_seconds = stall_seconds
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched_thread = 0
        self._token: trio.lowlevel.TrioToken | None = None
        self._suspect: float | None = None
        self._noted: Stall | None = None
        self._told_early = False
        self._named: dict[str, float] = {}
        self.stalls = 0
        """Turns that took too long and have ended."""

    @property
    def noted(self) -> Stall | None:
        """The last turn that was seen to take too long; it may still go on."""
        return self._noted

    def __enter__(self) -> Self:
        if self._stall_seconds != math.inf:
            self._watched_thread = threading.get_ident()
            self._token = trio.lowlevel.current_trio_token()
            # It must never keep a process alive whose main thread was torn down; its end is awaited below.
            self._thread = threading.Thread(target=self._watch, name="oread watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()  # it waits for nothing but this: some µs

    # in the thread

    def _watch(self) -> None:
        while not self._end.wait(self._stall_seconds / 2):
            self.look()

    def look(self) -> None:
        """Look once; not to be called while the thread does."""
        begun, now = self._reactor.serving_since, perf_counter()
        if begun is None:
            self._suspect = None
        elif begun != self._suspect:
            self._suspect = begun
        elif now - begun >= self._stall_seconds:
            if self._noted is None or self._noted.begun != begun:
                self._note(begun)
            elif now - begun >= LOST_SECONDS and not self._told_early:
                self._told_early = True
                self._tell(self._noted, now - begun, "goes on")

    def _note(self, begun: float) -> None:
        frame = sys._current_frames().get(self._watched_thread)
        if frame is None or self._reactor.serving_since != begun:
            return  # it has ended just now
        handler, stack = _find_handler(frame)
        self._noted, self._told_early = Stall(begun, handler, stack), False
        if self._token is not None:
            try:
                self._token.run_sync_soon(self._report, self._noted)
            except trio.RunFinishedError:
                return  # nobody is left to be told

    # in Trio's thread, when the turn has ended

    def _report(self, stall: Stall) -> None:
        self.stalls += 1
        if not self._told_early:
            self._tell(stall, perf_counter() - stall.begun, "has ended")

    def _tell(self, stall: Stall, seconds: float, state: str) -> None:
        now = perf_counter()
        if now - self._named.get(stall.handler, -math.inf) < REPEAT_SECONDS:
            return
        if len(self._named) >= MOST_NAMES:
            self._named.clear()
        self._named[stall.handler] = now
        log.warning(
            "%s held up every other handler for %.3f s, which %s; make it async, or register it with "
            "thread=True (said once a minute). It was here:\n%s",
            *(stall.handler, seconds, state, stall.stack),
        )


def _find_handler(frame: FrameType) -> tuple[str, str]:
    """Return the name of the user's function that was called inline, and its stack.

    It is what the innermost frame of the compiled entry called. A builtin has
    no frame: then, and when no handler runs at all, the innermost one tells
    where it stands.
    """
    frames: list[FrameType] = []
    at: FrameType | None = frame
    while at is not None and at.f_code.co_filename != _ENTRY_FILE:
        frames.append(at)
        at = at.f_back
    if at is None or not frames:
        frames = [frame]
    outermost = frames[-1]
    text = "".join(
        traceback.StackSummary.extract((each, each.f_lineno) for each in reversed(frames)).format()
    )
    return f"{outermost.f_globals.get('__name__', '?')}.{outermost.f_code.co_qualname}", text.rstrip()
