from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

BIG = b"x" * 4_000_000
urlpatterns = [
    path("", lambda request: HttpResponse("here")),
    path("big", lambda request: HttpResponse(BIG)),
    path("stream", lambda request: StreamingHttpResponse(BIG[:100_000] for _ in range(40))),
    path("post", lambda request: HttpResponse(str(len(request.body)))),
]
