"""The same handlers, unchanged, on real sockets of every kind and by `emit`.

What they answer, how each transport tells that one failed, refused or was
late, and what a limit means to those who come too many.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import oread

WAYS: Mapping[str, str] = {
    "raw": "tcp://127.0.0.1:0/{event}",
    "lines": "tcp://127.0.0.1:0/{event}?framing=lines",
    "length": "tcp://127.0.0.1:0/{event}?framing=length",
    "unix": "unix://{path}/socket?event={event}&framing=lines",
    "udp": "udp://127.0.0.1:0/{event}",
    "http": "http://127.0.0.1:0",
    "jsonrpc by tcp": "tcp://127.0.0.1:0?framing=jsonrpc",
    "jsonrpc by udp": "udp://127.0.0.1:0?framing=jsonrpc",
    "jsonrpc by http": "http://127.0.0.1:0?rpc=/rpc",
    "emit": "",
}
TELLING = ("http", "jsonrpc by tcp", "jsonrpc by http")
"""Those that have words for an error."""
SILENT = ("udp", "jsonrpc by udp")
REFUSING = ("http", "udp", "jsonrpc by udp", "jsonrpc by http")
"""Those that do not let a call wait for a place."""
CODES = {-32602: oread.BadRequest, -32603: oread.HandlerError, -32000: oread.Busy, -32001: oread.TimedOut}

registry = oread.Registry()


@attrs.frozen
class Order:
    """What is asked for."""

    item: str
    count: int = 1


@registry.on("shout")
def shout(data: bytes) -> bytes:
    """Answer at once."""
    return data.upper()


@registry.on("order")
async def order(body: Order) -> Order:
    """Answer later, in a class of its own."""
    await trio.lowlevel.checkpoint()
    return Order(body.item, body.count + 1)


@registry.on("fails")
def fails(data: bytes) -> bytes:
    """Raise what no peer is told."""
    raise LookupError("a secret")


@registry.on("refuses")
async def refuses(data: bytes) -> bytes:
    """Say what is wrong with the message."""
    await trio.lowlevel.checkpoint()
    raise oread.BadRequest("no good")


@registry.on("late", deadline=0.01)
async def late(data: bytes) -> bytes:
    """Take longer than is allowed."""
    await trio.sleep_forever()
    return data


@attrs.define
class Caller:
    """Calls by one way; what comes of it is a value: an answer, the kind of an error, None for silence."""

    way: str
    service: oread.Service | None

    def noticed(self) -> int:
        """Count what the service has failed or refused."""
        assert self.service is not None
        (endpoint,) = self.service.statistics().endpoints
        return endpoint.failures + sum(endpoint.refused.values())

    async def call(self, event: str, payload: Any) -> Any:
        """Call once."""
        try:
            if self.service is None:
                (answer,) = await registry.emit(event, payload)
                return answer
            if self.way in SILENT:
                return await self._until_noticed(event, payload)
            return await self.exchange(event, payload)
        except (oread.MessageError, trio.BrokenResourceError, LookupError) as error:
            return type(error)

    async def exchange(self, event: str, payload: Any) -> Any:
        """Call by a connection of its own; the answer is of the payload's type."""
        assert self.service is not None
        url = str(self.service.endpoints[0]).replace("?rpc=/rpc", "")
        async with oread.connect(url) as client:
            if self.way != "jsonrpc by http":
                return await client.call(event, payload, reply=type(payload))
            params = payload if isinstance(payload, Order) else [payload.decode()]
            request = {"jsonrpc": "2.0", "method": event, "params": params, "id": 1}
            response = await client.call("rpc", request, reply=dict[str, Any])
            if "error" in response:
                raise CODES[response["error"]["code"]](response["error"]["message"])
            result = response["result"]
            return result.encode() if isinstance(result, str) else Order(**result)

    async def _until_noticed(self, event: str, payload: Any) -> Any:
        """Wait for an answer, or until the service has counted that there is none."""
        answer, before = None, self.noticed()
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                nonlocal answer
                answer = await self.exchange(event, payload)
                nursery.cancel_scope.cancel()

            nursery.start_soon(call)
            while self.noticed() == before:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return answer


def told(way: str, error: type[Exception], raised: type[Exception] | None = None) -> Any:
    """Return what an error is to a caller by this way."""
    if way == "emit":
        return raised or error
    if way in TELLING:
        return error
    if way in SILENT:
        return None
    return b"" if way == "raw" else trio.BrokenResourceError


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("event", ["shout", "order", "fails", "refuses", "late"])
async def test_one_handler_is_served_unchanged(way: str, event: str, tmp_path: Path) -> None:
    """Its answer is the same everywhere; an error is told where there are words for it."""
    if (way, event) == ("raw", "order"):
        with pytest.raises(oread.RegistrationError, match="add \\?framing=lines"):
            async with oread.open_service(registry, WAYS[way].format(event=event)):
                pytest.fail("a chunk may be cut anywhere")
        return
    expected = {
        "shout": b"HELLO",
        "order": Order("nut", 3),
        "fails": told(way, oread.HandlerError, LookupError),
        "refuses": told(way, oread.BadRequest),
        "late": told(way, oread.TimedOut),
    }
    payload = Order("nut", 2) if event == "order" else b"hello"
    with trio.fail_after(30):
        if way == "emit":
            assert await Caller(way, None).call(event, payload) == expected[event]
            return
        async with oread.open_service(registry, WAYS[way].format(event=event, path=tmp_path)) as service:
            assert await Caller(way, service).call(event, payload) == expected[event]


@pytest.mark.parametrize("way", WAYS)
async def test_one_limit_holds_everywhere(way: str, tmp_path: Path) -> None:
    """Of three at once one runs; the others wait on streams and in `emit`, and are Busy elsewhere."""
    running, most, go = 0, 0, trio.Event()

    async def slow(data: bytes) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1
        return data

    answers: list[Any] = []

    async def call_thrice(caller: Caller) -> None:
        ask = caller.exchange if way in SILENT else caller.call

        async def call() -> None:
            answers.append(await ask("slow", b"x"))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(call)
            if caller.service is None:
                await wait_all_tasks_blocked()
            else:
                while caller.service.statistics().endpoints[0].messages < 3:
                    await trio.lowlevel.checkpoint()
            go.set()
            if way in SILENT:
                while not answers:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

    with registry.on("slow", slow, limit=1), trio.fail_after(30):
        if way == "emit":
            await call_thrice(Caller(way, None))
        else:
            async with oread.open_service(registry, WAYS[way].format(event="slow", path=tmp_path)) as service:
                await call_thrice(Caller(way, service))
                refused = service.statistics().endpoints[0].refused.get("busy", 0)
                assert refused == (2 if way in REFUSING else 0)
    assert most == 1
    busy = [] if way in SILENT else [oread.Busy] * 2
    assert sorted(answers, key=str) == sorted([b"x", *busy] if way in REFUSING else [b"x"] * 3, key=str)
