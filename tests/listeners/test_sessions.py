"""Sessions: a Trio stream over a served connection, by Trio's own checks."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import check_half_closeable_stream, wait_all_tasks_blocked

import oread
from listeners.handed_over import clog, hand_over_streams


def address_of(service: oread.Service) -> tuple[str, int]:
    """Where its first endpoint listens."""
    return service.endpoints[0].host, service.endpoints[0].port


async def test_stream_passes_trios_own_checks(
    registry: oread.Registry, serve_one: Any, tmp_path: Path
) -> None:
    """The stream of a session keeps the whole contract of a half-closeable stream."""
    take, path = hand_over_streams(registry), tmp_path / "clogged.sock"
    async with serve_one("tcp://127.0.0.1:0/hand-over", f"unix://{path}?event=hand-over") as service:

        async def make_pair() -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
            client = await trio.open_tcp_stream(*address_of(service))
            return client, await take.receive()

        async def make_clogged() -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
            client: trio.SocketStream = await trio.open_unix_socket(str(path))
            stream = await take.receive()
            for side in (client, stream):
                await clog(side)
            return client, stream

        await check_half_closeable_stream(make_pair, make_clogged)


@pytest.mark.parametrize("transport", ["socket", "memory"])
async def test_session_owns_the_connection(
    registry: oread.Registry, serve_memory: Any, serve_one: Any, transport: str
) -> None:
    """It speaks first, reads to the end of input, and its last words arrive."""

    @registry.session("greet")
    async def greet(stream: Any) -> None:
        await stream.send_all(b"who? ")
        name = b""
        async for chunk in stream:
            name += chunk
        await stream.send_all(b"hello " + name)

    async def talk(client: trio.abc.HalfCloseableStream) -> None:
        async with client:
            assert await client.receive_some() == b"who? "
            await client.send_all(b"Echo")
            await client.send_eof()
            received = b""
            while chunk := await client.receive_some():
                received += chunk
            assert received == b"hello Echo"

    if transport == "memory":
        async with serve_memory("tcp://:0/greet") as memory:
            await talk(memory.client())
    else:
        async with serve_one("tcp://127.0.0.1:0/greet") as service:
            await talk(await trio.open_tcp_stream(*address_of(service)))


async def test_session_reads_while_its_output_waits(registry: oread.Registry, serve_one: Any) -> None:
    """A peer that sends everything before it reads does not lock both sides up."""
    size = 20_000_000

    @registry.session("duplex")
    async def duplex(stream: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, b"s" * size)
            async for _ in stream:
                pass

    async with serve_one("tcp://127.0.0.1:0/duplex") as service:
        async with await trio.open_tcp_stream(*address_of(service)) as client:
            with trio.fail_after(30):
                await client.send_all(b"c" * size)
                await client.send_eof()
                received = 0
                async for chunk in client:
                    received += len(chunk)
        assert received == size


async def test_reset_is_told_where_the_session_waits(registry: oread.Registry, serve_one: Any) -> None:
    """Waiting for input it gets BrokenResourceError; waiting elsewhere it is cancelled."""
    outcomes: list[str] = []

    @registry.session("reads")
    async def reads(stream: Any) -> None:
        try:
            await stream.receive_some()
            await stream.receive_some()
        except trio.BrokenResourceError:
            outcomes.append("broken")
            raise

    @registry.session("sleeps")
    async def sleeps(stream: Any) -> None:
        await stream.receive_some()
        try:
            await trio.sleep_forever()
        finally:
            outcomes.append("cancelled")

    async with serve_one("tcp://127.0.0.1:0/reads", "tcp://127.0.0.1:0/sleeps") as service:
        for endpoint in service.endpoints:
            client = socket.create_connection((endpoint.host, endpoint.port))
            client.sendall(b"x")
            await wait_all_tasks_blocked(0.02)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            await wait_all_tasks_blocked(0.02)
        assert outcomes == ["broken", "cancelled"]
        assert [item.failures for item in service.statistics().endpoints] == [0, 0]
        assert [item.open for item in service.statistics().endpoints] == [0, 0]


@pytest.mark.parametrize("first", ["reader", "writer"])
async def test_both_tasks_of_a_session_learn_of_a_reset(
    registry: oread.Registry, serve_one: Any, caplog: Any, first: str
) -> None:
    """Reader and writer get BrokenResourceError, whichever meets it first; the session has not failed."""
    errors: list[str] = []
    started, go = trio.Event(), trio.Event()

    async def watch(operation: Any, *args: Any) -> None:
        try:
            await operation(*args)
        except trio.Cancelled:
            raise
        except Exception as error:
            errors.append(type(error).__name__)
            raise

    @registry.session("both")
    async def both(stream: Any) -> None:
        async def write() -> None:
            await stream.send_all(b"x" * 10_000_000)

        async def read() -> None:
            started.set()
            if first == "writer":
                await stream.receive_some()
            else:
                await go.wait()
                while True:
                    await stream.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, write)
            nursery.start_soon(watch, read)

    async with serve_one("tcp://127.0.0.1:0/both") as service:
        client = socket.create_connection(address_of(service))
        await started.wait()
        await wait_all_tasks_blocked(0.02)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        go.set()
        await wait_all_tasks_blocked(0.05)
        assert service.statistics().endpoints[0].failures == 0
        assert service.statistics().endpoints[0].open == 0
    assert set(errors) == {"BrokenResourceError"}
    assert "Traceback" not in caplog.text


async def test_failing_session_harms_its_own_connection_only(
    registry: oread.Registry, serve_memory: Any, caplog: Any
) -> None:
    """It is counted and logged; another session goes on."""

    @registry.session("fragile")
    async def fragile(stream: Any) -> None:
        async for chunk in stream:
            if chunk == b"break":
                raise LookupError("on purpose")
            await stream.send_all(chunk)

    async with serve_memory("tcp://:0/fragile") as memory:
        one, two = memory.client(), memory.client()
        await two.send_all(b"fine")
        await one.send_all(b"break")
        assert await one.receive_all() == b""
        assert await two.receive_some() == b"fine"
        await two.send_all(b"still")
        assert await two.receive_some() == b"still"
        assert memory.service.statistics().endpoints[0].failures == 1
    assert "LookupError: on purpose" in caplog.text


async def test_drain_waits_for_a_session_and_then_cancels_it(serve_memory: Any, autojump_clock: Any) -> None:
    """The report names it; the session's own clean-up still reaches the peer."""
    async with serve_memory("tcp://:0/session") as memory:
        client = memory.client()
        await client.send_all(b"x")
        assert await client.receive_some() == b"X"
        report = await memory.service.drain(5)
        assert len(report.cancelled) == 1
        assert "handler for memory" in report.cancelled[0]
        assert await client.receive_all() == b""


async def test_shielded_goodbye_is_still_sent(registry: oread.Registry, serve_memory: Any) -> None:
    """Cancelling the service lets a handler's shielded last words out before its socket closes."""

    @registry.session("polite")
    async def polite(stream: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                await stream.send_all(b"goodbye")
                await stream.wait_send_all_might_not_block()

    async with serve_memory("tcp://:0/polite") as memory:
        client = memory.client()
        await wait_all_tasks_blocked()
    assert await client.receive_all() == b"goodbye"


async def test_session_taken_back_between_accept_and_start_closes(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """A connection whose session is gone is closed, not served by something else."""
    async with serve_memory("tcp://:0/session") as memory:
        registry.off("session")
        client = memory.client()
        await client.send_all(b"x")
        assert await client.receive_all() == b""
