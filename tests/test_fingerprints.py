"""Django is changed only where it is what was known when the change was written."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import py_compile
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from channelserver.workers import fingerprints
from channelserver.workers.fingerprints import KNOWN
from tests.process import TIMEOUT, SharedServerTestCase, environment, project

SOURCE = '''
def before():
    pass

def function(
    argument,
):
    """Do nothing."""

    return argument
    # what follows is no part of it

def after():
    pass
'''


class FingerprintTests(SynchronousTestCase):
    """The table, and the installed Django."""

    def folder(self) -> Path:
        """Return a folder that is on Python's path for this test."""
        folder = tempfile.TemporaryDirectory(prefix="channelserver-test-")
        self.addCleanup(folder.cleanup)
        return Path(folder.name)

    def fingerprint_in(self, place: Path) -> str:
        """Import the module ``fingerprinted`` from a folder or a zip file; return its function's fingerprint."""
        self.patch(sys, "path", [str(place), *sys.path])
        sys.modules.pop("fingerprinted", None)
        importlib.invalidate_caches()
        self.addCleanup(sys.modules.pop, "fingerprinted", None)
        return fingerprints.fingerprint(["fingerprinted:function"], {})

    def test_this_release(self) -> None:
        """Nothing is unknown in the releases that are tested."""
        self.assertEqual(fingerprints.unknown(), set())

    def test_sources(self) -> None:
        """The whole source of a function counts: what ``inspect`` says it is."""
        for functions, _ in KNOWN.values():
            for name in functions:
                function = resolve_name(name)
                self.assertEqual(fingerprints._source(function, {}), inspect.getsource(function).rstrip())

    def test_replaced(self) -> None:
        """A function that a package has replaced is unknown, even if it bears the name of Django's."""
        for functions, _ in KNOWN.values():
            for name in functions:
                module, _, path = name.partition(":")
                *parents, attribute = path.split(".")
                parent = functools.reduce(getattr, parents, importlib.import_module(module))
                original = getattr(parent, attribute)

                @functools.wraps(original)
                def replacement(*args: Any, **kwargs: Any) -> Any:
                    raise AssertionError("called")

                with mock.patch.object(parent, attribute, replacement):
                    unknown = fingerprints.unknown()
                self.assertTrue(unknown, name)
                self.assertLessEqual(unknown, {shortcut for shortcut, (names, _) in KNOWN.items() if name in names})

    def test_missing(self) -> None:
        """So are functions that are not there, and those without source."""
        exec(SOURCE, names := {"__name__": __name__, "__file__": __file__, "__loader__": __loader__})
        self.patch(sys.modules[__name__], "executed", names["function"])
        for name in (
            "django.db:gone",
            "django.gone:gone",
            "builtins:len",
            "django.db:connections",
            f"{__name__}:executed",
        ):
            self.assertEqual(fingerprints.fingerprint([name], {}), "", name)

    def test_places(self) -> None:
        """A source in a zip file is as good as one in a folder; without any, nothing is known."""
        folder = self.folder()
        source = folder / "fingerprinted.py"
        source.write_text(SOURCE)
        found = self.fingerprint_in(folder)
        self.assertEqual(len(found), 16)
        with zipfile.ZipFile(folder / "z.zip", "w") as archive:
            archive.write(source, source.name)
        self.assertEqual(self.fingerprint_in(folder / "z.zip"), found)
        source.write_text(SOURCE.replace("return argument", "return argument or 5"))
        self.assertNotIn(self.fingerprint_in(folder), ("", found))
        py_compile.compile(str(source), str(folder / "compiled" / "fingerprinted.pyc"))
        self.assertEqual(self.fingerprint_in(folder / "compiled"), "")


executed = None


class InstallTests(SynchronousTestCase):
    """:func:`channelserver.workers.django_cleanup.install`, in a process without our server."""

    def test_one_unknown(self) -> None:
        """One part of Django that is unknown stays as it is, and what depends on it; the rest is replaced."""
        program = project("programs")["install_shortcuts.py"]
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=TIMEOUT
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([name for name, *_ in lines], [None, *KNOWN], done.stderr)
        for name, off, values, again in lines:
            wanted = ["database connections", "signals"] if name == "database connections" else [name] if name else []
            self.assertEqual((off, again), (wanted, wanted))
            self.assertEqual(values, ["localhost", "yes", False, False, "other", "/app/", None, 0, False])


class PatchedTests(SharedServerTestCase):
    """A project with a package that watches the receivers of signals."""

    files = {"urls.py": """
    from django.core import signals
    from django.dispatch import Signal
    from django.http import JsonResponse, response
    from django.urls import path
    import settings

    def look(request):
        kinds = type(signals.request_started) is Signal, response.ResponseHeaders.get.__module__
        return JsonResponse([*kinds, len(settings.watched) > 0], safe=False)

    urlpatterns = [path("", look)]
    """}  # fmt: skip
    extra_settings = """
from django.dispatch import Signal

watched = []

def watch(self, sender, original=Signal._live_receivers):
    watched.append(self)
    return original(self, sender)

Signal._live_receivers = watch
"""

    def test_watched(self) -> None:
        """It sees them; a line says that this is not what we replace."""
        self.server.wait_for(
            r"Django shortcuts: on but for signals, whose code in Django [\d.]+ is unknown or was replaced"
        )
        self.assertEqual(self.server.get("/").json(), [True, "channelserver.workers.django_fast", True])
