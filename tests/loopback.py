"""The loopback interface, and what tests of UDP have to skip without it or Linux."""

from __future__ import annotations

import socket

import pytest

from oread.sockets import options
from oread.sockets.interfaces import read_interfaces

LOOPBACK = next(each for each in read_interfaces().all if each.loopback)
GROUP = "239.255.70.7"
linux_only = pytest.mark.skipif(not options.LINUX, reason="groups are bound exactly on Linux only")


def has_ipv6() -> bool:
    """Tell whether this machine has the IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
