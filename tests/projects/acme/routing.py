def echo(message):
    message.reply_channel.send({"text": message["text"]})


channel_routing = {"websocket.receive": echo}
