"""Call a handler in the same way over every transport, in memory.

    @pytest.mark.parametrize("transport", oread.testing.TRANSPORTS)
    async def test_orders(transport, autojump_clock):
        async with oread.testing.open_client(registry, transport) as client:
            assert await client.call("orders", {"item": "nut"}, reply=Receipt) == Receipt(1)

The event is served as it would be on sockets; only the bytes stay in memory.
What transports can't say to a peer is said here all the same: a handler that
failed raises its `MessageError`, or a `HandlerError` caused by what it raised,
over TCP (which would close) and UDP (which would be silent) as over HTTP.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args, overload
from urllib.parse import quote

import attrs
import trio

from oread.client import Client, connect_by, parse_target
from oread.client.nursery import open_plain_nursery
from oread.client.payloads import make_reader, write_payload
from oread.dispatch import Failed, encode_payload, isolate
from oread.dispatch.payload import is_stream
from oread.errors import BadRequest, Busy, HandlerError, MessageError, NotFound, TimedOut, TooLarge
from oread.messages import Address
from oread.registry import Failure, Registry
from oread.service import Bound, Service, open_service
from oread.testing.datagrams import LOOPBACK, MemoryDatagramSocket, MemoryPeer
from oread.testing.network import FIRST_PEER_PORT, PORTS, MemoryNetwork
from oread.testing.streams import MemoryClient, MemoryListeningSocket

T = TypeVar("T")

Transport = Literal["tcp", "lines", "length", "unix", "http", "udp", "emit", "jsonrpc"]
TRANSPORTS: tuple[Transport, ...] = ("tcp", "lines", "length", "unix", "http", "udp", "emit")
"""What every payload of bytes can go by (`lines`: without a newline inside).

