"""Tell which in-memory sockets are ready, as epoll does for real ones."""

from __future__ import annotations

import itertools
from typing import Protocol

import trio

from oread.reactor import ERROR, HANGUP


class Pollable(Protocol):
    """An in-memory socket of the service's."""

    def ready(self) -> int:
        """Return the readiness bits, as epoll would."""


class Readiness:
    """A `Poller` of in-memory sockets."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._sockets: dict[int, Pollable] = {}
        self._interest: dict[int, int] = {}
        self._changed = trio.Event()
        self._woken = False
        self.waker = 0

    @property
    def open_sockets(self) -> int:
        """How many of the service's sockets are open."""
        return len(self._sockets)

    # for the sockets

    def open(self, sock: Pollable) -> int:
        """Give a socket its number."""
        fd = next(self._numbers)
        self._sockets[fd] = sock
        return fd

    def discard(self, fd: int) -> None:
        """Forget a closed socket."""
        self._sockets.pop(fd, None)
        self.notify()

    def notify(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_change(self) -> None:
        """Wait until something has changed."""
        await self._changed.wait()

    # the contract of a poller

    def add(self, fd: int, interest: int) -> None:
        """Register a socket."""
        assert fd not in self._interest
        self.modify(fd, interest)

    def modify(self, fd: int, interest: int) -> None:
        """Change what is reported."""
        self._interest[fd] = interest
        self.notify()

    def remove(self, fd: int) -> None:
        """Forget a socket."""
        del self._interest[fd]

    def poll(self, _timeout: float, most: int, /) -> list[tuple[int, int]]:
        """Return the ready sockets."""
        ready = [
            (fd, self._sockets[fd].ready() & (interest | ERROR | HANGUP))
            for fd, interest in self._interest.items()
        ]
        return [(fd, bits) for fd, bits in ready if bits][:most]

    async def wait(self) -> None:
        """Wait until a socket is ready."""
        await trio.lowlevel.checkpoint()
        while not self._woken and not self.poll(0, 1):
            await self.wait_change()
        self._woken = False

    def wake(self) -> None:
        """End a wait."""
        self._woken = True
        self.notify()

    def close(self) -> None:
        """Do nothing: there is no descriptor."""
