"""Echo TCP from one Trio task with an epoll of its own and no features.

The ladder's first rung: what a reactor under Trio costs before a registry,
limits, deadlines, counters or errors are added. It drops what a full socket
does not take, which the load generator would report.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable

import trio

TURN_SECONDS = 0.001  # as the real reactor: a checkpoint after 1 ms of work


def echo_on(connection: socket.socket, forget: Callable[[], None]) -> Callable[[], None]:
    """Make the callback that echoes one readiness of one connection."""
    recv, send = connection.recv, connection.send

    def on_ready() -> None:
        try:
            data = recv(65536)
            if data:
                send(data)
                return
        except BlockingIOError:
            return
        except ConnectionError:
            pass  # the peer's reset ends this connection only
        forget()

    return on_ready


async def main(port: int) -> None:
    """Serve on loopback until killed."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.settimeout(0)
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN)
    callbacks: dict[int, Callable[[], None]] = {}

    def accept() -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        connection.settimeout(0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fd = connection.fileno()

        def forget() -> None:
            del callbacks[fd]
            poller.unregister(fd)
            connection.close()

        callbacks[fd] = echo_on(connection, forget)
        poller.register(fd, select.EPOLLIN)

    callbacks[listener.fileno()] = accept
    while True:
        await trio.lowlevel.wait_readable(poller.fileno())
        turn_ends = trio.current_time() + TURN_SECONDS
        while events := poller.poll(0, 64):
            for fd, _ in events:
                callbacks[fd]()
            if trio.current_time() > turn_ends:
                await trio.lowlevel.checkpoint()
                turn_ends = trio.current_time() + TURN_SECONDS


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
