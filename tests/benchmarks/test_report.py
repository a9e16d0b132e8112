"""Hold medians, ratios, tables and charts to their inputs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from benchmarks.results import CPU, P50, P99, P999, RATE, Result, Sample, Spread

METRICS = (RATE, CPU, P50, P99, P999)


def sample(peer: str, turn: int, rate: float, cpu: float | None = 2.0) -> Sample:
    """Make a sample with a rate and, unless None, a CPU price."""
    figures = {"messages_per_second": rate, "p50_us": 1.0, "p99_us": 5.0, "p999_us": 9.0}
    if cpu is not None:
        figures["cpu_us_per_message"] = cpu
    return Sample(peer=peer, round=turn, figures=figures)


def result(*samples: Sample, skipped: dict[str, str] | None = None) -> Result:
    """Make a result whose baseline is `c`."""
    return Result(
        suite="tcp", case="test", baseline="c", metrics=METRICS, samples=samples, skipped=skipped or {}
    )


def test_a_spread_is_median_least_and_greatest() -> None:
    """Of an even number of figures the median lies between the middle two."""
    assert Spread.of([4, 1, 3, 2]) == Spread(median=2.5, low=1, high=4)


def test_a_ratio_compares_within_rounds() -> None:
    """A machine that halves its speed between rounds moves no ratio."""
    both = result(
        sample("c", 0, 100), sample("o", 0, 90), sample("c", 1, 50), sample("o", 1, 45), sample("c", 2, 10)
    )
    assert both.ratio("o", "c", RATE) == pytest.approx(0.9)


def test_a_figure_that_is_missing_gives_no_ratio_and_no_spread() -> None:
    """Where the system tells no CPU time nothing is guessed."""
    without = result(sample("c", 0, 100, cpu=None))
    assert without.spread("c", CPU) is None
    assert without.ratio("c", "c", CPU) is None
    assert without.ratio("c", "nobody", RATE) is None


def test_a_table_has_each_ratio_in_its_place() -> None:
    """Rows tell the ratio to the baseline, the CPU's, and oread's to each."""
    report = pytest.importorskip("benchmarks.report", exc_type=ImportError)
    headings, rows = report.rows_of(result(sample("oread", 0, 180, cpu=3.0), sample("c", 0, 200)))
    assert headings[-3:] == ["x c", "CPU x c", "oread x this"]
    assert rows[0][:3] == ["oread", "180", "180-180"]
    assert [row[-3:] for row in rows] == [["0.90", "1.50", "1.00"], ["1.00", "1.00", "0.90"]]


def test_plain_text_is_aligned_and_never_cut() -> None:
    """Columns are as wide as their widest cell, figures stand right."""
    report = pytest.importorskip("benchmarks.report", exc_type=ImportError)
    assert report.plain(["server", "n"], [["a", "1"], ["long name", "1,000"]]) == (
        "server         n\na              1\nlong name  1,000"
    )


def test_json_holds_medians_samples_and_reasons() -> None:
    """What the table shows can be recomputed from the JSON beside it."""
    report = pytest.importorskip("benchmarks.report", exc_type=ImportError)
    one = result(sample("c", 0, 100), sample("c", 1, 300), skipped={"go": "go is not installed"})
    document = msgspec.json.decode(report.as_json({"cpu": "x"}, "command", [one]))
    told = document["results"][0]
    assert document["machine"] == {"cpu": "x"}
    assert told["peers"]["c"]["messages_per_second"] == {"median": 200.0, "low": 100.0, "high": 300.0}
    assert told["skipped"] == {"go": "go is not installed"}
    assert [one["figures"]["messages_per_second"] for one in told["samples"]] == [100, 300]


def test_the_same_results_give_the_same_chart(tmp_path: Path) -> None:
    """The SVG has no date and no random ids."""
    plot = pytest.importorskip("benchmarks.plot", exc_type=ImportError)
    results = [result(sample("oread", 0, 180), sample("c", 0, 200)), result()]
    for name in ("first.svg", "second.svg"):
        plot.write_plot(tmp_path / name, results, "caption")
    first = (tmp_path / "first.svg").read_bytes()
    assert first == (tmp_path / "second.svg").read_bytes()
    assert b"<dc:date>" not in first
