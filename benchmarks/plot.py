"""Plot results as a reproducible SVG: bars with spread, and latencies.

The same results give the same bytes: ids are salted with a constant and no
date is written.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.results import P50, P99, P999, Result, Spread

OURS_COLOUR, PEER_COLOUR = "#c4572a", "#7d93a8"
BAR_INCHES, HEAD_INCHES, WIDTH_INCHES = 0.28, 1.1, 11.0
CAPTION_CHARACTERS = 170
"""As many as fit into one line at this width and size."""
mpl.rcParams["svg.hashsalt"] = "oread"


def write_plot(path: Path, results: list[Result], caption: str) -> None:
    """Write one row of charts for each case that measured anything."""
    shown = [result for result in results if result.samples]
    if not shown:
        return
    heights = [HEAD_INCHES + BAR_INCHES * len(result.peers()) for result in shown]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + 0.4), layout="constrained")
    grid = figure.subplots(len(shown), 2, squeeze=False, height_ratios=heights)
    for (bars, latencies), result in zip(grid, shown, strict=True):
        _draw_bars(bars, result)
        if P50 in result.metrics:
            _draw_latencies(latencies, result)
        else:
            latencies.set_axis_off()
    figure.supxlabel(textwrap.fill(caption, CAPTION_CHARACTERS), fontsize=7)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_bars(axes: Axes, result: Result) -> None:
    metric = result.metrics[0]
    spreads = {peer: result.spread(peer, metric) for peer in result.peers()}
    known = {peer: spread for peer, spread in spreads.items() if spread is not None}
    medians = [spread.median for spread in known.values()]
    below = [spread.median - spread.low for spread in known.values()]
    above = [spread.high - spread.median for spread in known.values()]
    colours = [_colour(peer) for peer in known]
    axes.barh(list(known), medians, xerr=[below, above], color=colours, ecolor="#333333", capsize=2)
    axes.invert_yaxis()
    axes.set_title(f"{result.suite}: {result.case}", fontsize=9, loc="left")
    axes.set_xlabel(f"{metric.title}, median with min and max", fontsize=8)
    axes.tick_params(labelsize=8)


def _draw_latencies(axes: Axes, result: Result) -> None:
    for peer in result.peers():
        spreads: list[Spread | None] = [result.spread(peer, metric) for metric in (P50, P99, P999)]
        values = [spread.median for spread in spreads if spread is not None]
        axes.plot(values, [peer] * len(values), "-", color=_colour(peer), linewidth=1)
        for marker, value in zip("o|x", values, strict=False):
            axes.plot([value], [peer], marker, color=_colour(peer), markersize=6)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("latency in us: o median, | p99, x p99.9", fontsize=8)
    axes.tick_params(labelsize=8)


def _colour(peer: str) -> str:
    return OURS_COLOUR if peer.startswith("oread") else PEER_COLOUR
