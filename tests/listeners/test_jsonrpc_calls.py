"""Calls of JSON-RPC that wait: ends, limits, deadlines, shields."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

import oread
from listeners.jsonrpc_calls import AS_JSON, HTTP, URL, Held, Polite, answer, ask, batch, call, post
from oread.dispatch import Gate
from oread.testing import MemoryClient


async def receive_line(client: MemoryClient) -> Any:
    """Wait for one response."""
    received = b""
    while not received.endswith(b"\n"):
        received += await client.receive_some()
    return json.loads(received)


async def test_a_reset_cancels_the_call_and_begins_no_other(
    serve_memory: Any, registry: oread.Registry
) -> None:
    """Neither the rest of the batch nor the next line is begun for a peer that is gone."""
    held = Held()
    registry.on("held", held)
    async with serve_memory(URL) as memory:
        client = memory.client()
        lines = [batch(call("held", "a"), call("held", "b")), call("held", "c"), ""]
        await client.send_all("\n".join(lines).encode())
        await wait_all_tasks_blocked()
        client.reset()
        await wait_all_tasks_blocked()
        assert held.log == ["a began", "a was cancelled"]


async def test_a_fin_does_not_cancel(serve_memory: Any, registry: oread.Registry) -> None:
    """The end of input is no reset: what was asked is answered."""
    held = Held()
    registry.on("held", held)
    async with serve_memory(URL) as memory:
        client = memory.client()
        await client.send_all(call("held", "a").encode())
        await client.send_eof()
        await wait_all_tasks_blocked()
        held.go.set()
        assert (await client.receive_all()).decode() == answer('"a"') + "\n"


@pytest.mark.parametrize("url", [URL, HTTP])
async def test_a_drain_that_ends_cancels_and_says_so(
    serve_memory: Any, registry: oread.Registry, url: str
) -> None:
    """The call that runs and those behind it are answered as cancelled; none of them is begun."""
    held = Held()
    registry.on("held", held)
    calls = batch(call("held", "a"), call("held", "b", "2"), call("bytes", "c", "3"))
    async with serve_memory(url) as memory:
        client = memory.client()
        await client.send_all(f"{calls}\n".encode() if url == URL else post(calls, AS_JSON))
        await wait_all_tasks_blocked()
        report = await memory.service.drain(0)
        received = (await client.receive_all()).decode()
    assert len(report.cancelled) == 1
    assert held.log == ["a began", "a was cancelled"]
    responses = json.loads(received.rpartition("\r\n\r\n")[2])
    assert [each["error"]["code"] for each in responses] == [-32002] * 3


@pytest.mark.parametrize("url", [URL, HTTP])
async def test_a_drain_that_ends_begins_no_other_call(
    serve_memory: Any, registry: oread.Registry, url: str
) -> None:
    """What the cancelled call says as it goes is its answer; the calls behind it are not begun."""
    polite = Polite()
    registry.on("polite", polite)
    calls = batch(call("polite"), call("polite", call_id="2"))
    async with serve_memory(url) as memory:
        client = memory.client()
        await client.send_all(f"{calls}\n".encode() if url == URL else post(calls, AS_JSON))
        await wait_all_tasks_blocked()
        await memory.service.drain(0)
        received = (await client.receive_all()).decode()
    first, second = json.loads(received.rpartition("\r\n\r\n")[2])
    assert first["result"] == "goodbye"
    assert second["error"]["code"] == -32002
    assert polite.calls == 1


# limits, deadlines, shields


def gate_of(registry: oread.Registry, event: str) -> Gate:
    """Return the gate of a limited event."""
    found = registry.find(event)
    assert found is not None
    assert found[0].gate is not None
    return found[0].gate


async def test_over_the_limit_streams_wait_for_a_place(serve_memory: Any, registry: oread.Registry) -> None:
    """Calls are begun as places come free, in the order of asking; all places come back."""
    held = Held()
    registry.on("held", held, limit=1)
    async with serve_memory(URL) as memory:
        clients = [memory.client() for _ in range(3)]
        for client, name in zip(clients, "abc", strict=True):
            await client.send_all((call("held", name) + "\n").encode())
            await wait_all_tasks_blocked()
        assert held.log == ["a began"]
        held.go.set()
        for client, name in zip(clients, "abc", strict=True):
            assert await receive_line(client) == json.loads(answer(f'"{name}"'))
    assert held.log == [f"{name} {what}" for name in "abc" for what in ("began", "ended")]
    assert (gate_of(registry, "held").running, gate_of(registry, "held").waiting) == (0, 0)


async def test_over_the_limit_http_is_told_to_ask_again(serve_memory: Any, registry: oread.Registry) -> None:
    """The call is Busy, the others of its batch are served."""
    held = Held()
    registry.on("held", held, limit=1)
    async with serve_memory(HTTP) as memory:
        first, second = memory.client(), memory.client()
        await first.send_all(post(call("held", "a"), AS_JSON))
        await wait_all_tasks_blocked()
        calls = batch(call("held", "b"), call("bytes", "c", "2"))
        await second.send_all(post(calls, AS_JSON, "Connection: close"))
        busy, served = json.loads((await second.receive_all()).partition(b"\r\n\r\n")[2])
        assert busy["error"] == {"code": -32000, "message": "Busy", "data": {"retry_seconds": 1}}
        assert served["result"] == "c"
        assert memory.refused == {"busy": 1}
        held.go.set()
    assert gate_of(registry, "held").running == 0


@pytest.mark.parametrize("end", ["reset while it runs", "reset while it waits", "drain", "cancel"])
async def test_every_end_gives_its_place_back(serve_memory: Any, registry: oread.Registry, end: str) -> None:
    """Whoever is gone holds no place, and waits for none."""
    held = Held()
    registry.on("held", held, limit=1)
    gate = gate_of(registry, "held")
    async with serve_memory(URL) as memory:
        clients = [memory.client(), memory.client()]
        for client in clients:
            await client.send_all((call("held", "a") + "\n").encode())
            await wait_all_tasks_blocked()
        assert (gate.running, gate.waiting) == (1, 1)
        if end.startswith("reset"):
            clients["waits" in end].reset()
            await wait_all_tasks_blocked()
            assert (gate.running, gate.waiting) == (1, 0)
            assert len([line for line in held.log if "began" in line]) == (1 if "waits" in end else 2)
        elif end == "drain":
            await memory.service.drain(0)
            assert json.loads(await clients[1].receive_all())["error"]["code"] == -32002
    assert (gate.running, gate.waiting) == (0, 0)


async def test_a_deadline_is_answered_as_timed_out(
    serve_memory: Any, registry: oread.Registry, autojump_clock: MockClock
) -> None:
    """Each call of a batch has its own."""
    held = Held()
    registry.on("held", held, deadline=5)
    calls = batch(call("held", "a"), call("held", "b", "2"), call("bytes", "c", "3"))
    async with serve_memory(URL) as memory:
        (line,) = await ask(memory, calls)
    first, second, third = json.loads(line)
    assert [first["error"]["code"], second["error"]["code"]] == [-32001, -32001]
    assert third["result"] == "c"


@pytest.mark.parametrize("url", [URL, HTTP])
async def test_a_shielded_call_goes_on_without_its_peer(
    serve_memory: Any, registry: oread.Registry, url: str
) -> None:
    """It comes to its end, unanswered; the next of its batch is not begun."""
    held = Held()
    registry.on("held", held, shield=True)
    registry.on("sync", lambda: held.log.append("sync"))
    calls = batch(call("held", "a"), call("sync"), call("held", "b"))
    async with serve_memory(url) as memory:
        client = memory.client()
        await client.send_all(f"{calls}\n".encode() if url == URL else post(calls, AS_JSON))
        await wait_all_tasks_blocked()
        client.reset()
        await wait_all_tasks_blocked()
        held.go.set()
        await wait_all_tasks_blocked()
        assert held.log == ["a began", "a ended"]


@pytest.mark.parametrize("url", [URL, HTTP])
async def test_middleware_is_around_each_call(serve_memory: Any, registry: oread.Registry, url: str) -> None:
    """It sees the event of the method, and may change what comes of it."""
    seen: list[str] = []

    def shout(message: oread.Message, call_next: Callable[[], Any]) -> str:
        seen.append(message.event)
        return str(call_next(), "ascii").upper()

    registry.use(shout, "bytes")
    calls = batch(call("bytes", "a"), call("async", "b", "2"), call("bytes", "c", "3"))
    async with serve_memory(url) as memory:
        client = memory.client()
        await client.send_all(f"{calls}\n".encode() if url == URL else post(calls, AS_JSON))
        await client.send_eof()
        received = (await client.receive_all()).decode()
    assert [each["result"] for each in json.loads(received.rpartition("\r\n\r\n")[2])] == ["A", "b", "C"]
    assert seen == ["bytes", "bytes"]


async def test_a_thread_does_not_hold_up_the_others(serve_memory: Any, registry: oread.Registry) -> None:
    """What must block runs in a thread; another connection is served meanwhile."""
    go = threading.Event()

    def block(name: str) -> str:
        return name if go.wait(10) else "nobody came"

    registry.on("block", block, thread=True)
    async with serve_memory(URL) as memory:
        first, second = memory.client(), memory.client()
        await first.send_all((call("block", "a") + "\n").encode())
        await second.send_all((call("bytes", "b") + "\n").encode())
        assert await receive_line(second) == json.loads(answer('"b"'))
        go.set()
        assert await receive_line(first) == json.loads(answer('"a"'))
