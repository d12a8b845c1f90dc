"""The results as bars, in an SVG file that is readable on light and dark pages.

Runs in the main thread of the benchmark program; owns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from benchmarks.peers import PRODUCT, UNALTERED, Peer
from benchmarks.results import Results, number
from benchmarks.summary import headlines
from benchmarks.work import Metric

#: Pixels: a column of fields; the labels, the longest bar, a bar with its gap, a field's title and its gap.
COLUMN, LABELS, BAR, ROW, HEAD, GAP = 400, 205, 125, 17, 24, 22
COLUMNS = 2
_MARGIN = 14

_STYLE = """
text { font: 11px system-ui, sans-serif; fill: #1c2328 }
.title { font-weight: 600 }
.page { fill: #ffffff } .own { fill: #0b6e4f } .unaltered { fill: #76b5a0 }
.peer { fill: #8c979f } .altered { fill: #c3cbd1 }
@media (prefers-color-scheme: dark) {
text { fill: #e4e9ec }
.page { fill: #12181c } .own { fill: #2bb58a } .unaltered { fill: #1d6a54 }
.peer { fill: #84909a } .altered { fill: #4a555d }
}
"""
_LEGEND = (
    ("own", "channelserver"),
    ("unaltered", "without our Django shortcuts"),
    ("peer", "others, out of the box"),
    ("altered", "others with our Django shortcuts"),
)


def draw(results: Results, path: Path) -> None:
    """Draw a field of bars for each headline figure of more than one server."""
    fields = []
    for work, metric, title in headlines(results):
        bars = [
            (peer, figure)
            for peer in results.plan.peers(work)
            if (figure := results.figure(work, peer.name, metric.name)) is not None
        ]
        if len(bars) > 1:
            fields.append((title + _better(metric), bars))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg(fields))


def _better(metric: Metric) -> str:
    return "" if metric.more_is_better else " (less is better)"


def svg(fields: Sequence[tuple[str, Sequence[tuple[Peer, float]]]]) -> str:
    """Return a chart; each field has a title and its bars."""
    heights = [_MARGIN] * COLUMNS
    shapes: list[str] = []
    for title, bars in fields:
        column = heights.index(min(heights))
        shapes += _field(title, bars, _MARGIN + column * COLUMN, heights[column])
        heights[column] += HEAD + ROW * len(bars) + GAP
    width, height = COLUMNS * COLUMN + 2 * _MARGIN, max(heights) + ROW
    shapes += _legend(height - ROW)
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        "<title>channelserver and its peers</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="6"/>',
    ]
    return "\n".join([*head, *shapes, "</svg>\n"])


def _field(title: str, bars: Sequence[tuple[Peer, float]], x: int, y: int) -> Iterator[str]:
    yield _text(x, y + 12, title, ' class="title"')
    longest = max(value for _, value in bars) or 1.0
    for index, (peer, value) in enumerate(bars):
        top = y + HEAD + ROW * index
        size = BAR * value / longest
        label = peer.title.replace("Channels 4 ", "")
        yield _text(x + LABELS - 6, top + 10, label, ' text-anchor="end"')
        yield f'<rect class="{_kind(peer)}" x="{x + LABELS}" y="{top}" width="{size:.1f}" height="{ROW - 4}"/>'
        yield _text(round(x + LABELS + size + 5), top + 10, number(value))


def _legend(y: int) -> Iterator[str]:
    for index, (kind, title) in enumerate(_LEGEND):
        x = _MARGIN + index * 200
        yield f'<rect class="{kind}" x="{x}" y="{y - 10}" width="11" height="11"/>'
        yield _text(x + 17, y, title)


def _kind(peer: Peer) -> str:
    if peer.family == PRODUCT:
        return "unaltered" if peer.name == UNALTERED else "own"
    return "altered" if peer.shortcuts else "peer"


def _text(x: int, y: int, text: str, attributes: str = "") -> str:
    return f'<text x="{x}" y="{y}"{attributes}>{escape(text)}</text>'
