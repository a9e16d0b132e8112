"""Accepting: the cap, out of descriptors, errors of single connections."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import oread
from oread.testing import MemoryNetwork


async def test_cap_is_taken_before_accept(serve_memory: Any) -> None:
    """What is over the cap waits in the queue, untouched, until there is room."""
    async with serve_memory("tcp://:0/bytes?connections=2") as memory:
        clients = [memory.client() for _ in range(4)]
        for client in clients:
            await client.send_all(b"x")
        await wait_all_tasks_blocked()
        assert memory.service.statistics().endpoints[0].open == 2
        assert memory.service.statistics().endpoints[0].accepted == 2
        for client in clients:
            assert await client.receive_some() == b"x"
            await client.send_eof()
            assert await client.receive_all() == b""
        assert memory.service.statistics().endpoints[0].accepted == 4


async def test_out_of_descriptors_rests_and_says_so_once(
    registry: oread.Registry, autojump_clock: MockClock, caplog: Any
) -> None:
    """The queue stays readable, so accepting rests 100 ms at a time instead of spinning."""
    network = MemoryNetwork()
    listening = network.listen()
    listening.failures.extend(OSError(errno.EMFILE, "too many open files") for _ in range(5))
    async with oread.open_service(
        registry, oread.Bound(listening, "tcp://:0/bytes"), poller=network
    ) as service:
        client = network.connect(listening)
        await client.send_all(b"x")
        assert await client.receive_some() == b"x"
        assert service.statistics().endpoints[0].refused == {"out_of_descriptors": 5}
    assert caplog.text.count("accepting rests") == 1


async def test_connection_that_gives_up_in_the_queue_is_skipped(registry: oread.Registry) -> None:
    """ECONNABORTED is that connection's end, not the listener's."""
    network = MemoryNetwork()
    listening = network.listen()
    listening.failures.append(OSError(errno.ECONNABORTED, "aborted"))
    async with oread.open_service(
        registry, oread.Bound(listening, "tcp://:0/bytes"), poller=network
    ) as service:
        client = network.connect(listening)
        await client.send_all(b"x")
        assert await client.receive_some() == b"x"
        assert service.statistics().endpoints[0].refused == {"accept_failed": 1}


async def test_idle_http_peers_do_not_keep_other_endpoints_from_being_served(
    registry: oread.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the cap of the process an idle HTTP connection gives way to whoever waits, by any endpoint."""
    monkeypatch.setattr("oread.service.descriptor_room", lambda: 2)
    network = MemoryNetwork()
    http, tcp = network.listen(), network.listen()
    async with oread.open_service(
        registry, oread.Bound(http, "http://:0"), oread.Bound(tcp, "tcp://:0/bytes"), poller=network
    ) as service:
        idle = [network.connect(http) for _ in range(2)]
        for client in idle:
            await client.send_all(b"GET /bytes HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.receive_some()
        newcomer = network.connect(tcp)
        await newcomer.send_all(b"x")
        assert await newcomer.receive_some() == b"x"
        assert [item.open for item in service.statistics().endpoints] == [1, 1]


async def test_newcomer_is_accepted_once_a_busy_connection_falls_idle(serve_memory: Any) -> None:
    """At the cap with all busy accepting pauses; it does not wait for one to close."""
    async with serve_memory("http://:0?connections=1") as memory:
        first = memory.client()
        await first.send_all(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
        newcomer = memory.client()
        await newcomer.send_all(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await first.receive_some()).startswith(b"HTTP/1.1 200")
        with trio.fail_after(5):
            assert (await newcomer.receive_some()).startswith(b"HTTP/1.1 200")
        assert memory.refused == {"evicted": 1}


async def test_descriptors_are_shared_by_all_endpoints(
    registry: oread.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they hold no more than the process may; who closes on one makes room on another."""
    monkeypatch.setattr("oread.service.descriptor_room", lambda: 1)
    network = MemoryNetwork()
    one, two = network.listen(), network.listen()
    async with oread.open_service(
        registry, oread.Bound(one, "tcp://:0/bytes"), oread.Bound(two, "tcp://:0/bytes"), poller=network
    ) as service:
        first = network.connect(one)
        await first.send_all(b"x")
        assert await first.receive_some() == b"x"
        second = network.connect(two)
        await second.send_all(b"y")
        await wait_all_tasks_blocked()
        assert [item.open for item in service.statistics().endpoints] == [1, 0]
        await first.send_eof()
        assert await second.receive_some() == b"y"
