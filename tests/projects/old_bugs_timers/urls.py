import lab
from django.http import StreamingHttpResponse
from django.urls import path


def streaming(request):
    def body():
        yield b"begin"
        lab.wait_for_gate("body")
        yield b"end"

    return StreamingHttpResponse(body())


urlpatterns = [path("streaming", streaming)]
