"""The pages: plain Django views."""

from django.contrib.auth import login
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import RedirectURLMixin
from django.http import HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_safe
from django.views.generic import FormView

from channelserver import EventStream, Group

from . import history, lobby, pulse
from .forms import GuestForm, RoomForm, SignUpForm
from .models import LINE_LENGTH, Room


def front_page(request):
    """All rooms, and a form to open one."""
    form = RoomForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        room, is_new = form.open()
        if is_new:
            # A view may send to a group as well as a consumer.
            Group(lobby.GROUP).send(lobby.news(room))
        return redirect(room)
    return render(request, "rooms/front_page.html", {"form": form, "rooms": lobby.rooms()})


@require_safe
def room(request, slug):
    """A room. The lines travel as JSON: the script lays out old lines and new ones alike."""
    here = get_object_or_404(Room, slug=slug)
    lines, more = history.latest(here.pk)
    return render(
        request,
        "rooms/room.html",
        {
            "room": here,
            "history": {"lines": lines, "more": more},
            "rail": lobby.recent(here),
            "line_length": LINE_LENGTH,
        },
    )


@require_safe
def earlier(request, slug):
    """The lines before line ``?before=``, for whoever scrolls up."""
    here = get_object_or_404(Room, slug=slug)
    lines, more = history.latest(here.pk, before=history.line_number(request.GET.get("before")))
    return JsonResponse({"lines": lines, "more": more})


@require_safe
def server(request):
    """What the server is doing."""
    return render(request, "rooms/server.html")


@require_safe
def server_events(request):
    """The figures of that page: now, and then once a second, as pulse.py sends them to the group. No thread waits."""
    return EventStream(groups=[pulse.GROUP], first=[pulse.event()], retry=2000)


@login_not_required
def socket_only(request, **kwargs):
    """Where a WebSocket is expected. The URLs are listed so that templates can name them with ``{% url %}``."""
    return HttpResponse("This address is for WebSockets.\n", status=426, content_type="text/plain")


@method_decorator(login_not_required, name="dispatch")
class EnterView(RedirectURLMixin, FormView):
    """The door: a name, and one is in."""

    template_name = "rooms/enter.html"
    form_class = GuestForm
    next_page = "lobby"

    def dispatch(self, request, *args, **kwargs):
        if request.user.is_authenticated:
            return HttpResponseRedirect(self.get_success_url())
        return super().dispatch(request, *args, **kwargs)

    def get_context_data(self, **kwargs):
        return super().get_context_data(next=self.get_redirect_url(), **kwargs)

    def form_valid(self, form):
        login(self.request, form.user)
        return super().form_valid(form)


class SignUpView(EnterView):
    """A new account; whoever makes one is logged in with it."""

    template_name = "rooms/signup.html"
    form_class = SignUpForm

    def form_valid(self, form):
        form.user = form.save()
        return super().form_valid(form)
