"""Decide which datagrams are heard, and which of them may be answered.

A UDP source is whatever the sender wrote. So a reply may hit a victim, and
two services that answer everything may be set on each other for ever
(CVE-1999-0103, CVE-2024-2169). Three kinds of bounds, all pure:

* the source's address (`Sources`): no machine has it, so it is not heard;
* the source's port and the size of the reply (`ReplyGuard`): no reply;
* replies in time (`ReplyBudget`): a token bucket per source prefix and one
  for everybody together.

Loopback peers are exempt from the budget and from the amplification bound,
but for the budget only where the port is one that the system hands to
clients: two services of different processes on one machine are then bounded
as well. What stays possible is a loop of two services that both have such a
port: of two processes on loopback, set off by root there; of two machines only
as long as it goes round less often than `prefix_rate` lets it.

Every refusal has a name, counted per listener; `REASONS` says what it means
and which option changes it. Not here: sockets, and time but as an argument.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from ipaddress import IPv4Address, IPv6Address

import attrs

from oread.limits import DatagramLimits
from oread.sockets.interfaces import Interfaces, IpAddress, parse_address

REASONS: Mapping[str, str] = {
    # Not heard: no handler saw it.
    "too_large": "longer than datagram_bytes",
    "bad_source": "its source is a group, a broadcast, unspecified, reserved or v4-mapped: no machine has it",
    "false_loopback": "its source is loopback, but it did not arrive there: forged",
    "other_destination": "it was sent to a group, broadcast or interface that this endpoint does not serve",
    "own": "this service's own group or broadcast datagram came back; receive_own=true takes it",
    "busy": "in_flight async handlers were at work already",
    "off_link": "link_only=true, and its source is on another network, or its TTL not the 255 of ttl=255",
    "receive_full": "the receive buffer was full, so the kernel dropped it; see receive_buffer_bytes",
    "receive_failed": "the system reported an error instead of a datagram",
    # Heard, but not answered.
    "bad_request": "a handler refused it: no error is sent by UDP",
    "not_found": "its event has no handler any more",
    "reply_off": "a group or broadcast is answered only with reply=unicast",
    "port_0": "its source port is 0, which asks for no reply (RFC 768)",
    "low_port": "its source port is below 1024 or 2049, where services listen; allow_low_ports=true answers",
    "returned": "replies went round between it and a service at its port; allow_low_ports=true answers",
    "served_port": "its source port is one this process serves by UDP: the answer would be a request",
    "no_mx": "mx=true, and the request names no MX seconds: it asks for no answer",
    "closing": "its reply was still delayed when the listener was closed",
    "cancelled": "its handler was cancelled: the drain deadline had passed",
    "amplification": "the reply has more than amplification times the request's bytes",
    "prefix_rate": "its network (/24, /56) had its prefix_rate replies per second (prefix_burst at once)",
    "global_rate": "all networks together had their global_rate replies per second (global_burst at once)",
    "pending_replies": "pending_replies delayed replies were waiting already",
    "send_full": "the system had no room to send now (EAGAIN, ENOBUFS)",
    "reply_too_large": "the reply does not fit one datagram (EMSGSIZE)",
    "send_failed": "the system refused to send: no route, not permitted, a broadcast address",
}
"""Why a datagram was not heard or not answered, by the name it is counted under."""

_LOW_PORTS_END = 1_024
"""Below are the small services; xinetd's bad_port_check and OpenBSD's inetd stop here too."""
_NFS_PORT = 2_049
"""The one service above that OpenBSD's inetd (dg_badinput) refuses as well."""
_FIRST_GROUP_BYTE = 224
"""From here on: groups, class E and 255.255.255.255 (RFC 1112 4); Linux delivers class E sources."""
_V4_PREFIX_BYTES = 3
_V6_PREFIX_BYTES = 7
"""/24 and /56, as response rate limiting in name servers counts (CoreDNS rrl, NSD)."""
_RETURN_SECONDS = 1.0
"""Within this a loop of two services has come round, on one link and on most others."""
_QUICK_SECONDS = 0.05
"""Within this it has come round between machines of one site; nobody repeats himself so often by hand."""
_QUICK_RETURNS = 8
"""Answered one after another; a burst, or a client that tries again, has fewer."""
_RETURNS = 512
"""Answered one after another at any pace: a minute of a heartbeat of eight a second."""
_RETURNS_KEPT = 1_024
"""Replies remembered to ports that are no client's."""
_SOURCES_KEPT = 4_096
"""Verdicts remembered; one takes about 0.2 KiB, and finding it anew 5 to 9 µs."""


