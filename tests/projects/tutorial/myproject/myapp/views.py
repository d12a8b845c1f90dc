from channels import Channel
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render

from .models import ChatMessage


def page(request):
    return render(request, "page.html")


def log_in(request, name):
    login(request, User.objects.get(username=name), "django.contrib.auth.backends.ModelBackend")
    return HttpResponse("Welcome, " + name)


def messages(request):
    return JsonResponse(list(ChatMessage.objects.order_by("pk").values_list("room", "message")), safe=False)


def say(request, room, text):
    Channel("chat-messages").send({"room": room, "message": text})
    return HttpResponse("Said.")
