from channelserver.signals import certificate_renewed


def renewed(names, expires, **kwargs):
    with open("renewed", "a") as stream:
        stream.write(f"{'+'.join(names)} {expires:%Y}\n")


certificate_renewed.connect(renewed)


def echo(message):
    message.reply_channel.send({"text": message["text"]})


channel_routing = {"websocket.receive": echo}
