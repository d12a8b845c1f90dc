"""The views."""

from board import views
from django.urls import path

urlpatterns = [
    path("", views.front_page),
    path("notes/", views.notes),
]
