"""The calling side: every transport, and peers that misbehave."""

from __future__ import annotations

import errno
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

import oread
from oread.client import LIMIT_BYTES, call_datagram, call_http, call_stream, parse_target
from oread.errors import BadRequest, EndpointError, TooLarge
from oread.handlers import register

Peer = Callable[[trio.SocketStream], Awaitable[None]]


@pytest.fixture
def registry() -> oread.Registry:
    """A registry of the stock handlers alone."""
    registry = oread.Registry()
    register(registry)
    return registry


async def collect(endpoint: oread.Endpoint, data: bytes) -> list[bytes]:
    """Call a stream endpoint and return what came, piece by piece."""
    pieces: list[bytes] = []
    await call_stream(endpoint, data, pieces.append)
    return pieces


async def serve_peer(nursery: trio.Nursery, peer: Peer) -> int:
    """Serve a peer that is none of ours; return its port."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, peer, [listener])
    port: int = listener.socket.getsockname()[1]
    return port


async def test_a_stream_is_sent_and_read_to_its_end(registry: oread.Registry, tmp_path: Path) -> None:
    """TCP and Unix sockets, raw and by lines, give back every byte."""
    urls = (
        "tcp://127.0.0.1:0/echo",
        "tcp://127.0.0.1:0/echo?framing=lines",
        f"unix://{tmp_path}/oread.sock?event=echo",
    )
    async with oread.open_service(registry, *urls) as service:
        for endpoint in service.endpoints:
            assert b"".join(await collect(endpoint, b"one\ntwo\n")) == b"one\ntwo\n"
        assert await collect(service.endpoints[0], b"") == []


async def test_more_than_any_buffer_holds_comes_back(registry: oread.Registry) -> None:
    """Sending and receiving go on side by side: 8 MiB echo without a stall."""
    data = bytes(range(256)) * (8 << 12)
    async with oread.open_service(registry, "tcp://127.0.0.1:0/echo") as service:
        assert b"".join(await collect(service.endpoints[0], data)) == data


async def test_framed_messages_are_framed_both_ways(registry: oread.Registry) -> None:
    """With framing=length the caller sees payloads only."""
    async with oread.open_service(registry, "tcp://127.0.0.1:0/echo?framing=length") as service:
        assert await collect(service.endpoints[0], b"hello") == [b"hello"]
        assert await collect(service.endpoints[0], bytes(300_000)) == [bytes(300_000)]


async def test_a_peer_that_never_ends_is_given_up(registry: oread.Registry) -> None:
    """What comes back is bounded; chargen would go on for ever."""
    taken = 0

    def take(piece: bytes) -> None:
        nonlocal taken
        taken += len(piece)

    async with oread.open_service(registry, "tcp://127.0.0.1:0/chargen") as service:
        with pytest.raises(TooLarge, match="came back"):
            await call_stream(service.endpoints[0], b"", take)
    assert LIMIT_BYTES - (1 << 20) < taken <= LIMIT_BYTES


async def test_a_refused_connection_is_the_systems_word() -> None:
    """The error is an OSError with its number, not a summary."""
    with socket.socket() as unlistened:
        unlistened.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{unlistened.getsockname()[1]}"
        with pytest.raises(ConnectionRefusedError) as caught:
            await collect(parse_target(url).endpoint, b"x")
    assert caught.value.errno == errno.ECONNREFUSED


async def test_a_reset_is_told() -> None:
    """A peer that resets is a BrokenResourceError, not an end."""

    async def reset(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()

    async with trio.open_nursery() as nursery:
        port = await serve_peer(nursery, reset)
        with pytest.raises(trio.BrokenResourceError):
            await collect(parse_target(f"tcp://127.0.0.1:{port}").endpoint, b"x")
        nursery.cancel_scope.cancel()


async def test_a_length_cut_short_is_no_message() -> None:
    """An end inside a framed reply is an error, and nothing is passed on."""

    async def cut(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"\x00\x00\x00\x09half")
            await stream.send_eof()
            async for _ in stream:
                pass

    async with trio.open_nursery() as nursery:
        port = await serve_peer(nursery, cut)
        with pytest.raises(BadRequest, match="inside a message"):
            await collect(parse_target(f"tcp://127.0.0.1:{port}?framing=length").endpoint, b"x")
        nursery.cancel_scope.cancel()


async def test_http_gives_the_whole_response(registry: oread.Registry) -> None:
    """Status, fields and body come back, for success and for failure."""
    async with oread.open_service(registry, "http://127.0.0.1:0") as service:
        root = str(service.endpoints[0])
        echoed = await call_http(parse_target(f"{root}/echo"), b"hello", method="POST")
        assert (echoed.status, echoed.body) == (200, b"hello")
        seen = await call_http(
            parse_target(f"{root}/inspect?a=%20b"), b"", method="GET", headers=[("x-test", "1")]
        )
        assert b'"target":"/inspect?a=%20b"' in seen.body
        assert b'["x-test","1"]' in seen.body
        assert seen.headers.get("content-type") == "application/json"
        missing = await call_http(parse_target(f"{root}/nothing"), b"", method="GET")
        assert missing.status == 404
        head = await call_http(parse_target(f"{root}/chargen"), b"", method="HEAD")
        assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize(
    "sent", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
)
async def test_what_is_no_response_is_refused(sent: bytes) -> None:
    """Garbage, silence and a body cut short are errors, never a response."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(sent)

    async with trio.open_nursery() as nursery:
        port = await serve_peer(nursery, answer)
        with pytest.raises(BadRequest):
            await call_http(parse_target(f"http://127.0.0.1:{port}/"), b"", method="GET")
        nursery.cancel_scope.cancel()


