import hashlib
import threading

from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path, re_path


def echo(request, rest=""):
    body = request.body
    return JsonResponse(
        {
            "method": request.method,
            "path": request.path,
            "query": request.META["QUERY_STRING"],
            "protocol": request.META["SERVER_PROTOCOL"],
            "headers": {key: value for key, value in request.META.items() if key.startswith(("HTTP_", "CONTENT_"))},
            "length": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
    )


gates = {}


def gate(request, name):
    # The answer waits until another request opens it.
    gates.setdefault(name, threading.Event()).wait(120)
    return HttpResponse("gate " + name)


def open_gate(request, name):
    gates.setdefault(name, threading.Event()).set()
    return HttpResponse("opened " + name)


def status(request, code):
    response = HttpResponse("" if code in (204, 304) else "text", status=code)
    if code == 304:
        response["ETag"] = '"1"'
    return response


urlpatterns = [
    path("gate/<name>", gate),
    path("open/<name>", open_gate),
    path("status/<int:code>", status),
    path("stream", lambda request: StreamingHttpResponse(iter([b"one ", b"", b"two ", b"three"]))),
    path("long", lambda request: HttpResponse("x" * 100000)),
    re_path("^(?P<rest>.*)$", echo),
]