@attrs.frozen(kw_only=True)
class Source:
    """What is known of a source address, whatever its port.

    Args:
        refusal: why nothing of it is heard, or None.
        own: an address of this machine.
        address: without its zone.
        prefix: the network it is counted under.
    """

    refusal: str | None
    loopback: bool
    own: bool
    address: IpAddress
    prefix: bytes


def judge_source(host: str, interfaces: Interfaces) -> Source:
    """Judge a source address as the kernel reports it."""
    address = parse_address(host)
    kept = _V4_PREFIX_BYTES if isinstance(address, IPv4Address) else _V6_PREFIX_BYTES
    return Source(
        refusal="bad_source" if _is_nobody(address, interfaces) else None,
        loopback=address.is_loopback,
        own=address in interfaces.own,
        address=address,
        prefix=address.packed[:kept],
    )


def _is_nobody(address: IPv4Address | IPv6Address, interfaces: Interfaces) -> bool:
    if isinstance(address, IPv6Address):
        return address.is_multicast or address.is_unspecified or address.ipv4_mapped is not None
    # 0 is `this network` (RFC 1122 3.2.1.3).
    return not 0 < address.packed[0] < _FIRST_GROUP_BYTE or address in interfaces.broadcasts


class Sources:
    """The verdicts on source addresses, remembered in a bounded table."""

    __slots__ = ("_interfaces", "known")

    def __init__(self, interfaces: Interfaces) -> None:
        self._interfaces = interfaces
        self.known: dict[str, Source] = {}
        """To be asked before `look_up`, which costs a call."""

    def __len__(self) -> int:
        return len(self.known)

    def look_up(self, host: str) -> Source:
        """Return the verdict on one address."""
        source = self.known.get(host)
        if source is None:
            # Emptied when full: evicting one by one from the front of a dict
            # scans what was deleted there before (quadratic under a flood).
            if len(self.known) >= _SOURCES_KEPT:
                self.known.clear()
            source = self.known[host] = judge_source(host, self._interfaces)
        return source


_MX = re.compile(rb"^MX:[ \t]*([0-9]{1,9})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_MX_HEAD_BYTES = 1_024
"""Where the field is looked for; a search request has a few short lines."""
_MOST_MX_SECONDS = 5
"""UPnP Device Architecture 2.0, 1.3.3: larger values are taken for 5."""


def read_mx(request: bytes) -> int | None:
    """Return within how many seconds a search request wants its answers; None, it wants none."""
    found = _MX.search(request[:_MX_HEAD_BYTES])
    seconds = int(found[1]) if found is not None else 0
    return min(seconds, _MOST_MX_SECONDS) or None


class ReplyBudget:
    """Token buckets: one per source prefix, and one for everybody.

    A bucket is one float (GCRA, ITU-T I.371): the time at which it will be
    full again. A full table forgets the one refilled longest ago.
    """

    __slots__ = (
        "_capacity",
        "_full_at",
        "_global_debt",
        "_global_full_at",
        "_global_step",
        "_prefix_debt",
        "_prefix_step",
    )

    def __init__(self, limits: DatagramLimits) -> None:
        self._full_at: OrderedDict[bytes, float] = OrderedDict()
        self._capacity = limits.prefixes
        self._prefix_step = 1 / limits.prefix_rate
        # Half a token less than the burst: rounding can't move the limit by one.
        self._prefix_debt = (limits.prefix_burst - 0.5) * self._prefix_step
        self._global_full_at = 0.0
        self._global_step = 1 / limits.global_rate
        self._global_debt = (limits.global_burst - 0.5) * self._global_step

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, prefix: bytes, now: float) -> str | None:
        """Take a token from both buckets, or from none and say which is empty."""
        full_at = max(self._full_at.get(prefix, now), now)
        if full_at - now > self._prefix_debt:
            return "prefix_rate"
        global_full_at = max(self._global_full_at, now)
        if global_full_at - now > self._global_debt:
            return "global_rate"
        self._global_full_at = global_full_at + self._global_step
        self._full_at[prefix] = full_at + self._prefix_step
        self._full_at.move_to_end(prefix)
        if len(self._full_at) > self._capacity:
            self._full_at.popitem(last=False)
        return None


