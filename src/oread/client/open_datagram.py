"""Send and receive datagrams as a program of its own: `open_datagram`.

Requests have a socket each, so that an answer, a late one too, is never taken
for that of another, nor for a message.

Not here: handlers (`oread.serve`), guards for replies (listeners), trying
again (the caller), and what becomes of what is heard when interfaces come and
go (`oread.client.listening`).
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Self, TypeVar, Unpack, overload

import attrs
import trio

from oread.client.address_book import AddressBook, Way
from oread.client.calls import RESPONDERS
from oread.client.destinations import Destination, Surroundings, find_destinations
from oread.client.inbox import MOST_AT_ONCE, Inbox
from oread.client.listening import Listening, telling_interfaces
from oread.client.mailbox import MOST_BYTES, Mailbox, Manner, ask_all, ask_one, open_mailbox_to, send_by_all
from oread.client.payloads import make_reader, write_payload
from oread.client.values import DatagramCounters, Received, Values, counting_unreadable
from oread.endpoints import JSONRPC, Endpoint
from oread.errors import EndpointError, TimedOut, TooLarge
from oread.messages import Datagram
from oread.sockets.datagrams import DatagramSocket, open_datagram_sockets
from oread.sockets.interfaces import Mode, is_address
from oread.sockets.settings import limits_of

T = TypeVar("T")


class Datagrams:
    """Datagrams to and from one endpoint; made by `open_datagram`.

    Any task may send and request; one at a time receives.
    """

    def __init__(self, endpoint: Endpoint, manner: Manner) -> None:
        self._endpoint = endpoint
        self._manner = manner
        self._most_bytes = limits_of(endpoint).datagram_bytes
        self._surroundings = Surroundings()
        self._speaks = True
        """Whether the endpoint's address is one to send to, not one of our own."""
        self._mode: Mode = "unicast"
        self._book = AddressBook(self._surroundings)
        self._senders: dict[int, Mailbox] = {}
        self._refused: Counter[str] = Counter()
        self._sent = self._received = 0
        self._closed = False
        self._inbox = Inbox(self._refused)

    @property
    def endpoint(self) -> Endpoint:
        """What it was opened for, with its real port where it listens."""
        return self._endpoint

    @property
    def mode(self) -> Mode:
        """How the endpoint is addressed: `unicast`, `multicast` or `broadcast`."""
        return self._mode

    def statistics(self) -> DatagramCounters:
        """Return the counters as they are now."""
        refused = self._refused + Counter(receive_full=self._inbox.kernel_drops())
        return DatagramCounters(sent=self._sent, received=self._received, refused=dict(refused))

    # sending

    async def send(self, payload: Any, **way: Unpack[Way]) -> None:
        """Send one datagram; that it arrives is not known.

        With `interface="*"` one by each interface that leads there: those that
        are refused are counted as `send_failed`, and raised when all are.

        A full socket (EAGAIN) is waited for. A full queue of an interface
        (ENOBUFS) can't be: that is tried again five times within 31 ms.

        Args:
            payload: encoded as a handler's reply would be: bytes and str as
                they are, None as nothing, other values as JSON.
            way: `to=`, `interface=`, `hops=`, for this datagram. A broadcast
                is sent only where the endpoint is one: so the answer to a
                forged sender can't become one.

        Raises:
            TooLarge: a datagram does not hold it.
            BadRequest: the payload is nothing that can be sent.
            ValueError, TypeError: `to` is needed, or a value can't be meant.
            OSError: no route, no such interface, or the queue stays full.
            trio.ClosedResourceError: the block was left.

        Cancellation: nothing was sent; with `*` nothing by the interfaces left.
        """
        data = _encode(payload)
        before = self._surroundings.now
        try:
            self._sent += await self._send_once(data, way)
        except OSError:
            if self._surroundings.now == before:
                raise
            # The interfaces are others than those it was refused by: made anew, perhaps.
            self._sent += await self._send_once(data, way)

    async def _send_once(self, data: bytes, way: Way) -> int:
        destinations = await self._find(way)
        with self._book.looking_again():
            sender = self._sender(destinations[0].family)
            return await send_by_all(sender, data, destinations, way.get("hops"))

    @overload
    async def request(self, payload: Any = b"", *, deadline: float, **way: Unpack[Way]) -> bytes: ...
    @overload
    async def request(
        self, payload: Any = b"", *, reply: type[T], deadline: float, **way: Unpack[Way]
    ) -> T: ...
    @overload
    async def request(
        self, payload: Any = b"", *, reply: Any, deadline: float, **way: Unpack[Way]
    ) -> Any: ...
    async def request(
        self, payload: Any = b"", *, reply: Any = bytes, deadline: float, **way: Unpack[Way]
    ) -> Any:
        """Send one datagram and return the first answer.

        Args:
            payload: as for `send`.
            reply: the type to decode the answer into: `bytes`, `str`, else strict JSON.
            deadline: seconds. Nothing is sent a second time.
            way: as for `send`.

        Raises:
            HandlerError: the answer is not of the type.
            TimedOut: nobody answered in time.
            ConnectionRefusedError: nothing listens there, says the peer's system.
            TooLarge, BadRequest, ValueError, TypeError, OSError, trio.ClosedResourceError: as `send`.

        Cancellation: closes the request's socket; the rest goes on.
        """
        data, read = _encode(payload), make_reader(reply)
        message = None
        with trio.move_on_after(deadline):
            destinations = await self._find(way)
            with self._open_request(destinations) as mailbox:
                message = await ask_one(mailbox, data, destinations, hops=way.get("hops"))
        if message is None:
            raise TimedOut(f"no answer within {deadline:g} s")
        self._received += 1
        return read(message.data)

    @overload
    async def request_all(
        self, payload: Any = b"", *, deadline: float, most: int = RESPONDERS, **way: Unpack[Way]
    ) -> list[Received[bytes]]: ...
    @overload
    async def request_all(
        self,
        payload: Any = b"",
        *,
        reply: type[T],
        deadline: float,
        most: int = RESPONDERS,
        **way: Unpack[Way],
    ) -> list[Received[T]]: ...
    @overload
    async def request_all(
        self, payload: Any = b"", *, reply: Any, deadline: float, most: int = RESPONDERS, **way: Unpack[Way]
    ) -> list[Received[Any]]: ...
    async def request_all(
        self,
        payload: Any = b"",
        *,
        reply: Any = bytes,
        deadline: float,
        most: int = RESPONDERS,
        **way: Unpack[Way],
    ) -> list[Received[Any]]:
        """Send one datagram and return who answered within the deadline.

        Args:
            payload: as for `send`.
            reply: as for `request`; what is not of this type is left out and
                counted as `unreadable`.
            deadline: seconds; all of them, unless `most` answers came.
            most: how many answers are enough.
            way: as for `send`.

        Raises:
            TooLarge, BadRequest, ValueError, TypeError, OSError, trio.ClosedResourceError: as `send`;
                `TooLarge` also for more than 64 MiB of answers.

        Cancellation: as for `request`.
        """
        data, read = _encode(payload), make_reader(reply)
        found: list[Received[Any]] = []

        def take(message: Datagram) -> None:
            self._received += 1
            with counting_unreadable(self._refused):
                found.append(Received(value=read(message.data), message=message))

        with trio.move_on_after(deadline):
            destinations = await self._find(way)
            with self._open_request(destinations) as mailbox:
                await ask_all(mailbox, data, destinations, take, most=most, hops=way.get("hops"))
        return found

    @contextlib.contextmanager
    def _open_request(self, destinations: Sequence[Destination]) -> Iterator[Mailbox]:
        event = self._endpoint.event
        with (
            self._book.looking_again(),
            open_mailbox_to(destinations[0], self._surroundings, event=event, manner=self._manner) as mailbox,
        ):
            mailbox.refused = self._refused
            self._sent += len(destinations)
            yield mailbox

    async def _find(self, way: Way) -> Sequence[Destination]:
        if self._closed:
            raise trio.ClosedResourceError("the datagrams' block was left")
        return await self._book.find(way, self._endpoint, speaks=self._speaks)

    def _sender(self, family: int) -> Mailbox:
        """Return the socket that sends, opened when it is first needed."""
        if self._closed:
            raise trio.ClosedResourceError("the datagrams' block was left")
        found = self._senders.get(family)
        if found is None:
            with contextlib.ExitStack() as unkept:
                sock = self._manner.open_socket(family, broadcast=self._mode == "broadcast")
                found = self._keep(unkept.enter_context(sock))
                unkept.pop_all()
            self._senders[family] = found
        return found

    # receiving

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Datagram:
        """Receive the next message, without an end."""
        return await self.receive()

    async def receive(self) -> Datagram:
        """Wait for the next message.

        What came to the endpoint's address, where it listens, and what was
        answered to `send`. News of undelivered datagrams (ICMP) is counted as
        `receive_failed` and ends nothing.

        Raises:
            trio.BusyResourceError: another task receives.
            trio.ClosedResourceError: the block was left.

        Cancellation: no message is lost.
        """
        (message,) = await self.receive_batch(1)
        return message

    async def receive_batch(self, most: int = MOST_AT_ONCE) -> list[Datagram]:
        """Wait for a message; return all that are here, at most so many.

        Raises:
            ValueError: fewer than one is asked for.
            trio.BusyResourceError, trio.ClosedResourceError: as `receive`.

        Cancellation: no message is lost.
        """
        found = await self._inbox.receive(most)
        self._received += len(found)
        return found

    def values(self, kind: type[T]) -> Values[T]:
        """Receive messages with their payloads decoded: an async iterator, without an end.

        Args:
            kind: the type of the payloads: `bytes`, `str`, else strict JSON;
                what is not of it is left out and counted as `unreadable`.

        Raises:
            TypeError: no JSON can be decoded into this type.
        """
        wanted: Any = kind
        return Values(self.receive, make_reader(wanted), self._refused)

    # opening and closing

    async def _open(self, *, listen: bool) -> Listening | None:
        """Look up where the endpoint is; bind it, and join, if it is to listen."""
        listening = None
        if listen and is_address(self._endpoint.host):
            await trio.lowlevel.checkpoint()
            listening = self._listen(open_datagram_sockets(self._endpoint))
        elif listen:  # a name is looked up: in a thread, not to be abandoned, so that nothing opened is lost
            listening = self._listen(await trio.to_thread.run_sync(open_datagram_sockets, self._endpoint))
        if listening is None:
            found = await find_destinations(self._endpoint, self._surroundings)
            self._mode = found[0].mode
        return listening

    def _listen(self, opened: list[DatagramSocket]) -> Listening:
        """Take bound sockets over; those of unicast addresses also send."""
        self._endpoint = attrs.evolve(self._endpoint, port=opened[0].port)
        listening = Listening(
            self._endpoint,
            opened,
            surroundings=self._surroundings,
            senders=self._senders,
            keep=self._keep,
            drop=self._inbox.drop,
        )
        self._mode = opened[0].mode
        for family, mailbox in listening.unicast.items():
            self._manner.set_on(mailbox.sock)
            self._senders[family] = mailbox
            self._speaks = False
        return listening

    def _keep(self, sock: socket.socket) -> Mailbox:
        mailbox = Mailbox(
            sock, self._surroundings, self._endpoint.event, self._most_bytes, refused=self._refused
        )
        self._inbox.add(mailbox)
        return mailbox

    def _close(self) -> None:
        self._closed = True
        self._inbox.close()


