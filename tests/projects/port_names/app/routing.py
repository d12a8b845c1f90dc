from channels.routing import route

place = r"^/(?P<place>\w+)/$"
channel_routing = [
    route("websocket.connect", "app.consumers.ws_connect", path=place),
    route("websocket.receive", "app.consumers.ws_receive", path=place),
    route("websocket.disconnect", "app.consumers.ws_disconnect", path=place),
    route("http.request", "app.consumers.count", path="^/count/$"),
]
