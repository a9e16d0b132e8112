"""Stream connections: replies in order, ends in stages, deadlines, isolation."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import oread
from oread.messages import Message

MIB = 1 << 20


async def exchange(address: tuple[str, int], data: bytes, *, end: bool = True) -> bytes:
    """Send everything while receiving, half-close, return all that came back."""
    stream = await trio.open_tcp_stream(*address)
    received = bytearray()

    async def send() -> None:
        await stream.send_all(data)
        if end:
            await stream.send_eof()

    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        async for chunk in stream:
            received += chunk
    return bytes(received)


def address_of(service: oread.Service) -> tuple[str, int]:
    """Where its first endpoint listens."""
    return service.endpoints[0].host, service.endpoints[0].port


@pytest.mark.parametrize("event", ["echo", "bytes", "async", "waits"])
async def test_raw_echo_of_a_mebibyte_survives_half_close(serve_one: Any, event: str) -> None:
    """Every kind of handler returns 1 MiB intact to a peer that has shut down its sending side."""
    data = bytes(range(256)) * (MIB // 256)
    async with serve_one(f"tcp://127.0.0.1:0/{event}") as service:
        assert await exchange(address_of(service), data) == data


@pytest.mark.parametrize("event", ["echo", "bytes", "async", "waits"])
@pytest.mark.parametrize("framing", ["lines", "length"])
async def test_pipelined_messages_are_answered_in_order(serve_one: Any, framing: str, event: str) -> None:
    """Thousands of messages in one go come back in their order."""
    texts = [b"%d" % number for number in range(5000)]
    if framing == "lines":
        data = b"".join(text + b"\n" for text in texts)
    else:
        data = b"".join(len(text).to_bytes(4, "big") + text for text in texts)
    async with serve_one(f"tcp://127.0.0.1:0/{event}?framing={framing}") as service:
        assert await exchange(address_of(service), data) == data
        assert service.statistics().endpoints[0].messages == 5000


@pytest.mark.parametrize("event", ["echo", "async"])
@pytest.mark.parametrize("framing", ["lines", "length"])
async def test_framed_mebibyte_is_one_message(serve_one: Any, framing: str, event: str) -> None:
    """The limit is inclusive: exactly 1 MiB echoes intact."""
    text = b"x" * MIB
    data = text + b"\n" if framing == "lines" else MIB.to_bytes(4, "big") + text
    async with serve_one(f"tcp://127.0.0.1:0/{event}?framing={framing}") as service:
        assert await exchange(address_of(service), data) == data


async def test_unix_socket_serves_alike_and_is_removed(registry: oread.Registry, tmp_path: Any) -> None:
    """The path has mode 0600, a stale one is taken over, a live one is not, and it goes with the service."""
    path = tmp_path / "oread.sock"
    url = f"unix://{path}?event=bytes"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    async with oread.open_service(registry, url):
        assert path.stat().st_mode & 0o777 == 0o600
        stream = await trio.open_unix_socket(str(path))
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.aclose()
        with pytest.raises(OSError, match="in use"):
            async with oread.open_service(registry, url):
                pytest.fail("two services on one path")
    assert not path.exists()


async def test_name_of_several_addresses_is_bound_on_one_port(registry: oread.Registry) -> None:
    """Localhost serves IPv4 and IPv6 where the machine has both."""
    found = {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    async with oread.open_service(registry, "tcp://localhost:0/bytes") as service:
        for host in found:
            assert await exchange((host, service.endpoints[0].port), b"hello") == b"hello"


async def test_failing_handler_closes_its_own_connection_only(serve_memory: Any, caplog: Any) -> None:
    """It is logged with its traceback and counted; others are answered."""
    async with serve_memory("tcp://:0/fails") as memory:
        first, second = memory.client(), memory.client()
        await first.send_all(b"x")
        assert await first.receive_all() == b""
        await second.send_all(b"x")
        assert await second.receive_all() == b""
        assert memory.service.statistics().endpoints[0].failures == 2
    assert "LookupError: on purpose" in caplog.text
    assert "Traceback" in caplog.text


async def test_failures_are_logged_within_a_rate(serve_memory: Any, caplog: Any) -> None:
    """A handler that fails for every message does not fill the disk."""
    async with serve_memory("tcp://:0/fails") as memory:
        for _ in range(50):
            client = memory.client()
            await client.send_all(b"x")
            await client.receive_all()
        assert memory.service.statistics().endpoints[0].failures == 50
    assert caplog.text.count("Traceback") <= 20


async def test_replies_owed_are_sent_before_a_failure_closes(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """Messages before the bad one keep their replies; nothing behind it is served."""
    seen: list[bytes] = []

    @registry.on("picky")
    def picky(data: bytes) -> bytes:
        seen.append(data)
        if data == b"bad":
            raise LookupError
        return data

    async with serve_memory("tcp://:0/picky?framing=lines") as memory:
        client = memory.client()
        await client.send_all(b"one\ntwo\nbad\nthree\n")
        assert await client.receive_all() == b"one\ntwo\n"
    assert seen == [b"one", b"two", b"bad"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"x" * 20 + b"\n", "too_large"), (b"ok\n" + b"y" * 30, "too_large"), (b"a\xff\n", "bad_request")],
)
async def test_refused_input_is_counted_by_reason(
    registry: oread.Registry, serve_memory: Any, data: bytes, reason: str
) -> None:
    """What can't be served closes the connection, and the statistics say why."""

    @registry.on("text")
    def text(data: str) -> str:
        return data

    async with serve_memory("tcp://:0/text?framing=lines&message_bytes=10") as memory:
        client = memory.client()
        await client.send_all(data)
        await client.receive_all()
        assert memory.refused == {reason: 1}


