from work.tasks import note

from channelserver import route


def durable(message):
    """Fail the first time."""
    key = message.content["key"]
    note(key)
    if sum(line.startswith(f"{key} ") for line in open("effects.txt")) < 2:
        raise ValueError("the first time")


def echo(message):
    message.reply_channel.send({"text": message["text"]})


def noted(message):
    note(message.content["key"])


channel_routing = [route("noted", noted), route("durable", durable), route("websocket.receive", echo)]
