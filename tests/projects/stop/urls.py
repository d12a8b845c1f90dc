from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from waiting import say, wait_for


def quick(request):
    return HttpResponse(b"quick " + request.body)


def slow(request):
    say("view", "begun")
    wait_for("go")
    return HttpResponse("slow but sure")


def parts(request):
    def content():
        yield b"one "
        wait_for("go")
        yield b"two"

    return StreamingHttpResponse(content())


urlpatterns = [path("", quick), path("slow/", slow), path("parts/", parts)]
