from channelserver import route_class
from channelserver.generic.websockets import JsonWebsocketConsumer, WebsocketDemultiplexer


class Json(JsonWebsocketConsumer):
    def receive(self, content, **kwargs):
        multiplexer = kwargs.get("multiplexer")
        (self if multiplexer is None else multiplexer).send(content)


class Streams(WebsocketDemultiplexer):
    consumers = {"json": Json}


channel_routing = [route_class(Json, path="^/json/$"), route_class(Streams, path="^/streams/$")]
