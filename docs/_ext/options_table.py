"""The directive ``options-table``: the server's options as a table, read from the fields of its ``Settings``.

It takes no arguments. Each row has an anchor, such as ``#option-ping-interval``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

#: Where the options are: a module and the name of its list.
SOURCE = ("channelserver.server.common.options", "OPTIONS")

COLUMNS = (("Flag", 28), ("Setting", 20), ("Default", 14), ("Meaning", 58))

#: The largest first; a default that is a whole number of these is written so.
BYTE_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def flag_cell(option: Any) -> nodes.paragraph:
    """``-p, --port``, with a note if the flag may be given more than once."""
    flags = f"-{option.short.lstrip('-')}, {option.flag}" if option.short else option.flag
    cell = nodes.paragraph("", "", nodes.literal("", flags))
    if option.repeatable:
        cell += nodes.Text(" (repeatable)")
    return cell


def default_and_meaning(option: Any) -> tuple[str, str]:
    """The default as a reader says it (``10 seconds``, ``1 MiB``, ``off``), and what the option does, as a sentence.

    A default that is only known at start stands in the help text, after ``; default:``.
    """
    meaning, found, explained = option.help.partition("; default: ")
    default = explained if found and option.default is None else default_text(option.default, option.unit)
    return default, f"{meaning[:1].upper()}{meaning[1:].rstrip('.')}."


def default_text(value: Any, unit: str) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value == "" or value == () or value == []:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value)
    if unit == "bytes":
        for name, size in BYTE_UNITS:
            if value and value % size == 0:
                return f"{value // size} {name}"
    if isinstance(value, float):
        value = f"{value:g}"
    elif isinstance(value, int) and value >= 10_000:
        value = f"{value:,}".replace(",", "\N{NO-BREAK SPACE}")
    return f"{value} {unit}".strip()


def text(words: str) -> nodes.paragraph:
    return nodes.paragraph("", "", nodes.Text(words))


def setting_cell(option: Any) -> nodes.paragraph:
    """The key in ``CHANNELSERVER``; a dash for an option which is a flag only."""
    if option.command_line_only:
        return text("\N{EN DASH}")
    return nodes.paragraph("", "", nodes.literal("", option.name))


class OptionsTable(SphinxDirective):
    """``.. options-table::``"""

    def run(self) -> list[nodes.Node]:
        module_name, attribute = SOURCE
        try:
            options: Iterable[Any] = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as problem:
            raise self.error(f"no options to list: {problem}") from problem
        self.env.note_dependency(importlib.import_module(module_name).__file__ or "")

        group = nodes.tgroup(cols=len(COLUMNS))
        group += [nodes.colspec(colwidth=width) for _, width in COLUMNS]
        group += nodes.thead("", self.row(text(title) for title, _ in COLUMNS))
        body = nodes.tbody()
        for option in options:
            default, meaning = default_and_meaning(option)
            row = self.row((flag_cell(option), setting_cell(option), text(default), text(meaning)))
            row[0]["ids"].append("option-" + option.name.replace("_", "-"))
            body += row
        group += body
        return [nodes.table("", group, classes=["options"])]

    @staticmethod
    def row(cells: Iterable[nodes.paragraph]) -> nodes.row:
        return nodes.row("", *(nodes.entry("", cell) for cell in cells))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("options-table", OptionsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
