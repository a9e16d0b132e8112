"""Find what is lost, repeated or late among numbered messages.

One sliding window of 64 numbers per (sender, session), sans I/O; numbers wrap
(RFC 1982). What a window can say:

* a number ahead of all others leaves a gap: the numbers in it are lost, until
  one of them comes after all, which makes it late;
* a number of the window that was seen is repeated;
* a number far away, before or behind, is strange, and changes nothing: it may
  be forged. The next one after it tells that the sender began anew (RFC 3550
  A.1): that is a reset.

A sender that begins anew within 64 numbers, and does not tell by another
session, looks repeated.

Not here: where number and session stand in a payload, but for one that begins
with its number.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Literal

import attrs

Verdict = Literal["first", "next", "gap", "late", "repeated", "strange", "reset"]
"""What a number says; `gap` and `reset` are new ones too."""

WINDOW = 64
"""Numbers behind the newest that are told apart, as IPsec's replay window (RFC 4303 3.4.3)."""
_FULL = (1 << WINDOW) - 1
MOST_LOST = 1 << 20
"""Largest gap that one number opens; RFC 3550's 3,000 is a tenth of a second for a fast sender."""
WIDTHS = (16, 32, 64)
"""Bits of a number."""


@attrs.frozen(kw_only=True)
class SequenceStatistics:
    """A snapshot of what a tracker has found."""

    senders: int
    """Pairs of sender and session remembered now."""
    forgotten: int
    """Pairs that gave way to newer ones; what they lost stays counted."""
    received: int
    """New numbers, late ones among them."""
    lost: int
    """Numbers that have not come; a late one takes itself back (RFC 3550 6.4.1)."""
    repeated: int
    late: int
    resets: int
    strange: int
    unnumbered: int
    """Payloads too short to begin with a number."""


class SequenceWindow:
    """The numbers of one sender.

    Args:
        number: its first one.
        bits: of a number.
    """

    __slots__ = ("_base", "_highest", "_lost_before", "_mask", "_modulus", "_since", "_suspect", "received")

    def __init__(self, number: int, *, bits: int = 32) -> None:
        self._modulus = 1 << bits
        self._lost_before = 0
        self.received = 0
        """New numbers, late ones among them."""
        self._begin(number)

    def _begin(self, number: int) -> None:
        """Forget the window; a number is the first of another."""
        self._highest = self._base = number
        """Both go on beyond the modulus, so that their distance is what was sent."""
        self._mask = 1
        self._since = 1
        self._suspect: int | None = None
        self.received += 1

    @property
    def lost(self) -> int:
        """Numbers that have not come."""
        return self._lost_before + self._highest - self._base + 1 - self._since

    def note(self, number: int) -> Verdict:
        """Say what the next number that came means."""
        half = self._modulus >> 1
        step = (number - self._highest + half) % self._modulus - half
        if 0 < step <= min(MOST_LOST, self._modulus >> 4):
            self._mask = (self._mask << step | 1) & _FULL if step < WINDOW else 1
            self._highest += step
            self._accept()
            return "next" if step == 1 else "gap"
        if -WINDOW < step <= 0:
            if self._mask >> -step & 1:
                return "repeated"
            self._mask |= 1 << -step
            self._base = min(self._base, self._highest + step)
            self._accept()
            return "late"
        if number != self._suspect:
            self._suspect = (number + 1) % self._modulus
            return "strange"
        self._lost_before = self.lost
        self._begin(number - 1)  # the strange one before it was the first
        self.note(number)
        return "reset"

    def _accept(self) -> None:
        self._since += 1
        self._suspect = None
        self.received += 1


class SequenceTracker:
    """Count lost, repeated and late messages of many senders.

    Args:
        bits: of a number: 16, 32 or 64.
        senders: pairs of sender and session remembered; of a full table the
            one that was silent for longest gives way.

    Raises:
        ValueError: with the value and what is allowed.
    """

    __slots__ = (
        "_bits",
        "_counts",
        "_forgotten",
        "_lost",
        "_received",
        "_senders",
        "_unnumbered",
        "_windows",
    )

    def __init__(self, *, bits: int = 32, senders: int = 1_024) -> None:
        if bits not in WIDTHS:
            raise ValueError(f"bits={bits}: one of {', '.join(map(str, WIDTHS))}")
        if senders < 1:
            raise ValueError(f"senders={senders}: 1 or more")
        self._bits = bits
        self._senders = senders
        self._windows: OrderedDict[tuple[Hashable, Hashable], SequenceWindow] = OrderedDict()
        self._counts: dict[Verdict, int] = {"repeated": 0, "late": 0, "strange": 0, "reset": 0}
        self._forgotten = self._lost = self._received = self._unnumbered = 0

    def note(self, sender: Hashable, session: Hashable, number: int) -> Verdict:
        """Take the number of one message; say what it means.

        Args:
            sender: whose it is, for example `message.peer.address`.
            session: what the sender chose when it began; None where it tells none.
            number: from 0 to less than 2 to the power of `bits`.

        Raises:
            ValueError: the number is out of range.
        """
        if not 0 <= number < 1 << self._bits:
            raise ValueError(f"number={number} is outside 0 to {(1 << self._bits) - 1}")
        key = (sender, session)
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= self._senders:
                self._windows.popitem(last=False)
                self._forgotten += 1
            self._windows[key] = SequenceWindow(number, bits=self._bits)
            self._received += 1
            return "first"
        self._windows.move_to_end(key)
        lost, received = window.lost, window.received
        verdict = window.note(number)
        self._lost += window.lost - lost
        self._received += window.received - received
        if verdict in self._counts:
            self._counts[verdict] += 1
        if verdict == "reset":
            self._counts["strange"] -= 1  # the one before it was the first of the new numbers
        return verdict

    def note_payload(self, sender: Hashable, payload: bytes) -> Verdict | None:
        """Take a payload that begins with its number, big-endian; None when it is too short."""
        size = self._bits // 8
        if len(payload) < size:
            self._unnumbered += 1
            return None
        return self.note(sender, None, int.from_bytes(payload[:size], "big"))

    def statistics(self) -> SequenceStatistics:
        """Return the counters as they are now."""
        return SequenceStatistics(
            senders=len(self._windows),
            forgotten=self._forgotten,
            received=self._received,
            lost=self._lost,
            repeated=self._counts["repeated"],
            late=self._counts["late"],
            resets=self._counts["reset"],
            strange=self._counts["strange"],
            unnumbered=self._unnumbered,
        )
