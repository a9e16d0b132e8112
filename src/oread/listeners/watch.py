"""Follow the machine's interfaces, for all UDP endpoints of a service.

On Linux the kernel tells of changes (`oread.sockets.links`); where it can't be
asked the interfaces are read every few seconds. News is gathered for a moment
before they are read: a link that comes up changes several times.

Not here: what a listener does about it.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Protocol

import trio

from oread.reactor import Reactor, Timer
from oread.sockets.interfaces import Interfaces, read_interfaces
from oread.sockets.links import LinkNews

GATHER_SECONDS = 0.05
"""Between the first news and reading: a bound on how often a flapping link costs anything."""
RETRY_SECONDS = 0.5
"""Until what could not be joined is tried again; a device may be there before it is ready."""
POLL_SECONDS = 5.0
"""Between two looks where the kernel tells nothing."""


class Follower(Protocol):
    """Something that has to know the interfaces as they are."""

    def on_interfaces(self, interfaces: Interfaces, gone: AbstractSet[int] | None) -> bool:
        """Take a change; tell whether all that follows from it could be done.

        Args:
            interfaces: as they are now.
            gone: indexes of those that went, and may be back; None is not known.
        """


class InterfaceWatch:
    """What the interfaces are, and who is told when that changes.

    The socket is open for as long as somebody follows.

    Args:
        reactor: of the service.
    """

    __slots__ = ("_followers", "_gone", "_lost", "_news", "_reactor", "_seen", "_timer")

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._followers: dict[Follower, None] = {}
        self._news: LinkNews | None = None
        self._timer: Timer | None = None
        self._gone: set[int] = set()
        self._lost = False
        self._seen: Interfaces | None = None

    def follow(self, follower: Follower) -> None:
        """Tell it of every change from now on, and soon what there is."""
        if not self._followers:
            self._open()
        self._followers[follower] = None
        self._seen = None  # what changed since its sockets were opened has to be told
        self._look_after(GATHER_SECONDS)

    def leave(self, follower: Follower) -> None:
        """Tell it nothing more; harmless when it does not follow."""
        if follower in self._followers:
            del self._followers[follower]
            if not self._followers:
                self._close()

    def _open(self) -> None:
        try:
            self._news = LinkNews()
        except OSError:
            return  # no rtnetlink here, or not for this process: it is polled
        self._reactor.add(self._news.fileno(), self._on_news)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        news, self._news, self._timer, self._seen = self._news, None, None, None
        if news is not None:
            self._reactor.close(news)

    def _on_news(self, _ready: int) -> None:
        assert self._news is not None
        gone = self._news.read()
        if gone is None:
            self._lost = True
        else:
            self._gone |= gone
        self._look_after(GATHER_SECONDS)

    def _look_after(self, seconds: float) -> None:
        when = trio.current_time() + seconds
        if self._timer is not None:
            if self._timer.when <= when:
                return
            self._timer.cancel()
        self._timer = self._reactor.call_at(when, self.look)

    def look(self) -> None:
        """Read the interfaces, and tell everybody if anything is new."""
        self._timer = None
        gone, self._gone = self._gone, set()
        lost, self._lost = self._lost, False
        complete = True
        try:
            interfaces = read_interfaces()
        except OSError:
            self._gone, self._lost = gone, lost  # kept for the next try
            self._look_after(RETRY_SECONDS)
            return
        if gone or lost or interfaces != self._seen:
            self._seen = interfaces
            for follower in list(self._followers):
                complete &= follower.on_interfaces(interfaces, None if lost else gone)
        if not self._followers:
            return  # the last one left meanwhile
        if not complete:
            self._seen = None
            self._look_after(RETRY_SECONDS)
        elif self._news is None:
            self._look_after(POLL_SECONDS)
