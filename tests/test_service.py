"""The service: all-or-nothing start, drain, cancelling at every checkpoint, load."""

from __future__ import annotations

import gc
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import oread


def open_descriptors() -> set[str]:
    """The descriptors of this process, by what they are; without those of other tests' garbage."""
    gc.collect()
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue  # the descriptor of this very listing
    return found


async def talk(port: int, data: bytes) -> bytes:
    """Send, half-close, read everything."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(data)
        await stream.send_eof()
        received = b""
        async for chunk in stream:
            received += chunk
        return received


async def test_one_handler_serves_every_transport(registry: oread.Registry, tmp_path: Any) -> None:
    """TCP, Unix, HTTP and UDP call the same function; endpoints tell their real ports."""
    urls = [
        "tcp://127.0.0.1:0/bytes",
        f"unix://{tmp_path}/s?event=bytes",
        "http://127.0.0.1:0",
        "udp://127.0.0.1:0/bytes",
    ]
    async with trio.open_nursery() as nursery:
        service = await nursery.start(oread.serve, registry, *urls)
        tcp, unix, http, udp = service.endpoints
        assert await talk(tcp.port, b"hello") == b"hello"
        assert (await talk(http.port, b"POST /bytes HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello")).endswith(
            b"\r\n\r\nhello"
        )
        async with await trio.open_unix_socket(unix.host) as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            await client.connect(("127.0.0.1", udp.port))
            await client.send(b"hello")
            with trio.fail_after(5):
                assert await client.recv(100) == b"hello"
        assert [item.messages for item in service.statistics().endpoints] == [1, 1, 1, 1]
        assert str(tcp) == f"tcp://127.0.0.1:{tcp.port}/bytes"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("tcp://127.0.0.1:{port}/bytes", OSError),
        ("http://127.0.0.1:{port}", OSError),
        ("tcp://127.0.0.1:0/nowhere", oread.RegistrationError),
        ("udp://127.0.0.1:0/nowhere", oread.RegistrationError),
        ("tcp://127.0.0.1:0/bytes?nonsense=1", oread.EndpointError),
        ("tcp://no.such.host.invalid:0/bytes", OSError),
        ("unix:///no/such/directory/s?event=bytes", OSError),
    ],
)
async def test_start_is_all_or_nothing(registry: oread.Registry, bad: str, error: type[Exception]) -> None:
    """One endpoint that fails leaves none open, and says so plainly: no exception group."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        before = open_descriptors()
        urls = ["tcp://127.0.0.1:0/bytes", "udp://127.0.0.1:0/bytes", bad.format(port=taken.getsockname()[1])]
        with pytest.raises(error):
            async with oread.open_service(registry, *urls):
                pytest.fail("started")
        assert open_descriptors() - before == set()
    registry.off("bytes")  # nothing is attached any more that could refuse this


async def test_failed_start_leaves_no_unix_path(registry: oread.Registry, tmp_path: Any) -> None:
    """Whether it fails at that endpoint or behind it, the path is gone again."""
    path = tmp_path / "s"
    for urls in (
        [f"unix://{path}?event=nowhere"],
        [f"unix://{path}?event=bytes", "tcp://127.0.0.1:0/nowhere"],
    ):
        with pytest.raises(oread.RegistrationError):
            async with oread.open_service(registry, *urls):
                pytest.fail("started")
        assert not path.exists()


async def test_errors_of_the_block_come_out_as_they_are(registry: oread.Registry) -> None:
    """An embedder's own exception is not wrapped."""
    with pytest.raises(LookupError, match="mine"):
        async with oread.open_service(registry, "tcp://127.0.0.1:0/bytes"):
            raise LookupError("mine")


