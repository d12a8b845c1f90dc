"""The views' paths."""

from django.urls import path

from benchmarks.apps import views

urlpatterns = [
    path("", views.plain),
    path("session/", views.session),
    path("busy/", views.busy),
    path("answer/", views.answer),
    path("upload/", views.upload),
    path("wait/", views.wait),
    path("most/", views.most),
    path("tasks/<int:number>/", views.tasks),
]
