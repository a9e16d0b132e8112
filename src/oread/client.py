"""Call an endpoint from outside: send one message, take what comes back.

One small function per transport. Each is bounded in bytes; time is the
caller's: put a `trio.move_on_after` around it. Nothing is kept open.

Not here: connection reuse, redirects, and where the bytes go (the caller).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import IPv4Address
from typing import Any
from urllib.parse import urlsplit

import attrs
import trio

from oread.endpoints import Endpoint
from oread.errors import BadRequest, EndpointError, MessageError, TooLarge
from oread.limits import HttpLimits
from oread.messages import Address, format_address
from oread.protocols.framing import FRAMINGS
from oread.protocols.http1_client import ClientResponse, HttpClientProtocol, encode_request
from oread.protocols.http1_lines import Refusal
from oread.sockets.datagrams import open_sending_socket
from oread.sockets.dialling import dial_stream
from oread.sockets.interfaces import Interface, parse_address, read_interfaces

LIMIT_BYTES = 1 << 26
"""64 MiB: what one call sends or takes at most (curl and nc have no bound)."""
READ_BYTES = 65_536
RESPONDERS = 4_096
"""Answers to one group or broadcast call that are taken; a /20 of machines."""
DATAGRAM_BYTES = 65_535
HTTP_LIMITS = HttpLimits(body_bytes=LIMIT_BYTES)


@attrs.frozen(kw_only=True)
class Target:
    """Where a call goes: the endpoint, and for HTTP what is asked of it."""

    endpoint: Endpoint
    host_field: str = ""
    """HTTP: `host[:port]` as the URL has it."""
    request_target: str = "/"
    """HTTP: path and query as the URL has them."""


@attrs.frozen(kw_only=True)
class Answer:
    """One datagram that came back, and who sent it."""

    address: Address
    data: bytes

    @property
    def sender(self) -> str:
        """The address as people type it."""
        return format_address(self.address)


def parse_target(url: str) -> Target:
    """Read the URL of a call; an http URL may have a path and a query.

    Raises:
        EndpointError: one line that names the fault and what is allowed.
    """
    if not url.lower().startswith("http:"):
        return Target(endpoint=Endpoint.parse(url, calling=True))
    if "#" in url:
        raise EndpointError(f"{url!r}: a call has no fragment")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise EndpointError(f"{url!r}: {error}") from error
    if not parts.hostname:
        raise EndpointError(f"{url!r}: a host is needed: http://127.0.0.1:7080/echo")
    query = f"?{parts.query}" if "?" in url else ""
    return Target(
        endpoint=Endpoint.parse(f"http://{parts.netloc}", calling=True),
        host_field=parts.netloc,
        request_target=f"{parts.path or '/'}{query}",
    )


async def call_stream(endpoint: Endpoint, data: bytes, receive: Callable[[bytes], object]) -> None:
    """Send over TCP or a Unix socket, half-close, receive until the end.

    With `framing=length` the data is framed, and so is what comes back.

    Args:
        endpoint: its event is ignored: the listening side knows it.
        data: sent as it is.
        receive: is called with the bytes of each read, or with each message.

    Raises:
        OSError, trio.BrokenResourceError: the peer can't be reached or broke off.
        TooLarge, BadRequest: what came back is over a limit, or cut short.

    Cancellation: closes the connection; what was received so far was passed on.
    """
    machine = FRAMINGS["length"](LIMIT_BYTES) if endpoint.framing == "length" else None
    if machine is not None:
        data = machine.encode(data)
    async with await dial_stream(endpoint) as stream, _sending(stream, data) as sent:
        reader = _BoundedReader(stream)
        while chunk := await reader.read():
            message: bytes | None = chunk if machine is None else machine.receive(chunk)
            while message is not None:
                receive(message)
                message = None if machine is None else machine.next_message()
        if machine is not None:
            machine.receive_eof()
        if sent.broken:
            raise trio.BrokenResourceError("the peer closed before it had taken everything")


async def call_http(
    target: Target, data: bytes, *, method: str, headers: Sequence[tuple[str, str]] = ()
) -> ClientResponse:
    """Send one HTTP/1.1 request on a connection of its own.

    Args:
        target: from `parse_target`.
        data: the body; empty is none.
        method: a token, in the case it is to be sent.
        headers: more fields; those that frame or address are the engine's.

    Raises:
        ValueError: method, path or fields can't be sent as they are.
        OSError, trio.BrokenResourceError: the server can't be reached or broke off.
        BadRequest: what came back is not a response, or over a limit.

    Cancellation: closes the connection.
    """
    request = encode_request(method, target.request_target, target.host_field, data, headers)
    machine = HttpClientProtocol(HTTP_LIMITS, method)
    async with await dial_stream(target.endpoint) as stream, _sending(stream, request, half_close=False):
        reader, response = _BoundedReader(stream), None
        while response is None:
            chunk = await reader.read()
            response = machine.receive(chunk) if chunk else machine.receive_eof()
        if isinstance(response, Refusal):
            raise BadRequest(response.reason)
        return response


@attrs.define
class _Sent:
    broken: bool = False


@contextlib.asynccontextmanager
async def _sending(
    stream: trio.SocketStream, data: bytes, *, half_close: bool = True
) -> AsyncIterator[_Sent]:
    """Send beside the block, which receives; give up sending at its end.

    A peer that echoes while it is sent to would block for ever otherwise.
    """
    sent = _Sent()
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, stream, data, half_close, sent)
        try:
            yield sent
        except (OSError, trio.BrokenResourceError, MessageError) as error:
            failure = error  # raised behind the nursery, which would wrap it
        finally:
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _send(stream: trio.SocketStream, data: bytes, half_close: bool, sent: _Sent) -> None:  # noqa: FBT001
    try:
        await stream.send_all(data)
        if half_close:
            await stream.send_eof()
    except trio.BrokenResourceError:
        sent.broken = True  # not raised: what the peer still had to say is received first


@attrs.define
class _BoundedReader:
    _stream: trio.SocketStream
    _left_bytes: int = LIMIT_BYTES

    async def read(self) -> bytes:
        chunk = await self._stream.receive_some(READ_BYTES)
        self._left_bytes -= len(chunk)
        if self._left_bytes < 0:
            raise TooLarge(f"more than {LIMIT_BYTES} bytes came back")
        return bytes(chunk)


@attrs.frozen(kw_only=True)
class _Destination:
    family: int
    address: Any
    """As `sendto` takes it."""
    interface: Interface | None
    """Where a group is called; None is the system's choice."""
    shared: bool
    """A group or broadcast address: several may answer."""


