"""Endpoints whose payloads begin with a number: `?sequence=`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
import trio

from oread.errors import EndpointError
from oread.protocols.sequence import SequenceStatistics, SequenceTracker
from oread.registry import Registry
from oread.service import open_service, serve

NUMBERS = (1, 2, 5, 4, 4)
EXPECTED = {"received": 4, "lost": 1, "repeated": 1, "late": 1, "unnumbered": 1}


def numbered(number: int) -> bytes:
    return struct.pack("!I", number) + b" reading"


def counts(found: SequenceStatistics | None) -> dict[str, int]:
    assert found is not None
    return {name: getattr(found, name) for name in EXPECTED}


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("239.255.70.7", "239.255.70.7"),
        ("127.255.255.255", "127.255.255.255"),
    ],
)
async def test_what_is_lost_shows_in_the_statistics(
    client: Any, host: str, target: str, is_async: bool
) -> None:
    """Every mode counts by the numbers, and handlers see payloads as they came."""
    registry, seen = Registry(), []

    def note(data: bytes) -> None:
        seen.append(data)

    async def note_later(data: bytes) -> None:
        seen.append(data)

    registry.on("note", note_later if is_async else note)
    interface = "&interface=lo" if host.startswith("239") else ""
    async with open_service(registry, f"udp://{host}:0/note?sequence=u32{interface}") as service:
        payloads = [*map(numbered, NUMBERS), b"ab"]
        for payload in payloads:
            await client.send(payload, service.endpoints[0].port, target)
        with trio.fail_after(10):
            while len(seen) < len(payloads):
                await trio.lowlevel.checkpoint()
        assert counts(service.statistics().endpoints[0].sequence) == EXPECTED
        assert sorted(seen) == sorted(payloads)


async def test_senders_are_counted_apart(make_client: Callable[..., Any]) -> None:
    """Two senders of the same numbers repeat nothing; replies go on as always."""
    registry = Registry()
    registry.on("echo", lambda data: data)
    async with open_service(registry, "udp://127.0.0.1:0/echo?sequence=u32") as service:
        for client in (make_client(), make_client()):
            for number in (1, 2):
                assert await client.ask(numbered(number), service.endpoints[0].port) == numbered(number)
        found = service.statistics().endpoints[0].sequence
        assert found is not None
        assert (found.senders, found.received, found.repeated) == (2, 4, 0)


async def test_a_subscription_can_follow_numbers_of_its_own(client: Any) -> None:
    """Where the number stands elsewhere, who iterates notes it, by sender and session."""
    registry, tracker = Registry(), SequenceTracker(bits=16)
    async with (
        registry.subscribe("readings") as readings,
        open_service(registry, "udp://127.0.0.1:0/readings") as service,
    ):
        for session, number in ((1, 7), (1, 9), (2, 7), (1, 8)):
            await client.send(f"{session} {number}".encode(), service.endpoints[0].port)
        verdicts = []
        with trio.fail_after(10):
            async for message in readings:
                told, number = map(int, message.data.split())
                verdicts.append(tracker.note(message.peer.address, told, number))
                if len(verdicts) == 4:
                    break
    assert verdicts == ["first", "gap", "first", "late"]


async def test_an_endpoint_without_numbers_tells_nothing() -> None:
    """No option, no counters."""
    registry = Registry()
    registry.on("echo", lambda data: data)
    async with open_service(registry, "udp://127.0.0.1:0/echo") as service:
        assert service.statistics().endpoints[0].sequence is None


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("udp://127.0.0.1:0/echo?sequence=u8", "must be u16 or u32 or u64"),
        ("udp://127.0.0.1:0?framing=jsonrpc&sequence=u32", "no number before it"),
        ("tcp://127.0.0.1:0/echo?sequence=u32", "unknown option 'sequence'"),
    ],
)
async def test_what_can_not_be_numbered_is_refused(url: str, fault: str) -> None:
    """The error names what is allowed."""
    with pytest.raises(EndpointError, match=fault):
        await serve(Registry(), url)
