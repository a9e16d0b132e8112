"""UDP endpoints on real loopback sockets: heard, answered, failing."""

from __future__ import annotations

import contextvars
import socket
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from loopback import LOOPBACK, needs_ipv6

from listeners.datagram_services import LIMIT_SECONDS, statistics
from oread.errors import BadRequest, RegistrationError
from oread.messages import Datagram, HttpRequest, Message
from oread.registry import Registry
from oread.service import open_service
from oread.sockets import options


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.on("echo", lambda data: data)
    return registry


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 1_000, b"y" * 65_507], ids=len)
async def test_echo_of_any_length(registry: Registry, client: Any, data: bytes) -> None:
    """Every datagram comes back whole, the empty one and the longest too."""
    async with open_service(registry, "udp://127.0.0.1:0/echo") as service:
        assert await client.ask(data, service.endpoints[0].port) == data
        assert (statistics(service).messages, statistics(service).replies) == (1, 1)


@needs_ipv6
async def test_ipv6_is_served(registry: Registry, make_client: Callable[..., Any]) -> None:
    """An IPv6 endpoint answers, bound to an address and to the wildcard."""
    client = make_client("::1")
    async with open_service(registry, "udp://[::1]:0/echo", "udp://[::]:0/echo") as service:
        for endpoint in service.endpoints:
            assert await client.ask(b"six", endpoint.port, "::1") == b"six"


async def test_handlers_of_every_kind_answer(registry: Registry, client: Any) -> None:
    """Sync and async handlers, text, a view and a message are all served."""

    async def slow(data: str) -> str:
        await trio.lowlevel.checkpoint()
        return data.upper()

    def view(data: memoryview) -> memoryview:
        return data[1:]

    def tell(message: Message) -> bytes:
        return f"{message.event} {message.data!r}".encode()

    registry.on("slow", slow)
    registry.on("view", view)
    registry.on("tell/{name}", tell)
    urls = [f"udp://127.0.0.1:0/{event}" for event in ("slow", "view", "tell/me")]
    async with open_service(registry, *urls) as service:
        replies = [await client.ask(b"abc", endpoint.port) for endpoint in service.endpoints]
    assert replies == [b"ABC", b"bc", b"tell/me b'abc'"]


async def test_message_says_how_the_datagram_came(client: Any) -> None:
    """A handler that asks for it gets peer, local address, interface, mode, TTL and time."""
    registry, seen = Registry(), []

    @registry.on("note")
    def note(message: Datagram) -> bytes:
        seen.append(message)
        return b"ok"

    async with open_service(registry, "udp://127.0.0.1:0/note", "udp://0.0.0.0:0/note") as service:
        ports = [endpoint.port for endpoint in service.endpoints]
        for port in ports:
            await client.ask(b"hello", port)
    for port, message in zip(ports, seen, strict=True):
        assert message.transport == "udp"
        assert message.peer.address == ("127.0.0.1", client.port)
        assert message.local == ("127.0.0.1", port)
        assert (message.mode, message.interface, message.ttl) == ("unicast", LOOPBACK.name, 64)
        assert message.truncated is False
        assert not options.LINUX or (message.timestamp or 0) > 1.6e9


async def test_handler_changed_while_serving_asks_for_the_message(client: Any) -> None:
    """The next datagram after a change is given what the new handler asks for, queued or not."""
    registry = Registry()
    first = registry.on("what", lambda data: data)
    async with open_service(registry, "udp://127.0.0.1:0/what") as service:
        port = service.endpoints[0].port
        assert await client.ask(b"one", port) == b"one"
        first.remove()

        @registry.on("what")
        def tell(message: Datagram) -> str:
            return f"{message.mode} to {message.local}"

        replies = [await client.ask(b"two", port) for _ in range(2)]
    assert replies == [f"unicast to ('127.0.0.1', {port})".encode()] * 2


