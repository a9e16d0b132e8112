"""Ask the kernel which of many sockets are ready.

An epoll (or kqueue) descriptor is itself pollable, so one Trio task can wait
for all of them. Level-triggered: what is not served is reported again.

Source: epoll(7), epoll_ctl(2); kqueue(2) for macOS.
"""

from __future__ import annotations

import os
import select
import sys
from typing import Protocol

import trio

READABLE = 0x001
WRITABLE = 0x004
ERROR = 0x008
HANGUP = 0x010
READ_HANGUP = 0x2000
"""The bits of epoll(7), which the reactor uses on every platform."""


class Poller(Protocol):
    """Readiness of registered descriptors."""

    waker: int
    """A descriptor that `poll` may report after `wake`, to be ignored; small, as all descriptors are."""

    def add(self, fd: int, interest: int) -> None:
        """Register a descriptor; ERROR and HANGUP are always reported."""

    def modify(self, fd: int, interest: int) -> None:
        """Change what is reported; 0 leaves only ERROR and HANGUP."""

    def remove(self, fd: int) -> None:
        """Forget a descriptor, before it is closed."""

    def poll(self, timeout: float, most: int, /) -> list[tuple[int, int]]:
        """Return at most `most` ready `(fd, bits)`, without waiting."""

    async def wait(self) -> None:
        """Wait until something may be ready, or `wake` is called."""

    def wake(self) -> None:
        """End a `wait` that is under way; not to be called without one."""

    def close(self) -> None:
        """Give the descriptor back; whoever waits is woken with an error."""


class EpollPoller:
    """Linux: one epoll instance.

    After a fork the epoll set is shared with the child, where a mere clean-up
    would take the parent's sockets out; so in any other process than the one
    that opened it, nothing is touched.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._pid = os.getpid()
        self.waker = os.eventfd(1, os.EFD_CLOEXEC)  # always readable, watched only to be woken
        self._epoll.register(self.waker, 0)
        self.poll = self._epoll.poll
        """Bound at once: one attribute less per batch."""

    def add(self, fd: int, interest: int) -> None:
        """Register a descriptor."""
        if os.getpid() == self._pid:
            self._epoll.register(fd, interest)

    def modify(self, fd: int, interest: int) -> None:
        """Change what is reported."""
        if os.getpid() == self._pid:
            self._epoll.modify(fd, interest)

    def remove(self, fd: int) -> None:
        """Forget a descriptor."""
        if os.getpid() == self._pid:
            self._epoll.unregister(fd)

    async def wait(self) -> None:
        """Wait until the epoll descriptor is readable."""
        await trio.lowlevel.wait_readable(self._epoll.fileno())

    def wake(self) -> None:
        """Make the epoll descriptor readable once."""
        self._epoll.modify(self.waker, READABLE | select.EPOLLONESHOT)

    def close(self) -> None:
        """Close it, after telling Trio."""
        if not self._epoll.closed:
            if os.getpid() == self._pid:
                trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()
            os.close(self.waker)


if sys.platform != "linux":

    class KqueuePoller:
        """macOS and BSD: one kqueue, its filters told as epoll bits.

        EV_EOF with an error in `fflags` is a reset. A kqueue inside another has
        been reported readable with no event in it (libuv#883); a spurious wake
        costs one empty poll here.
        """

        def __init__(self) -> None:
            self._kqueue = select.kqueue()
            self.waker, end = os.pipe()
            os.close(end)  # at its end, so always readable
            self._interest: dict[int, int] = {}

        def add(self, fd: int, interest: int) -> None:
            """Register a descriptor."""
            self._interest[fd] = 0
            self.modify(fd, interest)

        def modify(self, fd: int, interest: int) -> None:
            """Change what is reported."""
            changed = self._interest[fd] ^ interest
            for bit, which in ((READABLE, select.KQ_FILTER_READ), (WRITABLE, select.KQ_FILTER_WRITE)):
                if changed & bit:
                    action = select.KQ_EV_ADD if interest & bit else select.KQ_EV_DELETE
                    self._kqueue.control([select.kevent(fd, which, action)], 0)
            self._interest[fd] = interest

        def remove(self, fd: int) -> None:
            """Forget a descriptor."""
            self.modify(fd, 0)
            del self._interest[fd]

        def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
            """Return the ready descriptors, both filters of one joined."""
            ready: dict[int, int] = {}
            for event in self._kqueue.control(None, most, timeout):
                bits = READABLE if event.filter == select.KQ_FILTER_READ else WRITABLE
                if event.flags & select.KQ_EV_EOF and event.fflags:
                    bits |= ERROR
                ready[event.ident] = ready.get(event.ident, 0) | bits
            return list(ready.items())

        async def wait(self) -> None:
            """Wait until the kqueue descriptor is readable."""
            await trio.lowlevel.wait_readable(self._kqueue.fileno())

        def wake(self) -> None:
            """Make the kqueue descriptor readable once."""
            flags = select.KQ_EV_ADD | select.KQ_EV_ONESHOT
            self._kqueue.control([select.kevent(self.waker, select.KQ_FILTER_READ, flags)], 0)

        def close(self) -> None:
            """Close it, after telling Trio."""
            if not self._kqueue.closed:
                trio.lowlevel.notify_closing(self._kqueue.fileno())
                self._kqueue.close()
                os.close(self.waker)


def open_poller() -> Poller:
    """Open what this platform has; the caller closes it."""
    if sys.platform != "linux":
        return KqueuePoller()
    return EpollPoller()
