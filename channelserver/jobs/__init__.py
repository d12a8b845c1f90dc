"""Durable jobs: a backend for Django's tasks that the server runs itself (``django.tasks``, or ``django-tasks``).

Rows in the site's database are the jobs; a thread of the server, the claimer, takes them and hands them to threads of
their own, or to the event loop. May import the layers, the workers and the Django side, nothing of the server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

__all__ = ["Cancel", "JobBackend", "Retry", "captured_jobs", "job", "once", "run_jobs", "schedule"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
