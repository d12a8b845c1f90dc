import os

from django.conf import LazySettings
from django.core import signals, signing
from django.db import connections
from django.http import JsonResponse, request, response
from django.urls import base, path


def where(request_):
    kinds = [
        type(signals.request_started),
        type(signals.request_finished),
        type(base._urlconfs),
        type(base._prefixes),
        type(request.host_validation_re),
        type(response._charset_from_content_type_re),
        type(signing._SEP_UNSAFE),
    ]
    functions = [getattr(response.ResponseHeaders, name) for name in ("__contains__", "get", "__setitem__")]
    functions.append(connections.create_connection)
    names = {thing.__module__ for thing in kinds + functions}
    if "__getattribute__" in vars(LazySettings):
        names.add("settings")
    return JsonResponse([os.getpid(), sorted(names)], safe=False)


urlpatterns = [path("where/", where)]
