"""Serving over TLS: every framing, the handshake's ends, drain and cancellation."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import check_half_closeable_stream, check_one_way_stream

import oread
from listeners.handed_over import clog, hand_over_streams
from oread.client.tls import TlsStream, open_tls_stream
from oread.sockets.tls_contexts import make_client_context

LIMIT_SECONDS = 20
"""Of what must happen on real sockets; only a hang gets here."""


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Receive until the peer's end."""
    received = b""
    while chunk := await stream.receive_some():
        received += chunk
    return received


@pytest.fixture
def open_memory(tls_files: Any) -> Any:
    """Open a TLS client over a memory connection."""

    async def open_client(memory: Any, **options: Any) -> TlsStream:
        return await open_tls_stream(memory.client(**options), tls_files.client_context(), "localhost")

    return open_client


def url_of(service: oread.Service, index: int = 0, *, query: str = "") -> str:
    """The URL to call an endpoint by."""
    endpoint = service.endpoints[index]
    return f"{endpoint.scheme}://{endpoint.address}{query}"


@pytest.mark.parametrize("framing", ["raw", "lines", "length", "jsonrpc"])
async def test_every_framing_works_alike(
    registry: oread.Registry, serve_one: Any, loopback_pem: str, tls_files: Any, framing: str
) -> None:
    """A client of ours gets the answer that it gets by TCP."""
    event = "" if framing == "jsonrpc" else "/bytes"
    async with (
        serve_one(f"tls://127.0.0.1:0{event}?framing={framing}&cert={loopback_pem}") as service,
        oread.connect(url_of(service, query=f"?framing={framing}"), cafile=tls_files.ca) as client,
    ):
        for text in ("one", "two"):
            assert await client.call("bytes", text, deadline=LIMIT_SECONDS) == text.encode()
        if framing != "jsonrpc":
            await client.emit("bytes", "told", deadline=LIMIT_SECONDS)


async def test_https_streams_and_answers_rpc(
    registry: oread.Registry, serve_one: Any, loopback_pem: str, tls_files: Any
) -> None:
    """Streamed replies, JSON-RPC and the description are those of http."""

    @registry.on("count")
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    url = f"https://127.0.0.1:0?rpc=/rpc&openapi=true&cert={loopback_pem}"
    async with serve_one(url) as service:
        async with oread.connect(url_of(service), cafile=tls_files.ca) as client:
            assert await client.call("bytes", "hello", deadline=LIMIT_SECONDS) == b"hello"
            async with client.stream("count", 3, reply=int) as numbers:
                assert [number async for number in numbers] == [0, 1, 2]
        async with oread.connect(
            url_of(service), cafile=tls_files.ca, headers=[("Content-Type", "application/json")]
        ) as client:
            question = {"jsonrpc": "2.0", "method": "bytes", "params": ["x"], "id": 1}
            assert (await client.call("rpc", question, reply=dict))["result"] == "x"
        async with oread.connect(url_of(service), method="GET", cafile=tls_files.ca) as client:
            assert (await client.call("openapi.json", reply=dict))["openapi"].startswith("3.1")


async def test_what_was_agreed_is_told_to_handlers(
    registry: oread.Registry, serve_memory: Any, open_memory: Any, loopback_pem: str
) -> None:
    """Version, suite and protocol stand in `transport_info`."""
    seen = []

    @registry.on("seen")
    def look(message: oread.Message) -> bytes:
        seen.append((message.transport, message.transport_info["tls"]))
        return b"ok"

    async with (
        serve_memory(f"tls://:0/seen?cert={loopback_pem}") as memory,
        await open_memory(memory) as client,
    ):
        await client.send_all(b"x")
        assert await client.receive_some() == b"ok"
    ((transport, tls),) = seen
    assert transport == "tls"
    assert tls == {
        "version": "TLSv1.3",
        "cipher": tls["cipher"],
        "alpn": None,
        "resumed": False,
        "peer_certificate": None,
    }


# sessions


