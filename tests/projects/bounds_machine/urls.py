from django.http import FileResponse, HttpResponse
from django.urls import path, re_path

urlpatterns = [
    path("file", lambda request: FileResponse(open(__file__, "rb"))),
    re_path("", lambda request: HttpResponse("here")),
]
