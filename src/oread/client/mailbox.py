"""One UDP socket of the calling side: what it sends, and what comes to it.

The kernel's buffers are the queues, bounded by SO_RCVBUF and SO_SNDBUF;
nothing is kept here. Errors that some peer's network reports (ICMP) are news
of one datagram, not the end of a socket.

Not here: where a datagram goes (`destinations`), and who may be called.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import attrs
import trio

from oread.client.destinations import Destination, Surroundings, check_dscp, check_hops
from oread.client.sending import LIMIT_BYTES
from oread.errors import TooLarge
from oread.messages import Datagram, Peer
from oread.sockets.batches import Sockaddr
from oread.sockets.datagrams import open_sending_socket
from oread.sockets.routes import (
    CONTROL_BYTES,
    Route,
    find_destination,
    read_details,
    read_route,
    sender_address,
)
from oread.sockets.settings import ask_details, set_manner

DATAGRAM_BYTES = 65_535
"""What a datagram holds at most, and a little more."""
MOST_BYTES = 65_507
"""What IPv4's 16-bit length leaves for a payload (RFC 768, RFC 791)."""
FULL_PAUSES = (0.001, 0.002, 0.004, 0.008, 0.016)
"""Seconds before each further try when an interface's queue is full (ENOBUFS): nothing can be waited for."""


@attrs.define(eq=False)
class Mailbox:
    """One socket, and the messages that come to it.

    Args:
        sock: non-blocking; `close` closes it.
        surroundings: shared by the mailboxes of a holder.
        event: of its messages.
        most_bytes: what is longer is cut, and told so.
        accepts: tells why what came this way, from there, is not to be heard; None is heard.
        refused: where that is counted.
    """

    sock: socket.socket
    surroundings: Surroundings
    event: str = ""
    most_bytes: int = DATAGRAM_BYTES
    accepts: Callable[[Route, Sockaddr], str | None] | None = None
    refused: Counter[str] = attrs.field(factory=Counter)
    _port: int = 0

    def __attrs_post_init__(self) -> None:
        """Have the kernel tell how datagrams come."""
        ask_details(self.sock)

    @property
    def port(self) -> int:
        """The port it is bound to, if it is: by its first datagram at the latest."""
        if not self._port:
            self._port = self.sock.getsockname()[1]
        return self._port

    async def send(self, data: bytes, destination: Destination | None, hops: int | None = None) -> None:
        """Send one datagram, waiting for room.

        Args:
            data: at most `MOST_BYTES`.
            destination: None on a connected socket.
            hops: how many links it may cross; None leaves it to the socket.

        Raises:
            OSError: no route, too long; ENOBUFS when an interface's queue stays full for 31 ms.

        Cancellation: nothing was sent.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        ancillary = destination.ancillary(hops) if destination is not None else []
        address = destination.address if destination is not None else None
        pauses = iter(FULL_PAUSES)
        while True:
            try:
                # `None` as the address is the connected peer.
                self.sock.sendmsg((data,), ancillary, 0, address)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)
            except OSError as error:
                pause = next(pauses, None) if error.errno == errno.ENOBUFS else None
                if pause is None:
                    raise
                await trio.sleep(pause)
            else:
                break
        await trio.lowlevel.cancel_shielded_checkpoint()

    def read(self) -> Datagram | None:
        """Read one datagram; None for one that is not to be heard.

        Raises:
            BlockingIOError: none waits.
            OSError: news of a datagram sent earlier; told once.
        """
        data, ancillary, flags, peer = self.sock.recvmsg(self.most_bytes, CONTROL_BYTES)
        surroundings = self.surroundings
        control = find_destination(ancillary)
        # Without: it was queued before the kernel was asked, on a socket bound to one address.
        route = read_route(control, surroundings.now) if control else self._own_route()
        interface = surroundings.name(route.interface)
        refusal = self.accepts(route, peer) if self.accepts is not None else None
        if refusal is not None:
            self.refused[refusal] += 1
            return None
        details = read_details(ancillary)
        return Datagram(
            event=self.event,
            data=data,
            transport="udp",
            received=trio.current_time(),
            peer=Peer(sender_address(peer, surroundings.now.names), "udp"),
            local=(route.local, self.port),
            mode=route.mode,
            interface=interface,
            ttl=details.ttl,
            truncated=bool(flags & socket.MSG_TRUNC),
            timestamp=details.timestamp,
            fragment_bytes=details.fragment_bytes,
        )

    def _own_route(self) -> Route:
        return Route(mode="unicast", local=str(self.sock.getsockname()[0]))

    async def receive(self) -> Datagram:
        """Wait for the next datagram.

        Raises:
            OSError: news of a datagram sent earlier; told once.
            trio.ClosedResourceError: it was closed meanwhile.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                message = self.read()
            except BlockingIOError:
                message = None
            if message is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return message
            await trio.lowlevel.wait_readable(self.sock)

    def close(self) -> None:
        """Close the socket; whoever waits is told so. Harmless when done already."""
        if self.sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self.sock)
            self.sock.close()


