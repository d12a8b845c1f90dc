"""Finds circular imports: a module that imports itself through other modules.

``python -m tools.circles``, part of ``tox -e lint``, prints each circle as a chain of modules and exits with 1 if there
is one that :data:`ALLOWED` does not list. Every import counts: those inside functions, those below
``if TYPE_CHECKING:`` and the names of modules in calls of ``import_module``. The files are parsed, not imported.

A package's ``__init__`` is a module like any other. Python also runs it before each module of the package; this does
not count as an import.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "channelserver"

#: Two modules that may import each other: a stream and its HTTP/2 connection.
ALLOWED = {frozenset({"channelserver.server.http2.connection", "channelserver.server.http2.stream"})}

#: A module's name and the names of the modules that it imports.
Graph = dict[str, set[str]]


def read(package: Path) -> Graph:
    """Parses all modules of the package.

    :param package: the package's folder, which has the package's name.
    :raises SyntaxError: a file is not Python.
    """
    files = {name_of(file, package): file for file in sorted(package.rglob("*.py"))}
    return {name: set(imports(name, file, files)) - {name} for name, file in files.items()}


def name_of(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(name: str, file: Path, known: Collection[str]) -> Iterator[str]:
    """The modules among ``known`` that the module ``name`` imports anywhere in its file."""
    parents = name.split(".")[: None if file.stem == "__init__" else -1]
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        match node:
            case ast.Import():
                wanted = [alias.name for alias in node.names]
            case ast.ImportFrom():
                above = parents[: len(parents) + 1 - node.level] if node.level else []
                origin = ".".join([*above, *filter(None, [node.module])])
                wanted = [member_or_module(origin, alias.name, known) for alias in node.names]
            case ast.Call(
                func=ast.Name("import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                wanted = [module]
            case _:
                continue
        yield from (module for module in wanted if module in known)


def member_or_module(origin: str, name: str, known: Collection[str]) -> str:
    """The module that ``from origin import name`` imports: ``name`` may be a module of the package ``origin``."""
    return module if (module := f"{origin}.{name}") in known else origin


def circles(graph: Graph) -> list[list[str]]:
    """A shortest circle through each module that is part of one; every circle once, without its return to the start."""
    found: dict[frozenset[str], list[str]] = {}
    for module in graph:
        if chain := shortest(graph, module):
            found.setdefault(frozenset(chain), chain)
    return sorted(found.values(), key=len)


def shortest(graph: Graph, start: str) -> list[str] | None:
    """The shortest chain of imports that leads from ``start`` back to it."""
    chains, seen = [[start]], set()
    for chain in chains:  # it grows meanwhile
        for module in sorted(graph[chain[-1]] - seen):
            if module == start:
                return chain
            seen.add(module)
            chains.append([*chain, module])
    return None


def main() -> int:
    graph = read(PACKAGE)
    found = [chain for chain in circles(graph) if frozenset(chain) not in ALLOWED]
    for chain in found:
        print("circular import:", " -> ".join([*chain, chain[0]]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
