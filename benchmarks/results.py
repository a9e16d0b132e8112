"""Hold samples and make medians, spreads and ratios of them.

Ratios are medians over rounds of one round's quotient: the machine's speed
drifts by a factor of two, and drifts alike for servers measured side by side.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import attrs


@attrs.frozen(kw_only=True)
class Metric:
    """Name a figure: its key in a sample, its heading, its decimals."""

    key: str
    title: str
    decimals: int = 0


RATE = Metric(key="messages_per_second", title="messages/s")
MEGABYTES = Metric(key="megabytes_per_second", title="MB/s", decimals=1)
CPU = Metric(key="cpu_us_per_message", title="CPU us/msg", decimals=2)
P50 = Metric(key="p50_us", title="p50 us")
P99 = Metric(key="p99_us", title="p99 us")
P999 = Metric(key="p999_us", title="p99.9 us")
LOST = Metric(key="lost", title="lost")
IDLE_BYTES = Metric(key="bytes_per_connection", title="bytes/connection")
HELD = Metric(key="connections", title="held")
LATE_P50 = Metric(key="late_p50_ms", title="late p50 ms", decimals=2)
LATE_P99 = Metric(key="late_p99_ms", title="late p99 ms", decimals=2)
START_MS = Metric(key="start_ms", title="ms to answer")
START_CPU_MS = Metric(key="start_cpu_ms", title="CPU ms")

ECHO_METRICS = (RATE, MEGABYTES, CPU, P50, P99, P999)
UDP_METRICS = (*ECHO_METRICS, LOST)
IDLE_METRICS = (IDLE_BYTES, HELD)
TICK_METRICS = (LATE_P99, LATE_P50, RATE, CPU)
START_METRICS = (START_MS, START_CPU_MS)


@attrs.frozen(kw_only=True)
class Sample:
    """Hold one measurement: which server, which round, which figures."""

    peer: str
    round: int
    figures: dict[str, float]


@attrs.frozen(kw_only=True)
class Spread:
    """Hold the median, least and greatest of some figures."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread:
        """Summarise at least one figure."""
        ordered = sorted(figures)
        return cls(median=statistics.median(ordered), low=ordered[0], high=ordered[-1])


@attrs.frozen(kw_only=True)
class Result:
    """Hold everything measured in one case.

    `metrics[0]` is the figure whose ratios are told.
    """

    suite: str
    case: str
    baseline: str
    metrics: tuple[Metric, ...]
    samples: tuple[Sample, ...]
    skipped: dict[str, str]

    def peers(self) -> list[str]:
        """Return the names of the peers measured, in their first order."""
        return list(dict.fromkeys(sample.peer for sample in self.samples))

    def spread(self, peer: str, metric: Metric) -> Spread | None:
        """Summarise one peer's figure, or None if it was not to be had."""
        figures = [
            sample.figures[metric.key]
            for sample in self.samples
            if sample.peer == peer and metric.key in sample.figures
        ]
        return Spread.of(figures) if figures else None

    def ratio(self, peer: str, other: str, metric: Metric) -> float | None:
        """Return the median quotient of two peers over the rounds of both."""
        mine, theirs = self._by_round(peer, metric), self._by_round(other, metric)
        quotients = [mine[turn] / theirs[turn] for turn in mine if theirs.get(turn)]
        return statistics.median(quotients) if quotients else None

    def _by_round(self, peer: str, metric: Metric) -> dict[int, float]:
        return {
            sample.round: sample.figures[metric.key]
            for sample in self.samples
            if sample.peer == peer and metric.key in sample.figures
        }
