"""A client that is cancelled at any checkpoint leaves nothing open; types; a foreign peer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from descriptors import open_descriptors

import oread
from oread.testing.steps import StepWatch

URLS = (
    "tcp://127.0.0.1:0/echo",
    "tcp://127.0.0.1:0/echo?framing=lines",
    "http://127.0.0.1:0",
    "udp://127.0.0.1:0/echo",
    "tcp://127.0.0.1:0?framing=jsonrpc",
)


@pytest.mark.parametrize("url", URLS)
async def test_cancelled_at_any_checkpoint_nothing_is_left_open(url: str) -> None:
    """Connecting, calling, telling, streaming, leaving: every step of each."""
    registry = oread.Registry()
    registry.on("echo", lambda data: data)

    async def use(endpoint: oread.Endpoint) -> None:
        async with oread.connect(endpoint) as client:
            assert await client.call("echo", b"one") == b"one"
            await client.emit("echo", b"two")
            if endpoint.scheme != "udp" and endpoint.framing != "jsonrpc":
                async for item in client.stream("echo", b"three"):
                    assert item == b"three"

    async def run(watch: StepWatch) -> None:
        with watch.watching():
            await use(service.endpoints[0])

    async def use_cancelled(step: int) -> int:
        """Cancel at one step; return how many there were."""
        watch = StepWatch(most_lines=1_000_000, most_steps=10_000, cancel_at=step)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, watch)
        while service.statistics().endpoints[0].open:
            await trio.lowlevel.checkpoint()
        return watch.steps

    with trio.fail_after(60):
        async with oread.open_service(registry, url) as service:
            await use_cancelled(0)
            before, step = open_descriptors(), 1
            while await use_cancelled(step) >= step:
                assert open_descriptors() <= before, f"after step {step}"
                step += 1
    assert step > 5


@pytest.fixture
def socat(tmp_path: Path) -> Iterator[Path]:
    """A running socat with `cat` behind it; gives its Unix socket."""
    program = shutil.which("socat")
    if program is None:
        pytest.skip("socat is not installed")
    path = tmp_path / "socat.sock"
    with subprocess.Popen([program, f"UNIX-LISTEN:{path},fork", "EXEC:cat"]) as peer:
        yield path
        peer.terminate()


async def test_a_foreign_peer_is_called(socat: Path) -> None:
    """By lines and raw."""
    with trio.fail_after(30):
        while not await trio.Path(socat).exists():
            await trio.sleep(0.01)
        async with oread.connect(f"unix://{socat}?framing=lines") as client:
            assert [await client.call("x", data) for data in (b"one", b"two")] == [b"one", b"two"]
            assert [item async for item in client.stream("x", b"three")] == [b"three"]
        async with oread.connect(f"unix://{socat}") as client:
            assert await client.call("x", bytes(300_000)) == bytes(300_000)


TYPED = """
import dataclasses
import oread
import oread.testing

@dataclasses.dataclass
class Receipt:
    total: int

async def main(registry: oread.Registry) -> None:
    async with oread.connect("http://127.0.0.1:1") as client:
        reveal_type(await client.call("a"))
        reveal_type(await client.call("a", {"b": 1}, reply=Receipt, deadline=2))
        reveal_type(await client.call("a", reply=list[Receipt]))
        async for item in client.stream("a", reply=Receipt):
            reveal_type(item)
    async with oread.testing.open_client(registry, "udp") as tested:
        reveal_type(await tested.call("a", reply=Receipt))
"""


@pytest.mark.slow
def test_a_type_checker_sees_the_types(tmp_path: Path) -> None:
    """`reply=` is the type of what comes back, under mypy's strict rules."""
    module = tmp_path / "typed.py"
    module.write_text(TYPED)
    source = Path(oread.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(module)],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(source)},
    )
    revealed = [
        line.rpartition('"')[0].rpartition('"')[2] for line in result.stdout.splitlines() if "note" in line
    ]
    assert revealed == ["bytes", "typed.Receipt", "list[typed.Receipt]", "typed.Receipt", "typed.Receipt"], (
        result.stdout + result.stderr
    )
    assert result.returncode == 0
