"""The directive ``options-table``: the server's options as definition lists, read from the fields of its ``Settings``.

It takes no arguments. Each option has an anchor, such as ``#option-ping-interval``; each group of options is a section.
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

#: The largest first; a default that is a whole number of these is written so.
BYTE_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


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


def facts(option: Any, default: str) -> nodes.paragraph:
    """One line: the default, the key in ``CHANNELSERVER``, the variable of the environment."""
    line = nodes.paragraph("", "", nodes.Text(f"Default: {default}"), classes=["facts"])
    if not option.command_line_only:
        line += [nodes.Text(" · setting "), nodes.literal("", option.name)]
    for variable in getattr(option, "variables", ()):
        line += [nodes.Text(" · variable "), nodes.literal("", variable)]
    if option.repeatable:
        line += nodes.Text(" · repeatable")
    return line


def definition(option: Any) -> nodes.definition_list_item:
    """The flag, the facts, the meaning."""
    default, meaning = default_and_meaning(option)
    flags = f"-{option.short.lstrip('-')}, {option.flag}" if option.short else option.flag
    term = nodes.term("", "", nodes.literal("", flags), ids=["option-" + option.name.replace("_", "-")])
    text = nodes.paragraph("", "", nodes.Text(meaning))
    return nodes.definition_list_item("", term, nodes.definition("", text, facts(option, default)))


class OptionsTable(SphinxDirective):
    """``.. options-table::``"""

    def run(self) -> list[nodes.Node]:
        module_name, attribute = SOURCE
        try:
            options: Iterable[Any] = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as problem:
            raise self.error(f"no options to list: {problem}") from problem
        self.env.note_dependency(importlib.import_module(module_name).__file__ or "")

        groups: dict[str, nodes.definition_list] = {}
        for option in options:
            name = getattr(option, "group", "")
            found = groups.setdefault(name, nodes.definition_list(classes=["options"]))
            found += definition(option)
        return [self.section(name, found) if name else found for name, found in groups.items()]

    @staticmethod
    def section(name: str, content: nodes.Node) -> nodes.section:
        title = nodes.title("", "", nodes.Text(name))
        identifier = "options-" + name.lower().replace(" ", "-")
        return nodes.section("", title, content, ids=[identifier], names=[name.lower()])


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("options-table", OptionsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
