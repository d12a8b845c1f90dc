from django.core import signing
from django.core.handlers import base
from django.http import JsonResponse, request, response
from django.urls import path

import examples


def where(request_):
    headers = response.ResponseHeaders
    functions = headers.__contains__, headers.get, headers.__setitem__, base.iscoroutinefunction
    patterns = request.host_validation_re, response._charset_from_content_type_re, signing._SEP_UNSAFE
    names = [function.__module__ for function in functions]
    return JsonResponse([names, [type(pattern).__name__ for pattern in patterns]], safe=False)


urlpatterns = [
    path("examples/", lambda request_: JsonResponse(examples.examples(), safe=False)),
    path("where/", where),
]
