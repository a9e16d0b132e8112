"""What a message costs on the inline path, counted: a regression shows without a clock."""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from listeners.runtimes import make_runtime
from oread.endpoints import Endpoint
from oread.listeners.states import READ_BYTES, SMALL_BYTES
from oread.listeners.stream_listener import StreamListener
from oread.reactor import READABLE, Reactor
from oread.registry import Registry
from oread.testing import MemoryNetwork

SOURCE = Path(__file__).parent.parent / "native" / "count_allocations.c"
ROUNDS = 1_000
LINES = 16


@pytest.fixture(scope="module")
def count_allocations(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[], object]], float]:
    """Return a function that counts the allocations of one call."""
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    library_path = tmp_path_factory.mktemp("native") / "count_allocations.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library_path), str(SOURCE)], check=True)
    library = ctypes.PyDLL(str(library_path))
    library.end_counting.restype = ctypes.c_long

    def count(call: Callable[[], object]) -> float:
        for _ in range(ROUNDS):  # what is kept for reuse, or specialised, is there by then
            call()
        library.begin_counting()
        for _ in itertools.repeat(None, ROUNDS):  # which makes no numbers
            call()
        return int(library.end_counting()) / ROUNDS

    return count


@attrs.frozen
class _Socket:
    """One read and one write that allocate nothing."""

    recv: Callable[[int], bytes]
    send: Callable[[bytes], int] = len

    def fileno(self) -> int:
        return 1_000

    def setblocking(self, flag: bool) -> None:
        """Do nothing."""


def serve(url: str, data: bytes, handler: Callable[..., Any]) -> Callable[[], object]:
    """Return a call that has a connection read this and answer it."""
    registry = Registry()
    registry.on("event", handler)
    reactor = Reactor(MemoryNetwork())
    listener = StreamListener(make_runtime(reactor, registry), Endpoint.parse(url), [])
    connection: Any = listener.make_connection(
        _Socket(
            {
                SMALL_BYTES: data[:SMALL_BYTES],
                READ_BYTES - SMALL_BYTES: data[SMALL_BYTES:],
                READ_BYTES: data,
            }.__getitem__
        )
    )  # type: ignore[arg-type]
    on_ready = connection.on_ready
    reactor.turn_is_over = lambda: False  # type: ignore[method-assign]

    def look() -> None:
        on_ready(READABLE)
        assert not connection.flags

    return look


def echo(data: bytes) -> bytes:
    return data


def view(data: memoryview) -> memoryview:
    return data


async def test_one_raw_message_costs_so_many_allocations(count_allocations: Callable[..., float]) -> None:
    """Its counter, and nothing else: no message, no tuple, no list."""
    assert count_allocations(serve("tcp://127.0.0.1:0/event", b"x" * 64, echo)) < 1.5


async def test_a_view_costs_two_blocks_more(count_allocations: Callable[..., float]) -> None:
    """The view and its buffer, and nothing for the way back."""
    plain = count_allocations(serve("tcp://127.0.0.1:0/event", b"x" * 64, echo))

    assert count_allocations(serve("tcp://127.0.0.1:0/event", b"x" * 64, view)) - plain < 2.5


async def test_a_line_costs_its_payload_and_its_reply(count_allocations: Callable[..., float]) -> None:
    """Payload, reply and a counter; what a read costs is shared by its lines."""
    data = (b"x" * 63 + b"\n") * LINES
    url = "tcp://127.0.0.1:0/event?framing=lines"

    one, many = (count_allocations(serve(url, part, echo)) for part in (data[:64], data))

    assert (many - one) / (LINES - 1) < 4
    assert one < 14


async def test_the_counter_counts(count_allocations: Callable[..., float]) -> None:
    """A handler that makes objects is seen to."""
    plain = count_allocations(serve("tcp://127.0.0.1:0/event", b"x" * 64, echo))

    def wasteful(data: bytes) -> bytes:
        return bytes(bytearray(data))

    assert count_allocations(serve("tcp://127.0.0.1:0/event", b"x" * 64, wasteful)) >= plain + 2
