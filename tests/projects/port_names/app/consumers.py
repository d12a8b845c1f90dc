from channels.handler import AsgiHandler
from django.http import HttpResponse

from app.models import Terminal


def ws_connect(message, place):
    Terminal.objects.create(channel_name=message.reply_channel.name, place=place)
    message.reply_channel.send({"accept": True})


def ws_receive(message, place):
    for terminal in Terminal.objects.filter(place=place):
        terminal.say(message["text"])


def ws_disconnect(message, place):
    Terminal.objects.filter(channel_name=message.reply_channel.name).delete()


def count(message):
    response = HttpResponse(str(Terminal.objects.count()))
    for part in AsgiHandler.encode_response(response):
        message.reply_channel.send(part)
