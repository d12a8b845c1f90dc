def connect(message):
    message.reply_channel.send({"text": message["scheme"]})


def echo(message):
    message.reply_channel.send({"text": message["text"]})


channel_routing = {"websocket.connect": connect, "websocket.receive": echo}
