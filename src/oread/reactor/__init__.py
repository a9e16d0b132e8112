"""Readiness for many sockets in one Trio task.

`poller` asks the kernel, `deadlines` keeps time, `reactor` is the loop that
joins them, `runners` are the pooled tasks in which async handlers run.

Not here: what a socket's bytes mean, and opening or binding one.
"""

from __future__ import annotations

from oread.reactor.deadlines import Deadlines, Source, Timer
from oread.reactor.poller import (
    ERROR,
    HANGUP,
    READ_HANGUP,
    READABLE,
    WRITABLE,
    EpollPoller,
    Poller,
    open_poller,
)
from oread.reactor.reactor import Closeable, Reactor
from oread.reactor.runners import Job, Runner, RunnerPool

__all__ = [
    "ERROR",
    "HANGUP",
    "READABLE",
    "READ_HANGUP",
    "WRITABLE",
    "Closeable",
    "Deadlines",
    "EpollPoller",
    "Job",
    "Poller",
    "Reactor",
    "Runner",
    "RunnerPool",
    "Source",
    "Timer",
    "open_poller",
]