class ServedPorts:
    """The ports that a process serves by UDP, with how many listeners each."""

    __slots__ = ("_counts", "_lock", "now")

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._lock = threading.Lock()
        self.now: set[int] = set()
        """The same set always; looking into it costs a tenth of a method."""

    def add(self, port: int) -> None:
        """Note one more listener on a port."""
        with self._lock:
            self._counts[port] += 1
            self.now.add(port)

    def remove(self, port: int) -> None:
        """Note one listener less; the port is forgotten with the last."""
        with self._lock:
            self._counts[port] -= 1
            if not self._counts[port]:
                del self._counts[port]
                self.now.discard(port)


SERVED_PORTS = ServedPorts()
"""Of this process, whichever service: two services in one process must not be
set on each other either. A fact about the process, and so the only state of a
module; the lock is for services in several threads."""


@attrs.frozen
class _Round:
    """A reply to a service's port, and how often its like has come back before."""

    sent: float
    returns: int
    quick: int
    """Of these, the last ones that came at the pace of machines."""


@attrs.define
class ReplyGuard:
    """Decide whether one reply may be sent.

    Args:
        limits: of the endpoint.
        allow_low_ports: answer source ports where services listen.
        served_ports: what this process serves by UDP; read anew each time.
        client_ports: what the system hands to clients (ephemeral ports).
    """

    limits: DatagramLimits
    allow_low_ports: bool
    served_ports: AbstractSet[int]
    client_ports: range
    budget: ReplyBudget = attrs.field(init=False)
    _sent: dict[tuple[str, int, int], _Round] = attrs.field(init=False, factory=dict)
    """Of each peer at a service's port: the replies sent there, by their hashes."""

    def __attrs_post_init__(self) -> None:
        self.budget = ReplyBudget(self.limits)

    def exempts(self, source: Source, port: int) -> bool:
        """Tell whether nothing but a served port can refuse a reply to this peer."""
        low = port < _LOW_PORTS_END or port == _NFS_PORT
        return source.loopback and port in self.client_ports and not low

    def comes_back(
        self, peer: tuple[str, int], request: bytes, reply: bytes | memoryview, now: float
    ) -> bool:
        """Tell whether replies go round with a service; else note this one.

        Two services that echo, on different ports: neither port tells, but each
        request is the very reply that was sent there a moment ago. So is that of
        a client that repeats itself, which is asked only at ports that the
        system gives to no client, and answered unless it goes on and on. One
        reply kept back ends a loop for good, and costs a client one.
        """
        if peer[1] in self.client_ports or self.allow_low_ports:
            return False
        returned = self._sent.pop((*peer, hash(request)), None)
        returns, quick = 0, 0
        if returned is not None and now - returned.sent <= _RETURN_SECONDS:
            returns = returned.returns + 1
            quick = returned.quick + 1 if now - returned.sent <= _QUICK_SECONDS else 0
        if quick > _QUICK_RETURNS or returns > _RETURNS:
            return True
        if len(self._sent) >= _RETURNS_KEPT:
            self._sent.clear()
        self._sent[*peer, hash(bytes(reply))] = _Round(now, returns, quick)
        return False

    def refuse(
        self, source: Source, port: int, request_bytes: int, reply_bytes: int, now: float
    ) -> str | None:
        """Return why this reply is not to be sent, or None and count it."""
        if port < _LOW_PORTS_END or port == _NFS_PORT:
            if port == 0:
                return "port_0"
            if not self.allow_low_ports:
                return "low_port"
        if port in self.served_ports:
            return "served_port"
        if source.loopback:
            if port in self.client_ports:
                return None
        elif reply_bytes > self.limits.amplification * request_bytes:
            return "amplification"
        return self.budget.take(source.prefix, now)
