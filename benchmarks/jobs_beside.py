"""How quick pages and echoes are beside jobs that sleep: ``python -m benchmarks.jobs_beside [--rounds N]``.

A server with 8 threads for jobs, in turns idle and with 8 jobs that sleep; one client asks for a page, one echoes over
a WebSocket, each one request after the other. Prints the medians of the turns' medians and p99, and how often the
server's threads woke up in a second in which nobody asked anything.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from websockets.sync.client import connect

#: Requests of a turn, jobs beside them, and seconds that these sleep.
REQUESTS, JOBS, SECONDS = 700, 8, 5
FILES = {
    "settings.py": """
SECRET_KEY = "of the benchmarks"
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
ROOT_URLCONF = "urls"
INSTALLED_APPS = ["channelserver", "channelserver.jobs", "work"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3", "OPTIONS": {
    "timeout": 20, "transaction_mode": "IMMEDIATE",
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}}}
TASKS = {"default": {"BACKEND": "channelserver.jobs.JobBackend"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "channelserver.layers.InMemoryChannelLayer", "ROUTING": "urls.routing"}}
""",
    "urls.py": """
from django.http import HttpResponse, JsonResponse
from django.urls import path
from channelserver import route
from channelserver.jobs.models import Job
from work.tasks import sleeping

def echo(message):
    message.reply_channel.send({"text": message["text"]})

def sleep(request, seconds):
    for _ in range(8):
        sleeping.enqueue(seconds)
    return HttpResponse()

routing = [route("websocket.receive", echo)]
urlpatterns = [
    path("", lambda request: HttpResponse("page")),
    path("sleep/<int:seconds>", sleep),
    path("running", lambda request: JsonResponse({"running": Job.objects.filter(state="running").count()})),
]
""",
    "work/__init__.py": "",
    "work/tasks.py": """
import time
from channelserver.jobs.compat import task

@task
def sleeping(seconds):
    time.sleep(seconds)
""",
}


def main() -> None:
    """Measure, and print a line for each kind of request."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs_beside", description="Measure beside jobs.")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each kind (default: 8)")
    parser.add_argument("--port", type=int, default=8391, help="port of the server (default: 8391)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FILES.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        command = [sys.executable, "-m", "channelserver"]
        settings = ["--settings", "settings", "--pythonpath", folder]
        migrate = "import django; django.setup(); from django.core.management import call_command as c; c('migrate')"
        environment = {"DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": f"{folder}:{Path.cwd()}"}
        subprocess.run([sys.executable, "-c", migrate], cwd=folder, env=environment, check=True, stdout=-3)
        server = subprocess.Popen(
            [*command, "serve", *settings, "--port", str(given.port), "--job-threads", str(JOBS)],
            cwd=folder, env=environment, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _measure(given.rounds, given.port, server.pid)
        finally:
            server.terminate()
            server.wait()


def _get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    return connection.getresponse().read()


def _running(port: int) -> int:
    try:
        return int(json.loads(_get(port, "/running"))["running"])
    except OSError:
        return -1


def _wait_for(port: int, running: int) -> None:
    while _running(port) != running:
        time.sleep(0.05)


def _wakes(pid: int) -> int:
    """Return how often the threads of a process have waited for something."""
    texts = [Path(f"/proc/{pid}/task/{thread}/status").read_text() for thread in os.listdir(f"/proc/{pid}/task")]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)


def _measure(rounds: int, port: int, pid: int) -> None:
    _wait_for(port, 0)
    page = http.client.HTTPConnection("127.0.0.1", port)

    def get() -> None:
        page.request("GET", "/")
        page.getresponse().read()

    turns: dict[tuple[str, str], list[list[float]]] = {}
    wakes: dict[str, list[int]] = {}
    with connect(f"ws://127.0.0.1:{port}/", compression=None) as socket:

        def echo() -> None:
            socket.send("echo")
            socket.recv()

        for _ in range(rounds):
            for beside in ("idle", f"{JOBS} jobs"):
                if beside != "idle":
                    _get(port, f"/sleep/{SECONDS}")
                    _wait_for(port, JOBS)
                for kind, ask in (("page", get), ("echo", echo)):
                    turns.setdefault((kind, beside), []).append(sorted(_times(ask)))
                before = _wakes(pid)
                time.sleep(1)
                wakes.setdefault(beside, []).append(_wakes(pid) - before)
                _wait_for(port, 0)
    for (kind, beside), found in sorted(turns.items()):
        median = statistics.median(statistics.median(turn) for turn in found)
        p99 = statistics.median(turn[len(turn) * 99 // 100] for turn in found)
        print(f"{kind} beside {beside:<8} {1e3 * median:8.2f} ms median {1e3 * p99:8.2f} ms p99")
    for beside, counts in wakes.items():
        print(f"wakes beside {beside:<7} {statistics.median(counts):7.0f} in a second")


def _times(ask: Callable[[], None]) -> list[float]:
    found = []
    for _ in range(REQUESTS):
        begins = time.perf_counter()
        ask()
        found.append(time.perf_counter() - begins)
    return found


if __name__ == "__main__":
    main()
