import hashlib

from django.core.files.uploadhandler import TemporaryFileUploadHandler
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

BLOCK = bytes(range(256)) * 256
sent = 0


def digest(stream):
    found = hashlib.sha256()
    while block := stream.read(65536):
        found.update(block)
    return HttpResponse(found.hexdigest())


@csrf_exempt
def upload(request):
    request.upload_handlers = [TemporaryFileUploadHandler(request)]
    return digest(request.FILES["file"])


def blocks():
    global sent
    for _ in range(3200):
        yield BLOCK
        sent += len(BLOCK)


def conditional(request):
    response = HttpResponse(b"part", status=206, content_type="text/plain")
    response["Content-Range"] = "bytes 0-3/10"
    return response


urlpatterns = [
    path("raw", csrf_exempt(digest)),
    path("upload", upload),
    path("file", lambda request: FileResponse(open("large.bin", "rb"))),
    path("stream", lambda request: StreamingHttpResponse(blocks())),
    path("sent", lambda request: HttpResponse(str(sent))),
    path("range", conditional),
]
