from django.http import HttpResponse
from django.urls import re_path


def page(request, path):
    return HttpResponse(f"{request.scheme} {request.META['SERVER_PROTOCOL']} {request.get_host()} /{path}")


urlpatterns = [re_path(r"^(.*)$", page)]
