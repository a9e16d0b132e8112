"""Files as replies: by the kernel, in memory, in part, cut, and what is refused."""

from __future__ import annotations

import os
import pathlib
import socket
from typing import Any

import pytest
import trio
import trio.lowlevel
from http_exchanges import exchange, get
from trio.testing import MockClock, wait_all_tasks_blocked

import oread
from oread.dispatch.files import WHOLE_BYTES, content_type_of

LARGE = bytes(range(256)) * 40_000
OLD = 1_000_000_000


def descriptors() -> set[str]:
    """Return what this process has open of the served directory."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    return {each for each in found if "/www/" in each}


@pytest.fixture
def root(tmp_path: pathlib.Path, registry: oread.Registry) -> pathlib.Path:
    """A directory that is served, old enough for strong validators, with a few traps."""
    inside = tmp_path / "www"
    (inside / "sub").mkdir(parents=True)
    for name, data in {
        "a.txt": b"0123456789",
        "large.bin": LARGE,
        "empty": b"",
        "sub/b.html": b"<p>",
    }.items():
        (inside / name).write_bytes(data)
        os.utime(inside / name, (OLD, OLD))
    (tmp_path / "secret").write_bytes(b"secret")
    (inside / "out").symlink_to(tmp_path / "secret")
    (inside / "up").symlink_to("..")
    (inside / "within").symlink_to("a.txt")
    (inside / "loop").symlink_to("loop")
    (tmp_path / "www2").mkdir()
    (tmp_path / "www2" / "other").write_bytes(b"secret")
    os.mkfifo(inside / "fifo")

    @registry.on("files/{rest:path}")
    def serve_file(rest: str) -> oread.FileReply:
        return oread.FileReply(rest, root=str(inside))

    @registry.on("late/{rest:path}")
    async def serve_late(rest: str) -> oread.FileReply:
        await trio.lowlevel.checkpoint()
        return oread.FileReply(
            inside / rest, content_type="text/x-own", headers=[("Cache-Control", "no-store")]
        )

    return inside


def split(data: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Split one response into status, fields and what is behind the head."""
    head, _, rest = data.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    return int(line.split()[1]), dict(field.lower().split(b": ", 1) for field in fields), rest


async def ask(memory: Any, data: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send, half-close, read all."""
    return split(await exchange(memory.client, data))


async def test_a_file_has_its_type_length_and_validators(root: pathlib.Path, serve_memory: Any) -> None:
    """And the handler's own fields, whichever kind of handler it is."""
    async with serve_memory("http://:0") as memory:
        status, fields, body = await ask(memory, get("/files/a.txt"))
        assert (status, body) == (200, b"0123456789")
        assert fields[b"content-type"] == b"text/plain; charset=utf-8"
        assert fields[b"last-modified"] == b"sun, 09 sep 2001 01:46:40 gmt"
        assert fields[b"accept-ranges"] == b"bytes"
        assert fields[b"etag"].startswith(b'"')
        assert b"transfer-encoding" not in fields
        status, fields, body = await ask(memory, get("/late/a.txt"))
        assert (status, body) == (200, b"0123456789")
        assert (fields[b"content-type"], fields[b"cache-control"]) == (b"text/x-own", b"no-store")
        (root / "a.txt").write_bytes(b"new")
        assert (await ask(memory, get("/files/a.txt")))[1][b"etag"].startswith(b'w/"')


async def test_large_files_are_sent_whole_and_in_order(root: pathlib.Path, serve_memory: Any) -> None:
    """In memory piece by piece; what was asked before and behind it stays in its place."""
    async with serve_memory("http://:0") as memory:
        wire = get("/bytes") + get("/files/large.bin") + get("/files/a.txt")
        client = memory.client()
        await client.send_all(wire)
        await client.send_eof()
        received = await client.receive_all()
        first, second, third = received.split(b"HTTP/1.1 200 OK\r\n")[1:]
        assert first.endswith(b"\r\n\r\n")
        assert second.partition(b"\r\n\r\n")[2] == LARGE
        assert third.endswith(b"\r\n\r\n0123456789")
        assert memory.service.statistics().endpoints[0].replies == 3
        assert descriptors() == set()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_the_kernel_sends_what_it_can(root: pathlib.Path, serve_one: Any, version: str) -> None:
    """On a real socket, to a reader that is slower than the disk; then the next request is answered."""
    async with serve_one("http://127.0.0.1:0") as service:
        async with await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port) as stream:
            fields = "Connection: keep-alive"
            await stream.send_all(get("/files/large.bin", fields, version=version) + get("/files/a.txt"))
            received = b""
            while not received.endswith(b"0123456789"):
                received += await stream.receive_some(100_000)
        assert split(received)[2][: len(LARGE)] == LARGE
        assert descriptors() == set()


