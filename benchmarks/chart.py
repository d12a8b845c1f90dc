"""The results as bars, in a PNG file.

Runs in the main thread of the benchmark program; owns nothing. The only module that needs matplotlib.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from benchmarks.peers import PRODUCT
from benchmarks.results import Results, number
from benchmarks.work import Metric, Work

COLUMNS = 3
_OWN, _OTHER = "#0b6e4f", "#b9c2c9"


def draw(results: Results, path: Path) -> None:
    """Draw a field of bars for the first figure of each work that has been done with more than one server."""
    fields = [
        (work, work.metrics[0])
        for work in results.plan.works
        if sum(results.figure(work, peer.name, work.metrics[0].name) is not None for peer in results.plan.peers(work))
        > 1
    ]
    if not fields:
        return
    rows = -(-len(fields) // COLUMNS)
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=(6 * COLUMNS, 2.6 * rows), squeeze=False)
    for place in axes.flat:
        place.set_axis_off()
    for place, (work, metric) in zip(axes.flat, fields, strict=False):
        _draw_field(place, results, work, metric)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _draw_field(place: pyplot.Axes, results: Results, work: Work, metric: Metric) -> None:
    measured = []
    for peer in results.plan.peers(work):
        value = results.figure(work, peer.name, metric.name)
        if value is not None:
            measured.append((peer, value))
    measured.reverse()  # the first one is to be at the top
    place.set_axis_on()
    bars = place.barh(
        [peer.title.replace("Channels 4 ", "") for peer, _ in measured],
        [value for _, value in measured],
        color=[_OWN if peer.name.startswith(PRODUCT) else _OTHER for peer, _ in measured],
    )
    place.bar_label(bars, [number(value) for _, value in measured], padding=3, fontsize=8)
    better = "more" if metric.more_is_better else "less"
    place.set_title(textwrap.fill(work.title, 45), fontsize=9, loc="left")
    place.set_xlabel(f"{metric.title + ', ' if metric.title else ''}{metric.unit}; {better} is better", fontsize=8)
    place.margins(x=0.15)
    place.locator_params(axis="x", nbins=6)
    place.tick_params(labelsize=8)
    for side in ("top", "right"):
        place.spines[side].set_visible(False)
