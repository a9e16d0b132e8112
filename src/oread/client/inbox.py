"""Receive from several UDP sockets, fairly and within bounds.

What comes stays in the kernel's buffers until it is received: they are the
bounded queue, and no task has to move anything.
"""

from __future__ import annotations

from collections import Counter, deque

import trio

from oread.client.mailbox import Mailbox
from oread.messages import Datagram
from oread.reactor import READABLE, open_poller
from oread.sockets.settings import kernel_drops

MOST_AT_ONCE = 64
"""Datagrams of one batch, and refused ones in a row before other tasks get a turn."""


class Inbox:
    """Mailboxes that are received from together; it closes them.

    Args:
        refused: where what can't be received is counted.
    """

    __slots__ = ("_closed", "_dropped", "_mailboxes", "_poller", "_ready", "_refused")

    def __init__(self, refused: Counter[str]) -> None:
        self._poller = open_poller()
        self._mailboxes: dict[int, Mailbox] = {}
        self._ready: deque[Mailbox] = deque()
        self._refused = refused
        self._closed = False
        self._dropped = 0
        """By the sockets that are closed."""

    def add(self, mailbox: Mailbox) -> None:
        """Receive from one more."""
        self._mailboxes[mailbox.sock.fileno()] = mailbox
        self._poller.add(mailbox.sock.fileno(), READABLE)

    def drop(self, mailbox: Mailbox) -> None:
        """Close one, and receive from it no more; what waits there is lost."""
        fd = mailbox.sock.fileno()
        self._dropped += kernel_drops(mailbox.sock)
        del self._mailboxes[fd]
        if mailbox in self._ready:
            self._ready.remove(mailbox)
        self._poller.remove(fd)
        mailbox.close()

    async def receive(self, most: int) -> list[Datagram]:
        """Wait for a message; return all that are here, at most so many.

        Raises:
            ValueError: fewer than one is asked for.
            trio.BusyResourceError: another task receives.
            trio.ClosedResourceError: it was closed.

        Cancellation: no message is lost.
        """
        if most < 1:
            raise ValueError(f"most={most}: 1 or more")
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._closed:
            found = self._read(most)
            if found:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return found
            await self._poller.wait()
        raise trio.ClosedResourceError("the datagrams' block was left")

    def _read(self, most: int) -> list[Datagram]:
        """Read what is here, one of each socket in turn."""
        found: list[Datagram] = []
        for _ in range(max(most, MOST_AT_ONCE)):
            if len(found) >= most or not self._find_ready():
                break
            mailbox = self._ready[0]
            try:
                message = mailbox.read()
            except BlockingIOError:
                self._ready.popleft()
                continue
            except OSError:
                self._refused["receive_failed"] += 1  # news of a datagram sent earlier; told once
                continue
            self._ready.rotate(-1)
            if message is not None:
                found.append(message)
        return found

    def _find_ready(self) -> bool:
        if not self._ready:
            polled = self._poller.poll(0, MOST_AT_ONCE)
            self._ready.extend(self._mailboxes[fd] for fd, _ in polled if fd in self._mailboxes)
        return bool(self._ready)

    def kernel_drops(self) -> int:
        """Return what the kernel dropped: receive buffers were full."""
        open_ones = sum(kernel_drops(mailbox.sock) for mailbox in self._mailboxes.values())
        return self._dropped + open_ones

    def close(self) -> None:
        """Close all of it; whoever receives is told so."""
        if not self._closed:
            self._dropped = self.kernel_drops()
        self._closed = True
        self._ready.clear()
        for fd, mailbox in self._mailboxes.items():
            if mailbox.sock.fileno() == fd:  # else it is closed already, and so taken out
                self._poller.remove(fd)
            mailbox.close()
        self._mailboxes.clear()
        self._poller.close()
