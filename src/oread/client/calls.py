"""Call an endpoint from outside: send one message, take what comes back.

One small function per transport. Each is bounded in bytes; time is the
caller's: put a `trio.move_on_after` around it. Nothing is kept open.

Not here: connection reuse, redirects, and where the bytes go (the caller).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence

import trio

from oread.client.destinations import Surroundings, find_destinations
from oread.client.mailbox import ask_all, open_mailbox_to
from oread.client.sending import LIMIT_BYTES, BoundedReader, sending
from oread.client.target import Target
from oread.client.tls import dial
from oread.endpoints import Endpoint
from oread.errors import BadRequest
from oread.limits import HttpLimits
from oread.messages import Datagram
from oread.protocols.framing import FRAMINGS
from oread.protocols.http1_client import ClientResponse, HttpClientProtocol, encode_request
from oread.protocols.http1_lines import Refusal

RESPONDERS = 4_096
"""Answers to one group or broadcast call that are taken; a /20 of machines."""
HTTP_LIMITS = HttpLimits(body_bytes=LIMIT_BYTES)


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


async def call_datagram(endpoint: Endpoint, data: bytes, receive: Callable[[Datagram], object]) -> None:
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
    surroundings = Surroundings()
    destinations = await find_destinations(endpoint, surroundings)
    with open_mailbox_to(destinations[0], surroundings) as mailbox:
        most = RESPONDERS if destinations[0].shared else 1
        await ask_all(mailbox, data, destinations, receive, most=most)
