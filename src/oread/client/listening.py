"""Hear what is sent to an endpoint while its interfaces come and go.

The same sockets as a served endpoint's, and they follow the interfaces in the
same way (`oread.sockets.following`, `oread.listeners.watch`), by a reactor of
their own: for as long as the block lasts, and with nothing left behind.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from oread.client.destinations import Surroundings
from oread.client.mailbox import Mailbox
from oread.client.nursery import open_plain_nursery
from oread.endpoints import Endpoint
from oread.listeners.watch import Follower, InterfaceWatch
from oread.reactor import Reactor, open_poller
from oread.sockets.batches import Sockaddr
from oread.sockets.datagrams import DatagramSocket
from oread.sockets.following import Group, follow_interfaces
from oread.sockets.interfaces import Interfaces, parse_address
from oread.sockets.routes import Route

log = logging.getLogger("oread")


class Listening:
    """The bound sockets of one endpoint.

    Args:
        endpoint: with its real port.
        sockets: from `open_datagram_sockets`; closed by `drop`, or by whoever keeps them.
        surroundings: brought up to date.
        senders: by which datagrams are sent; what they sent is not heard, unless `receive_own` says so.
        keep: takes a socket over and receives from it.
        drop: receives from it no more, and closes it.
    """

    __slots__ = (
        "_drop",
        "_endpoint",
        "_groups",
        "_keep",
        "_mailboxes",
        "_refusal",
        "_senders",
        "_surroundings",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        sockets: Sequence[DatagramSocket],
        *,
        surroundings: Surroundings,
        senders: Mapping[int, Mailbox],
        keep: Callable[[socket.socket], Mailbox],
        drop: Callable[[Mailbox], None],
    ) -> None:
        self._endpoint = endpoint
        self._surroundings = surroundings
        self._senders = senders
        self._keep = keep
        self._drop = drop
        self._groups = Group.of(sockets)
        self._mailboxes: dict[DatagramSocket, Mailbox] = {}
        self._refusal = ""
        with contextlib.ExitStack() as unkept:
            for each in sockets:
                unkept.callback(each.sock.close)
            for each in sockets:
                self._hear(each)
            unkept.pop_all()

    @property
    def unicast(self) -> dict[int, Mailbox]:
        """Those of this machine's addresses, by family: they answer too."""
        found: dict[int, Mailbox] = {}
        for opened, mailbox in self._mailboxes.items():
            if opened.mode == "unicast":
                found.setdefault(opened.sock.family, mailbox)
        return found

    @property
    def follows(self) -> bool:
        """Whether the interfaces say what is heard."""
        return any(opened.asks_destination for opened in self._mailboxes)

    def on_interfaces(self, interfaces: Interfaces, gone: AbstractSet[int] | None) -> bool:
        """Judge by these interfaces, and be joined where they are; False is not yet all."""
        self._surroundings.now = interfaces
        changes = follow_interfaces(self._endpoint, self._groups, tuple(self._mailboxes), interfaces, gone)
        for closing in changes.closing:
            self._drop(self._mailboxes.pop(closing))
        for opened in changes.opened:
            self._hear(opened)
        refusal = str(changes.failed or "")
        if refusal not in ("", self._refusal):
            log.warning("%s: can't join, tried again: %s", self._endpoint, refusal)
        self._refusal = refusal
        return changes.failed is None

    def _hear(self, opened: DatagramSocket) -> None:
        mailbox = self._mailboxes[opened] = self._keep(opened.sock)
        mailbox.accepts = functools.partial(self._refuse, opened)

    def _refuse(self, opened: DatagramSocket, route: Route, peer: Sockaddr) -> str | None:
        """Return why a datagram is not to be heard, or None."""
        if opened.asks_destination and not opened.accepts(route):
            return "other_destination"
        if opened.mode == "unicast" or self._endpoint.receive_own:
            return None
        own = any(peer[1] == sender.port for sender in self._senders.values())
        return "own" if own and parse_address(peer[0]) in self._surroundings.now.own else None


@contextlib.asynccontextmanager
async def telling_interfaces(follower: Follower) -> AsyncIterator[None]:
    """Tell a follower what the interfaces are and become, for a block."""
    with contextlib.closing(open_poller()) as poller:
        reactor = Reactor(poller)
        watch = InterfaceWatch(reactor)
        async with open_plain_nursery() as nursery:
            nursery.start_soon(reactor.run)
            nursery.start_soon(reactor.deadlines.keep)
            watch.follow(follower)
            try:
                yield
            finally:
                watch.leave(follower)