async def test_session_passes_trios_own_checks(
    registry: oread.Registry, serve_one: Any, loopback_pem: str, tls_files: Any, tmp_path: Path
) -> None:
    """The stream of a session over TLS keeps the contract of a half-closeable stream.

    The client's keeps all but one thing, which is only asked of the session
    here: a `send_all` that was cancelled within a record can't be gone on with.
    """
    take, path = hand_over_streams(registry), tmp_path / "clogged.sock"
    context, url = tls_files.client_context(), f"tls://127.0.0.1:0/hand-over?cert={loopback_pem}"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen()
    async with serve_one(url, oread.Bound(listening, url)) as service:
        address = service.endpoints[0].host, service.endpoints[0].port

        async def make_pair() -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
            client = await open_tls_stream(await trio.open_tcp_stream(*address), context, "localhost")
            return client, await take.receive()

        async def make_sender() -> tuple[trio.abc.SendStream, trio.abc.ReceiveStream]:
            client, stream = await make_pair()
            return stream, client

        async def make_clogged_sender() -> tuple[trio.abc.SendStream, trio.abc.ReceiveStream]:
            client = await open_tls_stream(await trio.open_unix_socket(str(path)), context, "localhost")
            stream = await take.receive()
            await clog(stream)
            return stream, client

        await check_half_closeable_stream(make_pair, None)
        await check_one_way_stream(make_sender, make_clogged_sender)


async def test_session_goes_on_sending_behind_the_peers_end(
    registry: oread.Registry, serve_memory: Any, open_memory: Any, loopback_pem: str
) -> None:
    """It speaks first, reads to the end of input, and its last words arrive."""

    @registry.session("greet")
    async def greet(stream: Any) -> None:
        await stream.send_all(b"who? ")
        name = b"".join([chunk async for chunk in stream])
        await stream.send_all(b"hello " + name)
        await stream.send_eof()

    async with (
        serve_memory(f"tls://:0/greet?cert={loopback_pem}") as memory,
        await open_memory(memory, room=10) as client,  # the end waits for the peer, too
    ):
        assert await client.receive_some() == b"who? "
        await client.send_all(b"Echo")
        await client.send_eof()
        assert await receive_all(client) == b"hello Echo"


async def test_session_that_reads_little_gets_it_all(
    registry: oread.Registry, serve_memory: Any, open_memory: Any, loopback_pem: str
) -> None:
    """Plaintext that one record brought is read on without the poller."""

    @registry.session("bytewise")
    async def bytewise(stream: Any) -> None:
        received = b""
        while byte := await stream.receive_some(1):
            received += byte
        await stream.send_all(received)

    async with (
        serve_memory(f"tls://:0/bytewise?cert={loopback_pem}") as memory,
        await open_memory(memory) as client,
    ):
        await client.send_all(b"one record")
        await client.send_eof()
        assert await receive_all(client) == b"one record"


async def test_truncated_input_is_broken_not_ended(
    registry: oread.Registry, serve_memory: Any, open_memory: Any, loopback_pem: str
) -> None:
    """A FIN without close_notify may be anybody's."""
    outcome: list[str] = []

    @registry.session("reads")
    async def reads(stream: Any) -> None:
        try:
            async for _ in stream:
                pass
            outcome.append("ended")
        except trio.BrokenResourceError:
            outcome.append("broken")

    async with serve_memory(f"tls://:0/reads?cert={loopback_pem}") as memory:
        client = await open_memory(memory)
        await client.send_all(b"part")
        await client._transport.send_eof()
        while not outcome:
            await trio.lowlevel.checkpoint()
        assert outcome == ["broken"]
        assert memory.refused == {"tls_truncated": 1}
        await trio.aclose_forcefully(client)


# cuts, water marks, deadlines


