"""Join and leave a multicast group on one interface of one socket.

By interface index and for both families alike (RFC 3678 5.1). Not here: which
interfaces are wanted, and which socket has room for one more
(`oread.sockets.datagrams`).
"""

from __future__ import annotations

import contextlib
import socket
import struct

from oread.errors import EndpointError
from oread.sockets import options

_STORAGE_BYTES = 128
"""sizeof(struct sockaddr_storage), the same on Linux and macOS."""


def join(sock: socket.socket, host: str, index: int, source: str | None) -> None:
    """Join a group on one interface, of one source if named.

    Raises:
        EndpointError: the source is no address of the group's kind.
        OSError: ENOBUFS, the socket is full; EADDRINUSE, it has joined already.
    """
    option = options.MCAST_JOIN_GROUP if source is None else options.MCAST_JOIN_SOURCE_GROUP
    sock.setsockopt(_level(sock), option, _request(sock, host, index, source))


def leave(sock: socket.socket, host: str, index: int, source: str | None) -> None:
    """Leave a group on an interface, which may be gone; harmless when not joined.

    What is joined on an interface that goes stays in the socket's list, counts
    there, and blocks joining again on one that gets the same index.
    """
    option = options.MCAST_LEAVE_GROUP if source is None else options.MCAST_LEAVE_SOURCE_GROUP
    with contextlib.suppress(OSError):  # the system forgot it before us
        sock.setsockopt(_level(sock), option, _request(sock, host, index, source))


def _level(sock: socket.socket) -> int:
    return socket.IPPROTO_IP if sock.family == socket.AF_INET else socket.IPPROTO_IPV6


def _request(sock: socket.socket, host: str, index: int, source: str | None) -> bytes:
    """Pack a struct group_req, or group_source_req."""
    # `0L` aligns what follows as sockaddr_storage is; macOS packs to 4 bytes.
    request = struct.pack("@I0L" if options.LINUX else "@I", index) + _storage(sock.family, host)
    if source is None:
        return request
    try:
        return request + _storage(sock.family, source)
    except OSError:
        raise EndpointError(f"source={source} is not an address of the group's kind") from None


def _storage(family: int, host: str) -> bytes:
    """Pack a sockaddr_storage without port.

    Raises:
        OSError: the host is no numeric address of this family.
    """
    packed = socket.inet_pton(family, host)
    gap = bytes(2) if family == socket.AF_INET else bytes(6)
    size = 16 if family == socket.AF_INET else 28
    head = struct.pack("=H", family) if options.LINUX else struct.pack("=BB", size, family)
    return (head + gap + packed).ljust(_STORAGE_BYTES, b"\0")