`tcp` is raw: it has no empty messages, and refuses handlers of str and JSON; `unix` is framed by
length. `open_client` knows `jsonrpc` too, which carries text only.
"""

URLS: Mapping[str, str] = {
    "tcp": "tcp://127.0.0.1:1/{event}",
    "lines": "tcp://127.0.0.1:1/{event}?framing=lines",
    "length": "tcp://127.0.0.1:1/{event}?framing=length",
    "unix": "unix:///memory/oread.sock?framing=length&event={event}",
    "http": "http://memory:80",
    "udp": "udp://127.0.0.1:1/{event}",
    "jsonrpc": "tcp://127.0.0.1:1?framing=jsonrpc",
}
ONE_SERVICE = ("http", "jsonrpc")
"""Transports of which one endpoint serves every event."""
DEADLINE_SECONDS = 60.0
"""For a handler that never answers; on a mock clock it passes at once."""

_SAID_NO: Mapping[str, type[MessageError]] = {
    "bad_request": BadRequest,
    "too_large": TooLarge,
    "busy": Busy,
    "not_found": NotFound,
}
"""Errors of the reasons under which a listener counts what it refused."""
_UNANSWERED = (
    "amplification",
    "low_port",
    "port_0",
    "served_port",
    "prefix_rate",
    "global_rate",
    "reply_too_large",
)
"""Reasons under which UDP counts a reply that it did not send."""


@attrs.define(eq=False)
class Served:
    """One endpoint in memory, and the service behind it."""

    url: str
    network: MemoryNetwork
    socket: MemoryListeningSocket | MemoryDatagramSocket
    service: Service

    @property
    def refused(self) -> Mapping[str, int]:
        """What the endpoint has refused, by reason."""
        return self.service.statistics().endpoints[0].refused


class EventClient:
    """Calls to the events of one registry, over one transport; made by `open_client`.

    Calls of several tasks run side by side: each is a connection (a datagram)
    of its own. One that is cancelled closes its connection, as a peer that
    went away.
    """

    def __init__(self, registry: Registry, transport: Transport, nursery: trio.Nursery) -> None:
        self._registry = registry
        self._transport = transport
        self._nursery = nursery
        self._lock = trio.Lock()
        self._served: dict[str, Served] = {}
        self._expected: dict[Address, _Expected] = {}
        self._ports = itertools.cycle(range(FIRST_PEER_PORT, FIRST_PEER_PORT + PORTS))

    @property
    def transport(self) -> Transport:
        """What its calls go over."""
        return self._transport

    @overload
    async def call(self, event: str, payload: Any = b"", *, deadline: float = DEADLINE_SECONDS) -> bytes: ...
    @overload
    async def call(
        self, event: str, payload: Any = b"", *, reply: type[T], deadline: float = DEADLINE_SECONDS
    ) -> T: ...
    @overload
    async def call(
        self, event: str, payload: Any = b"", *, reply: Any, deadline: float = DEADLINE_SECONDS
    ) -> Any: ...
    async def call(
        self, event: str, payload: Any = b"", *, reply: Any = bytes, deadline: float = DEADLINE_SECONDS
    ) -> Any:
        """Call an event; return its reply, the items of a stream joined.

        No reply is `b""`, or None where the type takes it.

        Args:
            event: a name, or a path that a pattern matches.
            payload: as for `oread.Client.call`.
            reply: the type to decode into: `bytes`, `str`, else strict JSON.
            deadline: seconds of Trio's clock.

        Raises:
            MessageError: what the service refused, or the handler raised;
                any other exception of its is the cause of a HandlerError.
            TimedOut: the deadline passed, here or there.
            RegistrationError: this transport can't serve this event.

        Cancellation: closes the call's connection.
        """
        read = make_reader(reply)
        return read(b"".join(await self.call_items(event, payload, deadline=deadline)))

    async def call_items(
        self, event: str, payload: Any = b"", *, deadline: float = DEADLINE_SECONDS
    ) -> list[bytes]:
        """Call an event; return the items of its reply as the transport cut them.

        `lines`, `length`, `http` and `emit` keep the items of a handler that
        streams, `tcp` may join or cut them. No reply is an empty list.

        Args:
            event: as for `call`.
            payload: as for `call`.
            deadline: as for `call`.

        Raises:
            Exception: as `call`, also for what fails behind the first item.

        Cancellation: as `call`.
        """
        with trio.move_on_after(deadline):
            if self._transport == "emit":
                return await self._emit(event, payload)
            found = self._registry.find(event)
            if found is None:
                raise NotFound(f"no handler for {event!r}")
            if self._transport == "tcp" and found[0].session is None and not write_payload(payload).data:
                raise BadRequest("raw tcp has no empty messages: nothing would arrive")
            served = await self._serve(event)
            if isinstance(served.socket, MemoryDatagramSocket):
                return await self._send_datagram(served, served.socket, payload)
            return await self._connect(served, served.socket, event, payload)
        raise TimedOut(f"no answer within {deadline:g} s")

    async def serve(self, event: str) -> Served:
        """Return the endpoint in memory that serves an event, for what `call` can't do.

        Raises:
            RegistrationError: the transport can't serve it.
            ValueError: the transport is `emit`.
        """
        if self._transport == "emit":
            raise ValueError("emit has no endpoint")
        return await self._serve(event)

    async def _serve(self, event: str) -> Served:
        key = "" if self._transport in ONE_SERVICE else event
        async with self._lock:
            if key not in self._served:
                url = URLS[self._transport].format(event=quote(event, safe="/"))
                self._served[key] = await self._nursery.start(self._run_service, url)
            return self._served[key]

    async def _run_service(self, url: str, task_status: trio.TaskStatus[Served]) -> None:
        network = MemoryNetwork()
        socket = network.bind() if url.startswith("udp:") else network.listen()
        bound = Bound(socket, url)  # type: ignore[arg-type]  # all of a socket that the listeners use
        async with open_service(self._registry, bound, poller=network, stall_seconds=math.inf) as service:
            task_status.started(Served(url, network, socket, service))
            await trio.sleep_forever()

    @property
    def served(self) -> tuple[Served, ...]:
        """The endpoints that are served by now."""
        return tuple(self._served.values())

    # one call each

    async def _emit(self, event: str, payload: Any) -> list[bytes]:
        outcome = await isolate(self._emit_items(event, payload))
        if not isinstance(outcome, Failed):
            items: list[bytes] = outcome
            return items
        if isinstance(outcome.error, MessageError):
            raise outcome.error
        raise HandlerError(repr(outcome.error)) from outcome.error

    async def _emit_items(self, event: str, payload: Any) -> list[bytes]:
        results = await self._registry.emit(event, write_payload(payload).data, policy="first")
        return [item async for item in _items_of(results[0])] if results else []

    async def _send_datagram(self, served: Served, socket: MemoryDatagramSocket, payload: Any) -> list[bytes]:
        data = write_payload(payload).data
        with self._expecting(served) as expected:
            peer = served.network.peer(socket, expected.address)
            try:
                peer.send(data)
                await peer.wait_read()
                reply = peer.receive_nowait()
                if reply is None:
                    expected.raise_failure()  # what was refused at once does not wait for others' handlers
                    reply = await _wait_reply(peer, served.service)
            except OSError as error:
                raise TooLarge(str(error)) from error
            finally:
                peer.close()
            if reply is None:
                expected.raise_failure()
        return [] if reply is None else [reply]

    async def _connect(
        self, served: Served, socket: MemoryListeningSocket, event: str, payload: Any
    ) -> list[bytes]:
        with self._expecting(served) as expected:

            async def dial() -> MemoryClient:
                await trio.lowlevel.checkpoint()
                return served.network.connect(socket, address=expected.address)

            try:
                async with connect_by(parse_target(served.url), dial) as client:
                    items = await self._take_items(client, event, payload)
            except (MessageError, trio.BrokenResourceError) as error:
                expected.raise_failure()
                if isinstance(error, MessageError):
                    raise
                raise HandlerError(f"the service ended the connection: {error}") from error
            if not items and self._transport != "http":
                expected.raise_failure()
            return items

    async def _take_items(self, client: Client, event: str, payload: Any) -> list[bytes]:
        if self._transport == "jsonrpc":
            return [await client.call(event, payload)]
        return [item async for item in client.stream(event, payload)]

    @contextlib.contextmanager
    def _expecting(self, served: Served) -> Iterator[_Expected]:
        """Note what fails for one call, by the address it comes from."""
        expected = _Expected(served, (LOOPBACK, next(self._ports)))
        self._expected[expected.address] = expected
        try:
            yield expected
        finally:
            del self._expected[expected.address]

    def note(self, failure: Failure) -> None:
        """Keep a failure for the call that it belongs to."""
        expected = self._expected.get(failure.peer.address)
        if expected is not None and expected.failure is None:
            expected.failure = failure


@attrs.define(eq=False)
class _Expected:
    """What is known of one call beside its reply."""

    _served: Served
    address: tuple[str, int]
    failure: Failure | None = None
    _before: Mapping[str, int] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._before = dict(self._served.refused)

    def raise_failure(self) -> None:
        """Raise what the handler raised, or why the listener refused, if anything."""
        if self.failure is not None:
            error = self.failure.error
            if isinstance(error, MessageError):
                raise error
            raise HandlerError(repr(error)) from error
        for reason, count in self._served.refused.items():
            if count > self._before.get(reason, 0):
                if reason in _SAID_NO:
                    raise _SAID_NO[reason](f"refused: {reason}")
                if reason in _UNANSWERED:
                    raise HandlerError(f"the reply was not sent: {reason}")


async def _wait_reply(peer: MemoryPeer, service: Service) -> bytes | None:
    """Wait for a reply, or until no handler is left that could send one."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when, peer.wait_reply, nursery.cancel_scope)
        nursery.start_soon(_cancel_when, service.wait_idle, nursery.cancel_scope)
    return peer.receive_nowait()


