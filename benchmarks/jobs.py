"""How many jobs a second: enqueued, and run; and how long a job takes from ``enqueue`` to its end, also if another
process enqueues it, as a shell or a cron job does.

``python -m benchmarks.jobs [--jobs N] [--threads N] [--postgresql HOST]``: on SQLite in a temporary folder, with a
write-ahead log and ``synchronous=NORMAL``; or in a PostgreSQL that runs already.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: Jobs that another process enqueues.
ELSEWHERE = 300


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description="Measure jobs.")
    parser.add_argument("--jobs", type=int, default=4000, help="jobs to run (default: 4000)")
    parser.add_argument("--threads", type=int, default=4, help="threads that run them (default: 4)")
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
        INSTALLED_APPS=["channelserver.jobs"],
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


def _print(name: str, times: list[float]) -> None:
    times.sort()
    print(f"{name:<18}{statistics.median(times):8.1f} ms median, {times[len(times) * 99 // 100]:.1f} ms p99")


def _wait(claimer: Any, number: int) -> None:
    while claimer.counters["done"] < number:
        time.sleep(0.0002)


if __name__ == "__main__":
    main()
