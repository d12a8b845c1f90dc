"""The results as text: a table for each work, then all goals; for a terminal or as reStructuredText.

Runs in the main thread of the benchmark program; owns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.results import STOLEN, TOO_BUSY, TOO_IDLE, Results, number
from benchmarks.work import Metric, Work

#: The marks of figures.
NOTES = (
    f"(!) load generator above {TOO_BUSY:.0%} CPU: the server may be faster than this",
    f"(?) server below {TOO_IDLE:.0%} CPU: it waited, or something else used its core",
)

#: A table's head and its rows.
Table = tuple[Sequence[str], list[Sequence[str]]]


def figures(results: Results, work: Work) -> Table:
    """Return the figures of each peer, and those of the subject as multiples of them."""
    peers = results.plan.peers(work)
    rows: list[Sequence[str]] = []
    for metric in work.metrics:
        for peer in peers:
            figure = results.figure(work, peer.name, metric.name)
            if figure is None:
                value = "failed" if (work.name, peer.name) in results.failures else "not measured"
            else:
                value = number(figure) + results.mark(work, peer.name)
            multiple = results.ratio(work, metric.name, peer.name)
            ratio = f"{number(multiple)} ×" if multiple is not None and peer.name != work.subject else ""
            busy = results.busy(work, peer.name)
            rows.append((_caption(metric), peer.title, value, ratio, f"{busy[0]:.0%}, {busy[1]:.0%}" if busy else ""))
    return (("figure", "server", "median", "first ÷ this", "CPU: server, load"), rows)


def goals(results: Results) -> Table:
    """Return all goals of all works."""
    rows: list[Sequence[str]] = []
    for work in results.plan.works:
        for verdict in results.verdicts(work):
            what = work.title + (f": {verdict.metric.title}" if verdict.metric.title else "")
            figure, outcome = "", "not measured"
            if verdict.figure is not None:
                figure, outcome = verdict.write(verdict.figure), "reached" if verdict.reached else "MISSED"
            rows.append((what, verdict.measure, figure, verdict.wanted, outcome))
    return (("work", "compared with", "channelserver", "goal", ""), rows)


def as_text(results: Results, machine: dict[str, str], rounds: int, seconds: int) -> str:
    """Return everything for a terminal."""
    lines = [f"{what}: {value}" for what, value in machine.items()]
    lines += _method(results, rounds, seconds)
    for work in results.plan.works:
        lines += ["", f"{work.name}: {work.title}", *(f"  {line}" for line in _columns(figures(results, work)))]
    lines += ["", *NOTES]
    table = goals(results)
    if table[1]:
        lines += ["", "goals", *(f"  {line}" for line in _columns(table))]
    for (work_name, peer), what in results.failures.items():
        lines += ["", f"{work_name} failed with {peer}: {what}"]
    return "\n".join(lines)


def as_rst(results: Results, machine: dict[str, str], rounds: int, seconds: int) -> str:
    """Return everything as reStructuredText, to be included in a page."""
    lines = [f"* {line}" for line in _method(results, rounds, seconds)]
    lines += [f"* {what}: {value}" for what, value in machine.items()]
    table = goals(results)
    if table[1]:
        lines += ["", "Goals:", "", *list_table(table)]
    for work in results.plan.works:
        lines += ["", f"``{work.name}``: {work.title}", "", *list_table(figures(results, work))]
    return "\n".join([*lines, "", *(f"| {note}" for note in NOTES)]) + "\n"


def _method(results: Results, rounds: int, seconds: int) -> Iterator[str]:
    yield f"medians of {counted(rounds)}, {seconds} s a turn; ratios: medians of the ratios of neighbouring turns"
    if results.repeated or results.set_aside:
        yield f"turns with more than {STOLEN:.0%} CPU steal: {results.repeated} repeated, {results.set_aside} left out"


def counted(rounds: int) -> str:
    """Return the number of rounds as text."""
    return f"{rounds} round{'s' * (rounds > 1)}"


def _caption(metric: Metric) -> str:
    return f"{metric.title}, {metric.unit}" if metric.title else metric.unit


def _columns(table: Table) -> Iterator[str]:
    head, rows = table
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    before = None
    for row in (head, *rows):
        first = row[0] if row[0] != before else ""
        before = row[0]
        yield "  ".join(cell.ljust(width) for cell, width in zip((first, *row[1:]), widths, strict=True)).rstrip()


def list_table(table: Table) -> Iterator[str]:
    """Return a table as reStructuredText, line by line."""
    head, rows = table
    yield ".. list-table::"
    yield "   :header-rows: 1"
    yield ""
    for row in (head, *rows):
        for column, cell in enumerate(row):
            yield f"   {'*' if column == 0 else ' '} - {cell}".rstrip()
