from django.contrib import admin
from django.http import HttpResponse
from django.urls import path


def index(request):
    return HttpResponse("the first version")


def fail(request):
    raise ValueError("the view failed")


def redirect(request):
    return HttpResponse(status=302, headers={"Location": "/"})


urlpatterns = [path("", index), path("fail", fail), path("redirect", redirect), path("admin/", admin.site.urls)]