async def test_newline_in_a_reply_is_the_handlers_failure(
    registry: oread.Registry, serve_memory: Any
) -> None:
    """On framing=lines such a reply would be two."""
    registry.on("two", lambda data: b"a\nb")
    async with serve_memory("tcp://:0/two?framing=lines") as memory:
        client = memory.client()
        await client.send_all(b"x\n")
        assert await client.receive_all() == b""
        assert memory.service.statistics().endpoints[0].failures == 1


async def test_reset_cancels_the_handler_at_once(registry: oread.Registry, serve_one: Any) -> None:
    """A reset of the peer ends the handler that works for it, and does not spin the loop."""
    cancelled = trio.Event()
    started = trio.Event()

    @registry.on("work")
    async def work(data: bytes) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serve_one("tcp://127.0.0.1:0/work") as service:
        client = socket.create_connection(address_of(service))
        client.sendall(b"x")
        await started.wait()
        client.sendall(b"more, which arrives while the handler runs")
        await wait_all_tasks_blocked(0.01)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        with trio.fail_after(5):
            await cancelled.wait()
        await wait_all_tasks_blocked(0.01)
        assert service.statistics().endpoints[0].open == 0


async def test_fin_never_cancels_on_raw_streams(registry: oread.Registry, serve_one: Any) -> None:
    """A FIN is the end of input: the handler ends in its own time and its reply is sent."""
    gate = trio.Event()

    @registry.on("later")
    async def later(data: bytes) -> bytes:
        await gate.wait()
        return data.upper()

    async with serve_one("tcp://127.0.0.1:0/later") as service, trio.open_nursery() as nursery:
        replies: list[bytes] = []

        async def client() -> None:
            replies.append(await exchange(address_of(service), b"hello"))

        nursery.start_soon(client)
        await wait_all_tasks_blocked(0.02)
        gate.set()
    assert replies == [b"HELLO"]


async def test_data_behind_a_running_handler_is_kept(registry: oread.Registry, serve_memory: Any) -> None:
    """It is neither read into an inbox that is overwritten nor lost."""
    gates = [trio.Event() for _ in range(3)]

    @registry.on("slow")
    async def slow(data: bytes) -> bytes:
        await gates[int(data)].wait()
        return data

    async with serve_memory("tcp://:0/slow?framing=lines") as memory:
        client = memory.client()
        for text in (b"0\n", b"1\n", b"2\n"):
            await client.send_all(text)
            await wait_all_tasks_blocked()
        for gate in reversed(gates):
            gate.set()
        await client.send_eof()
        assert await client.receive_all() == b"0\n1\n2\n"


async def test_peer_that_does_not_read_is_not_read_and_is_closed_at_the_stall_deadline(
    serve_memory: Any, autojump_clock: MockClock
) -> None:
    """Memory is bounded by the water mark, and the stall deadline ends it."""
    async with serve_memory("tcp://:0/bytes?pending_bytes=65536&stall_seconds=30") as memory:
        client = memory.client(room=1000)
        sent = 0
        with trio.move_on_after(5):
            while True:
                await client.send_all(b"x" * 4096)
                sent += 4096
        assert sent < 4 * 65536
        begun = trio.current_time()
        while memory.service.statistics().endpoints[0].open:
            await trio.sleep(0.25)
        assert 20 < trio.current_time() - begun < 32
        assert memory.refused == {"stalled": 1}


