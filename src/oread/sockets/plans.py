"""Say which sockets a UDP endpoint needs, and on which interfaces.

One socket per exact address, of a link-scoped group one per link. Not here:
opening them (`oread.sockets.datagrams`).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Set as AbstractSet
from ipaddress import IPv6Address

import attrs

from oread.endpoints import EVERYWHERE, Endpoint
from oread.errors import EndpointError
from oread.sockets.interfaces import Interfaces, Mode, parse_address

_LINK_SCOPES = (1, 2)
"""Interface-local and link-local groups (RFC 4291 2.7) mean another group on every link."""


@attrs.frozen(kw_only=True)
class Plan:
    """One socket to be opened: where to bind it, which interfaces it is for."""

    family: int
    mode: Mode
    host: str
    scope: int
    indexes: tuple[int, ...] | None
    """None is any."""


def plan_sockets(endpoint: Endpoint, interfaces: Interfaces) -> list[Plan]:
    """Say which sockets an endpoint needs, one per exact address."""
    found = socket.getaddrinfo(
        endpoint.host,
        endpoint.port,
        type=socket.SOCK_DGRAM,
        proto=socket.IPPROTO_UDP,
        flags=socket.AI_PASSIVE,
    )
    plans: list[Plan] = []
    for family, _, _, _, sockaddr in found:
        host = str(parse_address(str(sockaddr[0])))
        mode = interfaces.mode(parse_address(host))
        _check_options(endpoint, mode)
        selected = selected_interface(endpoint)
        if selected is not None and mode != "unicast" and not endpoint.late_interface:
            interfaces.find(selected)
        wanted = wanted_indexes(endpoint, interfaces, family, mode)
        if wanted is not None and not wanted and (is_link_scoped(host) or not endpoint.late_interface):
            raise OSError(errno.ENODEV, f"no interface is up that can join {endpoint.host}")
        indexes = None if wanted is None else tuple(sorted(wanted))
        if mode == "multicast" and is_link_scoped(host):
            plans += [
                Plan(family=family, mode=mode, host=host, scope=index, indexes=(index,))
                for index in indexes or ()
            ]
        else:
            zone = int(sockaddr[3]) if len(sockaddr) > 3 and mode == "unicast" else 0
            plans.append(Plan(family=family, mode=mode, host=host, scope=zone, indexes=indexes))
    return list(dict.fromkeys(plans))


def is_link_scoped(host: str) -> bool:
    """Tell whether a group is another one on every link.

    It is bound with its link, and the socket then hears only that one.
    """
    address = parse_address(host)
    return isinstance(address, IPv6Address) and address.packed[1] & 0xF in _LINK_SCOPES


def _check_options(endpoint: Endpoint, mode: Mode) -> None:
    """Refuse the options that mean nothing for this mode."""
    wrong = {
        "source": endpoint.source is not None and mode != "multicast",
        "interface": endpoint.interface is not None and mode == "unicast",
        "late_interface": endpoint.late_interface and mode == "unicast",
        "shared": endpoint.shared and mode == "unicast",
        "reuse_port": endpoint.reuse_port and mode != "unicast",
    }
    for name, found in wrong.items():
        if found:
            raise EndpointError(f"{endpoint}: the option {name} does not fit a {mode} address")


def selected_interface(endpoint: Endpoint) -> str | None:
    """Return the one interface that an endpoint names; None is any."""
    named = endpoint.interface or endpoint.host.partition("%")[2]
    return None if named in {"", EVERYWHERE} else named


def wanted_indexes(
    endpoint: Endpoint, interfaces: Interfaces, family: int, mode: Mode
) -> AbstractSet[int] | None:
    """Return the interfaces a group or broadcast is to be heard on; None is any."""
    selected = selected_interface(endpoint)
    if mode == "unicast" or (mode == "broadcast" and selected is None):
        return None
    if selected is not None:
        return {each.index for each in interfaces.all if selected in {each.name, str(each.index)}}
    return {each.index for each in interfaces.joinable(family)}