async def test_a_datagram_gets_one_answer(registry: oread.Registry) -> None:
    """A unicast call returns with the first reply and who sent it."""
    answers: list[oread.Datagram] = []
    async with oread.open_service(registry, "udp://127.0.0.1:0/echo") as service:
        (endpoint,) = service.endpoints
        await call_datagram(endpoint, b"hello", answers.append)
        assert [(str(each.peer), each.data) for each in answers] == [(f"127.0.0.1:{endpoint.port}", b"hello")]


@pytest.mark.skipif(
    not Path("/sys/class/net/lo").exists(), reason="the loopback interface is not called lo here"
)
@pytest.mark.parametrize("host", ["239.255.70.9", "127.255.255.255"])
async def test_every_responder_of_a_group_is_heard(host: str) -> None:
    """Two services on one group or broadcast both answer one call."""
    registries = [oread.Registry(), oread.Registry()]
    registries[0].on("who", lambda: b"0")
    registries[1].on("who", lambda: b"1")
    interface = "&interface=lo" if host.startswith("239") else ""
    options = f"/who?reply=unicast&shared=true{interface}"
    answers: list[oread.Datagram] = []
    async with oread.open_service(registries[0], f"udp://{host}:0{options}") as first:
        port = first.endpoints[0].port
        async with oread.open_service(registries[1], f"udp://{host}:{port}{options}"):
            with trio.CancelScope() as scope:

                def receive(answer: oread.Datagram) -> None:
                    answers.append(answer)
                    if len(answers) == 2:
                        scope.cancel()

                with trio.fail_after(30):
                    await call_datagram(parse_target(f"udp://{host}:{port}{options}").endpoint, b"?", receive)
    assert {answer.data for answer in answers} == {b"0", b"1"}


@pytest.mark.skipif(
    not Path("/sys/class/net/lo").exists(), reason="the loopback interface is not called lo here"
)
async def test_a_group_on_loopback_is_called_from_loopback(registry: oread.Registry) -> None:
    """The source is the interface's own address, not whatever there is."""
    answers: list[oread.Datagram] = []
    url = "udp://239.255.70.9:0/inspect?interface=lo&reply=unicast"
    async with oread.open_service(registry, url) as service:
        with trio.CancelScope() as scope, trio.fail_after(30):
            await call_datagram(
                service.endpoints[0], b"?", lambda answer: (answers.append(answer), scope.cancel())
            )
    seen = json.loads(answers[0].data)
    assert seen["peer"].startswith("127.0.0.1:")
    assert (seen["mode"], seen["interface"], seen["ttl"]) == ("multicast", "lo", 1)


async def test_a_refused_datagram_is_told() -> None:
    """A port where nobody listens is an error at once on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await call_datagram(parse_target(f"udp://127.0.0.1:{port}").endpoint, b"x", lambda answer: None)


async def test_options_that_do_not_fit_are_refused() -> None:
    """An interface for a unicast call, or one that is not there, is named."""
    with pytest.raises(EndpointError, match="interface does not fit"):
        await call_datagram(parse_target("udp://127.0.0.1:9?interface=lo").endpoint, b"", lambda answer: None)
    with pytest.raises(OSError, match="no interface nowhere0"):
        await call_datagram(
            parse_target("udp://239.255.70.9:9?interface=nowhere0").endpoint, b"", lambda answer: None
        )


@pytest.mark.parametrize(
    ("url", "host_field", "request_target"),
    [
        ("http://127.0.0.1:7080", "127.0.0.1:7080", "/"),
        ("http://127.0.0.1:7080/echo", "127.0.0.1:7080", "/echo"),
        ("http://[::1]:7080/a%20b?c=d&e", "[::1]:7080", "/a%20b?c=d&e"),
        ("http://127.0.0.1?x", "127.0.0.1", "/?x"),
    ],
)
def test_an_http_url_keeps_path_and_query(url: str, host_field: str, request_target: str) -> None:
    """What is asked for is sent exactly as it was written."""
    target = parse_target(url)
    assert (target.host_field, target.request_target) == (host_field, request_target)
    assert target.endpoint.scheme == "http"


@pytest.mark.parametrize(
    "url",
    [
        "http:///echo",
        "http://127.0.0.1/#x",
        "http://user@127.0.0.1/",
        "ftp://127.0.0.1/",
        "echo",
        "http://[::1/",
    ],
)
def test_a_url_that_cannot_be_called_is_refused(url: str) -> None:
    """No host, a fragment, a user name or an unknown scheme is named."""
    with pytest.raises(EndpointError):
        parse_target(url)
