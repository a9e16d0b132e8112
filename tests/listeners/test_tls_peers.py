"""TLS with foreign clients: openssl, curl, socat, wrk, Python's own; each skipped when missing."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from foreign_tools import LIMIT_SECONDS, need, run

import oread
from oread.handlers import inspect


class Client:
    """`openssl s_client` and the others, told where the service is."""

    def __init__(self, service: oread.Service, ca: str) -> None:
        self.service = service
        self.ca = ca
        self.tls, self.https = (endpoint.address for endpoint in service.endpoints)

    async def openssl(self, *options: str, sent: bytes = b"", status: int | None = None) -> str:
        """Run s_client; it stays until the service ends the connection."""
        need("openssl")
        where = ("-connect", self.tls) if "-connect" not in options else ()
        return await run(("openssl", "s_client", *where, "-CAfile", self.ca, *options), sent, status=status)

    def refused(self, index: int = 0) -> dict[str, int]:
        """What an endpoint has refused, by reason."""
        return dict(self.service.statistics().endpoints[index].refused)


@pytest.fixture
async def client(registry: oread.Registry, loopback_pem: str, tls_files: Any) -> AsyncIterator[Client]:
    """An echo over TLS that ends after one line, and https."""

    @registry.session("line")
    async def line(stream: Any) -> None:
        received = b""
        while not received.endswith(b"\n"):
            received += await stream.receive_some()
        await stream.send_all(received.upper())

    urls = (f"tls://127.0.0.1:0/line?cert={loopback_pem}", f"https://127.0.0.1:0?cert={loopback_pem}")
    async with oread.open_service(registry, *urls) as service:
        yield Client(service, tls_files.ca)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_verifies_and_is_answered(client: Client, version: str) -> None:
    """The chain is believed, the suite a strong one, the end in order."""
    text = await client.openssl(
        version, "-quiet", "-verify_return_error", "-verify_hostname", "localhost", sent=b"hello\n", status=0
    )
    assert "HELLO" in text
    assert client.refused() == {}


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
async def test_openssl_is_refused_with_old_protocols(client: Client, version: str) -> None:
    """It gets an alert of the version."""
    text = await client.openssl(version, "-cipher", "ALL:@SECLEVEL=0")
    assert re.search("alert protocol version|unsupported protocol|no protocols available", text)
    assert client.refused() == {"tls_version": 1}


@pytest.mark.parametrize(
    "cipher", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA", "NULL", "DHE"]
)
async def test_openssl_is_refused_with_weak_suites(client: Client, cipher: str) -> None:
    """No suite without forward secrecy or authenticated encryption is taken."""
    text = await client.openssl("-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
    assert "handshake failure" in text
    assert client.refused() == {"tls_cipher": 1}


async def test_openssl_agrees_on_http_by_alpn(client: Client) -> None:
    """`http/1.1` is chosen; an h2 client gets none."""
    asked = ("-connect", client.https, "-alpn")
    assert "ALPN protocol: http/1.1" in await client.openssl(*asked, "h2,http/1.1")
    assert "No ALPN negotiated" in await client.openssl(*asked, "h2")


async def test_openssl_resumes_by_tickets(client: Client, tmp_path: Any) -> None:
    """TLS 1.2 on each reconnect; TLS 1.3 with the ticket of an earlier connection."""
    text = await client.openssl("-tls1_2", "-reconnect", sent=b"hello\n")
    assert len(re.findall("^Reused, TLSv1.2", text, re.MULTILINE)) == 5, text
    kept = str(tmp_path / "session.pem")
    assert "New, TLSv1.3" in await client.openssl("-sess_out", kept, "-ign_eof", sent=b"hello\n")
    assert "Reused, TLSv1.3" in await client.openssl("-sess_in", kept, "-ign_eof", sent=b"hello\n")


async def test_openssl_may_not_renegotiate(client: Client) -> None:
    """Asked by `R` in TLS 1.2: it is refused, and the service lives."""
    need("openssl")
    process = await trio.lowlevel.open_process(
        ("openssl", "s_client", "-connect", client.tls, "-tls1_2", "-CAfile", client.ca),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with trio.fail_after(LIMIT_SECONDS):
        text = b""
        while b"Extended master secret" not in text:
            text += await process.stdout.receive_some()
        await process.stdin.send_all(b"R\n")
        async for chunk in process.stdout:
            text += chunk
        await process.wait()
    assert b"no renegotiation" in text
    assert "HELLO" in await client.openssl("-quiet", sent=b"hello\n")


async def test_openssl_changes_keys(client: Client) -> None:
    """`K` in TLS 1.3 updates the keys of both sides; what follows is understood."""
    need("openssl")
    process = await trio.lowlevel.open_process(
        ("openssl", "s_client", "-connect", client.tls, "-tls1_3", "-CAfile", client.ca),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with trio.fail_after(LIMIT_SECONDS):
        text = b""
        for wait_for, typed in (
            (b"Verify return code", b"K\n"),
            (b"KEYUPDATE", b"K\n"),
            (b"KEYUPDATE", b"hello\n"),
        ):
            while wait_for not in text:
                text += await process.stdout.receive_some()
            text = b"" if wait_for == b"KEYUPDATE" else text
            await process.stdin.send_all(typed)
        async for chunk in process.stdout:
            text += chunk
        await process.wait()
    assert b"HELLO" in text
    assert client.refused() == {}


async def test_curl_speaks_https(client: Client) -> None:
    """Verified by the authority, kept alive; without it curl does not believe us."""
    need("curl")
    url = f"https://{client.https}/bytes"
    text = await run(("curl", "-sS", "-w", "%{num_connects}", "--cacert", client.ca, "-d", "one", url, url))
    assert text == "one1one0"
    assert "certificate" in await run(("curl", "-sS", "-d", "x", url), status=60)
    body = b"x" * 500_000
    assert (
        await run(("curl", "-sS", "--cacert", client.ca, "--data-binary", "@-", url), body) == body.decode()
    )


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
async def test_curl_can_tell_a_broken_reply_from_a_whole_one(
    client: Client, registry: oread.Registry, version: str
) -> None:
    """Ended by the connection or by chunks: a whole body is status 0, one that breaks off is not."""

    @registry.on("stream/{count:path}")
    async def stream(count: int) -> AsyncIterator[str]:
        for index in range(count):
            yield f"{index}\n"
        if count > 2:
            raise LookupError("on purpose")

    need("curl")
    command = ("curl", "-sS", version, "--cacert", client.ca)
    assert await run((*command, f"https://{client.https}/stream/2")) == "0\n1\n"
    cut_short = 18 if version == "--http1.1" else 56  # no last chunk, a reset
    told = await run((*command, f"https://{client.https}/stream/3"), status=cut_short)
    assert "curl: (" in told


async def test_curl_without_tls_is_told(client: Client) -> None:
    """Plain HTTP to the TLS port gets a 400 in plain text."""
    need("curl")
    text = await run(("curl", "-sS", "-i", f"http://{client.https}/bytes"))
    assert text.startswith("HTTP/1.1 400 ")
    assert "use https://" in text
    assert client.refused(1) == {"tls_plain_http": 1}


async def test_curl_sees_what_was_agreed(client: Client, registry: oread.Registry) -> None:
    """`inspect` has a part of TLS."""
    need("curl")
    registry.on("inspect")(inspect)
    url = f"https://{client.https}/inspect"
    seen = json.loads(await run(("curl", "-sS", "--cacert", client.ca, url)))
    assert seen["transport"] == "https"
    assert seen["tls"]["version"] == "TLSv1.3"
    assert seen["tls"]["alpn"] == "http/1.1"


async def test_socat_speaks_tls(client: Client) -> None:
    """Its OPENSSL address verifies and is answered."""
    need("socat")
    if "OPENSSL" not in await run(("socat", "-h")):
        pytest.skip("socat has no OPENSSL")
    address = f"OPENSSL:{client.tls},cafile={client.ca},commonname=localhost"
    assert await run(("socat", "-t", "5", "-", address), b"hello\n") == "HELLO\n"


@pytest.mark.slow
async def test_wrk_keeps_connections_alive(client: Client) -> None:
    """Many requests on a few connections, without an error."""
    need("wrk")
    text = await run(("wrk", "-t1", "-c8", "-d1s", f"https://{client.https}/bytes"))
    assert "Socket errors" not in text
    assert "Requests/sec" in text
    assert client.service.statistics().endpoints[1].accepted <= 9


async def test_pythons_own_client_in_threads(client: Client) -> None:
    """Blocking sockets: two sessions, the second resumed; then both ends in order."""
    host, port = client.service.endpoints[0].host, client.service.endpoints[0].port
    context = ssl.create_default_context(cafile=client.ca)

    def talk(session: ssl.SSLSession | None) -> tuple[bytes, bool, ssl.SSLSession | None]:
        with socket.create_connection((host, port), timeout=LIMIT_SECONDS) as plain:
            tls = context.wrap_socket(plain, server_hostname="localhost", session=session)
            tls.sendall(b"hel")
            tls.sendall(b"lo\n")
            received = tls.recv(100)
            assert tls.recv(100) == b""  # close_notify, not a ragged end
            kept, reused = tls.session, bool(tls.session_reused)
            tls.unwrap()
            tls.close()
            return received, reused, kept

    first = await trio.to_thread.run_sync(talk, None)
    second = await trio.to_thread.run_sync(talk, first[2])
    assert (first[0], first[1]) == (b"HELLO\n", False)
    assert (second[0], second[1]) == (b"HELLO\n", True)
