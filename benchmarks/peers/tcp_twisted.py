"""Echo TCP with a Twisted Protocol on its default reactor: epoll on Linux."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import protocol
from twisted.internet import reactor as default_reactor

reactor: Any = default_reactor  # a module that is an object: typing follows neither


class Echo(protocol.Protocol):
    """Write back what arrives."""

    transport: Any

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        """Turn Nagle's algorithm off, as every peer here does."""
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        """Write back what arrived."""
        self.transport.write(data)


if __name__ == "__main__":
    factory = protocol.Factory.forProtocol(Echo)
    reactor.listenTCP(int(sys.argv[1]), factory, backlog=4096, interface="127.0.0.1")
    reactor.run()