async def test_wildcard_answers_from_the_address_that_was_asked(registry: Registry, client: Any) -> None:
    """An answer comes from where the question went, not from where the route starts."""
    async with open_service(registry, "udp://0.0.0.0:0/echo") as service:
        port = service.endpoints[0].port
        for host in ("127.0.0.1", "127.0.0.5", "127.8.8.8"):
            await client.send(b"x", port, host)
            assert await client.receive() == (b"x", (host, port))


async def test_context_of_one_call_does_not_reach_the_next(client: Any) -> None:
    """Each call runs in a fresh copy of the service's context."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")
    registry = Registry()

    @registry.on("mark")
    def mark(data: str) -> str:
        before = variable.get()
        variable.set(data)
        return before

    async with open_service(registry, "udp://127.0.0.1:0/mark") as service:
        replies = [await client.ask(text, service.endpoints[0].port) for text in (b"one", b"two")]
    assert replies == [b"clean", b"clean"]


# failures


async def test_failing_handler_is_silent_counted_and_logged(
    registry: Registry, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No error goes out; the failure is counted, logged, and the listener serves on."""

    @registry.on("fail")
    def fail(data: bytes) -> bytes:
        if data == b"raise":
            raise ValueError("no good")
        if data == b"refuse":
            raise BadRequest("not like this")
        return data if data == b"fine" else object()  # type: ignore[return-value]

    async with open_service(registry, "udp://127.0.0.1:0/fail") as service:
        for data in (b"raise", b"refuse", b"an object"):
            await client.send(data, service.endpoints[0].port)
        assert await client.ask(b"fine", service.endpoints[0].port) == b"fine"
        found = statistics(service)
    assert client.received_nothing()
    assert (found.messages, found.replies, found.failures, found.refused) == (4, 1, 2, {"bad_request": 1})
    assert "no good" in caplog.text
    assert "object" in caplog.text


async def test_event_whose_last_handler_goes_is_silent(registry: Registry, client: Any) -> None:
    """Removing the last handler while serving counts what comes, until one is back."""
    async with open_service(registry, "udp://127.0.0.1:0/echo") as service:
        port = service.endpoints[0].port
        registry.off("echo")
        await client.send(b"lost", port)
        await trio.testing.wait_all_tasks_blocked()
        registry.on("echo", lambda data: data)
        assert await client.ask(b"found", port) == b"found"
        assert statistics(service).refused == {"not_found": 1}


async def test_peer_that_went_away_harms_nobody(registry: Registry, make_client: Callable[..., Any]) -> None:
    """An answer to a closed port ends neither the listener nor anybody else's reply."""
    gone, here = make_client(), make_client()
    async with open_service(registry, "udp://127.0.0.1:0/echo") as service:
        port = service.endpoints[0].port
        for _ in range(5):
            await gone.send(b"bye", port)
        gone.sock.close()
        for _ in range(5):
            assert await here.ask(b"still here", port) == b"still here"


async def test_too_long_datagram_is_dropped_whole(registry: Registry, client: Any) -> None:
    """One byte over datagram_bytes is dropped and counted, never cut."""
    async with open_service(
        registry, "udp://127.0.0.1:0/echo?datagram_bytes=100", "udp://0.0.0.0:0/echo?datagram_bytes=100"
    ) as service:
        for index, endpoint in enumerate(service.endpoints):
            await client.send(b"x" * 101, endpoint.port)
            assert await client.ask(b"y" * 100, endpoint.port) == b"y" * 100
            assert statistics(service, index).refused == {"too_large": 1}
    assert client.received_nothing()


async def test_what_senders_sent_is_not_kept() -> None:
    """A sender is remembered, its last datagram is not: 4,096 of the longest are 256 MiB."""
    registry = Registry()
    registry.on("size", lambda data: b"%d" % len(data))
    async with open_service(registry, "udp://127.0.0.1:0/size") as service:
        tracemalloc.start()
        try:
            for _ in range(100):
                with trio.socket.socket(type=socket.SOCK_DGRAM) as peer:
                    await peer.sendto(bytes(60_000), ("127.0.0.1", service.endpoints[0].port))
                    with trio.fail_after(LIMIT_SECONDS):
                        assert await peer.recv(10) == b"60000"
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert kept < 2_000_000


