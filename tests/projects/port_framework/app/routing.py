from channels.generic.websockets import WebsocketDemultiplexer
from channels.routing import route_class

from app.bindings import NoteBinding


class APIDemultiplexer(WebsocketDemultiplexer):
    consumers = {"notes": NoteBinding.consumer}


channel_routing = [route_class(APIDemultiplexer)]
