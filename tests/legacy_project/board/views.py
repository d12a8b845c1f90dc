"""The views."""

from channels import Channel
from django.http import HttpResponse
from django.shortcuts import render

from .models import Note


def front_page(request):
    """The page with the script."""
    return render(request, "board/front_page.html")


def notes(request):
    """All notes; a POST writes one."""
    if request.method == "POST":
        note = {"board": "lobby", "text": request.POST["text"], "author": "", "number": 0}
        Channel("board.save").send(note)
        return HttpResponse(status=202)
    return HttpResponse("\n".join(note.text for note in Note.objects.order_by("pk")), content_type="text/plain")
