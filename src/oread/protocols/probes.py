"""Probe a group or a peer: what is sent, and what its echoes tell. Sans I/O.

As RFC 6450 and omping: numbered probes by multicast and by unicast, a tally
of each for every responder. A responder need not know of it: it echoes. What
comes back counts if it has the session's 64 random bits, so nobody who does
not hear the probes can make up an answer.

A probe is `!8sQIBBQ`: `oreadpng`, session, number, kind, hops, time of sending
in ns; then zeros up to its size.

Not here: clocks, sockets and when to send (`oread.client.ping`).
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import Literal

import attrs

from oread.messages import Address
from oread.protocols.round_trips import RoundTrips
from oread.protocols.sequence import SequenceWindow, Verdict

Kind = Literal["unicast", "multicast", "broadcast"]

_HEAD = struct.Struct("!8sQIBBQ")
_MAGIC = b"oreadpng"
_KINDS: tuple[Kind, ...] = ("unicast", "multicast", "broadcast")
LEAST_BYTES = _HEAD.size
_NOTHING = bytes(LEAST_BYTES)
MOST_RESPONDERS = 1_024
"""Responders remembered; answers of further ones are counted and dropped."""
_FIRST_HOPS = (1, 64, 128, 255)
"""Hop counts that systems send with: groups' default, Linux and macOS, Windows, routers."""
_CLOCKS_DIFFER_NS = 1_000_000_000
"""How far ahead a probe may be of the time of its answer, which the kernel may have told."""
_NEW: tuple[Verdict, ...] = ("first", "next", "gap", "late")


@attrs.define(eq=False)
class Tally:
    """What one responder did with the probes of one kind."""

    first: int
    """The number of the first probe that it answered."""
    since: int = 1
    """The number of the first probe that was sent to it."""
    received: int = 0
    """Probes answered, each counted once."""
    duplicates: int = 0
    reordered: int = 0
    ttl: int | None = None
    """Of the last answer, as it arrived."""
    round_trips: RoundTrips = attrs.field(factory=RoundTrips)
    _window: SequenceWindow | None = None

    def note(self, number: int) -> Verdict:
        """Say what the number of an answer means, and count it."""
        if self._window is None:
            self._window = SequenceWindow(number)
            verdict: Verdict = "first"
        else:
            verdict = self._window.note(number)
        if verdict in _NEW:
            self.received += 1
            self.first = min(self.first, number)
        self.duplicates += verdict == "repeated"
        self.reordered += verdict == "late"
        return verdict

    @property
    def hops(self) -> int | None:
        """Links that its answers crossed, from the usual hop counts at the start; None is not known."""
        ttl = self.ttl
        return None if ttl is None else next((first - ttl for first in _FIRST_HOPS if ttl <= first), None)


@attrs.frozen(kw_only=True)
class Answer:
    """One answer to a probe."""

    responder: Address
    kind: Kind
    number: int
    seconds: float
    """Of the round trip."""
    size: int
    hops: int | None
    verdict: Verdict


class ProbeSession:
    """The probes that were sent, and the responders that answered.

    Args:
        session: 64 random bits.
        size: of a probe, in bytes.
        hops: that multicast probes may cross; told in the probe.
        responders: remembered at most.
    """

    def __init__(
        self, session: int, *, size: int = 64, hops: int = 1, responders: int = MOST_RESPONDERS
    ) -> None:
        self._session = session
        self._size = size
        self._hops = hops
        self._responders = responders
        self.sent: dict[Kind, int] = dict.fromkeys(_KINDS, 0)
        """Probes by kind; one unicast probe counts once, though it goes to every responder."""
        self.tallies: dict[Address, dict[Kind, Tally]] = {}
        self.refused: Counter[str] = Counter()

    def next_number(self, kind: Kind) -> int:
        """Begin the next probe of a kind."""
        self.sent[kind] += 1
        return self.sent[kind]

    def encode(self, kind: Kind, number: int, now_ns: int) -> bytes:
        """Write a probe as it is to be sent now."""
        head = _HEAD.pack(_MAGIC, self._session, number, _KINDS.index(kind), self._hops, now_ns)
        return head.ljust(self._size, b"\0")

    def receive(self, data: bytes, sender: Address, ttl: int | None, now_ns: int) -> Answer | None:
        """Take what came back; None for what is no answer, which is counted."""
        magic, session, number, code, _hops, sent_ns = _HEAD.unpack_from(
            data if len(data) >= LEAST_BYTES else _NOTHING
        )
        ours = magic == _MAGIC and session == self._session and code < len(_KINDS)
        if not ours or not 1 <= number <= self.sent[_KINDS[code]] or sent_ns > now_ns + _CLOCKS_DIFFER_NS:
            self.refused["foreign"] += 1
            return None
        kind = _KINDS[code]
        tally = self._find(sender, kind, number)
        if tally is None:
            self.refused["responders"] += 1
            return None
        verdict = tally.note(number)
        if verdict in ("strange", "reset"):
            self.refused["too_late"] += 1
            return None
        seconds = max(0, now_ns - sent_ns) / 1e9
        if verdict in _NEW:
            tally.round_trips.add(seconds)
            tally.ttl = ttl
        return Answer(
            responder=sender,
            kind=kind,
            number=number,
            seconds=seconds,
            size=len(data),
            hops=tally.hops,
            verdict=verdict,
        )

    def _find(self, sender: Address, kind: Kind, number: int) -> Tally | None:
        """Return the tally of a responder, made when it is new; None when there is no room."""
        tallies = self.tallies.get(sender)
        if tallies is None:
            if len(self.tallies) >= self._responders:
                return None
            tallies = self.tallies[sender] = {}
            if kind != "unicast":
                # From now on it is probed by unicast too.
                tallies["unicast"] = Tally(first=0, since=self.sent["unicast"] + 1)
        tally = tallies.get(kind)
        if tally is None:
            tally = tallies[kind] = Tally(first=number)
        if not tally.received:
            tally.first = number
        return tally

    def sent_to(self, kind: Kind, tally: Tally) -> int:
        """Return how many probes of a kind were sent to a responder."""
        return self.sent[kind] - tally.since + 1

    def loss(self, kind: Kind, tally: Tally) -> float:
        """Return the part of the probes that was not answered, 0 to 1."""
        sent = self.sent_to(kind, tally)
        return 1 - tally.received / sent if sent else 0.0

    def loss_since_first(self, kind: Kind, tally: Tally) -> float:
        """Return the same from its first answer on: without the time that joining took."""
        sent = self.sent[kind] - tally.first + 1
        return 1 - tally.received / sent if tally.received and sent else 0.0
