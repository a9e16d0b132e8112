"""Documents of JSON-RPC on connections: cuts, order, failures, what a peer may cost."""

from __future__ import annotations

import contextvars
import itertools
import json
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

import oread
from listeners.jsonrpc_calls import URL, answer, ask, batch, call, code_of
from oread.testing import MemoryNetwork

LINES = (
    call("bytes", "one").encode() + b"\n\r\n"
    b"oops\n" + call("waits", "two", '"b"').encode() + b"\r\n \n"
    b"[" + call("async", "three", "3.0").encode() + b"," + call("bytes", "x", "").encode() + b"]\n"
    + call("bytes", "four", "null").encode()
)  # fmt: skip


async def serve_chunks(registry: oread.Registry, chunks: list[bytes]) -> bytes:
    """Send chunks one by one, half-close, return all that comes back."""
    network = MemoryNetwork()
    listening = network.listen()
    async with oread.open_service(registry, oread.Bound(listening, URL), poller=network):
        client = network.connect(listening)
        for chunk in chunks:
            await client.send_all(chunk)
            await wait_all_tasks_blocked()
        await client.send_eof()
        return await client.receive_all()


def echoing() -> oread.Registry:
    """A registry with an echo of each kind."""
    registry = oread.Registry()

    def plain(data: bytes) -> bytes:
        return data

    async def ready(data: bytes) -> bytes:
        return data

    async def waits(data: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return data

    registry.on("bytes", plain)
    registry.on("async", ready)
    registry.on("waits", waits)
    return registry


@settings(max_examples=25)
@given(st.lists(st.integers(0, len(LINES)), max_size=6))
async def test_the_answers_do_not_depend_on_the_cuts(cuts: list[int]) -> None:
    """Each line is answered in its turn and ended as it was ended; the last one needs no ending."""
    edges = [0, *sorted(cuts), len(LINES)]
    chunks = [LINES[low:high] for low, high in itertools.pairwise(edges) if low < high]
    received = await serve_chunks(echoing(), chunks)
    first, error, second, batch, last, end = received.split(b"\n")
    assert first.decode() == answer('"one"')
    assert code_of(error.decode()) == -32700
    assert second.decode() == answer('"two"', '"b"') + "\r"
    assert batch.decode() == "[" + answer('"three"', "3.0") + "]"
    assert last.decode() == answer('"four"', "null")
    assert end == b""


async def test_a_line_over_the_limit_is_answered_and_ends_the_connection(serve_memory: Any) -> None:
    """What was owed before is sent; where the next line would begin is not known."""
    async with serve_memory(f"{URL}&message_bytes=100") as memory:
        exact = call("bytes", "x" * 45)
        assert len(exact) == 100
        client = memory.client()
        await client.send_all("\n".join([exact, call("bytes", "x" * 46), exact, ""]).encode())
        first, second = (await client.receive_all()).decode().splitlines()
        assert json.loads(first)["result"] == "x" * 45
        assert code_of(second) == -32600
        assert json.loads(second)["id"] is None
        assert memory.refused == {"too_large": 1}


async def test_calls_of_a_batch_are_made_in_order(serve_memory: Any, registry: oread.Registry) -> None:
    """One after the other, sync and async, notifications too; the next line waits for all."""
    log: list[str] = []

    @registry.on("sync")
    def sync(name: str) -> None:
        log.append(name)

    @registry.on("slow")
    async def slow(name: str) -> None:
        log.append(f"{name} begins")
        await trio.lowlevel.checkpoint()
        log.append(f"{name} ends")

    calls = [
        call("sync", "a"),
        call("slow", "b", ""),
        call("slow", "c", "2"),
        call("sync", "d", ""),
    ]
    async with serve_memory(URL) as memory:
        lines = await ask(memory, batch(*calls), call("sync", "e", "3"))
    assert log == ["a", "b begins", "b ends", "c begins", "c ends", "d", "e"]
    assert lines == [batch(answer("null"), answer("null", "2")), answer("null", "3")]


async def test_each_call_has_a_context_of_its_own(serve_memory: Any, registry: oread.Registry) -> None:
    """What one call sets the next does not see, in one batch or not, sync or async."""
    seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")

    def sync() -> str:
        before = seen.get()
        seen.set("sync")
        return before

    async def later() -> str:
        await trio.lowlevel.checkpoint()
        return sync()

    registry.on("see", sync)
    registry.on("later", later)
    calls = ",".join([call("see"), call("later"), call("later"), call("see")])
    async with serve_memory(URL) as memory:
        (line,) = await ask(memory, f"[{calls}]")
    assert [each["result"] for each in json.loads(line)] == ["nothing"] * 4


async def test_a_failure_is_reported_under_its_event(serve_memory: Any, caplog: Any) -> None:
    """Counted, logged with its traceback, and answered without its words; the rest goes on."""
    async with serve_memory(URL) as memory:
        (line,) = await ask(memory, batch(call("fails", "x"), call("bytes", "y", "2")))
        statistics = memory.service.statistics().endpoints[0]
    assert [each.get("result") for each in json.loads(line)] == [None, "y"]
    assert "on purpose" not in line
    assert "fails: " in caplog.text
    assert "LookupError: on purpose" in caplog.text
    assert (statistics.messages, statistics.replies, statistics.failures) == (1, 1, 1)


@pytest.mark.parametrize("event", ["fails", "nothing"])
async def test_failure_close_ends_the_connection_after_the_answer(serve_memory: Any, event: str) -> None:
    """A handler's failure does, what is the caller's fault does not."""
    async with serve_memory(f"{URL}&failure=close") as memory:
        lines = await ask(memory, call(event, "x"), call("bytes", "y"))
    assert [code_of(line) for line in lines[:1]] == [-32603 if event == "fails" else -32601]
    assert lines[1:] == ([] if event == "fails" else [answer('"y"')])


async def test_streams_are_no_results(serve_memory: Any, registry: oread.Registry) -> None:
    """An iterator is closed unasked, and its call fails with words."""
    registry.on("items", lambda: iter([b"1"]))
    async with serve_memory(URL) as memory:
        (line,) = await ask(memory, call("items"))
    assert json.loads(line)["error"] == {
        "code": -32603,
        "message": "Internal error",
        "data": "a stream of parts can't be a result",
    }


async def test_a_peer_that_does_not_read_stalls_only_itself(
    serve_memory: Any, registry: oread.Registry
) -> None:
    """Above the mark of unsent answers no further line is served."""
    served: list[bytes] = []

    @registry.on("large")
    def large(data: bytes) -> bytes:
        served.append(data)
        return b"x" * 50_000

    async with serve_memory(URL) as memory:
        client = memory.client(room=1_000)
        await client.send_all((call("large", "a") + "\n").encode() * 20)
        await wait_all_tasks_blocked()
        assert len(served) < 20
        await client.send_eof()
        assert len((await client.receive_all()).splitlines()) == 20
        assert len(served) == 20