async def test_ciphertext_may_come_in_single_bytes(
    registry: oread.Registry, serve_memory: Any, tls_files: Any, loopback_pem: str
) -> None:
    """Handshake and requests byte by byte get the same answers."""

    class Dripping(trio.abc.HalfCloseableStream):
        """Sends single bytes."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner
            self.receive_some, self.send_eof, self.aclose = inner.receive_some, inner.send_eof, inner.aclose

        async def send_all(self, data: Any) -> None:
            for index in range(len(data)):
                await self._inner.send_all(data[index : index + 1])
                await trio.testing.wait_all_tasks_blocked()

        async def wait_send_all_might_not_block(self) -> None: ...
        async def receive_some(self, max_bytes: Any = None) -> Any: ...
        async def send_eof(self) -> None: ...
        async def aclose(self) -> None: ...

    async with serve_memory(f"tls://:0/bytes?framing=lines&cert={loopback_pem}") as memory:
        client = await open_tls_stream(Dripping(memory.client()), tls_files.client_context(), "localhost")
        await client.send_all(b"one\ntwo\nthr")
        await client.send_all(b"ee")
        await client.send_eof()
        assert await receive_all(client) == b"one\ntwo\nthree\n"
        await client.aclose()
        assert memory.refused == {}


async def test_data_behind_the_handshake_is_served(
    serve_memory: Any, tls_files: Any, loopback_pem: str
) -> None:
    """Finished, request and end in one segment need no further readiness."""
    async with serve_memory(f"tls://:0/bytes?cert={loopback_pem}") as memory:
        raw = memory.client()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = tls_files.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        await raw.send_all(outgoing.read())
        while True:
            incoming.write(await raw.receive_some())
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                continue
        tls.write(b"hello")
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        await raw.send_all(outgoing.read())
        received = b""
        incoming.write(await raw.receive_all())
        while chunk := _read(tls):
            received += chunk
        assert received == b"hello"
        await raw.aclose()


def _read(tls: ssl.SSLObject) -> bytes:
    try:
        return tls.read(100)
    except ssl.SSLZeroReturnError:
        return b""


@pytest.mark.parametrize("size", [1, 478, 479, 480, 958, 16_384, 16_385, 65_535, 200_000])
async def test_messages_of_any_size_are_served_whole(
    serve_memory: Any, open_memory: Any, loopback_pem: str, size: int
) -> None:
    """Nothing that is decrypted waits for a readiness that never comes."""
    async with (
        serve_memory(f"tls://:0/bytes?cert={loopback_pem}") as memory,
        await open_memory(memory) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(client.send_all, b"x" * size)
            received = 0
            while received < size:
                received += len(await client.receive_some())
            assert received == size


async def test_a_slow_reader_gets_everything(
    registry: oread.Registry, serve_memory: Any, open_memory: Any, loopback_pem: str
) -> None:
    """Ciphertext goes out in small parts, and the end behind it."""
    size = 300_000
    async with serve_memory(f"tls://:0/bytes?cert={loopback_pem}") as memory:
        client = await open_memory(memory, room=1_000)

        async def send() -> None:
            await client.send_all(b"x" * size)
            await client.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert len(await receive_all(client)) == size
        await client.aclose()
        assert memory.refused == {}


async def test_a_peer_that_does_not_read_is_stalled(
    serve_memory: Any, open_memory: Any, loopback_pem: str, autojump_clock: Any
) -> None:
    """Ciphertext that nobody takes ends at the stall deadline; until then nothing more is read."""
    async with serve_memory(f"tls://:0/bytes?cert={loopback_pem}&stall_seconds=5") as memory:
        client = await open_memory(memory, room=2_000)
        with trio.move_on_after(60), pytest.raises(trio.BrokenResourceError):
            while True:
                await client.send_all(b"x" * 10_000)
        assert memory.refused == {"stalled": 1}
        await trio.aclose_forcefully(client)


# the handshake


@pytest.mark.parametrize("sent", ["nothing", "half a hello", "one byte at a time"])
async def test_a_slow_handshake_ends_at_its_deadline(
    serve_memory: Any, open_memory: Any, loopback_pem: str, tls_files: Any, autojump_clock: Any, sent: str
) -> None:
    """However it is slow, while others are served."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = tls_files.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    async with serve_memory(f"tls://:0/bytes?cert={loopback_pem}") as memory:
        slow = memory.client()
        if sent == "half a hello":
            await slow.send_all(hello[: len(hello) // 2])
        begun = trio.current_time()

        async def drip() -> None:
            for index in range(len(hello)):
                try:
                    await slow.send_all(hello[index : index + 1])
                except trio.BrokenResourceError:
                    return
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            if sent == "one byte at a time":
                nursery.start_soon(drip)
            async with await open_memory(memory) as other:
                await other.send_all(b"served")
                assert await other.receive_some() == b"served"
            with contextlib.suppress(trio.BrokenResourceError):  # what was unread makes it a reset
                assert await slow.receive_some() == b""
            assert 10 <= trio.current_time() - begun <= 10.5
        assert memory.refused == {"tls_timeout": 1}
        await slow.aclose()


@pytest.mark.parametrize(
    ("scheme", "sent", "answer", "reason"),
    [
        ("https", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n", "tls_plain_http"),
        ("tls", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"", "tls_missing"),
        ("https", b"\x00\x01\x02", b"", "tls_missing"),
        ("tls", b"hello\n", b"", "tls_missing"),
        ("tls", b"\x16\x03\x01\x00\x05hello", b"\x15\x03", "tls_handshake"),
    ],
)
async def test_what_is_no_tls_is_ended_and_counted(
    serve_memory: Any, loopback_pem: str, scheme: str, sent: bytes, answer: bytes, reason: str
) -> None:
    """HTTP without TLS is answered on https, for the person who forgot an `s`."""
    event = "/bytes" if scheme == "tls" else ""
    async with serve_memory(f"{scheme}://:0{event}?cert={loopback_pem}") as memory:
        client = memory.client()
        await client.send_all(sent)
        assert (await client.receive_all())[: len(answer) or None] == answer
        assert memory.refused == {reason: 1}
        await client.aclose()


async def test_failed_handshakes_are_debug_lines(
    serve_memory: Any, loopback_pem: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Anybody can cause them: they must not fill a disk."""
    async with serve_memory(f"tls://:0/bytes?cert={loopback_pem}") as memory:
        with caplog.at_level(logging.DEBUG, "oread"):
            with pytest.raises(ssl.SSLCertVerificationError):
                await open_tls_stream(memory.client(), make_client_context(), "localhost")
            while not memory.refused:
                await trio.lowlevel.checkpoint()
        assert memory.refused == {"tls_handshake": 1}
        assert [record.levelno for record in caplog.records] == [logging.DEBUG]


async def test_a_peer_that_leaves_in_the_handshake_is_counted(serve_memory: Any, loopback_pem: str) -> None:
    """By its FIN and by its reset."""
    async with serve_memory(f"tls://:0/bytes?cert={loopback_pem}") as memory:
        for leave in ("send_eof", "reset"):
            client = memory.client()
            await trio.testing.wait_all_tasks_blocked()
            if leave == "reset":
                client.reset()
            else:
                await client.send_eof()
            await trio.testing.wait_all_tasks_blocked()
        assert memory.refused == {"tls_handshake": 2}
        assert memory.service.statistics().endpoints[0].open == 0


async def test_handshakes_count_against_the_cap_and_give_way(
    serve_memory: Any, open_memory: Any, loopback_pem: str, autojump_clock: Any
) -> None:
    """On https the silent one gives way to who comes later, as an idle request does."""
    async with serve_memory(f"https://:0?cert={loopback_pem}&connections=2") as memory:
        silent = [memory.client(), memory.client()]
        await trio.sleep(2)
        async with await open_memory(memory) as client:
            await client.send_all(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.receive_some()).startswith(b"HTTP/1.1 204")
            assert memory.refused == {"evicted": 1}
        for each in silent:
            await each.aclose()


async def test_handshakes_end_with_a_drain(serve_memory: Any, open_memory: Any, loopback_pem: str) -> None:
    """They were asked nothing yet; who is idle gets an orderly end."""
    async with serve_memory(f"tls://:0/bytes?cert={loopback_pem}") as memory:
        silent, client = memory.client(), await open_memory(memory)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                assert (await memory.service.drain(5)).cancelled == ()

            nursery.start_soon(drain)
            assert await silent.receive_some() == b""
            assert await receive_all(client) == b""
            await client.aclose()
        assert memory.refused == {"tls_drained": 1}


@pytest.mark.parametrize("leave", range(12))
async def test_cancelling_anywhere_leaves_nothing_open(
    registry: oread.Registry, serve_memory: Any, open_memory: Any, loopback_pem: str, leave: int
) -> None:
    """`serve_memory` looks for open sockets behind the block."""
    async with (
        serve_memory(f"tls://:0/waits?cert={loopback_pem}") as memory,
        trio.open_nursery() as nursery,
    ):

        async def talk() -> None:
            client = await open_memory(memory)
            await client.send_all(b"x" * 100_000)
            await client.receive_some()
            await client.send_eof()
            await receive_all(client)

        nursery.start_soon(talk)
        for _ in range(leave * 3):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


# client certificates, several certificates, reload, the start


async def test_client_certificates_are_asked_for(
    registry: oread.Registry, serve_one: Any, loopback_pem: str, tls_files: Any
) -> None:
    """Without one a client is refused; with one its handler sees whose it is."""

    @registry.on("whose")
    def whose(message: oread.Message) -> str:
        certificate = message.transport_info["tls"]["peer_certificate"]
        return str(certificate["subjectAltName"]) if certificate else "nobody"

    own = tls_files.issue("client", "client.example")
    options = f"cert={loopback_pem}&client_ca={tls_files.ca}"
    urls = [f"https://127.0.0.1:0?{options}", f"https://127.0.0.1:0?{options}&client_cert=optional"]
    known, unknown = make_client_context(cafile=tls_files.ca, certificate=own), tls_files.client_context()
    answers = []
    async with serve_one(*urls) as service:
        for index, context in ((0, known), (1, known), (1, unknown)):
            async with oread.connect(url_of(service, index), tls=context) as client:
                answers.append(await client.call("whose", deadline=LIMIT_SECONDS))
        with pytest.raises((ssl.SSLError, trio.BrokenResourceError)):
            async with oread.connect(url_of(service), tls=unknown) as client:
                await client.call("whose", deadline=LIMIT_SECONDS)
        assert dict(service.statistics().endpoints[0].refused) == {"tls_client_certificate": 1}
    expected = b"(('DNS', 'client.example'),)"
    assert answers == [expected, expected, b"nobody"]


async def test_a_changed_certificate_is_served_without_a_restart(
    serve_one: Any, tls_files: Any, loopback_pem: str
) -> None:
    """Who connects later gets it; who is connected keeps the old one."""
    other = tls_files.issue("other", "other.example")
    async with serve_one(f"tls://127.0.0.1:0/bytes?cert={loopback_pem}") as service:
        address = service.endpoints[0].host, service.endpoints[0].port

        async def connect(name: str) -> TlsStream:
            return await open_tls_stream(
                await trio.open_tcp_stream(*address), tls_files.client_context(), name
            )

        async with await connect("localhost") as before:
            os.replace(other, loopback_pem)
            with trio.fail_after(LIMIT_SECONDS):
                while True:
                    try:
                        after = await connect("other.example")
                        break
                    except ssl.SSLCertVerificationError:
                        await trio.sleep(0.1)
            for stream in (before, after):
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
            await after.aclose()


async def test_a_context_of_the_embedder_serves_endpoints_without_files(
    registry: oread.Registry, tls_files: Any, loopback_pem: str
) -> None:
    """`tls=` of `open_service`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(loopback_pem)
    async with (
        oread.open_service(registry, "https://127.0.0.1:0", tls=context) as service,
        oread.connect(url_of(service), cafile=tls_files.ca) as client,
    ):
        assert await client.call("bytes", "x", deadline=LIMIT_SECONDS) == b"x"


async def test_a_bad_file_is_refused_at_start_with_nothing_left_bound(
    registry: oread.Registry, tls_files: Any, loopback_pem: str
) -> None:
    """All or nothing: the endpoint before it is closed again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    urls = [f"tls://127.0.0.1:{port}/bytes?cert={loopback_pem}", "tls://127.0.0.1:0/bytes?cert=/nowhere.pem"]
    with pytest.raises(oread.EndpointError, match=r"/nowhere\.pem: No such file"):
        async with oread.open_service(registry, *urls):
            pytest.fail("it was served")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


# replies that break off


async def test_a_reply_that_breaks_off_has_no_end(
    registry: oread.Registry, serve_memory: Any, open_memory: Any, loopback_pem: str
) -> None:
    """The peer can tell it from a whole one: by a reset, which may take what it has not read."""

    @registry.on("breaks")
    def breaks() -> Iterator[bytes]:
        yield b"first"
        raise LookupError("on purpose")

    async with serve_memory(f"tls://:0/breaks?framing=lines&cert={loopback_pem}") as memory:
        client = await open_memory(memory)
        await client.send_all(b"go\n")
        received = b""
        with pytest.raises(trio.BrokenResourceError):
            while True:
                received += await client.receive_some()
        assert b"first\n".startswith(received)
        await trio.aclose_forcefully(client)


async def test_trios_own_stream_is_a_client(serve_one: Any, loopback_pem: str, tls_files: Any) -> None:
    """`trio.SSLStream` verifies, talks and ends in order."""
    async with serve_one(f"tls://127.0.0.1:0/bytes?cert={loopback_pem}") as service:
        transport = await trio.open_tcp_stream(service.endpoints[0].host, service.endpoints[0].port)
        stream = trio.SSLStream(transport, tls_files.client_context(), server_hostname="127.0.0.1")
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.unwrap()
        await transport.aclose()
        assert dict(service.statistics().endpoints[0].refused) == {}
