"""The claimers of a process: who runs the jobs of its project.

Made before the reactor, in the main thread; started and stopped in the reactor thread.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings

from channelserver.start.project import StartError, describe
from channelserver.workers.loop import event_loop

if TYPE_CHECKING:
    from channelserver.jobs.claimer import Claimer


def threads_for_jobs(threads: int, job_threads: int | None) -> int:
    """Return how many threads run jobs: as ``--job-threads`` says, else half as many as run everything else."""
    return max(1, threads // 2) if job_threads is None else job_threads


def runs_jobs() -> bool:
    """Whether the project has jobs."""
    return apps.is_installed("channelserver.jobs") and bool(getattr(settings, "TASKS", None))


def make_claimers(
    threads: int, job_threads: int | None, call_later: Callable[..., object], context: Callable[[], Context]
) -> list[Claimer]:
    """Return a claimer for each database that has jobs; none if the project has no :class:`JobBackend`.

    :param threads: worker threads of this process.
    :param job_threads: the option; 0: this process runs no jobs.
    :param call_later: ``call_later(seconds, function)`` runs a function in the reactor thread.
    :param context: returns the context for a job.
    :raises StartError: the setting ``TASKS`` is wrong.
    """
    count = threads_for_jobs(threads, job_threads)
    if not count or not runs_jobs():
        return []
    from channelserver.jobs.backend import JobBackend
    from channelserver.jobs.claimer import Claimer
    from channelserver.jobs.compat import task_backends

    found: dict[str, list[Any]] = {}
    for alias in settings.TASKS:
        try:
            backend = task_backends[alias]
        except Exception as error:
            text = describe(error)
            raise StartError(
                text if text.startswith("TASKS[") else f"TASKS[{alias!r}] cannot be used: {text}"
            ) from error
        if isinstance(backend, JobBackend):
            found.setdefault(backend.database, []).append(backend)
    claimers = []
    for using, backends in found.items():
        queues = None if any(not backend.queues for backend in backends) else sorted({*_queues(backends)})
        done, dead = (max(getattr(backend, f"keep_{kind}_days") for backend in backends) for kind in ("done", "dead"))
        claimers.append(Claimer(using, queues, count, call_later, event_loop.start, context, done, dead))
    return claimers


def _queues(backends: list[Any]) -> list[str]:
    return [queue for backend in backends for queue in backend.queues]
