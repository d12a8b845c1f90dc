import hashlib
import os

from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def body(request):
    return HttpResponse(hashlib.sha256(request.body).hexdigest() + f" {os.getpid()}")


def stream(request):
    return StreamingHttpResponse(bytes([number % 256]) * 100_000 for number in range(50))


def die(request):
    os.kill(os.getpid(), 9)


urlpatterns = [path("body/", body), path("stream/", stream), path("die/", die)]
