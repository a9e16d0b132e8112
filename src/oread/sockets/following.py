"""Bring an endpoint's sockets to what the interfaces are now.

The wanted state is computed anew from a snapshot of the interfaces, and what
differs is left, joined, opened or closed. Doing so again changes nothing.

Not here: noticing that something changed (`oread.sockets.links`), and when to
try again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet

import attrs

from oread.endpoints import Endpoint
from oread.sockets.datagrams import DatagramSocket, join_group, open_link
from oread.sockets.interfaces import Interfaces
from oread.sockets.memberships import leave
from oread.sockets.plans import selected_interface, wanted_indexes


@attrs.define
class Changes:
    """What following changed of an endpoint's sockets."""

    opened: list[DatagramSocket] = attrs.field(factory=list)
    """Joined and bound; the caller closes them one day."""
    closing: list[DatagramSocket] = attrs.field(factory=list)
    """Of a link that is gone; the caller closes them."""
    failed: OSError | None = None
    """The first thing that the system refused: to be tried again."""


@attrs.frozen
class Group:
    """A group that an endpoint joins, whichever interfaces there are."""

    host: str
    family: int
    port: int

    @classmethod
    def of(cls, sockets: Iterable[DatagramSocket]) -> tuple[Group, ...]:
        """Return the groups that these sockets were opened for."""
        found = (
            cls(each.host, each.sock.family, each.port)
            for each in sockets
            if each.mode == "multicast" and not each.adopted
        )
        return tuple(dict.fromkeys(found))


def follow_interfaces(
    endpoint: Endpoint,
    groups: Sequence[Group],
    sockets: Sequence[DatagramSocket],
    interfaces: Interfaces,
    gone: AbstractSet[int] | None,
    beside: Collection[DatagramSocket] = (),
) -> Changes:
    """Leave what is gone and join what has come.

    Args:
        endpoint: whose sockets these are.
        groups: what it joins, from `Group.of` its first sockets.
        sockets: those it has now.
        interfaces: as they are now.
        gone: indexes of interfaces that went and may have come back; None
            is not known, and everything is joined anew.
        beside: as for `open_datagram_sockets`.
    """
    changes = Changes()
    for each in sockets:
        if each.mode == "broadcast" and each.accepted is not None:
            each.accepted.clear()
            each.accepted.update(wanted_indexes(endpoint, interfaces, each.sock.family, each.mode) or ())
    for group in groups:
        same = [each for each in sockets if each.host == group.host and each.sock.family == group.family]
        _leave_gone(endpoint, same, interfaces, gone, changes)
        _join_wanted(endpoint, group, same, interfaces, changes, beside)
    return changes


def _leave_gone(
    endpoint: Endpoint,
    same: list[DatagramSocket],
    interfaces: Interfaces,
    gone: AbstractSet[int] | None,
    changes: Changes,
) -> None:
    selected = selected_interface(endpoint)
    # One that is down, or has lost its address, keeps its membership by itself.
    kept = {each.index for each in interfaces.all if selected in {None, each.name, str(each.index)}}
    for each in list(same):
        assert each.accepted is not None
        for index in list(each.accepted):
            if gone is None or index in gone or index not in kept:
                leave(each.sock, each.host, index, endpoint.source)
                each.accepted.discard(index)
        if each.scope and each.scope not in kept:
            changes.closing.append(each)
            same.remove(each)


def _join_wanted(
    endpoint: Endpoint,
    group: Group,
    same: list[DatagramSocket],
    interfaces: Interfaces,
    changes: Changes,
    beside: Collection[DatagramSocket],
) -> None:
    joined = frozenset[int]().union(*(each.accepted or () for each in same))
    wanted = wanted_indexes(endpoint, interfaces, group.family, "multicast") or set()
    for index in sorted(wanted - joined):
        try:
            # A socket of a link-scoped group is for that link alone.
            fitting = [each for each in same if each.scope in {0, index}]
            if fitting:
                opened = join_group(endpoint, fitting, index, beside)
            else:
                opened = open_link(endpoint, group.host, index, group.port, beside)
        except OSError as error:
            changes.failed = changes.failed or error
        else:
            if opened is not None:
                same.append(opened)
                changes.opened.append(opened)
