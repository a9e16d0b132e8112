"""Call by UDP: one datagram each way, to one peer.

Replies have no number, so they are taken in the order of asking; after a
deadline the socket is closed, or a late reply would be the next call's. What
is only told goes by a socket of its own, for the same reason.
"""

from __future__ import annotations

import contextlib

import trio

from oread.client.channel import Items, Outcome
from oread.client.destinations import Destination, Surroundings, find_destinations
from oread.client.mailbox import MOST_BYTES, Mailbox, open_mailbox_to
from oread.client.payloads import Payload
from oread.endpoints import Endpoint
from oread.errors import BadRequest, EndpointError, MessageError, TooLarge


class DatagramChannel:
    """Two connected sockets: one to ask, one to tell.

    Args:
        endpoint: unicast.
    """

    tells_apart = True

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._destination: Destination | None = None
        self._surroundings = Surroundings()
        self._open = contextlib.ExitStack()
        self._asking: Mailbox | None = None
        self._telling: Mailbox | None = None

    async def open(self) -> None:
        """Look up the peer and open the socket for calls.

        Raises:
            EndpointError: a group or broadcast address: several may answer.
        """
        if self._asking is None:
            self._asking = await self._dial()

    async def _dial(self) -> Mailbox:
        if self._destination is None:
            self._destination, *_ = await find_destinations(self._endpoint, self._surroundings)
        if self._destination.shared:
            raise EndpointError(
                f"{self._endpoint}: a client calls one peer; for a group use `oread.open_datagram`"
            )
        return self._open.enter_context(open_mailbox_to(self._destination, self._surroundings))

    async def exchange(self, event: str, payload: Payload) -> Outcome:  # noqa: ARG002 - the peer knows the event
        """Send one datagram and take one."""
        if len(payload.data) > MOST_BYTES:
            return _too_large(payload)
        await self.send(payload.data)
        return await self.receive()

    async def send(self, data: bytes) -> None:
        """Send one datagram by the socket of the calls."""
        await self.open()
        assert self._asking is not None
        await self._asking.send(data, None)

    async def receive(self) -> bytes:
        """Return the next datagram that came back."""
        assert self._asking is not None
        return (await self._asking.receive()).data

    async def notify(self, event: str, payload: Payload) -> MessageError | None:  # noqa: ARG002
        """Send one datagram; that it arrives is not known."""
        if len(payload.data) > MOST_BYTES:
            return _too_large(payload)
        if self._telling is None:
            self._telling = await self._dial()
        with contextlib.suppress(ConnectionRefusedError):  # of an earlier one: nobody waits for it
            await self._telling.send(payload.data, None)
        return None

    async def open_items(self, event: str, payload: Payload) -> Items:  # noqa: ARG002
        """Refuse: a reply by UDP is one datagram.

        Raises:
            BadRequest: always.
        """
        raise BadRequest("udp replies are one datagram; use call")

    async def finish(self) -> None:
        """Do nothing: what was sent is on its way."""

    async def aclose(self) -> None:
        """Close both sockets."""
        self._open.close()
        await trio.lowlevel.checkpoint()


def _too_large(payload: Payload) -> TooLarge:
    return TooLarge(f"a datagram holds {MOST_BYTES} bytes, not {len(payload.data)}")
