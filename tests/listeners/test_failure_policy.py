"""What a handler's failure ends: `?failure=isolate`, `close` or `stop`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import oread


def post(path: str) -> bytes:
    """Write one request; what is refused at its head has no body, which would end the connection."""
    body = "" if path == "/nowhere" else "x"
    return f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.fixture
def failing(registry: oread.Registry) -> oread.Registry:
    """The registry with one more handler that fails after a wait, and one that refuses."""

    @registry.on("fails-late")
    async def fails_late(data: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        raise LookupError("on purpose")

    @registry.on("fails-streaming")
    def fails_streaming(data: bytes) -> Iterator[bytes]:
        yield b"one"
        raise LookupError("on purpose")

    @registry.on("refuses")
    def refuses(data: bytes) -> bytes:
        raise oread.BadRequest("not like this")

    return registry


@pytest.mark.parametrize(
    ("policy", "path", "answers"),
    [
        ("isolate", "/fails", [500, 200]),
        ("isolate", "/fails-late", [500, 200]),
        ("close", "/fails", [500]),
        ("close", "/fails-late", [500]),
        ("close", "/refuses", [400, 200]),
        ("close", "/nowhere", [404, 200]),
    ],
)
async def test_http_closes_after_a_failure_where_it_is_told_to(
    failing: oread.Registry, serve_memory: Any, policy: str, path: str, answers: list[int]
) -> None:
    """A handler's failure is answered with Connection: close; a peer's own fault changes nothing."""
    async with serve_memory(f"http://:0?failure={policy}") as memory:
        client = memory.client()
        await client.send_all(post(path) + post("/bytes"))
        await client.send_eof()
        received = await client.receive_all()
        statuses = [int(line.split()[1]) for line in received.splitlines() if line.startswith(b"HTTP/1.1 ")]
        assert statuses == answers
        assert (b"Connection: close" in received) == (len(answers) == 1)


@pytest.mark.parametrize("policy", ["isolate", "close"])
async def test_streams_close_in_either_case(failing: oread.Registry, serve_memory: Any, policy: str) -> None:
    """They have no place for an error, so both mean the same there."""
    async with serve_memory(f"tcp://:0/fails?framing=lines&failure={policy}") as memory:
        client = memory.client()
        await client.send_all(b"x\n")
        assert await client.receive_all() == b""


@pytest.mark.parametrize("policy", ["isolate", "close"])
async def test_udp_has_nothing_to_close(failing: oread.Registry, client: Any, policy: str) -> None:
    """The next datagram is answered."""
    failing.on("fails", lambda data: data)
    async with oread.open_service(failing, f"udp://127.0.0.1:0/fails?failure={policy}") as service:
        assert await client.ask(b"x", service.endpoints[0].port) == b"x"


@pytest.mark.parametrize("event", ["fails", "fails-late", "fails-streaming"])
@pytest.mark.parametrize(
    "url", ["tcp://:0/{}?failure=stop", "tcp://:0/{}?framing=lines&failure=stop", "http://:0?failure=stop"]
)
async def test_stop_raises_the_failure_itself(
    failing: oread.Registry, serve_memory: Any, event: str, url: str
) -> None:
    """The block is cancelled, everything is closed, the handler's error comes out as it is."""
    network = None
    with pytest.raises(LookupError, match="on purpose"):
        async with serve_memory(url.format(event)) as memory:
            network = memory.network
            client = memory.client()
            await client.send_all(post(f"/{event}") if "http" in url else b"x\n")
            await trio.sleep_forever()
    assert network is not None
    assert network.open_sockets == 0


async def test_stop_by_a_session(registry: oread.Registry, serve_memory: Any) -> None:
    """A session that fails is a handler that fails."""

    @registry.session("breaks")
    async def breaks(stream: Any) -> None:
        raise LookupError("on purpose")

    with pytest.raises(LookupError):
        async with serve_memory("tcp://:0/breaks?failure=stop") as memory:
            memory.client()
            await trio.sleep_forever()


async def test_stop_by_udp(failing: oread.Registry, client: Any) -> None:
    """UDP has no error to send, but the service can end."""
    with pytest.raises(LookupError, match="on purpose"):
        async with oread.open_service(failing, "udp://127.0.0.1:0/fails?failure=stop") as service:
            await client.send(b"x", service.endpoints[0].port)
            await trio.sleep_forever()


async def test_stop_is_not_for_a_peers_fault(failing: oread.Registry, serve_memory: Any) -> None:
    """No peer can end a service by asking wrongly, or by going."""
    async with serve_memory("http://:0?failure=stop") as memory:
        client = memory.client()
        await client.send_all(post("/refuses") + post("/nowhere") + post("/bytes"))
        await client.send_eof()
        assert (await client.receive_all()).endswith(b"\r\n\r\nx")
        gone = memory.client()
        await gone.send_all(post("/forever"))
        await trio.testing.wait_all_tasks_blocked()
        gone.reset()
        await trio.testing.wait_all_tasks_blocked()
        assert memory.service.failed is None


async def test_serve_raises_the_failure(failing: oread.Registry, client: Any) -> None:
    """`serve` ends with it, inside the nursery it was started in."""
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            service = await nursery.start(oread.serve, failing, "udp://127.0.0.1:0/fails?failure=stop")
            await client.send(b"x", service.endpoints[0].port)
    [error] = caught.value.exceptions
    assert isinstance(error, LookupError)


async def test_stop_lets_handlers_clean_up(
    failing: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """The others are cancelled as by leaving the block, and their shielded goodbye is awaited."""
    said = []

    @failing.on("polite")
    async def polite(data: bytes) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            said.append("goodbye")

    with pytest.raises(LookupError):
        async with serve_memory("http://:0?failure=stop") as memory:
            await memory.client().send_all(post("/polite"))
            await trio.testing.wait_all_tasks_blocked()
            await memory.client().send_all(post("/fails"))
            await trio.sleep_forever()
    assert said == ["goodbye"]


async def test_both_errors_are_raised_together(failing: oread.Registry, serve_memory: Any) -> None:
    """When the block fails too, neither error hides the other."""
    with pytest.raises(ExceptionGroup) as caught:
        async with serve_memory("tcp://:0/fails?failure=stop") as memory:
            await memory.client().send_all(b"x")
            try:
                await trio.sleep_forever()
            finally:
                raise OSError("the block's own")
    assert caught.group_contains(LookupError)
    assert caught.group_contains(OSError)


def test_policies_are_named_in_the_refusal() -> None:
    """A wrong word is refused with the right ones."""
    with pytest.raises(oread.EndpointError, match="isolate or close or stop"):
        oread.Endpoint.parse("tcp://:0/x?failure=ignore")
