import gc
import os
from collections import Counter
from ctypes import CDLL

from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

malloc_trim = CDLL(None).malloc_trim


def counts(request):
    gc.collect()
    malloc_trim(0)  # what is free counts as memory no more
    kinds = (type(thing) for thing in gc.get_objects())
    found = Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith("channelserver."))
    found["open files"] = len(os.listdir("/proc/self/fd"))
    return JsonResponse(found)


def large(request):
    return HttpResponse(b"x" * 1_000_000)


def stream(request):
    return StreamingHttpResponse(b"x" * 10_000 for _ in range(1000))


def upload(request):
    return HttpResponse(str(len(request.body)))


def broken(request):
    raise RuntimeError("as it must be")


urlpatterns = [path(view.__name__, view) for view in (counts, large, stream, upload, broken)]
