"""The views that are measured; plain functions, run by whatever threads the server has."""

import threading
import time

from django.http import HttpRequest, HttpResponse

from benchmarks.apps import burden
from benchmarks.apps.sizes import LARGE, WAIT
from channelserver import Channel

_LARGE_ANSWER = b"x" * LARGE


def plain(request: HttpRequest) -> HttpResponse:
    """As little as a view can do."""
    return HttpResponse("Hello, world!")


def session(request: HttpRequest) -> HttpResponse:
    """Look into the session of a visitor who has none yet, which needs no database."""
    return HttpResponse("Hello, " + request.session.get("name", "world") + "!")


def busy(request: HttpRequest) -> HttpResponse:
    """Compute a little."""
    burden.compute_a_little()
    return HttpResponse("computed")


def answer(request: HttpRequest) -> HttpResponse:
    """Give an answer of 1 MiB."""
    return HttpResponse(_LARGE_ANSWER, content_type="application/octet-stream")


def upload(request: HttpRequest) -> HttpResponse:
    """Take an upload of 1 MiB, whole."""
    return HttpResponse(str(len(request.body)))


class _Visitors:
    """How many requests a view is working at, and how many it has been at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = 0

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.now -= 1


_waiting = _Visitors()


def wait(request: HttpRequest) -> HttpResponse:
    """Wait, as for another host, without using the processor."""
    with _waiting:
        time.sleep(WAIT)
    return HttpResponse("waited")


def most(request: HttpRequest) -> HttpResponse:
    """Tell how many requests have waited at a time."""
    return HttpResponse(str(_waiting.most))


def tasks(request: HttpRequest, number: int) -> HttpResponse:
    """Put messages into a channel which is used as a task queue."""
    queue = Channel("task")
    for left in range(number - 1, -1, -1):
        queue.send({"left": left})
    return HttpResponse("sent")
