"""The pages, and the addresses of the sockets."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path, register_converter

from . import views


class RoomSlug:
    """Like Django's ``slug``, but in any alphabet."""

    regex = r"[-\w]+"

    def to_python(self, value):
        return value

    def to_url(self, value):
        return value


register_converter(RoomSlug, "room_slug")

urlpatterns = [
    path("", views.front_page, name="lobby"),
    path("room/<room_slug:slug>/", views.room, name="room"),
    path("room/<room_slug:slug>/earlier/", views.earlier, name="earlier"),
    path("server/", views.server, name="server"),
    path("server/events/", views.server_events, name="server-events"),
    path("enter/", views.EnterView.as_view(), name="enter"),
    path("signup/", views.SignUpView.as_view(), name="signup"),
    path("login/", LoginView.as_view(template_name="rooms/login.html", redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    # What connects here, goes to the consumers in chatsite/routing.py.
    path("ws/lobby/", views.socket_only, name="lobby-socket"),
    path("ws/room/<room_slug:slug>/", views.socket_only, name="room-socket"),
]
