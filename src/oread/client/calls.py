"""Call an endpoint from outside: send one message, take what comes back.

One small function per transport. Each is bounded in bytes; time is the
caller's: put a `trio.move_on_after` around it. Nothing is kept open.

Not here: connection reuse, redirects, and where the bytes go (the caller).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Any

import attrs
import trio

from oread.client.sending import LIMIT_BYTES, BoundedReader, sending
from oread.client.target import Target
from oread.client.tls import dial
from oread.endpoints import Endpoint
from oread.errors import BadRequest, EndpointError, TooLarge
from oread.limits import HttpLimits
from oread.messages import Address, format_address
from oread.protocols.framing import FRAMINGS
from oread.protocols.http1_client import ClientResponse, HttpClientProtocol, encode_request
from oread.protocols.http1_lines import Refusal
from oread.sockets.datagrams import open_sending_socket
from oread.sockets.interfaces import Interface, parse_address, read_interfaces

RESPONDERS = 4_096
"""Answers to one group or broadcast call that are taken; a /20 of machines."""
DATAGRAM_BYTES = 65_535
HTTP_LIMITS = HttpLimits(body_bytes=LIMIT_BYTES)


@attrs.frozen(kw_only=True)
class Answer:
    """One datagram that came back, and who sent it."""

    address: Address
    data: bytes

    @property
    def sender(self) -> str:
        """The address as people type it."""
        return format_address(self.address)


async def call_stream(
    endpoint: Endpoint,
    data: bytes,
    receive: Callable[[bytes], object],
    *,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Send over TCP, TLS or a Unix socket, half-close, receive until the end.

    With `framing=length` the data is framed, and so is what comes back.

    Args:
        endpoint: its event is ignored: the listening side knows it.
        data: sent as it is.
        receive: is called with the bytes of each read, or with each message.
        tls: a client's context, for `tls` endpoints.

    Raises:
        OSError, trio.BrokenResourceError: the peer can't be reached or broke off.
        TooLarge, BadRequest: what came back is over a limit, or cut short.

    Cancellation: closes the connection; what was received so far was passed on.
    """
    machine = FRAMINGS["length"](LIMIT_BYTES) if endpoint.framing == "length" else None
    if machine is not None:
        data = machine.encode(data)
    async with await dial(endpoint, tls) as stream, sending(stream, data) as sent:
        reader = BoundedReader(stream)
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
    target: Target,
    data: bytes,
    *,
    method: str,
    headers: Sequence[tuple[str, str]] = (),
    tls: ssl.SSLContext | None = None,
) -> ClientResponse:
    """Send one HTTP/1.1 request on a connection of its own.

    Args:
        target: from `parse_target`.
        data: the body; empty is none.
        method: a token, in the case it is to be sent.
        headers: more fields; those that frame or address are the engine's.
        tls: a client's context, for `https`.

    Raises:
        ValueError: method, path or fields can't be sent as they are.
        OSError, trio.BrokenResourceError: the server can't be reached or broke off.
        BadRequest: what came back is not a response, or over a limit.

    Cancellation: closes the connection.
    """
    request = encode_request(method, target.request_target, target.host_field, data, headers)
    machine = HttpClientProtocol(HTTP_LIMITS, method)
    async with await dial(target.endpoint, tls) as stream, sending(stream, request, half_close=False):
        reader, response = BoundedReader(stream), None
        while response is None:
            chunk = await reader.read()
            response = machine.receive(chunk) if chunk else machine.receive_eof()
        if isinstance(response, Refusal):
            raise BadRequest(response.reason)
        return response


@attrs.frozen(kw_only=True)
class Destination:
    """Where a datagram goes, as the system's calls take it."""

    family: int
    address: Any
    """As `sendto` takes it."""
    interface: Interface | None
    """Where a group is called; None is the system's choice."""
    shared: bool
    """A group or broadcast address: several may answer."""


async def find_destination(endpoint: Endpoint) -> Destination:
    """Look up where a UDP endpoint is.

    Raises:
        EndpointError: an option that does not fit the address.
        OSError: there is no such name or interface.
    """
    found = await trio.socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP
    )
    family, _, _, _, address = found[0]
    interfaces = read_interfaces()
    mode = interfaces.mode(parse_address(str(address[0])))
    if endpoint.interface is not None and mode != "multicast":
        raise EndpointError(f"{endpoint}: the option interface does not fit a call to a {mode} address")
    return Destination(
        family=family,
        address=address,
        interface=interfaces.find(endpoint.interface) if endpoint.interface is not None else None,
        shared=mode != "unicast",
    )


def open_socket_to(destination: Destination) -> socket.socket:
    """Open a socket that may send there; the caller closes it."""
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
    destination = await find_destination(endpoint)
    with trio.socket.from_stdlib_socket(open_socket_to(destination)) as sock:
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
