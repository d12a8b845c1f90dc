"""The work of :mod:`benchmarks.jobs` with other queues: ``python -m benchmarks.jobs_peers NAME [--jobs N]``.

NAME is ``tasks-db`` (django-tasks-db on SQLite), ``huey`` (SQLite, each write synchronized) or ``celery`` (on Redis,
with results). Runs in an environment that has them (``benchmarks/requirements.txt``).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: The module that both sides import, by the name of the queue.
MODULES = {
    "tasks-db": """
import os, django
from django.conf import settings
if not settings.configured:
    settings.configure(SECRET_KEY="x", USE_TZ=True, INSTALLED_APPS=["django_tasks", "django_tasks_db"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["FOLDER"] + "/db",
            "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}}},
        TASKS={"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}})
    django.setup()
from django_tasks import task

@task
def nothing(number):
    return number

enqueue = nothing.enqueue

def done():
    from django_tasks_db.models import DBTaskResult
    return DBTaskResult.objects.filter(status="SUCCESSFUL").count()
""",
    "huey": """
import os
from huey import SqliteHuey
huey = SqliteHuey(filename=os.environ["FOLDER"] + "/db", fsync=True)

@huey.task()
def nothing(number):
    return number

enqueue = nothing
done = huey.storage.result_store_size
""",
    "celery": """
import os, redis
from celery import Celery
url = "redis+socket://" + os.environ["FOLDER"] + "/redis"
app = Celery("peer", broker=url, backend=url + "?virtual_host=1")

@app.task
def nothing(number):
    return number

enqueue = nothing.delay
_redis = redis.Redis(unix_socket_path=os.environ["FOLDER"] + "/redis", db=1)  # of results
done = _redis.dbsize
""",
}


def main() -> None:
    """Measure, and print a line for each figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs_peers", description="Measure other queues.")
    parser.add_argument("name", choices=sorted(MODULES))
    parser.add_argument("--jobs", type=int, default=2000, help="jobs to run (default: 2000)")
    parser.add_argument("--threads", type=int, default=4, help="threads that run them (default: 4)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FOLDER"] = folder
        os.environ["PYTHONPATH"] = folder
        sys.path.insert(0, folder)
        Path(folder, "peer.py").write_text(MODULES[given.name])
        helpers = []
        try:
            if given.name == "celery":
                redis = [
                    "redis-server",
                    "--port",
                    "0",
                    "--unixsocket",
                    f"{folder}/redis",
                    "--save",
                    "",
                    "--dir",
                    folder,
                ]
                helpers.append(subprocess.Popen(redis, stdout=subprocess.DEVNULL))
                while not os.path.exists(f"{folder}/redis"):
                    time.sleep(0.01)
            import peer  # type: ignore[import-not-found]

            if given.name == "tasks-db":
                from django.core.management import call_command

                call_command("migrate", verbosity=0)
            _measure(peer, given.jobs, lambda: helpers.append(_worker(given.name, given.threads)))
        finally:
            for helper in reversed(helpers):
                helper.kill()
                helper.wait()


def _worker(name: str, threads: int) -> Any:
    """Start what runs the jobs."""
    code = {
        "tasks-db": "import peer; from django.core import management as m; m.call_command('db_worker', verbosity=0)",
        "huey": f"import peer; c = peer.huey.create_consumer(workers={threads}); c.run()",
        "celery": f"import peer; peer.app.worker_main(['worker', '-P', 'threads', '-c', '{threads}', '-l', 'ERROR'])",
    }[name]
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _measure(peer: Any, number: int, start: Callable[[], None]) -> None:
    begins = time.perf_counter()
    for index in range(number):
        peer.enqueue(index)
    print(f"enqueued          {number / (time.perf_counter() - begins):8.0f} jobs/s")
    start()
    while (first := peer.done()) == 0:  # its start does not count
        time.sleep(0.002)
    begins = time.perf_counter()
    _wait(peer, number, 0.02)
    print(f"run               {(number - first) / (time.perf_counter() - begins):8.0f} jobs/s")
    times = []
    for index in range(100):
        begins = time.perf_counter()
        peer.enqueue(index)
        _wait(peer, number + index + 1, 0.0005)
        times.append(1000 * (time.perf_counter() - begins))
        if sum(times) > 20_000:
            break
    times.sort()
    print(f"enqueue to end    {statistics.median(times):8.1f} ms median, {times[len(times) * 99 // 100]:.1f} ms p99")


def _wait(peer: Any, number: int, pause: float) -> None:
    while peer.done() < number:
        time.sleep(pause)


if __name__ == "__main__":
    main()
