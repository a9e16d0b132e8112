"""Readiness for many sockets in one Trio task.

`poller` asks the kernel, `deadlines` keeps time, `reactor` is the loop that
joins them, `runners` are the pooled tasks in which async handlers run,
`turns` says how long one of them may go on, `watchdog` names the handler that
holds up the loop.

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
from oread.reactor.turns import TURN_SECONDS
from oread.reactor.watchdog import STALL_SECONDS, Watchdog

__all__ = [
    "ERROR",
    "HANGUP",
    "READABLE",
    "READ_HANGUP",
    "STALL_SECONDS",
    "TURN_SECONDS",
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
    "Watchdog",
    "open_poller",
]
