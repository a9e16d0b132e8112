"""Peers of UDP endpoints, on loopback only."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import trio
from loopback import LOOPBACK

from listeners.datagram_services import LIMIT_SECONDS
from listeners.machines import machines, network  # noqa: F401 (fixtures)
from oread.sockets.datagrams import open_sending_socket


@attrs.define
class UdpClient:
    """A UDP socket of a peer."""

    sock: trio.socket.SocketType

    @property
    def port(self) -> int:
        """The port it sends from."""
        port: int = self.sock.getsockname()[1]
        return port

    async def send(self, data: bytes, port: int, host: str = "127.0.0.1") -> None:
        """Send one datagram."""
        await self.sock.sendto(data, (host, port))

    async def receive(self) -> tuple[bytes, Any]:
        """Wait for one datagram."""
        with trio.fail_after(LIMIT_SECONDS):
            return await self.sock.recvfrom(65_536)

    async def ask(self, data: bytes, port: int, host: str = "127.0.0.1") -> bytes:
        """Send one datagram and wait for its reply."""
        await self.send(data, port, host)
        return (await self.receive())[0]

    def received_nothing(self) -> bool:
        """Tell whether nothing is queued; on loopback sending is delivering."""
        raw = socket.socket(fileno=self.sock.fileno())
        try:
            raw.setblocking(False)
            raw.recv(100)
        except BlockingIOError:
            return True
        finally:
            raw.detach()
        return False


@pytest.fixture
def make_client() -> Iterator[Callable[..., UdpClient]]:
    """Make clients that send by loopback, and close them."""
    opened = []

    def make(host: str = "127.0.0.1", port: int = 0) -> UdpClient:
        sock = open_sending_socket(
            socket.AF_INET6 if ":" in host else socket.AF_INET, interface=LOOPBACK.index
        )
        opened.append(sock)
        sock.bind((host, port))
        return UdpClient(trio.socket.from_stdlib_socket(sock))

    yield make
    for sock in opened:
        sock.close()


@pytest.fixture
def client(make_client: Callable[..., UdpClient]) -> UdpClient:
    return make_client()
