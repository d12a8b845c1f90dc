from django.contrib.auth.models import Group

from channelserver.binding.websockets import WebsocketBinding
from channelserver.generic.websockets import WebsocketDemultiplexer


class GroupBinding(WebsocketBinding):
    model = Group
    stream = "groups"
    fields = ["name"]

    @classmethod
    def group_names(cls, instance):
        return ["groups"]

    def has_permission(self, user, action, pk):
        return action != "delete"


class Streams(WebsocketDemultiplexer):
    http_user = True
    groups = ["groups"]
    consumers = {"groups": GroupBinding.consumer}


channel_routing = [Streams.as_route(path="^/streams/$")]
