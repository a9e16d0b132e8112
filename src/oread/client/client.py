"""A connection for many calls: `connect`, `Client`, `ItemStream`.

One vocabulary on every transport: what the service refused is the
`MessageError` its handlers would have raised, what broke is a
`trio.BrokenResourceError`, what was never reached an `OSError`.

An exchange that was cut off, by a deadline or a cancellation, leaves a
connection on which nobody knows what the next bytes belong to: it is closed,
and stays so. Connecting again is the caller's decision.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

import trio

from oread.client.channel import Channel, Dial, Items, close_at_once
from oread.client.datagrams import DatagramChannel
from oread.client.http import HttpChannel
from oread.client.jsonrpc import RpcChannel
from oread.client.nursery import open_plain_nursery
from oread.client.payloads import Payload, make_reader, write_payload
from oread.client.sending import LIMIT_BYTES
from oread.client.streams import FramedChannel, RawChannel
from oread.client.target import Target, parse_target
from oread.client.tls import dial as dial_endpoint
from oread.client.websocket import WebSocketChannel
from oread.endpoints import Endpoint
from oread.errors import MessageError, NotFound, TimedOut
from oread.protocols.framing import FRAMINGS, Lines
from oread.sockets.tls_contexts import choose_client_context

T = TypeVar("T")


class ItemStream(Generic[T]):
    """The items of one answer; made by `Client.stream`.

    Iterate it to its end, or close it: `async with client.stream(...) as items`.
    It has a connection of its own, so calls go on beside it.
    """

    def __init__(self, client: Client, event: str, payload: Payload, wanted: Any) -> None:
        self._client = client
        self._event = event
        self._payload = payload
        self._read = make_reader(wanted)
        self._items: Items | None = None
        self._ended = False
        self._busy = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Return the next item.

        Raises:
            MessageError: the service refused, or the item is not of the type.
            OSError, trio.BrokenResourceError: the connection could not be made, or broke.
            trio.ClosedResourceError: the client was left.

        Cancellation: closes the stream.
        """
        if self._busy:
            raise trio.BusyResourceError("another task is waiting for an item of this stream")
        if self._ended:
            await trio.lowlevel.checkpoint()
            raise StopAsyncIteration
        item = None
        self._busy = True
        try:
            if self._items is None:
                self._items = await self._client._open_items(self, self._event, self._payload)
            item = await self._items.next_item()
        finally:
            self._busy = False
            if item is None:
                await self.aclose()
        if item is None:
            raise StopAsyncIteration
        value: T = self._read(item)
        return value

    async def aclose(self) -> None:
        """Close its connection; harmless when done already."""
        self._ended = True
        self._client._streams.discard(self)
        if self._items is not None:
            await close_at_once(self._items)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Client:
    """Calls to one endpoint; made by `connect`.

    Calls of several tasks are made one after the other, in the order of
    asking. Where the endpoint serves one event (`tcp`, `unix` and `udp` but
    for JSON-RPC), the peer knows which, and its name is not sent.
    """

    def __init__(self, endpoint: Endpoint, channel: Channel) -> None:
        self._endpoint = endpoint
        self._channel = channel
        self._lock = trio.Lock()
        self._telling = trio.Lock() if channel.tells_apart else self._lock
        self._streams: set[ItemStream[Any]] = set()
        self._closed = False

    @property
    def endpoint(self) -> Endpoint:
        """What it is connected to."""
        return self._endpoint

    @overload
    async def call(self, event: str, payload: Any = b"", *, deadline: float | None = None) -> bytes: ...
    @overload
    async def call(
        self, event: str, payload: Any = b"", *, reply: type[T], deadline: float | None = None
    ) -> T: ...
    @overload
    async def call(
        self, event: str, payload: Any = b"", *, reply: Any, deadline: float | None = None
    ) -> Any: ...
    async def call(
        self, event: str, payload: Any = b"", *, reply: Any = bytes, deadline: float | None = None
    ) -> Any:
        """Send a payload and return what the service answers.

        * raw `tcp` and `unix`: sends, half-closes and takes all until the
          peer's end: each call is a connection of its own;
        * `lines`, `length`, `udp`: takes one message. A handler that answers
          nothing leaves the caller waiting: give a deadline, or `emit`;
        * `http`: one request; no answer (204) is `b""`;
        * `ws`: one message each way, as text where the payload is UTF-8; as
          with `lines`, no answer leaves the caller waiting;
        * `jsonrpc`: one request; a null result is `b""`.

        Args:
            event: what is asked for.
            payload: encoded as a handler's reply would be: bytes and str as
                they are, None as nothing, other values as JSON. By HTTP a str
                is `text/plain`, which typed handlers refuse: give the value.
            reply: the type to decode the answer into: `bytes`, `str`, else
                strict JSON; no answer is None where the type takes it.
            deadline: seconds, waiting for other calls included.

        Raises:
            BadRequest, NotFound, NotAllowed, TooLarge, Busy, HandlerError: as the service said
                it where its transport can say it; `HandlerError` also for a reply of another type,
                `NotFound` also for an event that this endpoint does not serve.
            TypeError: a type that no JSON can be decoded into.
            TimedOut: the deadline passed, here or at the service.
            trio.BrokenResourceError: the service ended the connection, or talks nonsense.
            trio.ClosedResourceError: an earlier exchange was cut off, or the client was left.

        Cancellation: in the middle of the exchange it closes the connection.
        """
        body, read = self._prepare(event, payload), make_reader(reply)
        with _until(deadline):
            async with self._lock:
                outcome = await self._guard(functools.partial(self._channel.exchange, event, body))
        if isinstance(outcome, MessageError):
            raise outcome
        return read(outcome)

    @overload
    def stream(self, event: str, payload: Any = b"") -> ItemStream[bytes]: ...
    @overload
    def stream(self, event: str, payload: Any = b"", *, reply: type[T]) -> ItemStream[T]: ...
    @overload
    def stream(self, event: str, payload: Any = b"", *, reply: Any) -> ItemStream[Any]: ...
    def stream(self, event: str, payload: Any = b"", *, reply: Any = bytes) -> ItemStream[Any]:
        """Return the answer item by item, as an async iterator.

        By a connection of its own, opened with the first item. Raw: every
        chunk, cut as the network cuts it; `lines`, `length`: every message
        until the service has answered in full (the sending side is closed
        behind the request); `http`: every chunk of the body, or the data of
        every server-sent event; `ws`: every message until the service closes,
        since nothing tells where an answer ends. `udp` and `jsonrpc` have none.

        Args:
            event: as for `call`.
            payload: as for `call`.
            reply: the type of each item.

        Raises:
            BadRequest, NotFound: as `call`; the rest is raised while iterating.
        """
        return ItemStream(self, event, self._prepare(event, payload), reply)

    async def emit(self, event: str, payload: Any = b"", *, deadline: float | None = None) -> None:
        """Send a payload; whatever is answered is dropped.

        By HTTP the status is waited for, and raised as `call` does. Elsewhere
        it returns when the system has taken the bytes. Raw, framed and UDP
        emits travel on a connection of their own: their order among
        themselves is kept, that of an emit and a call is not, and they do not
        wait for a call. Leaving the
        client waits up to 2 s for the service to have read them.

        Args:
            event: as for `call`.
            payload: as for `call`.
            deadline: seconds.

        Raises:
            MessageError, OSError, trio.BrokenResourceError, trio.ClosedResourceError: as `call`.

        Cancellation: as `call`.
        """
        body = self._prepare(event, payload)
        with _until(deadline):
            async with self._telling:
                outcome = await self._guard(functools.partial(self._channel.notify, event, body))
        if outcome is not None:
            raise outcome

    def _prepare(self, event: str, payload: Any) -> Payload:
        served = self._endpoint.event
        if served and event != served:
            raise NotFound(f"{self._endpoint} serves the event {served!r} alone, not {event!r}")
        return write_payload(payload)

    async def _guard(self, exchange: Callable[[], Awaitable[T]]) -> T:
        """Make one exchange; whatever cuts it off closes the client."""
        if self._closed:
            raise trio.ClosedResourceError("an earlier exchange was cut off, or the client was left")
        completed = False
        try:
            outcome = await exchange()
            completed = True
        finally:
            if not completed:
                self._closed = True
                await close_at_once(self._channel)
        return outcome

    async def _open_items(self, stream: ItemStream[Any], event: str, payload: Payload) -> Items:
        if self._closed:
            raise trio.ClosedResourceError("an earlier exchange was cut off, or the client was left")
        self._streams.add(stream)
        return await self._channel.open_items(event, payload)

    async def _finish(self) -> None:
        if not self._closed:
            await self._channel.finish()

    async def _close(self) -> None:
        self._closed = True
        await close_at_once(*self._streams, self._channel)


