from app.models import Note
from django.http import HttpResponse
from django.urls import path


def add(request, name):
    return HttpResponse(Note.objects.create(name=name).pk)


def star(request, pk):
    note = Note.objects.get(pk=pk)
    note.stars += 1
    note.save()
    return HttpResponse(note.stars)


def remove(request, pk):
    Note.objects.get(pk=pk).delete()
    return HttpResponse()


urlpatterns = [path("add/<name>/", add), path("star/<int:pk>/", star), path("remove/<int:pk>/", remove)]
