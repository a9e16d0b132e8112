"""Write requests, send them in memory, and read what comes back (by h11 where it is to be understood)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import h11
import trio
from trio.testing import wait_all_tasks_blocked

from oread.testing import MemoryClient

Response = tuple[int, dict[bytes, bytes], bytes]
"""Status, fields, body."""


def get(target: str, *fields: str, method: str = "GET", version: str = "1.1", body: bytes = b"") -> bytes:
    """Write one request, a GET unless it is said; a body's framing is among the fields."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: a", *fields, "", ""]).encode() + body


async def exchange(connect: Callable[[], MemoryClient], data: bytes, *, end: bool = True) -> bytes:
    """Send on a connection of its own, half-close, return all that comes until the service closes."""
    client = connect()
    await client.send_all(data)
    if end:
        await client.send_eof()
    return await client.receive_all()


async def receive_now(client: MemoryClient) -> bytes:
    """Return what has come by now, without waiting for more."""
    received = b""

    async def receive() -> None:
        nonlocal received
        received = await client.receive_some()

    async with trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return received


async def receive_until(client: MemoryClient, end: bytes) -> bytes:
    """Receive up to and with these bytes."""
    received = b""
    while end not in received:
        chunk = await client.receive_some()
        assert chunk, received
        received += chunk
    return received


def read_responses(data: bytes, methods: Sequence[bytes] = (b"GET",)) -> list[Response]:
    """Read responses with h11, one for each method, and nothing behind them."""
    found = []
    connection = h11.Connection(h11.CLIENT)
    connection.receive_data(data)
    connection.receive_data(b"")
    for method in methods:
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        connection.send(h11.EndOfMessage())
        head, body = read_events(connection)
        found.append((head.status_code, dict(head.headers), body))
        if connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            connection.start_next_cycle()
    return found


def read_events(connection: h11.Connection) -> tuple[Any, bytes]:
    """Return the head and the body of the present response."""
    head: Any = None
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            assert isinstance(event, h11.InformationalResponse), event
    return head, body
