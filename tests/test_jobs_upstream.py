"""Django's own tests of its tasks, run with the jobs' backend in the place of Django's backends.

Django's source archive has them. pip fetches it into the folder that ``CHANNELSERVER_TEST_UPSTREAM`` names, where it
stays; without that variable, these tests are skipped. With Django 5.2 the tests of Django 6.0 are run, on the package
``django-tasks``, whose source archive has none.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import re
import subprocess
import sys
import tarfile
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from unittest import mock

import django
from django.test import SimpleTestCase
from twisted.trial.unittest import SynchronousTestCase

from channelserver.jobs import JobBackend, run_jobs
from channelserver.jobs.compat import IN_DJANGO
from channelserver.jobs.models import Job
from channelserver.start import application  # noqa: F401  (the server imports it: it undoes how Twisted pickles)
from tests import DatabaseTestCase

#: The tests that do not hold for this backend, each with the reason. If one of them passes, it must leave the list.
UNFIT = {
    # A result is a row, which everybody can read.
    "ImmediateBackendTestCase.test_cannot_get_result": "results can be read",
    "ImmediateBackendTestCase.test_cannot_refresh_result": "results can be read",
    "ImmediateBackendTestCase.test_cannot_pass_run_after": "jobs can be delayed",
    "DummyBackendTestCase.test_refresh_result": "alters a result in the backend's memory, where none is",
    "DummyBackendTestCase.test_refresh_result_async": "alters a result in the backend's memory, where none is",
    # Django allows no query there; the asynchronous calls of these tests are tested in tests.test_jobs.
    "DummyBackendTestCase.test_get_missing_result": "reads a result on the event loop, without await",
    "TaskTestCase.test_get_missing_result": "reads a result on the event loop, without await",
    "TaskTestCase.test_refresh_result": "reads a result on the event loop, without await",
    # Backends of their own, which derive from BaseTaskBackend, here from JobBackend.
    "CustomBackendTestCase.test_using_correct_backend": "has an option that JobBackend does not know",
    "CustomBackendTestCase.test_enqueue_async_task_on_non_async_backend": "the same",
    "CustomBackendTestCase.test_backend_does_not_support_priority": "the same",
    "CustomBackendTestCase.test_options": "the same",
    "CustomBackendTestCase.test_no_enqueue": "JobBackend has the method that must be missing",
}
#: Django's modules.
MODULES = ("test_immediate_backend", "test_dummy_backend", "test_tasks", "test_custom_backend")


class AtOnce(JobBackend):
    """Runs a job when it has been stored, as Django's ``ImmediateBackend``."""

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        result = super().enqueue(task, args, kwargs)
        run_jobs(self.alias)
        result.refresh()
        return result


class Stored(JobBackend):
    """Runs nothing, and lists what it has stored, as Django's ``DummyBackend``."""

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self.results: list[Any] = []

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        result = super().enqueue(task, args, kwargs)
        self.results.append(self.get_result(result.id))
        return result

    def clear(self) -> None:
        Job.objects.using(self.database).filter(backend=self.alias).delete()
        self.results.clear()


#: By the module of a backend of Django: its class, and what stands for it.
OURS = {
    "immediate": ("ImmediateBackend", AtOnce),
    "dummy": ("DummyBackend", Stored),
    "base": ("BaseTaskBackend", JobBackend),
}


def adapted(text: str) -> str:
    """Return a module with this backend in the place of Django's, and the names of ``django-tasks`` with Django 5.2."""
    for module, (name, ours) in OURS.items():
        text = text.replace(f"django.tasks.backends.{module}.{name}", f"{ours.__module__}.{ours.__name__}")
        text = text.replace(
            f"from django.tasks.backends.{module} import {name}",
            f"from {ours.__module__} import {ours.__name__} as {name}",
        )
    if "django.tasks.backends" in text:
        raise AssertionError("a backend of Django's is left, where this one should be tested")
    if not IN_DJANGO:
        text = text.replace("django.tasks", "django_tasks")
        text = re.sub(r"\b(InvalidTask|InvalidTaskBackend)\b", r"\1Error", text)
        text = text.replace("does not support async Tasks", "does not support async tasks")
    return text


