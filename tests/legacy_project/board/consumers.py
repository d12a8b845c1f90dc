"""The consumers: classes, a demultiplexer, functions."""

import json

from channels import Channel, Group
from channels.auth import channel_session_user, channel_session_user_from_http
from channels.generic.websockets import JsonWebsocketConsumer, WebsocketDemultiplexer, WebsocketMultiplexer
from channels.handler import AsgiHandler
from channels.security.websockets import allowed_hosts_only
from channels.sessions import enforce_ordering
from django.http import HttpResponse

from .models import Note


class Board(JsonWebsocketConsumer):
    """A board: who is connected gets all notes, and may write some."""

    http_user = True
    strict_ordering = True

    def connection_groups(self, board=None, **kwargs):
        return ["board-%s" % board]

    def connect(self, message, board=None, **kwargs):
        super(Board, self).connect(message, board=board, **kwargs)
        message.channel_session["written"] = 0
        notes = Note.objects.filter(board=board).order_by("pk")
        self.send({"notes": [note.text for note in notes], "you": message.user.username})

    def receive(self, content, board=None, **kwargs):
        session = self.message.channel_session
        session["written"] += 1
        Channel("board.save").send(
            {
                "board": board,
                "text": content["text"],
                "author": self.message.user.username,
                "number": session["written"],
            }
        )

    def disconnect(self, message, board=None, **kwargs):
        self.group_send("board-%s" % board, {"left": message.user.username})


def save_note(message):
    """Store a note; tell everybody."""
    note = Note.objects.create(board=message["board"], text=message["text"], author=message["author"])
    text = json.dumps({"note": note.text, "author": note.author, "number": message["number"]})
    Group("board-%s" % note.board).send({"text": text})


class Count(JsonWebsocketConsumer):
    """A stream: how many notes there are."""

    def connect(self, message, multiplexer, **kwargs):
        multiplexer.send({"count": Note.objects.count()})

    def receive(self, content, multiplexer, **kwargs):
        multiplexer.send({"count": Note.objects.filter(board=content["board"]).count()})


class Shout(JsonWebsocketConsumer):
    """A stream: says everything to everybody, louder."""

    groups = ["shouts"]

    def connect(self, message, multiplexer, **kwargs):
        pass

    def receive(self, content, multiplexer, **kwargs):
        WebsocketMultiplexer.group_send("shouts", multiplexer.stream, {"text": content["text"].upper()})


class Streams(WebsocketDemultiplexer):
    """Two streams over one socket."""

    http_user = True
    consumers = {
        "count": Count,
        "shout": Shout,
    }


@allowed_hosts_only
@enforce_ordering
@channel_session_user_from_http
def whisper_connect(message, name):
    """Open a socket to whisper on."""
    message.channel_session["name"] = name
    message.reply_channel.send({"accept": True})


@enforce_ordering
@channel_session_user
def whisper_receive(message):
    """Repeat what was said, in a low voice."""
    message.reply_channel.send({"text": "%s: %s" % (message.channel_session["name"], message["text"].lower())})


def http_ping(message):
    """Answer a request without a view."""
    response = HttpResponse("pong", content_type="text/plain")
    for chunk in AsgiHandler.encode_response(response):
        message.reply_channel.send(chunk)