async def test_error_of_our_own_ends_the_service_loudly(
    registry: oread.Registry, serve_memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that no handler raised is a bug: it comes out, and nothing is left open or hanging."""

    def broken(_self: Any, _data: bytes) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("oread.listeners.streams.FramedConnection.on_data", broken)

    @registry.session("waits-shielded")
    async def waits_shielded(stream: Any) -> None:
        with trio.CancelScope(shield=True):
            await stream.receive_some()

    with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True, allow_unwrapped=False):
        async with oread.open_service(
            registry, "tcp://127.0.0.1:0/waits-shielded", "tcp://127.0.0.1:0/bytes?framing=lines"
        ) as service:
            waiting = socket.create_connection(("127.0.0.1", service.endpoints[0].port))
            with waiting, socket.create_connection(("127.0.0.1", service.endpoints[1].port)) as client:
                client.sendall(b"x\n")
                await trio.sleep_forever()


async def test_open_sockets_are_served(registry: oread.Registry) -> None:
    """Bound takes a socket that somebody else has opened; the service closes it."""
    stream = socket.create_server(("127.0.0.1", 0))
    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagram.bind(("127.0.0.1", 0))
    async with oread.open_service(
        registry, oread.Bound(stream, "tcp://:0/bytes"), oread.Bound(datagram, "udp://:0/bytes")
    ) as service:
        assert service.endpoints[0].port == stream.getsockname()[1]
        assert await talk(service.endpoints[0].port, b"hello") == b"hello"
    assert stream.fileno() == -1
    assert datagram.fileno() == -1


async def test_open_socket_that_does_not_listen_is_refused(registry: oread.Registry) -> None:
    """Accepting from it would fail for ever; it is closed like all that a start had."""
    for sock in (socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)):
        with pytest.raises(oread.EndpointError, match="not a listening stream socket"):
            async with oread.open_service(registry, oread.Bound(sock, "tcp://:0/bytes")):
                pytest.fail("started")
        assert sock.fileno() == -1


async def test_open_sockets_are_closed_by_a_start_that_fails_before_them(registry: oread.Registry) -> None:
    """The service owns what it was given, even if it never came to it."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        with pytest.raises(oread.EndpointError):
            async with oread.open_service(registry, "ftp://x", oread.Bound(sock, "tcp://:0/bytes")):
                pytest.fail("started")
        assert sock.fileno() == -1


async def test_cancelled_drain_can_be_gone_on_with(registry: oread.Registry, serve_memory: Any) -> None:
    """A drain that was cancelled leaves the service draining; the next call ends it."""
    async with serve_memory("tcp://:0/forever") as memory:
        client = memory.client()
        await client.send_all(b"x")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.service.drain, 30)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        report = await memory.service.drain(0)
        assert len(report.cancelled) == 1


async def test_drain_reports_who_had_to_be_cancelled(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """One deadline; what ends in time is answered, what does not is named; a second call tells the same."""

    @registry.on("takes/{seconds}")
    async def takes(seconds: float, data: bytes) -> bytes:
        await trio.sleep(seconds)
        return data

    for seconds, cancelled in ((3, 0), (60, 1)):
        async with serve_memory(f"tcp://:0/takes/{seconds}") as memory:
            client = memory.client()
            await client.send_all(b"x")
            await client.send_eof()
            await wait_all_tasks_blocked()
            begun = trio.current_time()
            report = await memory.service.drain(10)
            assert len(report.cancelled) == cancelled
            assert trio.current_time() - begun <= 10.5
            assert await client.receive_all() == (b"" if cancelled else b"x")
            assert await memory.service.drain() is report


async def test_drain_accepts_what_is_queued_and_serves_what_has_arrived(serve_one: Any) -> None:
    """Connections in the kernel's queue, and their messages, are not lost by a drain."""
    async with serve_one("tcp://127.0.0.1:0/bytes") as service:
        clients = [socket.create_connection(("127.0.0.1", service.endpoints[0].port)) for _ in range(40)]
        for client in clients:
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
        report = await service.drain(5)
        for client in clients:
            with client:
                assert client.recv(100) == b"hello"
        assert report.cancelled == ()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.endpoints[0].port))


async def test_drain_ends_with_a_peer_that_never_reads(serve_memory: Any, autojump_clock: MockClock) -> None:
    """What can't be sent is given up at the deadline, and counted in the report."""
    async with serve_memory("tcp://:0/bytes?stall_seconds=1000") as memory:
        client = memory.client(room=10)
        await client.send_all(b"x" * 1000)
        await wait_all_tasks_blocked()
        report = await memory.service.drain(5)
        assert (report.cancelled, report.closed) == ((), 1)


async def test_serve_returns_after_a_drain(registry: oread.Registry) -> None:
    """`serve` ends by itself once the service has been drained."""
    async with trio.open_nursery() as nursery:
        service = await nursery.start(oread.serve, registry, "tcp://127.0.0.1:0/bytes")
        await service.drain(1)
        with trio.fail_after(5):
            await service.wait_drained()


async def _scenario(registry: oread.Registry) -> None:
    """Start, use every kind of handler, drain, leave."""
    urls = [f"tcp://127.0.0.1:0/{name}" for name in ("bytes", "waits", "session")]
    async with oread.open_service(
        registry, *urls, "http://127.0.0.1:0", "udp://127.0.0.1:0/waits"
    ) as service:
        for endpoint in service.endpoints[:3]:
            await talk(endpoint.port, b"hello")
        await talk(
            service.endpoints[3].port, b"POST /waits HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
        )
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            await client.sendto(b"x", ("127.0.0.1", service.endpoints[4].port))
            await client.recv(10)
        await service.drain(1)


