"""The measured views: plain functions, run by the server's threads."""

import threading
import time

from django.http import HttpRequest, HttpResponse

from benchmarks.apps import burden
from benchmarks.apps.sizes import LARGE, WAIT

_LARGE_ANSWER = b"x" * LARGE


def plain(request: HttpRequest) -> HttpResponse:
    """The smallest view."""
    return HttpResponse("Hello, world!")


def session(request: HttpRequest) -> HttpResponse:
    """Read the session of a visitor without one, which needs no database."""
    return HttpResponse("Hello, " + request.session.get("name", "world") + "!")


def busy(request: HttpRequest) -> HttpResponse:
    """Compute a little."""
    burden.compute_a_little()
    return HttpResponse("computed")


def answer(request: HttpRequest) -> HttpResponse:
    """Answer with 1 MiB."""
    return HttpResponse(_LARGE_ANSWER, content_type="application/octet-stream")


def upload(request: HttpRequest) -> HttpResponse:
    """Read an upload of 1 MiB."""
    return HttpResponse(str(len(request.body)))


class _Visitors:
    """The number of requests in a view, and its maximum."""

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
    """Wait, as for another host, without using the CPU."""
    with _waiting:
        time.sleep(WAIT)
    return HttpResponse("waited")


def most(request: HttpRequest) -> HttpResponse:
    """Return the highest number of requests that waited at the same time."""
    return HttpResponse(str(_waiting.most))


def tasks(request: HttpRequest, number: int) -> HttpResponse:
    """Send messages to a channel used as a task queue."""
    from channelserver import Channel  # not at the top: peers that serve these views should not load it

    queue = Channel("task")
    for left in range(number - 1, -1, -1):
        queue.send({"left": left})
    return HttpResponse("sent")