async def test_parts_and_conditions(root: pathlib.Path, serve_memory: Any) -> None:
    """206, 416, 304, 412, HEAD; each with the fields that it must have."""
    async with serve_memory("http://:0") as memory:
        status, fields, body = await ask(memory, get("/files/a.txt", "Range: bytes=2-4"))
        assert (status, body) == (206, b"234")
        assert (fields[b"content-range"], fields[b"content-length"]) == (b"bytes 2-4/10", b"3")
        etag = fields[b"etag"].decode()
        status, fields, _ = await ask(memory, get("/files/a.txt", "Range: bytes=10-"))
        assert (status, fields[b"content-range"]) == (416, b"bytes */10")
        status, fields, body = await ask(memory, get("/files/a.txt", f"If-None-Match: {etag}"))
        assert (status, fields[b"etag"].decode(), body) == (304, etag, b"")
        assert b"content-length" not in fields
        assert (await ask(memory, get("/files/a.txt", 'If-Match: "other"')))[0] == 412
        status, fields, body = await ask(memory, get("/files/a.txt", method="HEAD"))
        assert (status, fields[b"content-length"], body) == (200, b"10", b"")
        assert (await ask(memory, get("/files/empty")))[::2] == (200, b"")
        part = get("/files/large.bin", "Range: bytes=1000-2000000") + get("/files/a.txt")
        assert (await ask(memory, part))[2].startswith(LARGE[1000:2_000_001] + b"HTTP/1.1 200 OK\r\n")
        assert descriptors() == set()


@pytest.mark.parametrize(
    "path",
    [
        *(
            "nothing",
            "",
            "sub",
            "sub/",
            "fifo",
            "loop",
            "out",
            "up/secret",
            "./a.txt",
            "sub//b.html",
            "a.txt/b",
            "a.txt/",
        ),
        *(
            "../secret",
            "sub/../../secret",
            "sub/../a.txt",
            "..",
            "/etc/passwd",
            "..%2Fsecret",
            "%2Fetc%2Fpasswd",
        ),
        *("%2e%2e/secret", "a.txt%00", "%00", "../www2/other", "a" * 300, "sub/b.html/../../../secret"),
    ],
)
async def test_what_is_outside_or_no_file_is_not_found(
    root: pathlib.Path, serve_memory: Any, path: str
) -> None:
    """One answer for all of it, and the connection is kept."""
    async with serve_memory("http://:0") as memory:
        status, _, rest = await ask(memory, get(f"/files/{path}") + get("/files/within"))
        assert status == 404
        assert rest.startswith(b"there is no such file\nHTTP/1.1 200 OK")
        assert rest.endswith(b"\r\n\r\n0123456789")
        assert descriptors() == set()


async def test_fields_that_the_file_makes_are_refused(
    registry: oread.Registry, root: pathlib.Path, serve_memory: Any
) -> None:
    """Two entity tags would be none; nothing stays open."""
    registry.on("own", lambda: oread.FileReply(root / "a.txt", headers=[("ETag", '"mine"')]))
    for at, headers in enumerate(
        ([("X", "a\r\nb")], [(1, "a")], [("a",)], ["etag"], [("Content-Length", "1")])
    ):
        registry.on(f"bad{at}", lambda headers=headers: oread.FileReply(root / "a.txt", headers=headers))
    registry.on("surrogate", lambda: oread.FileReply("\ud800"))
    async with serve_memory("http://:0") as memory:
        for target in ("own", *(f"bad{at}" for at in range(5))):
            assert (await ask(memory, get(f"/{target}")))[0] == 500, target
        assert (await ask(memory, get("/surrogate")))[0] == 404
        assert descriptors() == set()