@attrs.frozen(kw_only=True)
class Manner:
    """How datagrams of a socket are sent, where one does not say otherwise.

    Args:
        hops: how many links one may cross; None is 1 for groups, else the system's default.
        loop: whether groups joined on this machine get a copy.
        dscp: the class of service (RFC 2474).
    """

    hops: int | None = attrs.field(default=None, validator=check_hops)
    loop: bool = True
    dscp: int = attrs.field(default=0, validator=check_dscp)

    def open_socket(self, family: int, *, broadcast: bool) -> socket.socket:
        """Open an unbound socket that sends so."""
        return open_sending_socket(
            family, hops=self.hops, loop=self.loop, dscp=self.dscp, broadcast=broadcast
        )

    def set_on(self, sock: socket.socket) -> None:
        """Have a bound socket send so."""
        set_manner(sock, hops=self.hops, loop=self.loop, dscp=self.dscp)


PLAIN = Manner()


@contextlib.contextmanager
def open_mailbox_to(
    destination: Destination, surroundings: Surroundings, *, event: str = "", manner: Manner = PLAIN
) -> Iterator[Mailbox]:
    """Open a mailbox for what one destination answers, for a block.

    One peer's is connected where the system chooses the way: it hears nobody
    else, and learns when the peer's system refuses. By a named interface it
    is not, since the system may know no way; then it only hears nobody else.

    Raises:
        OSError: as the system said it.
    """
    broadcast = destination.mode == "broadcast"
    with (
        manner.open_socket(destination.family, broadcast=broadcast) as sock,
        contextlib.closing(Mailbox(sock, surroundings, event)) as mailbox,
    ):
        if destination.connects:
            sock.connect(destination.address)
        elif not destination.shared:
            mailbox.accepts = _hear_only(destination.address)
        yield mailbox


def _hear_only(address: Sockaddr) -> Callable[[Route, Sockaddr], str | None]:
    wanted = _without_zone(address)

    def accepts(_route: Route, peer: Sockaddr) -> str | None:
        return None if _without_zone(peer) == wanted else "other_sender"

    return accepts


def _without_zone(address: Sockaddr) -> tuple[str, int]:
    return str(address[0]).partition("%")[0], address[1]


async def send_by_all(
    mailbox: Mailbox, data: bytes, destinations: Sequence[Destination | None], hops: int | None = None
) -> int:
    """Send a datagram to each destination; return to how many.

    One that the system refuses, among several, is counted as `send_failed`.

    Raises:
        OSError: the last refusal, when all are refused.

    Cancellation: whether some were sent is not known.
    """
    sent, refusal = 0, None
    for each in destinations:
        try:
            await mailbox.send(data, each, hops)
        except OSError as error:
            refusal = error
        else:
            sent += 1
    if refusal is not None and not sent:
        raise refusal
    if sent < len(destinations):
        mailbox.refused["send_failed"] += len(destinations) - sent
    return sent


def _beyond_connecting(destinations: Sequence[Destination]) -> Sequence[Destination | None]:
    return [None if each.connects else each for each in destinations]


async def ask_one(
    mailbox: Mailbox, data: bytes, destinations: Sequence[Destination], hops: int | None = None
) -> Datagram:
    """Send a datagram to each destination and return what comes back first.

    Raises:
        OSError: no route, or the peer's system refuses.

    Cancellation: whether it was sent is not known.
    """
    await send_by_all(mailbox, data, _beyond_connecting(destinations), hops)
    return await mailbox.receive()


async def ask_all(
    mailbox: Mailbox,
    data: bytes,
    destinations: Sequence[Destination],
    receive: Callable[[Datagram], object],
    *,
    most: int,
    hops: int | None = None,
) -> None:
    """Send a datagram to each destination and pass on what comes back.

    Raises:
        OSError: no route.
        TooLarge: more bytes came back than one call takes.

    Cancellation: what has come so far was passed on.
    """
    await send_by_all(mailbox, data, _beyond_connecting(destinations), hops)
    left_bytes = LIMIT_BYTES
    for _ in range(most):
        message = await mailbox.receive()
        left_bytes -= len(message.data)
        if left_bytes < 0:
            raise TooLarge(f"more than {LIMIT_BYTES} bytes came back")
        receive(message)
