"""Durable jobs: a backend for Django's tasks that the server runs itself (``django.tasks``, or ``django-tasks``).

Rows in the site's database are the jobs; a thread of the server, the claimer, takes them and hands them to threads of
their own, or to the event loop. May import the layers, the workers and the Django side, nothing of the server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from django.apps import apps as registry  # "apps" is a module of this package
from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from channelserver.jobs.backend import JobBackend as JobBackend
    from channelserver.jobs.keys import once as once
    from channelserver.jobs.marks import Cancel as Cancel
    from channelserver.jobs.marks import Retry as Retry
    from channelserver.jobs.marks import job as job
    from channelserver.jobs.marks import schedule as schedule
    from channelserver.jobs.testing import captured_jobs as captured_jobs
    from channelserver.jobs.testing import run_jobs as run_jobs

#: Where the public names are; imported when first used, because Django's settings may not be ready before.
_PLACES = {
    "JobBackend": "backend",
    "Cancel": "marks",
    "Retry": "marks",
    "job": "marks",
    "schedule": "marks",
    "once": "keys",
    "captured_jobs": "testing",
    "run_jobs": "testing",
}

#: Those that import the models.
_WITH_TABLES = ("once", "captured_jobs", "run_jobs")

__all__ = ["Cancel", "JobBackend", "Retry", "captured_jobs", "job", "once", "run_jobs", "schedule"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _WITH_TABLES and registry.apps_ready and not registry.is_installed(__name__):
        raise ImproperlyConfigured(
            f"{__name__}.{name} needs the tables of the jobs: "
            f'add "{__name__}" to INSTALLED_APPS and run manage.py migrate'
        )
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
