"""The outcomes as a table: text for the terminal, reStructuredText for the documentation.

Any thread; owns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.attacks.run import Outcome

HEADS = (
    "attack", "clients", "memory", "each", "kernel", "files", "busy", "core", "log", "cut", "p50", "p99",
    "slowest", "failed", "closed",
)  # fmt: skip

#: The columns in the documentation.
PUBLISHED = ("attack", "clients", "memory", "each", "files", "core", "p50", "p99", "slowest", "failed", "closed")

LEGEND = """\
memory: growth of resident memory, in all and for each client; kernel: growth of what the kernel
keeps for TCP, both ends together; files: descriptors opened; busy: median of the worker
threads at work; core: part of its one core that the server used; log: lines logged; cut: connections that the server
ended or refused; p50, p99, slowest: what honest requests took meanwhile, in ms (slowest: echoes of WebSockets, too);
failed, closed: honest requests that failed and honest WebSockets that were closed.
"""


def row(outcome: Outcome) -> list[str]:
    """Return the cells of an attack."""
    waits = outcome.meanwhile
    return [
        outcome.title,
        str(outcome.clients),
        size(outcome.growth),
        size(outcome.growth / outcome.clients),
        size(max(0, outcome.kernel)),
        str(max(0, outcome.descriptors)),
        "?" if outcome.busy is None else f"{outcome.busy:.0f}/{outcome.threads}",
        f"{outcome.core:.0%}".replace("%", " %"),
        str(outcome.logged),
        str(outcome.cut),
        *(f"{seconds * 1000:.0f}" for seconds in (waits.request(0.5), waits.request(0.99), waits.slowest())),
        str(waits.failed),
        str(waits.closed),
    ]


def size(number: float) -> str:
    """Return bytes as text."""
    if number >= 10 * 1024 * 1024:
        return f"{number / 1024 / 1024:.0f} MiB"
    return f"{number / 1024 / 1024:.1f} MiB" if number >= 1024 * 1024 else f"{number / 1024:.0f} KiB"


def line(outcome: Outcome) -> str:
    """Return one attack as a line of text, and a further one for what remains."""
    cells = dict(zip(HEADS[1:], row(outcome)[1:], strict=True))
    text = ", ".join(f"{head} {cell}" for head, cell in cells.items() if cell not in ("0", "0 KiB"))
    notes = [f"  {reason}" for reason in sorted(outcome.meanwhile.reasons)]
    if outcome.remains:
        notes.append(f"  NOT AS BEFORE: {outcome.remains}")
    return "\n".join(
        [f"{outcome.title}:\n  {text}, memory afterwards +{size(max(0, outcome.after - outcome.before))}", *notes]
    )


def table(outcomes: Sequence[Outcome], heads: Sequence[str] = HEADS) -> str:
    """Return a table that is plain text and reStructuredText alike.

    :param heads: its columns.
    """
    cells = [dict(zip(HEADS, row(outcome), strict=True)) for outcome in outcomes]
    rows = [list(heads), *([each[head] for head in heads] for each in cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = " ".join("=" * width for width in widths)
    lines = [" ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule]) + "\n"
