import lab

from channelserver import route
from channelserver.server.websocket.websocket import WebSocket

# A socket whose deadlines fail.
on_tick = WebSocket.on_tick


def failing(self, now):
    if self.path == "/cursed/":
        lab.note("cursed")
        raise ZeroDivisionError("this socket's deadline has failed")
    return on_tick(self, now)


WebSocket.on_tick = failing


def nothing(message):
    pass


channel_routing = [route("http.request", nothing, path="^/nothing$")]
