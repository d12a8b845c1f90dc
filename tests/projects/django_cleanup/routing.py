from django.db import connections


def connect(message):
    connections["default"].ensure_connection()


def receive(message):
    message.reply_channel.send({"text": str(connections["default"].connection is not None)})


channel_routing = {"websocket.connect": connect, "websocket.receive": receive}
