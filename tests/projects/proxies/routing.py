import json


def connect(message):
    content = {name: message[name] for name in ("client", "server", "scheme")}
    content["headers"] = [[name.decode(), value.decode()] for name, value in message["headers"]]
    message.reply_channel.send({"text": json.dumps(content)})


channel_routing = {"websocket.connect": connect}
