"""Sum up round trip times in a bounded space: mean, spread, jitter, percentiles.

Mean and deviation by Welford's method; percentiles from a histogram whose
buckets grow by 1 %, so that is how exact they are.
"""

from __future__ import annotations

import math
from collections import Counter

_GROWTH = math.log(1.01)
_SHORTEST = 1e-9
"""Seconds; shorter ones fall into one bucket. A day is 3,200 buckets further."""


class RoundTrips:
    """Round trip times of one peer, in seconds."""

    __slots__ = ("_buckets", "_squares", "count", "highest", "jitter", "last", "lowest", "mean")

    def __init__(self) -> None:
        self.count = 0
        self.lowest = math.inf
        self.highest = self.mean = self.last = 0.0
        self.jitter = 0.0
        """Smoothed difference of one to the next (RFC 3550 6.4.1, with round trips as its transit times)."""
        self._squares = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Take one time."""
        if self.count:
            self.jitter += (abs(seconds - self.last) - self.jitter) / 16
        self.count += 1
        self.last = seconds
        self.lowest, self.highest = min(self.lowest, seconds), max(self.highest, seconds)
        distance = seconds - self.mean
        self.mean += distance / self.count
        self._squares += distance * (seconds - self.mean)
        self._buckets[int(math.log(max(seconds, _SHORTEST) / _SHORTEST) / _GROWTH)] += 1

    @property
    def deviation(self) -> float:
        """The standard deviation, of all of them."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """Return the time that so many per cent do not exceed; 0 when there is none."""
        left = math.ceil(self.count * percent / 100)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                middle = _SHORTEST * math.exp((bucket + 0.5) * _GROWTH)
                return min(max(middle, self.lowest), self.highest)
        return self.highest
