"""Name the socket options that Python's `socket` module lacks.

Python 3.11 has none of these on Linux; 3.12 and 3.14 added a few
(gh-89415, gh-120056). A name that `socket` knows wins over our number.

Source: include/uapi/linux/in.h, in6.h and asm-generic/socket.h; on macOS
bsd/netinet/in.h, in6.h and bsd/sys/socket.h (read, not tried there).

Not here: options that `socket` has under every supported Python.
"""

from __future__ import annotations

import socket
import sys

LINUX = sys.platform == "linux"


def _number(name: str, linux: int, darwin: int) -> int:
    number: int = getattr(socket, name, linux if LINUX else darwin)
    return number


ABSENT = -1
"""Stands for an option that this platform does not have."""

IP_PKTINFO = _number("IP_PKTINFO", 8, 26)
IP_RECVTTL = _number("IP_RECVTTL", 12, 24)
IP_TTL_CONTROL = socket.IP_TTL if LINUX else IP_RECVTTL
"""Type of the control message that carries a received TTL (macOS: the option's own number)."""
IP_RECVERR = _number("IP_RECVERR", 11, ABSENT)
IPV6_RECVERR = _number("IPV6_RECVERR", 25, ABSENT)
IP_RECVFRAGSIZE = _number("IP_RECVFRAGSIZE", 25, ABSENT)
IPV6_RECVFRAGSIZE = _number("IPV6_RECVFRAGSIZE", 77, ABSENT)
IP_MULTICAST_ALL = _number("IP_MULTICAST_ALL", 49, ABSENT)
IPV6_MULTICAST_ALL = _number("IPV6_MULTICAST_ALL", 29, ABSENT)
IPV6_RECVPKTINFO = _number("IPV6_RECVPKTINFO", 49, 61)
IPV6_PKTINFO = _number("IPV6_PKTINFO", 50, 46)
IPV6_RECVHOPLIMIT = _number("IPV6_RECVHOPLIMIT", 51, 37)
IPV6_HOPLIMIT = _number("IPV6_HOPLIMIT", 52, 47)
MCAST_JOIN_GROUP = _number("MCAST_JOIN_GROUP", 42, 80)
MCAST_LEAVE_GROUP = _number("MCAST_LEAVE_GROUP", 45, 81)
MCAST_JOIN_SOURCE_GROUP = _number("MCAST_JOIN_SOURCE_GROUP", 46, 82)
MCAST_LEAVE_SOURCE_GROUP = _number("MCAST_LEAVE_SOURCE_GROUP", 47, 83)
SO_TIMESTAMPNS = _number("SO_TIMESTAMPNS", 35, ABSENT)
SO_MEMINFO = _number("SO_MEMINFO", 55, ABSENT)
UDP_SEGMENT = _number("UDP_SEGMENT", 103, ABSENT)
UDP_GRO = _number("UDP_GRO", 104, ABSENT)
