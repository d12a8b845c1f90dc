import threading

go = threading.Event()


def receive(message):
    if message["path"] == "/go/":
        go.set()
        message.reply_channel.send({"text": "gone"})
        return
    if message["path"] == "/flood/":
        go.wait(300)
    message.reply_channel.send({"text": message["text"][:10]})


channel_routing = {"websocket.receive": receive}