async def _cancel_when(wait: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()


async def _items_of(reply: Any) -> AsyncIterator[bytes]:
    kind = is_stream(reply)
    if kind is None:
        reply = [] if reply is None else [reply]
    if kind == "async":
        async with contextlib.aclosing(reply):
            async for item in reply:
                yield bytes(encode_payload(item) or b"")
    else:
        for item in reply:
            yield bytes(encode_payload(item) or b"")


@contextlib.asynccontextmanager
async def open_client(registry: Registry, transport: Transport) -> AsyncIterator[EventClient]:
    """Serve a registry in memory over one transport, and call it, in the block.

    Each event is served from its first call on, by an endpoint of its own
    (`http` and `jsonrpc`: one for all). At the end everything is cancelled.

    Args:
        registry: may be changed meanwhile.
        transport: one of `TRANSPORTS`, or `jsonrpc`.

    Raises:
        ValueError: another transport.
        AssertionError: at the end something was left open.

    Cancellation: closes everything.
    """
    if transport not in get_args(Transport):
        raise ValueError(f"transport={transport!r}: one of {', '.join(get_args(Transport))}")
    async with open_plain_nursery() as nursery:
        client = EventClient(registry, transport, nursery)
        with registry.monitor(client.note):
            yield client
    for served in client.served:
        assert served.network.open_sockets == 0, f"{served.url}: a socket was left open"
