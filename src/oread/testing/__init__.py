"""The kit for embedders: a service tested with no socket and a mock clock.

* `open_client` calls a handler in the same way over every transport;
* `check_handler` and `check_protocol` hold what you wrote to the contracts of
  handlers and of framing machines;
* `MemoryNetwork` is what they run on: a service runs there as it does on
  sockets, only readiness and the bytes come from memory.

    network = MemoryNetwork()
    listening = network.listen()
    async with oread.open_service(registry, oread.Bound(listening, "tcp://:0/echo"), poller=network):
        client = network.connect(listening)
        await client.send_all(b"hello")

With `trio.testing.MockClock` deadlines pass at once. The fixtures for pytest
are in `oread.testing.plugin`, which pytest finds by itself.
"""

from __future__ import annotations

from oread.testing.clients import TRANSPORTS, EventClient, Transport, open_client
from oread.testing.contract import ContractError
from oread.testing.datagrams import MemoryDatagramSocket, MemoryPeer
from oread.testing.handler_check import HandlerReport, check_handler
from oread.testing.network import MemoryNetwork
from oread.testing.protocol_check import check_protocol
from oread.testing.streams import MemoryClient, MemoryListeningSocket, MemorySocket

__all__ = [
    "TRANSPORTS",
    "ContractError",
    "EventClient",
    "HandlerReport",
    "MemoryClient",
    "MemoryDatagramSocket",
    "MemoryListeningSocket",
    "MemoryNetwork",
    "MemoryPeer",
    "MemorySocket",
    "Transport",
    "check_handler",
    "check_protocol",
    "open_client",
]
