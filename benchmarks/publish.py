"""The files of the documentation that a run writes: tables, chart, raw turns.

Runs in the main thread of the benchmark program; owns nothing.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import chart, raw, report, summary
from benchmarks.results import Results

#: Their names; the pages include the first one part by part.
TABLES, TURNS, CHART = "performance-results.txt", "performance-results.json", "performance.svg"


def publish(results: Results, folder: Path, machine: dict[str, str], rounds: int, seconds: int) -> None:
    """Write all of them into a folder."""
    parts = summary.as_rst(results, machine, rounds, seconds)
    parts["all-works"] = report.as_rst(results, machine, rounds, seconds)
    texts = [f".. part: {name}\n\n{text}\n\n" for name, text in parts.items()]
    (folder / TABLES).write_text(
        "".join(["..\n   Written by python -m benchmarks; do not edit.\n\n", *texts, ".. part: end\n"])
    )
    (folder / TURNS).write_text(raw.as_json(results, machine, rounds, seconds))
    chart.draw(results, folder / CHART)