def archive() -> Path:
    """Return Django's source archive; fetch it if it is not there."""
    kept = Path(os.environ["CHANNELSERVER_TEST_UPSTREAM"]).resolve()
    kept.mkdir(parents=True, exist_ok=True)
    version = django.get_version() if IN_DJANGO else "6.0.*"
    name = f"django-{version}.tar.gz"
    if not list(kept.glob(name)):
        with TemporaryDirectory(dir=kept) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "django"]
            command += ["--ignore-requires-python", "--dest", folder, f"django=={version}"]
            # Warnings in the tools that build Django are no errors of these tests.
            environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
            done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise AssertionError(f"pip cannot fetch Django's tests:\n{done.stdout}{done.stderr}")
            (fetched,) = Path(folder).glob(name)
            fetched.rename(kept / fetched.name)  # at once: other processes may look for it
    return max(kept.glob(name))


@functools.cache
def modules() -> dict[str, ModuleType]:
    """Unpack Django's tests, and import them; return the modules by name."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    package = Path(folder.name, "tasks")  # the tests know this name
    package.mkdir()
    with tarfile.open(archive()) as files:
        for member in files:
            _, _, name = member.name.partition("/tests/tasks/")
            if name.endswith(".py") and "/" not in name and (file := files.extractfile(member)) is not None:
                (package / name).write_text(adapted(file.read().decode()))
    with mock.patch.object(sys, "path", [folder.name, *sys.path]):
        return {path.stem: importlib.import_module(f"tasks.{path.stem}") for path in package.glob("test_*.py")}


def run_all(module: ModuleType) -> tuple[set[str], dict[str, str]]:
    """Run the tests of a module; return the names of all, and what the failed ones say."""
    names: set[str] = set()
    failed: dict[str, str] = {}
    for case in list(vars(module).values()):
        if not (isinstance(case, type) and issubclass(case, SimpleTestCase) and case.__module__ == module.__name__):
            continue
        # The tables of all applications, and a transaction around each test.
        ours: Any = type(case.__name__, (case, DatabaseTestCase), {"available_apps": None})
        for test in unittest.defaultTestLoader.loadTestsFromTestCase(ours):
            name = f"{case.__name__}.{test.id().rpartition('.')[2]}"
            result = unittest.TestResult()
            test(result)
            names.add(name)
            if not result.wasSuccessful():
                failed[name] = "".join(text for _, text in [*result.errors, *result.failures])
    return names, failed


class UpstreamTests(SynchronousTestCase):
    """A test for each of Django's modules."""

    if "CHANNELSERVER_TEST_UPSTREAM" not in os.environ:
        skip = "CHANNELSERVER_TEST_UPSTREAM names no folder into which pip may fetch Django's own tests"

    def check(self, name: str) -> None:
        names, failed = run_all(modules()[name])
        unexpected = sorted(failed.keys() - UNFIT.keys())
        self.assertEqual(unexpected, [], "".join(f"\n{test}\n{failed[test]}" for test in unexpected))
        self.assertEqual(sorted((names & UNFIT.keys()) - failed.keys()), [], "these fit, though UNFIT has them")
        self.assertTrue(names)

    def test_all_modules(self) -> None:
        """None is left out."""
        self.assertEqual(sorted(modules()), sorted(MODULES))

    def test_immediate_backend(self) -> None:
        """What becomes of a job that runs."""
        self.check("test_immediate_backend")

    def test_dummy_backend(self) -> None:
        """What becomes of a job that is stored."""
        self.check("test_dummy_backend")

    def test_tasks(self) -> None:
        """Tasks themselves."""
        self.check("test_tasks")

    def test_custom_backend(self) -> None:
        """Tasks of a class of their own, for which a backend derives from this one."""
        self.check("test_custom_backend")
