"""The application's own routes."""

from channels.routing import route, route_class

from . import consumers

websocket_routing = [
    route_class(consumers.Board, path=r"^/(?P<board>[a-z]+)/$"),
    route("websocket.connect", consumers.whisper_connect, path=r"^/whisper/(?P<name>[a-z]+)/$"),
    route("websocket.receive", "board.consumers.whisper_receive", path=r"^/whisper/"),
]

internal_routing = {
    "board.save": "board.consumers.save_note",
}
