from channels.routing import route_class

from app.consumers import Demultiplexer, Guarded

channel_routing = [route_class(Demultiplexer, path="^/stream/$"), Guarded.as_route(path="^/guarded/$")]