@pytest.mark.slow
async def test_cancelling_at_any_checkpoint_leaves_nothing_open(registry: oread.Registry) -> None:
    """Cancel the scenario after 0, 1, 2 ... passes of the scheduler until it gets to its end."""
    await _scenario(registry)  # opens what the process keeps (the thread pool's)
    before = open_descriptors()
    for passes in range(2000):
        finished = False
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel_later(scope: trio.CancelScope = scope, passes: int = passes) -> None:
                    for _ in range(passes):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel_later)
                await _scenario(registry)
                finished = True
                nursery.cancel_scope.cancel()
        assert open_descriptors() - before == set(), f"after {passes} passes"
        if finished:
            break
    assert finished
    assert passes > 20


async def test_serve_cancelled_while_starting_leaves_nothing_open(registry: oread.Registry) -> None:
    """`nursery.start` in a cancelled scope opens nothing."""
    before = open_descriptors()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with trio.open_nursery() as nursery:
            await nursery.start(oread.serve, registry, "tcp://127.0.0.1:0/bytes")
    assert open_descriptors() - before == set()


@pytest.mark.slow
async def test_thousands_idle_and_some_bad_do_not_harm_the_rest(registry: oread.Registry) -> None:
    """8,000 idle connections, one slow reader, one reset, one failing handler: the others are answered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8_000 if hard >= 18_000 else (hard - 1_000) // 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 18_000), hard))

    @registry.on("mixed")
    def mixed(data: bytes) -> bytes:
        if data == b"raise":
            raise LookupError("on purpose")
        return data

    idle: list[socket.socket] = []
    try:
        async with oread.open_service(registry, "tcp://127.0.0.1:0/mixed") as service:
            port = service.endpoints[0].port
            for number in range(wanted):
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port))
                idle.append(client)
                if number % 200 == 0:
                    await wait_all_tasks_blocked()
            while service.statistics().endpoints[0].open < wanted:
                await trio.lowlevel.checkpoint()
            slow = socket.create_connection(("127.0.0.1", port))
            slow.setblocking(False)
            try:
                while True:
                    slow.send(b"x" * 65_536)
                    await trio.lowlevel.checkpoint()
            except BlockingIOError:
                pass
            reset = socket.create_connection(("127.0.0.1", port))
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            reset.close()
            assert await talk(port, b"raise") == b""
            for _ in range(100):
                assert await talk(port, b"hello") == b"hello"
            probe = trio.socket.from_stdlib_socket(idle[wanted // 2])
            await probe.send(b"still here")
            assert await probe.recv(100) == b"still here"
            assert service.statistics().endpoints[0].open >= wanted
            slow.close()
    finally:
        for client in idle:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_embedded_service_takes_no_signals() -> None:
    """The handlers of an embedding program stay as they are."""
    import signal

    async def main() -> None:
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
        async with oread.open_service(oread.Registry(), "http://127.0.0.1:0"):
            assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before

    trio.run(main)


async def call_stop(registry: oread.Registry) -> None:
    """Serve `stop`, call it once, and wait for what it does."""
    async with oread.open_service(registry, "tcp://127.0.0.1:0/stop") as service:
        with socket.create_connection(("127.0.0.1", service.endpoints[0].port)) as client:
            client.sendall(b"x")
            await trio.sleep_forever()


def test_keyboard_interrupt_in_a_handler_ends_the_program() -> None:
    """Ctrl-C inside an inline handler is not isolated like a failure, and leaves no loop half-way."""
    registry = oread.Registry()

    @registry.on("stop")
    def stop(data: bytes) -> bytes:
        import signal

        signal.raise_signal(signal.SIGINT)
        return data

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        trio.run(call_stop, registry)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_keyboard_interrupt_in_a_generator_ends_the_program(kind: str) -> None:
    """Ctrl-C where a handler makes the items of its reply is as if it came in the handler."""
    registry = oread.Registry()

    def items(data: bytes) -> Iterator[bytes]:
        import signal

        signal.raise_signal(signal.SIGINT)
        yield data

    async def async_items(data: bytes) -> AsyncIterator[bytes]:
        for item in items(data):
            yield item

    registry.on("stop", items if kind == "sync" else async_items)

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        trio.run(call_stop, registry)
