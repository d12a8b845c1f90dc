"""Reads the code blocks of README and documentation, for :mod:`tests.test_docs` and the browser tests.

A block's file is named by its caption (``:caption: chat/consumers.py``) or its first line (``# chat/consumers.py``).
``(in part)`` after the name means that the block is appended. Comments tell what readers need not see; they begin with
``.. test:``, stand by themselves, and say one of these:

``run``
    The indented code below runs where it stands, with the blocks of its section: usually it tries out what they say.
``syntax``
    The next block is Python, but no complete program.
``prints …``
    The next block is JavaScript, which writes this into the console.
``braces``
    The next block is a configuration, for a program that is not at hand: only its braces are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PAGES = sorted(
    [
        *ROOT.glob("*.rst"),
        *(path for path in ROOT.glob("docs/**/*.rst") if "_build" not in path.parts),
        *ROOT.glob("examples/**/*.rst"),
    ]
)

_DIRECTIVE = re.compile(r"\.\. (code-block|code|literalinclude|highlight)::\s*(\S*)")
_OPTION = re.compile(r":(\w+):\s*(.*)")
_MARKER = re.compile(r"\.\. (?:test: (.+)|(\w+)-configuration)$")
_BULLET = re.compile(r" *(?:(?:\d+\.|\*) +)?")
_FILE = re.compile(r"((?:[\w-]+/)*[\w-]+\.(?:py|html|js))(?: \((.*)\))?")


@dataclass
class Block:
    """A code block.

    :param page: path of the file, from the checkout's root.
    :param line: number of the first line of its text.
    :param language: as written; ``""`` for a block after ``::``.
    :param marker: what a comment before it says.
    :param hidden: it is a comment itself.
    """

    page: str
    line: int
    language: str
    text: str
    section: int = 0
    marker: str = ""
    hidden: bool = False
    options: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> tuple[str, str]:
        """The name of the file that it is, or ``""``, and what is said of it in brackets."""
        first = self.text.partition("\n")[0]
        caption = self.options.get("caption", "") or (first[2:] if first.startswith("# ") else "")
        match = _FILE.fullmatch(caption.strip())
        return (match[1], match[2] or "") if match else ("", "")


def blocks(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page, hidden ones included."""
    name = str(page.relative_to(ROOT) if page.is_relative_to(ROOT) else page.name)
    lines = page.read_text().split("\n")
    index, section, marker = 0, 0, ""
    while index < len(lines):
        line = lines[index]
        indent = len(_BULLET.match(line)[0])  # type: ignore[index]  # it matches everything
        if re.fullmatch(r"([=~-])\1{2,}", line) and lines[index - 1].strip():
            section += 1
        directive, comment = _DIRECTIVE.match(line.strip()), _MARKER.match(line.strip())
        literal = line.rstrip().endswith("::") and not line.lstrip().startswith("..")
        index += 1
        if not (directive or comment or literal):
            continue
        options: dict[str, str] = {}
        while directive and index < len(lines) and (option := _OPTION.match(lines[index].strip())):
            options[option[1]] = option[2]
            index += 1
        start = begin = index
        while index < len(lines) and (not lines[index].strip() or _indent(lines[index]) > indent):
            index += 1
        body = lines[begin:index]
        while body and not body[0].strip():
            del body[0]
            begin += 1
        text = "\n".join(line[_indent(body[0]) :] for line in body).rstrip() + "\n" if body else ""
        if comment:
            marker = comment[1] or f"configuration {comment[2]}"
            if marker == "run":
                yield Block(name, begin + 1, "python", text, section, marker, hidden=True)
                marker = ""
            continue
        if directive and directive[1] == "highlight":
            continue
        language = "" if literal else directive[2] if directive else ""
        if directive and directive[1] == "literalinclude":
            language, text, begin = "literalinclude", directive[2], start
        yield Block(name, begin + 1, language, text, section, marker, options=options)
        marker = ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def is_python(text: str) -> bool:
    """Whether a text without a language is Python: an assignment or an import at least, as bare words are, too."""
    try:
        compile(text, "text", "exec")
    except SyntaxError:
        return False
    return bool(re.search(r"^(import|from|def|class|@)\b| = |\(", text, re.MULTILINE))
