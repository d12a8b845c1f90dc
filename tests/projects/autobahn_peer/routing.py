from channelserver.exceptions import DenyConnection


def connect(message):
    if message.content["path"] == "/denied/":
        raise DenyConnection
    message.reply_channel.send({"accept": True, "subprotocol": (message.content.get("subprotocols") or [None])[0]})


def receive(message):
    text = message.content.get("text")
    if text is not None and text.startswith("close "):
        message.reply_channel.send({"close": int(text[6:])})
    elif text is not None:
        message.reply_channel.send({"text": text})
    else:
        message.reply_channel.send({"bytes": message.content["bytes"]})


def disconnect(message):
    print("disconnect", message.content["code"], flush=True)


channel_routing = {
    "websocket.connect": connect,
    "websocket.receive": receive,
    "websocket.disconnect": disconnect,
}
