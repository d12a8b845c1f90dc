"""Which URL leads to which view."""

from django.urls import path

from . import views

urlpatterns = [
    path("", views.page),
    path("answer/", views.answer, name="answer"),
    path("now/", views.now, name="now"),
]
