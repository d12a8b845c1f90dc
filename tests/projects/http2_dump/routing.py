import json

from channelserver import route


def dump(message):
    content = dict(message.content)
    content["body"] = len(message.body_file.read()) if message.body_file else content["body"].decode()
    text = json.dumps(content, default=lambda value: value.decode("latin-1"))
    message.reply_channel.send(
        {
            "status": 200,
            "headers": [
                [b"Content-Type", b"application/json"],
                [b"X-Twice", b" a "],
                [b"Connection", b"close"],
            ],
            "content": text.encode(),
        }
    )


def gone(message):
    pass


channel_routing = [route("http.request", dump, path="^/dump"), route("http.disconnect", gone)]
