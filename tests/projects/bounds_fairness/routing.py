import lab


def receive(message):
    what, _, gate = message["text"].partition(" ")
    if what == "hold":
        lab.wait_for_gate(gate)
    message.reply_channel.send({"text": what})


channel_routing = {"websocket.receive": receive}
