"""Calling over TLS: whom a client believes, and what it takes for an end."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import oread
from oread.client import call_http, call_stream, parse_target
from oread.client.tls import open_tls_stream
from oread.sockets.tls_contexts import make_client_context

LIMIT_SECONDS = 20

Serve = Callable[[trio.SSLStream[trio.SocketStream]], Awaitable[None]]


@pytest.fixture
def serving(loopback_pem: str) -> Any:
    """Serve with Trio's own TLS; give the port."""

    @asynccontextmanager
    async def serve(handler: Serve) -> AsyncIterator[int]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(loopback_pem)
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(
                functools.partial(trio.serve_ssl_over_tcp, handler, 0, context, host="127.0.0.1")
            )
            yield listener.transport_listener.socket.getsockname()[1]
            nursery.cancel_scope.cancel()

    return serve


async def test_a_server_is_verified_by_default(
    registry: oread.Registry, serve_one: Any, loopback_pem: str, tls_files: Any
) -> None:
    """Neither an unknown authority nor another's name is believed; `insecure` says so itself."""
    stranger = tls_files.issue("stranger", "stranger.example")
    urls = (f"https://127.0.0.1:0?cert={loopback_pem}", f"https://127.0.0.1:0?cert={stranger}")
    async with serve_one(*urls) as service:
        known, other = (f"https://{endpoint.address}" for endpoint in service.endpoints)
        for url, options in ((known, {}), (other, {"cafile": tls_files.ca})):
            with pytest.raises(ssl.SSLCertVerificationError):
                async with oread.connect(url, **options):
                    pytest.fail("it was believed")
        for url, options in ((known, {"cafile": tls_files.ca}), (other, {"insecure": True})):
            async with oread.connect(url, **options) as client:
                assert await client.call("bytes", "x", deadline=LIMIT_SECONDS) == b"x"


async def test_an_orderly_client_leaves_no_truncation(
    registry: oread.Registry, serve_one: Any, loopback_pem: str, tls_files: Any
) -> None:
    """Every channel says its end, so the service has nothing to count."""
    urls = (
        f"tls://127.0.0.1:0/bytes?cert={loopback_pem}",
        f"tls://127.0.0.1:0/bytes?framing=lines&cert={loopback_pem}",
        f"tls://127.0.0.1:0?framing=jsonrpc&cert={loopback_pem}",
        f"https://127.0.0.1:0?cert={loopback_pem}",
    )
    async with serve_one(*urls) as service:
        for endpoint in service.endpoints:
            framing = f"?framing={endpoint.framing}" if endpoint.framing != "raw" else ""
            url = f"{endpoint.scheme}://{endpoint.address}{framing}"
            async with oread.connect(url, cafile=tls_files.ca) as client:
                assert await client.call("bytes", "x", deadline=LIMIT_SECONDS) == b"x"
                await client.emit("bytes", "y", deadline=LIMIT_SECONDS)
        await service.drain(LIMIT_SECONDS)
        assert [dict(each.refused) for each in service.statistics().endpoints] == [{}] * 4


async def test_what_is_only_told_arrives_in_spite_of_tickets(
    registry: oread.Registry, serve_one: Any, loopback_pem: str, tls_files: Any
) -> None:
    """A client that sends and closes does not reset the connection that its data is on."""
    heard: list[bytes] = []

    @registry.on("hear")
    async def hear(data: bytes) -> None:
        heard.append(data)

    async with serve_one(f"tls://127.0.0.1:0/hear?framing=lines&cert={loopback_pem}") as service:
        for index in range(20):
            endpoint = service.endpoints[0]
            stream = await open_tls_stream(
                await trio.open_tcp_stream(endpoint.host, endpoint.port),
                tls_files.client_context(),
                "localhost",
            )
            await stream.send_all(b"%d\n" % index)
            await stream.aclose()
        with trio.fail_after(LIMIT_SECONDS):
            while len(heard) < 20:
                await trio.sleep(0.01)
    assert heard == [b"%d" % index for index in range(20)]


async def test_a_truncated_reply_is_no_reply(serving: Any, tls_files: Any) -> None:
    """On a raw stream, and for a body that ends with the connection, a FIN alone is a break."""

    async def cut(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of")
        await stream.transport_stream.aclose()

    context = tls_files.client_context()
    received: list[bytes] = []
    async with serving(cut) as port:
        with trio.fail_after(LIMIT_SECONDS), pytest.raises(trio.BrokenResourceError):
            await call_stream(
                parse_target(f"tls://localhost:{port}").endpoint, b"ask", received.append, tls=context
            )
        with trio.fail_after(LIMIT_SECONDS), pytest.raises(trio.BrokenResourceError):
            await call_http(parse_target(f"https://localhost:{port}/"), b"", method="GET", tls=context)
    assert b"".join(received).endswith(b"half of")


async def test_a_body_that_ends_by_close_notify_is_whole(serving: Any, tls_files: Any) -> None:
    """The same body with the word that it is all."""

    async def end(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it")
        await stream.aclose()

    async with serving(end) as port:
        target = parse_target(f"https://localhost:{port}/")
        with trio.fail_after(LIMIT_SECONDS):
            response = await call_http(target, b"", method="GET", tls=tls_files.client_context())
    assert response.body == b"all of it"


@pytest.mark.parametrize("answer", [b"", b"220 mail.example ESMTP\r\n"])
async def test_a_peer_without_tls_is_told(answer: bytes) -> None:
    """It ends the connection, or says something else."""

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(answer)
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(functools.partial(trio.serve_tcp, greet, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        with trio.fail_after(LIMIT_SECONDS), pytest.raises((ssl.SSLError, trio.BrokenResourceError)):
            async with oread.connect(f"tls://127.0.0.1:{port}", insecure=True):
                pytest.fail("there is no TLS")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("steps", range(1, 8))
async def test_cancelling_a_handshake_closes_the_connection(steps: int) -> None:
    """Wherever it is cancelled, its transport is not left open."""
    context = make_client_context(insecure=True)
    transport, peer = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_tls_stream, transport, context, "x")
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    with trio.fail_after(LIMIT_SECONDS):
        while await peer.receive_some():
            pass
    with pytest.raises(trio.ClosedResourceError):
        await transport.receive_some()
