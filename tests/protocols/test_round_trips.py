"""Round trip times summed up: against the plain formulas."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.protocols.round_trips import RoundTrips

TIMES = st.lists(st.floats(1e-6, 100.0), min_size=1, max_size=200)


def sum_up(times: list[float]) -> RoundTrips:
    found = RoundTrips()
    for seconds in times:
        found.add(seconds)
    return found


@given(times=TIMES)
def test_the_sums_are_those_of_the_formulas(times: list[float]) -> None:
    """Count, bounds, mean and deviation agree with the statistics module."""
    found = sum_up(times)
    assert (found.count, found.lowest, found.highest) == (len(times), min(times), max(times))
    assert found.mean == pytest.approx(statistics.fmean(times))
    assert found.deviation == pytest.approx(statistics.pstdev(times), rel=1e-6, abs=1e-7)


@given(times=TIMES, percent=st.sampled_from([1, 50, 90, 99, 100]))
def test_percentiles_are_exact_to_a_bucket(times: list[float], percent: int) -> None:
    """The nearest-rank percentile is met within 1 per cent."""
    rank = -(-len(times) * percent // 100)
    assert sum_up(times).percentile(percent) == pytest.approx(sorted(times)[rank - 1], rel=0.011)


def test_jitter_is_smoothed_by_a_sixteenth() -> None:
    """RFC 3550 6.4.1: each difference moves the estimate by a sixteenth of what it is off."""
    found = sum_up([1.0, 2.0, 2.0])
    assert found.jitter == pytest.approx((1 / 16) * (15 / 16))


def test_nothing_is_zero() -> None:
    """Without times there is nothing to divide by."""
    found = RoundTrips()
    assert (found.deviation, found.percentile(50), found.jitter) == (0.0, 0.0, 0.0)


def test_memory_is_bounded_by_the_spread() -> None:
    """A million different times of a narrow range take a few buckets."""
    found = sum_up([0.001 + number * 1e-9 for number in range(100_000)])
    assert len(found._buckets) < 20
