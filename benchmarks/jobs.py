"""How many jobs a second: enqueued, and run; and how long a job takes from ``enqueue`` to its end, also if another
process enqueues it, as a shell or a cron job does. Then the same table with many ended jobs: a claim, the admin pages,
pruning.

``python -m benchmarks.jobs [--jobs N] [--threads N] [--ended N] [--postgresql HOST]``: on SQLite in a temporary
folder, with a write-ahead log and ``synchronous=NORMAL``; or in a PostgreSQL that runs already.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from django.utils import timezone

#: Jobs that another process enqueues.
ELSEWHERE = 300


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description="Measure jobs.")
    parser.add_argument("--jobs", type=int, default=4000, help="jobs to run (default: 4000)")
    parser.add_argument("--threads", type=int, default=4, help="threads that run them (default: 4)")
    parser.add_argument("--ended", type=int, default=100_000, help="jobs that have ended (default: 100000)")
    parser.add_argument("--postgresql", metavar="HOST", help="host, or folder of the socket, of a PostgreSQL server")
    parser.add_argument("--enqueue-in", metavar="FOLDER", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.enqueue_in:
        _set_up(Path(given.enqueue_in), given.postgresql)
        _enqueue_now_and_then()
        return
    with tempfile.TemporaryDirectory() as folder:
        _set_up(Path(folder), given.postgresql, migrate=True)
        command = [sys.executable, "-m", "benchmarks.jobs", "--enqueue-in", folder]
        _measure(given.jobs, given.threads, command + (["--postgresql", given.postgresql] if given.postgresql else []))
        if given.ended:
            _measure_ended(given.ended)


def _set_up(folder: Path, postgresql: str | None, migrate: bool = False) -> None:
    import django
    from django.conf import settings

    sqlite = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(folder / "db.sqlite3"),
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
    other = {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": postgresql}
    settings.configure(
        SECRET_KEY="of the benchmarks",
        USE_TZ=True,
        INSTALLED_APPS=[
            "channelserver.jobs",
            *(f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages")),
        ],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
        ROOT_URLCONF="benchmarks.apps.jobs_admin",
        STATIC_URL="/static/",
        DATABASES={"default": other if postgresql else sqlite},
        TASKS={"default": {"BACKEND": "channelserver.jobs.JobBackend"}},
    )
    django.setup()
    logging.disable(logging.CRITICAL)
    if migrate:
        from django.core.management import call_command

        call_command("migrate", verbosity=0)


def _enqueue_now_and_then() -> None:
    from benchmarks.apps.jobs import nothing

    for index in range(ELSEWHERE):
        nothing.enqueue(index)
        time.sleep(0.02)


def _measure(number: int, threads: int, elsewhere: list[str]) -> None:
    from benchmarks.apps.jobs import nothing
    from channelserver.jobs.claimer import Claimer
    from channelserver.workers.loop import event_loop

    task = nothing
    begins = time.perf_counter()
    for index in range(number):
        task.enqueue(index)
    print(f"enqueued          {number / (time.perf_counter() - begins):8.0f} jobs/s")
    claimer = Claimer("default", None, threads, lambda *_: None, event_loop.start)
    begins = time.perf_counter()
    claimer.start()
    _wait(claimer, number)
    print(f"run               {number / (time.perf_counter() - begins):8.0f} jobs/s, {threads} threads")
    times = []
    for index in range(300):
        begins = time.perf_counter()
        task.enqueue(index)
        _wait(claimer, number + index + 1)
        times.append(1000 * (time.perf_counter() - begins))
    _print("enqueue to end", times)
    subprocess.run(elsewhere, check=True)
    _wait(claimer, number + 300 + ELSEWHERE)
    from channelserver.jobs.models import Job

    rows = list(Job.objects.order_by("-id").values_list("finished_at", "created_at")[:ELSEWHERE])
    _print("  other process", [1000 * (end - begin).total_seconds() for end, begin in rows])
    claimer.drain()
    claimer.stop(5)


def _measure_ended(number: int) -> None:
    """Measure what many jobs that have ended must not make slower."""
    from channelserver.jobs import store
    from channelserver.jobs.models import ENDED, Job, State

    _print("claim", _claims())
    now = timezone.now()
    for begin in range(0, number, 5000):
        states = [ENDED[2 * index // number] for index in range(begin, min(begin + 5000, number))]  # done, then dead
        Job.objects.bulk_create(
            Job(task="a.task", state=state, attempt=1, finished_at=now, args={"args": [], "kwargs": {}})
            for state in states
        )
    print(f"with {number} ended jobs:")
    _print("claim", _claims())
    for name, query in (("", {}), (", dead", {"state__exact": State.DEAD}), (", done", {"state__exact": State.DONE})):
        _print(f"admin list{name}", [_time_list(query) for _ in range(10)])
    times: list[float] = []
    with mock.patch("channelserver.jobs.store.writing", partial(_timed, store.writing, times)):
        while store.prune("default", timezone.now(), timezone.now()):
            pass
    _print("prune, a lock", times)
    print(f"                  {max(times):8.1f} ms at most")


def _claims() -> list[float]:
    from benchmarks.apps.jobs import nothing
    from channelserver.jobs import claims, ends
    from channelserver.jobs.models import State

    times = []
    for _ in range(200):
        nothing.enqueue(0)
        begins = time.perf_counter()
        (job,) = claims.claim("default", "me", claims.Room(1, 0, 10), None, timezone.now())
        times.append(1000 * (time.perf_counter() - begins))
        ends.end("default", ends.Outcome(job, State.DONE))
    return times


def _time_list(query: dict[str, Any]) -> float:
    """Return the processor time of this process for a page of the list, ms; on SQLite that is all of it."""
    from django.contrib.admin import site
    from django.contrib.auth.models import User
    from django.test import RequestFactory

    from channelserver.jobs.models import Job

    request = RequestFactory().get("/", query)
    request.user = User(is_superuser=True, is_staff=True)
    begins = time.process_time()
    site.get_model_admin(Job).changelist_view(request).render()
    return 1000 * (time.process_time() - begins)


@contextmanager
def _timed(writing: Any, times: list[float], using: str, savepoint: bool = False) -> Iterator[None]:
    with writing(using, savepoint):
        begins = time.perf_counter()
        yield
    times.append(1000 * (time.perf_counter() - begins))


def _print(name: str, times: list[float]) -> None:
    times.sort()
    print(f"{name:<18}{statistics.median(times):8.1f} ms median, {times[len(times) * 99 // 100]:.1f} ms p99")


def _wait(claimer: Any, number: int) -> None:
    while claimer.counters["done"] < number:
        time.sleep(0.0002)


if __name__ == "__main__":
    main()
