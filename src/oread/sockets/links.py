"""Hear from the kernel that its interfaces or their addresses changed.

Linux tells it on an rtnetlink socket. What has changed is read with
`read_interfaces`, the same way as at the start; only which interfaces went is
taken from the news, because one that came back under the same index looks as
if it had never been away, and has lost its memberships.

Source: rtnetlink(7), netlink(7). Other systems have no such socket here.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

from oread.sockets import options

_GROUPS = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR (linux/rtnetlink.h)."""
_LINK_GONE = 17
"""RTM_DELLINK."""
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_LINK = struct.Struct("=BxHi")
"""The beginning of struct ifinfomsg: family, type, index."""
_ALIGNMENT = 4
_READ_BYTES = 32_768
_READS = 64
"""Reads of one call; more news is the same as lost news."""


class LinkNews:
    """An open rtnetlink socket; `close` it.

    Raises:
        OSError: there is none here, or this process may not open one.
    """

    __slots__ = ("_sock",)

    def __init__(self) -> None:
        if not options.LINUX:
            raise OSError(errno.EAFNOSUPPORT, "rtnetlink is Linux's")
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            self._sock.setblocking(False)
            self._sock.bind((0, _GROUPS))
        except OSError:
            self._sock.close()
            raise

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close it."""
        self._sock.close()

    def read(self) -> frozenset[int] | None:
        """Take all news.

        Returns:
            Indexes of the interfaces that went; None when news were lost.
        """
        gone: set[int] = set()
        for _ in range(_READS):
            try:
                news, (sender, _) = self._sock.recvfrom(_READ_BYTES)
            except BlockingIOError:
                return frozenset(gone)
            except OSError:
                return None  # ENOBUFS: more came than the socket holds
            if sender == 0:  # the kernel's; any process may write to a netlink socket
                gone.update(gone_links(news))
        return None


def gone_links(news: bytes) -> Iterator[int]:
    """Return the index of each interface that a message says was deleted."""
    at = 0
    while at + _HEADER.size <= len(news):
        length, kind, *_ = _HEADER.unpack_from(news, at)
        body = at + _HEADER.size
        if length < _HEADER.size or at + length > len(news):
            return
        if kind == _LINK_GONE and length >= _HEADER.size + _LINK.size:
            family, _type, index = _LINK.unpack_from(news, body)
            if family == socket.AF_UNSPEC:  # else only a bridge or IPv6 has let go of it
                yield index
        at += (length + _ALIGNMENT - 1) & -_ALIGNMENT