@contextlib.asynccontextmanager
async def open_datagram(
    url: str | Endpoint,
    *,
    listen: bool = False,
    hops: int | None = None,
    loop: bool = True,
    dscp: int | None = None,
) -> AsyncIterator[Datagrams]:
    """Send and receive datagrams at an endpoint, for a block.

        async with oread.open_datagram("udp://239.255.70.7:7008?interface=eth0") as datagrams:
            await datagrams.send({"temperature": 21.5})
            everybody = await datagrams.request_all("who is there", reply=str, deadline=1)

    Datagrams go to the URL's address: one machine, a group, or a broadcast.
    Answers to them are received; with `listen` also what others send to that
    address: a group is joined, a broadcast heard, an address of this machine
    bound, and answers leave from it. A group is joined again when its
    interface is made anew, and where none is named also on those that come.

    Args:
        url: `udp`. `interface=` says where a group or broadcast is, `*` is
            everywhere; with `listen` all options of a served endpoint that
            concern its sockets.
        listen: whether to hear what is sent to the URL's address.
        hops: how many links datagrams may cross; None is the URL's `ttl=`, else
            1 for groups and the system's default for others.
        loop: whether groups joined on this machine get what is sent here.
        dscp: class of service of what is sent, 0 to 63 (RFC 2474); None is the
            URL's `dscp=`, else 0.

    Raises:
        EndpointError: the URL can't be used so.
        ValueError: hops or dscp are out of range.
        OSError: no such name or interface, or the address can't be bound.

    Cancellation: closes everything at once. With `listen` the block may have a
    task that follows the interfaces; an error of the block stays as it is.
    """
    endpoint = Endpoint.parse(url, calling=True) if isinstance(url, str) else url
    if endpoint.scheme != "udp" or endpoint.framing == JSONRPC:
        raise EndpointError(f"{endpoint}: datagrams are plain udp; for others there is oread.connect")
    manner = Manner(
        hops=endpoint.ttl if hops is None else hops,
        loop=loop,
        dscp=(endpoint.dscp or 0) if dscp is None else dscp,
    )
    datagrams = Datagrams(endpoint, manner)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(datagrams._close)
        listening = await datagrams._open(listen=listen)
        if listening is not None and listening.follows:
            await stack.enter_async_context(telling_interfaces(listening))
        yield datagrams


def _encode(payload: Any) -> bytes:
    data = write_payload(payload).data
    if len(data) > MOST_BYTES:
        raise TooLarge(f"a datagram holds {MOST_BYTES} bytes, not {len(data)}")
    return data
