from django.urls import path

from myproject.myapp import views

urlpatterns = [
    path("", views.page),
    path("login/<name>/", views.log_in),
    path("messages/", views.messages),
    path("say/<room>/<text>/", views.say),
]
