"""The results on one screen: what a user gets out of the box, then the servers like for like; as reStructuredText.

Runs in the main thread of the benchmark program; owns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.columns import COLUMNS, FAMILIES, compared, ratios
from benchmarks.peers import PEERS, PRODUCT, UNALTERED, Peer
from benchmarks.plan import WORKS
from benchmarks.report import NOTES, Table, counted, list_table
from benchmarks.results import Results, number
from benchmarks.work import Metric, Work

#: The figures of the first table and the chart: work, metric, and what it is.
HEADLINES = (
    ("http-plain", "rate", "requests/s, no middleware"),
    ("http-default", "rate", "requests/s, Django's default middleware"),
    ("async-default", "rate", "requests/s, async view, Django's default middleware"),
    ("echo-50", "rate", "WebSocket messages/s, echoed by a consumer"),
    ("fan-out-500", "rate", "deliveries/s to a group of 500 sockets"),
    ("memory", "each", "memory of an idle WebSocket, KiB"),
    ("events-2000", "each", "memory of an event stream, KiB"),
    ("start", "time", "start to first answer, ms"),
    ("weight", "rss", "memory of an idle site, MiB"),
)
#: The works of the sentence about small requests.
_SMALL = ("http-plain", "http-default")
_NONE = "n/a"


def headlines(results: Results) -> Iterator[tuple[Work, Metric, str]]:
    """Return the figures of the first table that were measured."""
    for name, key, title in HEADLINES:
        work = WORKS[name]
        metric = next(metric for metric in work.metrics if metric.name == key)
        if work in results.plan.works and results.figure(work, PRODUCT, key) is not None:
            yield work, metric, title


def out_of_the_box(results: Results) -> Table:
    """Return the first table: for each figure, the servers as they are installed."""
    families = (PRODUCT, *reversed(FAMILIES))
    rows: list[Sequence[str]] = []
    for work, metric, title in headlines(results):
        row = [title]
        for family in families:
            peer = _best(results, work, metric, family)
            figure = results.figure(work, peer.name, metric.name) if peer else None
            if peer is None or figure is None:
                row.append(_NONE)
                continue
            ratio = results.ratio(work, metric.name, peer.name) if family != PRODUCT else None
            value = number(figure) + results.mark(work, peer.name)
            row.append(value + (f" ({number(ratio)} ×)" if ratio is not None else ""))
        rows.append(row)
    return (("", *(PEERS[family].title for family in families)), rows)


def _best(results: Results, work: Work, metric: Metric, family: str) -> Peer | None:
    """Return the variant of a server with the best figure, out of the box."""
    if family == PRODUCT:
        return PEERS[PRODUCT]
    figures = {
        figure: peer
        for peer in results.plan.peers(work)
        if peer.family == family
        and not peer.shortcuts
        and (figure := results.figure(work, peer.name, metric.name)) is not None
    }
    if not figures:
        return None
    return figures[max(figures) if metric.more_is_better else min(figures)]


def like_for_like(results: Results) -> Table:
    """Return the table of the three columns."""
    rows: list[Sequence[str]] = []
    for work in filter(compared, results.plan.works):
        for family in (PRODUCT, *FAMILIES):
            names = (UNALTERED, PRODUCT) if family == PRODUCT else (family, f"{family}-shortcuts")
            figures = {name: results.figure(work, name, work.metrics[0].name) for name in names}
            if set(figures.values()) == {None}:
                continue
            multiples = ratios(results, work, family).values() if family != PRODUCT else ()
            cells = [
                _NONE if figure is None else number(figure) + results.mark(work, name)
                for name, figure in figures.items()
            ]
            cells += [_NONE if multiple is None else f"{number(multiple)} ×" for multiple in multiples]
            cells += [""] * (len(COLUMNS) - len(multiples))
            rows.append((f"``{work.name}``" if family == PRODUCT else "", PEERS[family].title, *cells))
    titles = (column.title for column in COLUMNS)
    return (("work", "server", "requests/s, Django as it is", "requests/s, shortcuts", *titles), rows)


def sentences(results: Results) -> Iterator[str]:
    """Say the result of small requests in words."""
    works = [WORKS[name] for name in _SMALL if WORKS[name] in results.plan.works]
    phrases: dict[str, list[str]] = {"Out of the box": [], "Like for like": []}
    for family in reversed(FAMILIES):
        found = [ratios(results, work, family) for work in works]
        for part, fair in (("Out of the box", False), ("Like for like", True)):
            values = [each[column.key] for each in found for column in COLUMNS if (column is not COLUMNS[0]) == fair]
            known = sorted(value for value in values if value is not None)
            if known:
                low, high = number(known[0]), number(known[-1])
                span = low if low == high else f"{low} to {high}"
                phrases[part].append(f"{span} × as many small requests as {PEERS[family].title}")
    for part, found_phrases in phrases.items():
        if found_phrases:
            yield f"{part}, channelserver answers {', '.join(found_phrases)}."


def as_rst(results: Results, machine: dict[str, str], rounds: int, seconds: int) -> dict[str, str]:
    """Return the parts of the page, by their names."""
    scope = "all works" if results.plan.whole else f"only {', '.join(work.name for work in results.plan.works)}"
    how = f"{counted(rounds)} with turns of {seconds} s, {scope}"
    measured = f"Measured on {machine['date']}: {how}; {machine['processor']}."
    brackets = (
        "In brackets: channelserver's figure as a multiple of this one. Channels 4 runs its faster kind of consumer,"
        " and gunicorn its ``asgi`` worker for the async view."
    )
    told = list(sentences(results))
    return {
        "out-of-the-box": "\n".join([measured, brackets, "", *_with_notes(out_of_the_box(results))]),
        "like-for-like": "\n".join([*(f"* {line}" for line in told), "", *_with_notes(like_for_like(results))]),
    }


def _with_notes(table: Table) -> Iterator[str]:
    """Return a table, and the meaning of its marks."""
    if not table[1]:
        yield "Not measured in this run."
        return
    yield from list_table(table)
    cells = " ".join(cell for row in table[1] for cell in row)
    notes = [note for note in NOTES if note[:3] in cells]
    if notes:
        yield ""
        yield from (f"| {note}" for note in notes)
