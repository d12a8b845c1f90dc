"""``tools/circles.py``, which finds circular imports, on small packages and on channelserver itself."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from twisted.trial.unittest import TestCase

from tools import circles


class Circles(TestCase):
    def found(self, **sources: str) -> list[str]:
        """The circles in a package ``p`` with these modules; ``a__b`` is module ``b`` of its package ``a``."""
        package = Path(self.mktemp()) / "p"
        for name, source in {"__init__": "", **sources}.items():
            file = package / f"{name if name == '__init__' else name.replace('__', '/', 1)}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
        return [" -> ".join([*chain, chain[0]]) for chain in circles.circles(circles.read(package))]

    def test_imports_in_one_direction_are_no_circle(self) -> None:
        self.assertEqual(self.found(a="import p.b, p.c\nimport os", b="from p import c", c="from p.c import own"), [])

    def test_a_circle_of_two(self) -> None:
        self.assertEqual(self.found(a="import p.b", b="from p.a import name"), ["p.a -> p.b -> p.a"])

    def test_a_circle_of_three_is_found_once(self) -> None:
        found = self.found(a="from p import b", b="import p.c as other", c="from p import a", d="import p.a")
        self.assertEqual(found, ["p.a -> p.b -> p.c -> p.a"])

    def test_an_import_inside_a_function_counts(self) -> None:
        self.assertEqual(self.found(a="import p.b", b="def f():\n    from p import a"), ["p.a -> p.b -> p.a"])

    def test_an_import_for_types_only_counts(self) -> None:
        source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import A"
        self.assertEqual(self.found(a="import p.b", b=source), ["p.a -> p.b -> p.a"])

    def test_a_name_given_to_import_module_counts(self) -> None:
        for call in "importlib.import_module", "import_module":
            self.assertEqual(self.found(a="import p.b", b=f"{call}('p.a').name"), ["p.a -> p.b -> p.a"])

    def test_relative_imports(self) -> None:
        found = self.found(a="from .q import b", q____init__="", q__b="from . import c", q__c="from .. import a")
        self.assertEqual(found, ["p.a -> p.q.b -> p.q.c -> p.a"])
        self.assertEqual(self.found(a="from .b import x", b="from .a import x"), ["p.a -> p.b -> p.a"])

    def test_the_package_itself_is_a_module(self) -> None:
        self.assertEqual(self.found(__init__="from p import a", a="from p import name"), ["p -> p.a -> p"])

    def test_a_longer_circle_is_not_hidden_by_a_shorter_one(self) -> None:
        found = self.found(a="from p import b, c", b="from p import a", c="from p import b")
        self.assertEqual(found, ["p.a -> p.b -> p.a", "p.c -> p.b -> p.a -> p.c"])


class Main(TestCase):
    def test_a_pair_that_may_be_a_circle_passes_alone(self) -> None:
        package = Path(self.mktemp()) / "p"
        package.mkdir(parents=True)
        for name, source in {"__init__": "", "a": "import p.b", "b": "import p.a"}.items():
            (package / f"{name}.py").write_text(source)
        self.patch(circles, "PACKAGE", package)
        self.assertEqual(main(), (1, "circular import: p.a -> p.b -> p.a\n"))
        self.patch(circles, "ALLOWED", {frozenset({"p.a", "p.b"})})
        self.assertEqual(main(), (0, ""))
        (package / "a.py").write_text("import p.b, p.c")
        (package / "c.py").write_text("import p.b")
        self.assertEqual(main(), (1, "circular import: p.c -> p.b -> p.a -> p.c\n"))

    def test_channelserver_has_none(self) -> None:
        self.assertEqual(main(), (0, ""))


def main() -> tuple[int, str]:
    """The exit status and what is printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        return circles.main(), printed.getvalue()