async def test_reply_that_fits_no_datagram_is_counted(client: Any) -> None:
    """A reply above 65,507 bytes is dropped and counted."""
    registry = Registry()
    registry.on("long", lambda data: bytes(65_508) if data else b"")
    async with open_service(registry, "udp://127.0.0.1:0/long") as service:
        await client.send(b"go", service.endpoints[0].port)
        await client.ask(b"", service.endpoints[0].port)
        assert statistics(service).refused == {"reply_too_large": 1}


@pytest.mark.parametrize("kind", ["session", "http"])
async def test_handler_that_udp_cannot_serve_is_refused_at_start(kind: str) -> None:
    """An event with only a session, or a handler of HttpRequest, does not start."""
    registry = Registry()

    async def session(_stream: trio.abc.Stream) -> None:
        raise AssertionError("never called")

    def http(request: HttpRequest) -> None:
        raise AssertionError("never called")

    if kind == "session":
        registry.session("odd", session)
    else:
        registry.on("odd", http)
    with pytest.raises(RegistrationError, match="udp"):
        async with open_service(registry, "udp://127.0.0.1:0/odd"):
            pass


@pytest.mark.parametrize("batch", ["plain", "kernel"])
async def test_both_ways_of_reading_serve_alike(
    registry: Registry,
    make_client: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    batch: str,
) -> None:
    """A burst with failures and silence between: the same replies, the same counters."""
    if batch == "plain":
        monkeypatch.setattr("oread.sockets.vectors.recvmmsg", None)

    @registry.on("picky")
    def picky(data: bytes) -> bytes | None:
        if data == b"fail":
            raise LookupError("on purpose")
        return data if data != b"silent" else None

    client = make_client()
    async with open_service(registry, "udp://127.0.0.1:0/picky?datagram_bytes=100") as service:
        port = service.endpoints[0].port
        for data in (b"one", b"silent", b"fail", b"x" * 101, b"", b"two"):
            await client.send(data, port)
        assert [(await client.receive())[0] for _ in range(3)] == [b"one", b"", b"two"]
        found = service.statistics().endpoints[0]
    assert (found.messages, found.replies, found.failures) == (5, 3, 1)
    assert found.refused == {"too_large": 1}


@pytest.mark.skipif(options.UDP_SEGMENT == options.ABSENT, reason="this system has no UDP_SEGMENT")
@pytest.mark.parametrize("batch", ["plain", "kernel"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("asks", [False, True])
async def test_a_train_is_served_as_its_datagrams(
    client: Any, monkeypatch: pytest.MonkeyPatch, batch: str, host: str, asks: bool
) -> None:
    """Guard 22: with every way of reading each datagram of a train is handled and judged by itself."""
    if batch == "plain":
        monkeypatch.setattr("oread.sockets.vectors.recvmmsg", None)
    registry = Registry()

    def answer(data: bytes) -> bytes | None:
        if data == b"fail":
            raise LookupError("on purpose")
        return data if data != b"none" else None

    def answer_message(message: Datagram) -> bytes | None:
        return answer(message.data)

    registry.on("picky", answer_message if asks else answer)
    async with open_service(registry, f"udp://{host}:0/picky?datagram_bytes=4") as service:
        port = service.endpoints[0].port
        await client.sock.sendmsg(
            [b"one1failnonetwo2"],
            [(socket.IPPROTO_UDP, options.UDP_SEGMENT, struct.pack("@H", 4))],
            0,
            ("127.0.0.1", port),
        )
        await client.sock.sendmsg(
            [b"long1long2x"],
            [(socket.IPPROTO_UDP, options.UDP_SEGMENT, struct.pack("@H", 5))],
            0,
            ("127.0.0.1", port),
        )
        assert [(await client.receive())[0] for _ in range(3)] == [b"one1", b"two2", b"x"]
        found = service.statistics().endpoints[0]
    assert (found.messages, found.replies, found.failures) == (5, 3, 1)
    assert found.refused == {"too_large": 2}
