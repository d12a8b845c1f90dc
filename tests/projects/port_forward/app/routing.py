from channels import include, route

from .consumers import chat_join, chat_leave, chat_rooms, chat_send, ws_connect, ws_disconnect, ws_receive

websocket_routing = [
    route("websocket.connect", ws_connect),
    route("websocket.receive", ws_receive),
    route("websocket.disconnect", ws_disconnect),
]
custom_routing = [
    route("chat.receive", chat_join, command="^join$"),
    route("chat.receive", chat_leave, command="^leave$"),
    route("chat.receive", chat_send, command="^send$"),
    route("chat.receive", chat_rooms, command="^rooms$"),
]
channel_routing = [
    include("app.routing.websocket_routing", path=r"^/chat/stream"),
    include("app.routing.custom_routing"),
]
