"""Which consumer gets which message."""

from board.consumers import Streams, http_ping
from channels import include, route

channel_routing = [
    include("board.routing.websocket_routing", path=r"^/board"),
    include("board.routing.internal_routing"),
    Streams.as_route(path=r"^/streams/$"),
    route("http.request", http_ping, path=r"^/ping/", method="^GET$"),
]