async def _find_destination(endpoint: Endpoint) -> _Destination:
    found = await trio.socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP
    )
    family, _, _, _, address = found[0]
    interfaces = read_interfaces()
    mode = interfaces.mode(parse_address(str(address[0])))
    if endpoint.interface is not None and mode != "multicast":
        raise EndpointError(f"{endpoint}: the option interface does not fit a call to a {mode} address")
    return _Destination(
        family=family,
        address=address,
        interface=interfaces.find(endpoint.interface) if endpoint.interface is not None else None,
        shared=mode != "unicast",
    )


def _open_sending(destination: _Destination) -> socket.socket:
    interface = destination.interface
    if interface is None:
        return open_sending_socket(destination.family)
    sources = [address.ip for address in interface.addresses if isinstance(address.ip, IPv4Address)]
    return open_sending_socket(
        destination.family, interface=interface.index, source=sources[0] if sources else None
    )


async def call_datagram(endpoint: Endpoint, data: bytes, receive: Callable[[Answer], object]) -> None:
    """Send one datagram and receive what comes back.

    A unicast peer answers once, and then this returns. Whoever hears a group
    or broadcast may answer: this receives until it is cancelled, or until
    `RESPONDERS` answers have come.

    Args:
        endpoint: its event is ignored; `interface` says where a group is.
        data: one datagram.
        receive: is called with each answer.

    Raises:
        OSError: no route, refused by the peer's system, too long for a datagram.
        EndpointError: an option that does not fit the address.
        TooLarge: more came back than one call takes.

    Cancellation: what has come so far was passed on.
    """
    destination = await _find_destination(endpoint)
    with trio.socket.from_stdlib_socket(_open_sending(destination)) as sock:
        if destination.shared:
            await sock.sendto(data, destination.address)
        else:
            await sock.connect(destination.address)  # hears nobody else, and learns of a refusal
            await sock.send(data)
        left_bytes = LIMIT_BYTES
        for _ in range(RESPONDERS if destination.shared else 1):
            reply, sender = await sock.recvfrom(DATAGRAM_BYTES)
            left_bytes -= len(reply)
            if left_bytes < 0:
                raise TooLarge(f"more than {LIMIT_BYTES} bytes came back")
            receive(Answer(address=(str(sender[0]), int(sender[1])), data=reply))
