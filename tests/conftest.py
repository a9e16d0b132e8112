"""What several test modules use: one registry, services on loopback and in memory."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trustme
from hypothesis import HealthCheck, settings

import oread
from oread.sockets.tls_contexts import make_client_context
from oread.testing import MemoryClient, MemoryNetwork

# Hypothesis fails by itself what takes over 200 ms, or is slow to make up: no test here asserts a time.
settings.register_profile(
    "untimed", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


@pytest.fixture
def registry() -> oread.Registry:
    """A registry with one handler of each kind."""
    registry = oread.Registry()

    @registry.on("echo")
    def echo(data: memoryview) -> memoryview:
        return data

    @registry.on("bytes")
    def plain(data: bytes) -> bytes:
        return data

    @registry.on("async")
    async def ready(data: bytes) -> bytes:
        return data

    @registry.on("waits")
    async def waits(data: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return data

    @registry.on("forever")
    async def forever(data: bytes) -> None:
        await trio.sleep_forever()

    @registry.on("fails")
    def fails(data: bytes) -> bytes:
        raise LookupError("on purpose")

    @registry.on("none")
    def none(data: bytes) -> None:
        return None

    @registry.session("session")
    async def session(stream: trio.abc.HalfCloseableStream) -> None:
        async for chunk in stream:
            await stream.send_all(chunk.upper())

    return registry


class Memory:
    """A service in memory: `client` connects to it."""

    def __init__(
        self, network: MemoryNetwork, connect: Callable[..., MemoryClient], service: oread.Service
    ) -> None:
        self.network = network
        self.client = connect
        self.service = service

    @property
    def refused(self) -> dict[str, int]:
        """What the only endpoint has refused, by reason."""
        return dict(self.service.statistics().endpoints[0].refused)


@pytest.fixture
def serve_memory(registry: oread.Registry) -> Callable[[str], AbstractAsyncContextManager[Memory]]:
    """Serve one endpoint in memory; afterwards nothing may be open."""

    @asynccontextmanager
    async def serve(url: str) -> AsyncIterator[Memory]:
        network = MemoryNetwork()
        listening = network.listen()
        async with oread.open_service(registry, oread.Bound(listening, url), poller=network) as service:
            yield Memory(network, lambda **options: network.connect(listening, **options), service)
        assert network.open_sockets == 0

    return serve


@pytest.fixture
def serve_one(registry: oread.Registry) -> Callable[[str], AbstractAsyncContextManager[oread.Service]]:
    """Serve one endpoint on real sockets."""

    @asynccontextmanager
    async def serve(*urls: str) -> AsyncIterator[oread.Service]:
        async with oread.open_service(registry, *urls) as service:
            yield service

    return serve


@attrs.frozen(kw_only=True)
class TlsFiles:
    """An authority's files, and what it has signed."""

    authority: trustme.CA
    folder: Path

    @property
    def ca(self) -> str:
        """The authority's certificate."""
        return str(self.folder / "ca.pem")

    def issue(self, name: str, *names: str, key_type: trustme.KeyType = trustme.KeyType.ECDSA) -> str:
        """Write a certificate with its key inside; return its path."""
        path = self.folder / f"{name}.pem"
        issued = self.authority.issue_cert(*names, key_type=key_type)
        issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        return str(path)

    def client_context(self) -> ssl.SSLContext:
        """A client's context that believes the authority."""
        return make_client_context(cafile=self.ca)


@pytest.fixture(scope="session")
def tls_folder(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """One authority for all tests, with a certificate for loopback."""
    files = TlsFiles(authority=trustme.CA(), folder=tmp_path_factory.mktemp("tls"))
    files.authority.cert_pem.write_to_path(files.ca)
    files.issue("loopback", "localhost", "127.0.0.1", "::1")
    return files


@pytest.fixture
def tls_files(tls_folder: TlsFiles, tmp_path: Path) -> TlsFiles:
    """The authority, and a folder of the test's own with its files."""
    for name in ("ca.pem", "loopback.pem"):
        shutil.copy(tls_folder.folder / name, tmp_path / name)
    return attrs.evolve(tls_folder, folder=tmp_path)


@pytest.fixture
def loopback_pem(tls_files: TlsFiles) -> str:
    """A certificate for localhost and the loopback addresses, with its key inside."""
    return str(tls_files.folder / "loopback.pem")
