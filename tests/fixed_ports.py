"""The ports that examples are written with, for one test of this machine at a time."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

Port = tuple[int, socket.SocketKind]
DEMO_PORTS: Sequence[Port] = (
    (7007, socket.SOCK_STREAM),
    (7007, socket.SOCK_DGRAM),
    (7080, socket.SOCK_STREAM),
)
"""Those of `oread serve` alone on 127.0.0.1, and of the README."""


@contextmanager
def holding(ports: Sequence[Port]) -> Iterator[None]:
    """Have the ports for the block; skip the test when another program uses one.

    Tests that run beside these wait for each other: flock(2) of the folder for
    temporary files, which is there already and leaves nothing behind.
    """
    folder = os.open(tempfile.gettempdir(), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        for port, kind in ports:
            _skip_if_taken(port, kind)
        yield
    finally:
        os.close(folder)


def _skip_if_taken(port: int, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            pytest.skip(f"port {port} is taken")