@contextlib.contextmanager
def _until(deadline: float | None) -> Iterator[None]:
    with trio.move_on_after(math.inf if deadline is None else deadline) as scope:
        yield
    if scope.cancelled_caught:
        raise TimedOut(f"no answer within {deadline:g} s")


@contextlib.asynccontextmanager
async def connect(
    url: str | Endpoint,
    *,
    method: str = "POST",
    headers: Sequence[tuple[str, str]] = (),
    cafile: str | os.PathLike[str] | None = None,
    insecure: bool = False,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Client]:
    """Connect to an endpoint for the length of the block.

        async with oread.connect("tcp://127.0.0.1:7007?framing=lines") as client:
            receipt = await client.call("order", Order(...), reply=Receipt, deadline=2)

    Args:
        url: `tcp`, `tls` or `unix` with `framing=raw`, `lines`, `length` or
            `jsonrpc`; `http`, `https`, `ws` or `wss`, whose path goes before every event;
            `udp` to one peer.
        method: HTTP: of every request.
        headers: HTTP: more fields of every request, for example `Accept:
            text/event-stream` for streams.
        cafile: TLS: believe these authorities (PEM), not the system's.
        insecure: TLS: verify nothing; whoever answers is talked to.
        tls: a client's context, instead of these two.

    Raises:
        EndpointError: the URL, the method or the fields can't be used.
        OSError: the peer can't be reached; `ssl.SSLError`: is not believed.

    Cancellation: closes everything at once.
    """
    target = parse_target(str(url))
    context = choose_client_context(target.endpoint, tls, cafile=cafile, insecure=insecure)
    dial = functools.partial(dial_endpoint, target.endpoint, context)
    async with connect_by(target, dial, method=method, headers=headers) as client:
        await client._channel.open()
        yield client


