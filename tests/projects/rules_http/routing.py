import hashlib

import lab
from django.http import HttpResponse

from channelserver import route
from channelserver.handler import AsgiHandler


def by_hand(message):
    response = HttpResponse("by hand", status=203, headers={"X-Own": "yes"})
    for part in AsgiHandler.encode_response(response):
        message.reply_channel.send(part)


def in_parts(message):
    message.reply_channel.send({"status": 200, "headers": [], "content": b"one ", "more_content": True})
    message.reply_channel.send({"content": b"two ", "more_content": True})
    message.reply_channel.send({"content": b"three"})


def raw(message):
    body = message.get("body")
    file = getattr(message, "body_file", None)
    whole = file.read() if file is not None else body
    headers = [[name.decode(), value.decode()] for name, value in message["headers"]]
    digest = hashlib.sha256(whole).hexdigest()
    lab.note("raw", inside=len(body), file=file is not None, size=len(whole), digest=digest, headers=headers)
    message.reply_channel.send({"status": 200, "content": b"read"})


def failing(message):
    message.reply_channel.send({"status": 200, "content": b"held back, so dropped"})
    raise ValueError("the http.request consumer failed")


def silent(message):
    lab.note("silent", reply=message.reply_channel.name)


def gone(message):
    lab.note("gone", path=message["path"], reply=message.reply_channel.name)


channel_routing = [
    route("http.request", by_hand, path="^/by-hand$"),
    route("http.request", in_parts, path="^/in-parts$"),
    route("http.request", raw, path="^/raw$"),
    route("http.request", failing, path="^/failing-consumer$"),
    route("http.request", silent, path="^/silent-consumer$"),
    route("http.disconnect", gone),
]
