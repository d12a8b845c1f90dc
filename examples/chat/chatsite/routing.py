"""Channels: which message leads to which consumer."""

from channelserver import route

ROOM = r"^/ws/room/(?P<slug>[-\w]+)/$"
LOBBY = r"^/ws/lobby/$"

channel_routing = [
    # A socket in a room.
    route("websocket.connect", "rooms.consumers.ws_connect", path=ROOM),
    route("websocket.receive", "rooms.consumers.ws_receive", path=ROOM),
    route("websocket.disconnect", "rooms.consumers.ws_disconnect", path=ROOM),
    # A socket on the front page, which watches all rooms.
    route("websocket.connect", "rooms.consumers.lobby_connect", path=LOBBY),
    route("websocket.receive", "rooms.consumers.lobby_receive", path=LOBBY),
    # Any other path: refused, since the server lets in what has no route.
    route("websocket.connect", "rooms.consumers.refuse"),
    # A channel of our own: whoever wants to say something in a room sends a message here.
    route("chat-messages", "rooms.consumers.save_line"),
]