@contextlib.asynccontextmanager
async def connect_by(
    target: Target, dial: Dial, *, method: str = "POST", headers: Sequence[tuple[str, str]] = ()
) -> AsyncIterator[Client]:
    """Call by streams of the caller's: TLS, a proxy, memory.

    Nothing is opened before the first call.

    Args:
        target: from `parse_target`; what is spoken.
        dial: opens one more stream to the peer, which the client closes.
        method: HTTP: of every request.
        headers: HTTP: more fields of every request.

    Raises:
        EndpointError: as `connect`.

    Cancellation: closes everything at once.
    """
    async with open_plain_nursery() as nursery:
        channel = _make_channel(target, dial, nursery, method, headers)
        client = Client(target.endpoint, channel)
        try:
            yield client
            await client._finish()
        finally:
            await client._close()


def _make_channel(
    target: Target, dial: Dial, nursery: trio.Nursery, method: str, headers: Sequence[tuple[str, str]]
) -> Channel:
    endpoint = target.endpoint
    framing = endpoint.framing
    if target.websocket:
        return WebSocketChannel(target, dial, headers=headers)
    if endpoint.is_http:
        return HttpChannel(target, dial, nursery, method=method, headers=headers)
    if endpoint.scheme == "udp":
        datagrams = DatagramChannel(endpoint)
        return RpcChannel(datagrams) if framing == "jsonrpc" else datagrams
    if framing == "jsonrpc":
        return RpcChannel(FramedChannel(dial, nursery, lambda: Lines(LIMIT_BYTES)))
    if framing == "raw":
        return RawChannel(dial, nursery)
    return FramedChannel(dial, nursery, lambda: FRAMINGS[framing](LIMIT_BYTES))
