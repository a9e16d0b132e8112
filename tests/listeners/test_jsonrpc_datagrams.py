"""JSON-RPC by UDP: bounds, ends, and errors that are never sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import oread
from listeners.jsonrpc_calls import Held, Polite, answer, batch, call

UDP = "udp://127.0.0.1:0?framing=jsonrpc"


def refused(service: oread.Service) -> dict[str, int]:
    """Return what was refused, by reason."""
    return dict(service.statistics().endpoints[0].refused)


async def send(client: Any, service: oread.Service, document: str) -> None:
    """Send one datagram and wait until it is taken."""
    await client.send(document.encode(), service.endpoints[0].port)
    await wait_all_tasks_blocked()


async def test_over_the_limit_a_call_is_dropped_and_counted(
    serve_one: Any, registry: oread.Registry, client: Any
) -> None:
    """The others of its batch are served; the place comes back."""
    held = Held()
    registry.on("held", held, limit=1)
    found = registry.find("held")
    async with serve_one(UDP) as service:
        await send(client, service, call("held", "a"))
        await send(client, service, batch(call("held", "b", "2"), call("bytes", "c", "3")))
        assert (await client.receive())[0].decode() == batch(answer('"c"', "3"))
        assert refused(service) == {"busy": 1}
        held.go.set()
        assert (await client.receive())[0].decode() == answer('"a"')
    assert found is not None
    assert found[0].gate is not None
    assert found[0].gate.running == 0


async def test_async_documents_are_bounded(serve_one: Any, registry: oread.Registry, client: Any) -> None:
    """Above `in_flight` a document is dropped where its first async call begins, and holds no place."""
    held = Held()
    registry.on("held", held, limit=9)
    found = registry.find("held")
    async with serve_one(f"{UDP}&in_flight=1") as service:
        await send(client, service, batch(call("held", "a"), call("held", "b", "2")))
        await send(client, service, call("held", "c"))
        assert refused(service) == {"busy": 1}
        assert found is not None
        assert found[0].gate is not None
        assert found[0].gate.running == 1
        held.go.set()
        assert (await client.receive())[0].decode() == batch(answer('"a"'), answer('"b"', "2"))
    assert held.log == ["a began", "a ended", "b began", "b ended"]


@pytest.mark.parametrize("end", ["drain", "cancel"])
async def test_every_end_cancels_and_gives_the_place_back(
    serve_one: Any, registry: oread.Registry, client: Any, end: str
) -> None:
    """The rest of a batch is not begun; no place stays taken, also for what was in the queue."""
    held = Held()
    registry.on("held", held, limit=2)
    found = registry.find("held")
    async with serve_one(UDP) as service:
        await send(client, service, batch(call("held", "a"), call("held", "b")))
        if end == "drain":
            report = await service.drain(0)
            assert len(report.cancelled) == 1
        assert client.received_nothing()
    assert held.log == ["a began", "a was cancelled"]
    assert found is not None
    assert found[0].gate is not None
    assert found[0].gate.running == 0


async def test_a_drain_waits_for_the_rest_of_a_batch(
    serve_one: Any, registry: oread.Registry, client: Any
) -> None:
    """What has begun comes to its end, and is answered."""
    held = Held()
    registry.on("held", held)
    async with serve_one(UDP) as service, trio.open_nursery() as nursery:
        await send(client, service, batch(call("held", "a"), call("held", "b", "2")))
        nursery.start_soon(service.drain, 60)
        await wait_all_tasks_blocked()
        held.go.set()
        assert (await client.receive())[0].decode() == batch(answer('"a"'), answer('"b"', "2"))


async def test_failures_are_reported_under_their_event(
    serve_one: Any, registry: oread.Registry, client: Any, caplog: Any
) -> None:
    """And nothing is sent; what is no document is a bad request."""
    async with serve_one(UDP) as service:
        for document in (call("fails", "a"), call("bytes"), "oops", "", batch("1", "2"), call("nothing")):
            await send(client, service, document)
        statistics = service.statistics().endpoints[0]
        assert json.loads((await client.receive())[0])["result"] == ""  # without params: an empty payload
        assert client.received_nothing()
    assert (statistics.messages, statistics.replies, statistics.failures) == (6, 1, 1)
    assert statistics.refused == {"bad_request": 4, "not_found": 1}
    assert "fails: " in caplog.text


async def test_an_iterator_is_closed_and_counted(
    serve_one: Any, registry: oread.Registry, client: Any
) -> None:
    """A stream of parts is no result, also for a notification."""
    closed, made = [], []

    def items() -> Iterator[bytes]:
        try:
            yield b"1"
        finally:
            closed.append("closed")

    def begun() -> Iterator[bytes]:
        iterator = items()
        next(iterator)
        made.append(iterator)  # or it would be closed as the last one forgets it
        return iterator

    registry.on("items", begun)
    async with serve_one(UDP) as service:
        await send(client, service, call("items"))
        await send(client, service, call("items", call_id=""))
        assert client.received_nothing()
        assert service.statistics().endpoints[0].failures == 1
    assert closed == ["closed", "closed"]


async def test_a_drain_that_ends_begins_no_other_call(
    serve_one: Any, registry: oread.Registry, client: Any
) -> None:
    """What the cancelled call says as it goes is still sent; the calls behind it are not begun."""
    polite = Polite()
    registry.on("polite", polite)
    async with serve_one(UDP) as service:
        await send(client, service, batch(call("polite"), call("polite", call_id="2")))
        await service.drain(0)
        assert (await client.receive())[0].decode() == batch(answer('"goodbye"'))
        assert refused(service)["cancelled"] == 1
    assert polite.calls == 1