@pytest.mark.parametrize("url", ["memory", "socket"])
async def test_a_file_cut_while_it_is_sent_ends_its_connection(
    registry: oread.Registry, root: pathlib.Path, serve_memory: Any, serve_one: Any, url: str, caplog: Any
) -> None:
    """Short of its length, never padded, and reported."""
    sparse = root / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 27)
    request = get("/files/sparse")
    if url == "memory":
        async with serve_memory("http://:0") as memory:
            client = memory.client()
            await client.send_all(request)
            await wait_all_tasks_blocked()
            os.truncate(sparse, 0)
            received = await client.receive_all()
    else:
        async with (
            serve_one("http://127.0.0.1:0") as service,
            await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port) as stream,
        ):
            await stream.send_all(request)
            received = await stream.receive_some(1000)
            os.truncate(sparse, 0)
            with trio.fail_after(30):
                async for chunk in stream:
                    received += chunk
    assert 0 < len(received) < 1 << 27
    assert "before its declared length" in caplog.text
    assert descriptors() == set()


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_peer_that_leaves_ends_the_sending(root: pathlib.Path, serve_one: Any, how: str) -> None:
    """No descriptor stays open, and others are served."""
    async with serve_one("http://127.0.0.1:0") as service:
        port = service.endpoints[0].port
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(get("/files/large.bin") * 20)
        await stream.receive_some(1000)
        assert len(descriptors()) == 1
        if how == "reset":
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()
        with trio.fail_after(10):
            while service.statistics().endpoints[0].open:
                await trio.lowlevel.checkpoint()
        assert descriptors() == set()


async def test_a_half_closed_peer_gets_all_of_its_file(
    root: pathlib.Path, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """However long it takes: sending is no handler that works for a peer that is gone."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(get("/files/large.bin"))
        await client.send_eof()
        received = b""
        while chunk := await client.receive_some(100_000):
            received += chunk
            await trio.sleep(1)
        assert received.endswith(LARGE)


async def test_a_peer_that_takes_nothing_is_given_up(
    root: pathlib.Path, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """At the stall deadline, with the file closed."""
    async with serve_memory("http://:0") as memory:
        client = memory.client()
        await client.send_all(get("/files/large.bin"))
        await trio.sleep(100)
        assert memory.refused == {"stalled": 1}
        assert descriptors() == set()


async def test_a_drain_waits_for_the_file_until_its_deadline(
    root: pathlib.Path, serve_memory: Any, autojump_clock: MockClock
) -> None:
    """What is under way may end; what does not is broken off."""
    async with serve_memory("http://:0") as memory:
        takes, stays = memory.client(), memory.client()
        for client in (takes, stays):
            await client.send_all(get("/files/large.bin"))
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.service.drain, 5)
            assert (await takes.receive_all()).endswith(LARGE)
        assert len(await stays.receive_all()) < len(LARGE)
        assert descriptors() == set()


async def test_a_hard_cancel_closes_the_file(root: pathlib.Path, serve_memory: Any) -> None:
    """Leaving the service leaves nothing open."""
    async with serve_memory("http://:0") as memory:
        await memory.client().send_all(get("/files/large.bin"))
        await wait_all_tasks_blocked()
        assert len(descriptors()) == 1
    assert descriptors() == set()


@pytest.mark.parametrize("transport", ["lines", "length", "tcp", "udp", "emit", "jsonrpc"])
async def test_other_transports_send_the_content(
    registry: oread.Registry, root: pathlib.Path, transport: Any
) -> None:
    """As one payload; JSON-RPC refuses, and so does everything above a mebibyte."""
    registry.on("small", lambda: oread.FileReply(root / "a.txt"))
    registry.on("large", lambda: oread.FileReply(root / "large.bin"))
    registry.on("gone", lambda: oread.FileReply(root / "gone"))
    assert len(LARGE) > WHOLE_BYTES
    async with oread.testing.open_client(registry, transport) as client:
        if transport == "jsonrpc":
            with pytest.raises(oread.MessageError):
                await client.call("small", "")
            return
        assert await client.call("small", b"x") == b"0123456789"
        for event in ("large", "gone"):
            with pytest.raises(oread.MessageError):
                await client.call(event, b"x")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("a.JSON", "application/json"),
        ("a.png", "image/png"),
        ("a.tar.gz", "application/gzip"),
        ("a.tgz", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("dir.html/a", "application/octet-stream"),
    ],
)
def test_names_say_the_type(name: str, kind: str) -> None:
    """By the last extension, whatever its case."""
    assert content_type_of(name) == kind


def test_paths_are_text() -> None:
    """A path of bytes is refused where it is made."""
    with pytest.raises(TypeError):
        oread.FileReply(b"a")
    assert oread.FileReply(pathlib.Path("a")).path == "a"
