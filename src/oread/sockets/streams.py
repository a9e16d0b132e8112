"""Open and bind listening stream sockets, TCP and Unix; all or nothing.

An endpoint may resolve to several addresses: all are bound, on one port.
Options are set on the listening socket and inherited by what it accepts
(tcp(7)), so an accept costs no further system calls.

Source: socket(7), tcp(7), unix(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
import struct
import sys
from collections.abc import Mapping
from typing import Any

from oread.endpoints import Endpoint
from oread.limits import DatagramLimits

KEEPALIVE_SECONDS = {"TCP_KEEPIDLE": 120, "TCP_KEEPINTVL": 30, "TCP_KEEPCNT": 4}
"""A peer that vanished is noticed after about four minutes, even with no idle deadline."""
UNSENT_BYTES = 131_072
"""What the kernel takes before the peer does; else a large reply to one that does not read costs 4 MB there.

1,000 such peers, each asking for 1 MB, took 2 GB, and a request beside them 3 s; with this 0.3 GB and 18 ms.
Bulk transfers are as fast as without. Source: tcp(7), TCP_NOTSENT_LOWAT.
"""
UNIX_MODE = 0o600
RESERVED_DESCRIPTORS = 64
"""Left for everything that is no connection: listening sockets, files, the loop's own."""
PORT_TRIES = 16
"""How often a port 0 is tried again when it is free on one address but not on the next."""


def descriptor_room() -> int:
    """Return how many connections this process may hold by RLIMIT_NOFILE."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(1, soft - RESERVED_DESCRIPTORS)


def open_stream_sockets(endpoint: Endpoint) -> list[socket.socket]:
    """Bind and listen on every address of a `tcp`, `http` or `unix` endpoint.

    Returns:
        Non-blocking listening sockets, all on one port; the caller closes them.

    Raises:
        OSError: some address can't be bound; none is left open.
    """
    if endpoint.scheme == "unix":
        return [_listen_unix(endpoint)]
    addresses = _resolve(endpoint.host, endpoint.port)
    for last_try in range(PORT_TRIES, -1, -1):
        try:
            return _listen_all(addresses, endpoint)
        except OSError as error:
            if endpoint.port or len(addresses) < 2 or error.errno != errno.EADDRINUSE or not last_try:
                raise
    raise AssertionError("the last try returns or raises")


def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _listen_all(addresses: list[tuple[socket.AddressFamily, Any]], endpoint: Endpoint) -> list[socket.socket]:
    port = endpoint.port
    with contextlib.ExitStack() as stack:
        sockets = []
        for family, address in addresses:
            sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            _set_options(sock, endpoint)
            sock.bind((address[0], port, *address[2:]))
            sock.listen(_backlog(endpoint))
            port = sock.getsockname()[1]
            sockets.append(sock)
        stack.pop_all()
    return sockets


def _backlog(endpoint: Endpoint) -> int:
    assert not isinstance(endpoint.limits, DatagramLimits)
    return endpoint.limits.backlog


def _set_options(sock: socket.socket, endpoint: Endpoint) -> None:
    sock.setblocking(False)
    sock.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )  # TIME_WAIT of the last run must not block a restart
    if endpoint.reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # [::] is IPv6; 0.0.0.0 has to be said
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE_SECONDS.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _listen_unix(endpoint: Endpoint) -> socket.socket:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.setblocking(False)
        _remove_stale(endpoint.host)
        before = os.umask(0o777 & ~UNIX_MODE)  # so that it never exists with another mode
        try:
            sock.bind(endpoint.host)
        finally:
            os.umask(before)
        sock.listen(_backlog(endpoint))
        stack.pop_all()
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on; leave the rest for bind."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:
            return  # its queue is full, so somebody listens


def path_inode(path: str) -> int | None:
    """Return the inode of a path, None when there is nothing."""
    try:
        return os.lstat(path).st_ino
    except FileNotFoundError:
        return None


def remove_unix_path(path: str, inode: int | None) -> None:
    """Remove the path of our Unix socket, unless it is another's by now."""
    if inode is not None and path_inode(path) == inode:
        os.unlink(path)


_TCP_INFO = struct.Struct("=8B24I")
"""The part of `struct tcp_info` that is the same since Linux 2.6 (linux/tcp.h)."""
_TCP_INFO_NAMES = (
    *("state", "ca_state", "retransmits", "probes", "backoff", "options", "wscale", "flags"),
    *("rto_us", "ato_us", "snd_mss", "rcv_mss", "unacked", "sacked", "lost", "retrans", "fackets"),
    *("last_data_sent_ms", "last_ack_sent_ms", "last_data_recv_ms", "last_ack_recv_ms", "pmtu"),
    *("rcv_ssthresh", "rtt_us", "rttvar_us", "snd_ssthresh", "snd_cwnd", "advmss", "reordering"),
    *("rcv_rtt_us", "rcv_space", "total_retrans"),
)


def tcp_info(sock: Any) -> Mapping[str, int]:
    """Return the kernel's TCP_INFO of a connection; empty where there is none."""
    if sys.platform != "linux" or getattr(sock, "family", None) not in (socket.AF_INET, socket.AF_INET6):
        return {}
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return {}  # closed meanwhile
    return dict(zip(_TCP_INFO_NAMES, _TCP_INFO.unpack(raw), strict=True))
