"""Connections in memory end as those of TCP do."""

from __future__ import annotations

import pytest
import trio

from oread.testing import MemoryNetwork


async def test_what_is_sent_to_a_client_that_has_closed_is_answered_by_a_reset() -> None:
    """A FIN first, then the reset, as from a socket nobody holds any more."""
    network = MemoryNetwork()
    listening = network.listen()
    client = network.connect(listening, address=("192.0.2.1", 7))
    sock, _ = listening.accept()
    assert sock.getpeername() == client.address == ("192.0.2.1", 7)
    await client.aclose()
    assert sock.recv(10) == b""
    with pytest.raises(ConnectionResetError):
        sock.send(b"too late")
    with pytest.raises(ConnectionResetError):
        sock.recv(10)
    sock.close()
    listening.close()
    assert network.open_sockets == 0


async def test_closing_with_something_unread_is_a_reset() -> None:
    """Both ways, as in TCP."""
    network = MemoryNetwork()
    listening = network.listen()
    client = network.connect(listening)
    sock, _ = listening.accept()
    sock.send(b"never read")
    await client.aclose()
    with pytest.raises(ConnectionResetError):
        sock.recv(10)
    other = network.connect(listening)
    sock, _ = listening.accept()
    await other.send_all(b"never read")
    sock.close()
    with pytest.raises(trio.BrokenResourceError):
        await other.receive_some()