async def test_slow_reader_gets_everything(serve_memory: Any, autojump_clock: MockClock) -> None:
    """Progress, however slow, is no stall; reading resumes below the low mark."""
    data = bytes(range(250)) * 4000
    async with serve_memory("tcp://:0/bytes?stall_seconds=3") as memory, trio.open_nursery() as nursery:
        client = memory.client(room=1000)

        async def send() -> None:
            await client.send_all(data)
            await client.send_eof()

        nursery.start_soon(send)
        received = b""
        while chunk := await client.receive_some():
            received += chunk
            await trio.sleep(1)
        assert received == data


async def test_idle_deadline_closes_what_is_idle_only(serve_memory: Any, autojump_clock: MockClock) -> None:
    """A connection that sends keeps its life; a silent one ends; raw streams have none by default."""
    async with serve_memory("tcp://:0/bytes?idle_seconds=10") as memory:
        busy, idle = memory.client(), memory.client()
        begun = trio.current_time()
        for _ in range(6):
            await busy.send_all(b"x")
            assert await busy.receive_some() == b"x"
            await trio.sleep(4)
        assert memory.service.statistics().endpoints[0].open == 1
        assert await idle.receive_some() == b""
        assert await busy.receive_all() == b""
        assert trio.current_time() - begun < 40
        assert memory.refused == {"idle": 2}
    async with serve_memory("tcp://:0/bytes") as memory:
        client = memory.client()
        await trio.sleep(100_000)
        await client.send_all(b"still here")
        assert await client.receive_some() == b"still here"


async def test_idle_deadline_does_not_run_while_a_handler_works(
    serve_memory: Any, registry: oread.Registry, autojump_clock: MockClock
) -> None:
    """A slow handler is not idleness; afterwards the deadline runs again."""

    @registry.on("minute")
    async def minute(data: bytes) -> bytes:
        await trio.sleep(60)
        return data

    async with serve_memory("tcp://:0/minute?idle_seconds=5") as memory:
        client = memory.client()
        await client.send_all(b"x")
        assert await client.receive_some() == b"x"
        assert await client.receive_some() == b""


