"""The paths of a site with asynchronous views, event streams and long answers."""

from django.urls import path

from benchmarks.apps import async_views, views

urlpatterns = [
    path("", views.plain),
    path("async/", async_views.plain),
    path("async-session/", async_views.session),
    path("async-query/", async_views.query),
    path("events/", async_views.events),
    path("tick/", async_views.tick),
    path("file/", async_views.file),
    path("generated/", async_views.generated),
]
