from channels.binding.websockets import WebsocketBinding
from channels.generic.websockets import JsonWebsocketConsumer, WebsocketConsumer, WebsocketDemultiplexer
from channels.security.websockets import allowed_hosts_only

from app.models import Vote


class VoteBinding(WebsocketBinding):
    model = Vote
    stream = "votes"
    fields = ["title", "number"]

    @classmethod
    def group_names(cls, instance):
        return ["votes-updates"]

    def has_permission(self, user, action, pk):
        return user.is_authenticated and action != "delete"


class CountConsumer(JsonWebsocketConsumer):
    channel_session = True

    def connect(self, message, multiplexer, **kwargs):
        message.channel_session["count"] = 0
        multiplexer.send({"status": "connected"})

    def receive(self, content, multiplexer, **kwargs):
        session = self.message.channel_session
        session["count"] += content["add"]
        multiplexer.send({"count": session["count"]})

    def disconnect(self, message, multiplexer, **kwargs):
        Vote.objects.update_or_create(title="left", defaults={"number": message.channel_session["count"]})


class Demultiplexer(WebsocketDemultiplexer):
    http_user = True
    strict_ordering = True
    consumers = {"count": CountConsumer, "votes": VoteBinding.consumer}

    def connection_groups(self, **kwargs):
        return ["votes-updates"]


class Guarded(WebsocketConsumer):
    http_user_and_session = True

    @classmethod
    def decorator(cls, handler):
        return allowed_hosts_only(handler)

    def get_handler(self, message, **kwargs):
        handler = super().get_handler(message, **kwargs)
        return self.decorator(handler) if message.channel.name == "websocket.connect" else handler

    def receive(self, text=None, bytes=None, **kwargs):
        self.send(text=f"{self.message.user.username}: {text}", close=text == "bye")