async def test_deadlines_count_from_the_end_of_a_long_handler(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """A reply after a long wait gets the whole stall deadline, not what is left of it since the request."""

    @registry.on("long")
    async def long(data: bytes) -> bytes:
        await trio.sleep(100)
        return b"y" * 100_000

    async with serve_memory("tcp://:0/long?stall_seconds=30") as memory:
        client = memory.client(room=1000)
        await client.send_all(b"x")
        await trio.sleep(125)
        await client.send_eof()
        assert len(await client.receive_all()) == 100_000


async def test_staged_close_delivers_replies_in_flight(registry: oread.Registry, serve_one: Any) -> None:
    """A close with unread input does not destroy what was sent before it."""

    @registry.on("bye")
    def bye(data: bytes) -> bytes:
        if data.startswith(b"stop"):
            raise LookupError("stop")
        return b"r" * 200_000

    async with serve_one("tcp://127.0.0.1:0/bye?framing=lines") as service:
        stream = await trio.open_tcp_stream(*address_of(service))
        async with stream:
            await stream.send_all(b"go\nstop\n" + b"unread\n" * 20_000)
            received = bytearray()
            async for chunk in stream:
                received += chunk
        assert len(received) == 200_001


async def test_lingering_ends_with_its_limits(
    registry: oread.Registry, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """A peer that neither ends nor stops sending is closed by time, or by bytes."""
    registry.on("refuse", lambda data: 1 / 0)
    async with serve_memory("tcp://:0/refuse?linger_bytes=100000") as memory:
        quiet, noisy = memory.client(), memory.client()
        await quiet.send_all(b"x")
        await noisy.send_all(b"x")
        begun = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await noisy.send_all(b"x" * 1000)
        while memory.service.statistics().endpoints[0].open:
            await trio.sleep(0.25)
        assert trio.current_time() - begun < 4


async def test_message_tells_where_it_came_from(registry: oread.Registry, serve_one: Any) -> None:
    """Peer, local address, captures and TCP_INFO are there when a handler asks."""
    messages: list[Message] = []

    @registry.on("orders/{order_id}")
    def order(order_id: int, data: bytes, message: Message) -> bytes:
        assert message.transport_info["state"] == 1
        messages.append(message)
        return b"%d" % order_id

    async with serve_one("tcp://127.0.0.1:0/orders/7") as service:
        stream = await trio.open_tcp_stream(*address_of(service))
        async with stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"7"
            mine = stream.socket.getsockname()
            assert messages[0].peer.address == mine
            assert messages[0].local == address_of(service)
            assert (messages[0].event, messages[0].transport, messages[0].captures) == (
                "orders/7",
                "tcp",
                {"order_id": "7"},
            )


@pytest.mark.parametrize(
    ("event", "options", "says"),
    [
        ("text", "", "cut anywhere"),
        ("http", "", "takes HttpRequest"),
        ("http", "?framing=lines", "takes HttpRequest"),
        ("session", "?framing=lines", "session only"),
        ("nowhere", "", "no handler for event 'nowhere'; there are:"),
    ],
)
async def test_events_that_a_stream_can_not_serve_are_refused_at_start(
    registry: oread.Registry, event: str, options: str, says: str
) -> None:
    """The reason is given before anything is bound."""

    @registry.on("text")
    def text(data: str) -> str:
        return data

    @registry.on("http")
    def http(request: oread.HttpRequest) -> str:
        return request.path

    with pytest.raises(oread.RegistrationError, match=says):
        async with oread.open_service(registry, f"tcp://127.0.0.1:0/{event}{options}"):
            pytest.fail("started")


async def test_handlers_change_while_serving(registry: oread.Registry, serve_memory: Any) -> None:
    """The next message of an open connection meets the new handlers; none at all closes it."""
    registration = registry.on("change", lambda data: b"old")
    async with serve_memory("tcp://:0/change") as memory:
        client = memory.client()
        await client.send_all(b"x")
        assert await client.receive_some() == b"old"
        registry.prepend("change", lambda data: b"new")
        await client.send_all(b"x")
        assert await client.receive_some() == b"new"

        @registry.prepend("change")
        async def newest(data: bytes) -> bytes:
            await trio.lowlevel.checkpoint()
            return b"newest"

        await client.send_all(b"x")
        assert await client.receive_some() == b"newest"
        with pytest.raises(oread.RegistrationError):

            @registry.on("change")
            def text(data: str) -> None: ...

        registration.remove()
        registry.off("change")
        await client.send_all(b"x")
        assert await client.receive_all() == b""
        assert memory.refused == {"not_found": 1}


async def test_handlers_do_not_see_each_others_context(registry: oread.Registry, serve_memory: Any) -> None:
    """Each call runs in a copy of the context that the service was opened in."""
    import contextvars

    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("outside")
    seen: list[str] = []

    @registry.on("context")
    def context(data: bytes) -> None:
        seen.append(variable.get())
        variable.set("changed by a handler")

    async with serve_memory("tcp://:0/context?framing=lines") as memory:
        client = memory.client()
        await client.send_all(b"1\n2\n")
        await client.send_eof()
        await client.receive_all()
    assert seen == ["outside", "outside"]


@pytest.mark.parametrize("framing", ["raw", "lines"])
def test_a_context_that_was_written_to_is_not_used_again(
    framing: str, registry: oread.Registry, serve_memory: Any
) -> None:
    """What a handler sets is gone for the next call, also where the service's own context is empty."""
    import contextvars

    variable: contextvars.ContextVar[bytes] = contextvars.ContextVar("variable", default=b"unset")

    @registry.on("context")
    def context(data: bytes) -> bytes:
        seen = variable.get()
        if data == b"set":
            variable.set(data)
        return seen

    async def main() -> None:
        assert not contextvars.copy_context()
        async with serve_memory(f"tcp://:0/context?framing={framing}") as memory:
            client = memory.client()
            for data in (b"look", b"set", b"look"):
                await client.send_all(data if framing == "raw" else data + b"\n")
                assert (await client.receive_some()).strip() == b"unset"

    contextvars.Context().run(trio.run, main)


@pytest.mark.parametrize("size", [478, 479, 480, 5_000, 65_536])
async def test_a_chunk_is_one_message_however_long_the_last_one_was(
    size: int, registry: oread.Registry, serve_memory: Any
) -> None:
    """What came at once is handed on at once, up to 64 KiB, and short chunks after it too."""

    @registry.on("size")
    def tell_size(data: bytes) -> bytes:
        return str(len(data)).encode()

    async with serve_memory("tcp://:0/size") as memory:
        client = memory.client()
        for each in (1, size, size, 1, size, 1, 1):
            await client.send_all(b"x" * each)
            assert int(await client.receive_some()) == each


async def test_busy_pipeliner_does_not_starve_others(registry: oread.Registry, serve_one: Any) -> None:
    """A connection with tens of thousands of queued messages lets another one through in between."""
    order: list[bytes] = []

    @registry.on("slow")
    def slow(data: bytes) -> bytes:
        order.append(data)
        sum(range(300))
        return data

    url = "tcp://127.0.0.1:0/slow?framing=lines"
    async with serve_one(url) as service, trio.open_nursery() as nursery:
        nursery.start_soon(exchange, address_of(service), b"p\n" * 60_000)
        while len(order) < 1000:
            await trio.lowlevel.checkpoint()
        assert await exchange(address_of(service), b"other\n") == b"other\n"
        assert len(order) < 60_000
    assert len(order) == 60_001
