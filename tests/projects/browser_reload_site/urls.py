"""A site with django-browser-reload."""

from django.shortcuts import render
from django.urls import include, path


def page(request):
    return render(request, "page.html", {"version": 1})


urlpatterns = [path("", page), path("__reload__/", include("django_browser_reload.urls"))]
