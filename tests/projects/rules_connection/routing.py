import lab

from channelserver import Group, route
from channelserver.exceptions import DenyConnection, WebsocketCloseException


def name_of(message):
    return message["path"].strip("/").replace("/", ".")


# What the connect consumer of a path does; paths are named after these functions.


def held(message):
    lab.wait_for_gate(name_of(message))


def nothing_special(message):
    pass


def nonsense(message):
    message.reply_channel.send({"nonsense": 1, "accept": None, "close": False})


def resent(message):
    message.reply_channel.send(message.content)


def accept(message):
    message.reply_channel.send({"accept": True})


def text(message):
    message.reply_channel.send({"text": "hello"})


def data(message):
    message.reply_channel.send({"bytes": b"\x00\xff"})


def nothing(message):
    message.reply_channel.send({"text": ""})


def at_once(message):
    message.reply_channel.send({"accept": True}, immediately=True)
    lab.wait_for_gate(name_of(message))


def goodbye(message):
    message.reply_channel.send({"text": "and good-bye", "close": 4001})


def not_accept(message):
    message.reply_channel.send({"accept": False})


def close(message):
    message.reply_channel.send({"close": True})


def close_code(message):
    message.reply_channel.send({"close": 4001})


def deny(message):
    raise DenyConnection("not you")


def close_exception(message):
    raise WebsocketCloseException(4001)


def fail(message):
    raise RuntimeError("the connect consumer failed")


def accept_and_fail(message):
    message.reply_channel.send({"accept": True})
    raise RuntimeError("the connect consumer failed late")


def waiting(message):
    Group(name_of(message)).add(message.reply_channel)
    lab.wait_for_gate(name_of(message))


def protocol(message):
    lab.note("offered", offered=message.get("subprotocols"))
    message.reply_channel.send({"accept": True, "subprotocol": message["path"].strip("/").split("/")[1]})


CONNECT = [
    held,
    nothing_special,
    nonsense,
    resent,
    accept,
    text,
    data,
    nothing,
    at_once,
    goodbye,
    not_accept,
    close,
    close_code,
    deny,
    close_exception,
    fail,
    accept_and_fail,
    waiting,
    protocol,
]


def connecting(consumer):
    def connect(message):
        lab.note("connect", path=message["path"], reply=message.reply_channel.name)
        consumer(message)

    return route("websocket.connect", connect, path=f"^/{consumer.__name__}/")


def receive(message):
    order = message.get("text") or ""
    reply = message.reply_channel
    lab.note("receive", path=message["path"], order=message["order"])
    if order == "fail":
        raise ValueError("the receive consumer failed")
    elif order == "deny":
        raise DenyConnection("too late for that")
    elif order == "close":
        raise WebsocketCloseException
    elif order.startswith("close "):
        raise WebsocketCloseException(int(order[6:]))
    elif order == "close text":
        raise WebsocketCloseException("1000")
    elif order == "resend":
        reply.send(message.content)
    elif order == "resend to group":
        Group("resend").add(reply)
        Group("resend").send(message.content)
    elif order == "empty":
        reply.send({"text": ""})
        reply.send({"bytes": b""})
    elif order == "empty to group":
        Group("empty").add(reply)
        Group("empty").send({"text": ""})
        Group("empty").send({"bytes": b""})
    elif order == "none":
        reply.send({"text": "text", "bytes": None})
        reply.send({"text": None, "bytes": b"bytes"})
    elif order == "unknown":
        reply.send({"content": "unknown", "path": "/"})
        reply.send({"text": "known", "content": "unknown"})
        Group("unknown").add(reply)
        Group("unknown").send({"content": "unknown"})
        Group("unknown").send({"text": "known to all", "content": "unknown"})
    elif order == "both":
        reply.send({"text": "text", "bytes": b"bytes"})
        reply.send({"text": "after both"})
    elif "text" in message:
        reply.send({"text": "echo " + order})
    else:
        reply.send(message.content)


def disconnect(message):
    lab.note("disconnect", path=message["path"], code=message["code"], order=message["order"])
    if "fail" in message["path"]:
        raise ValueError("the disconnect consumer failed")
    if "deny" in message["path"]:
        raise DenyConnection("far too late")
    if "closing" in message["path"]:
        raise WebsocketCloseException(4000)


channel_routing = [
    *map(connecting, CONNECT),
    route("websocket.receive", receive, path="^/(?:{}|echo)/".format("|".join(c.__name__ for c in CONNECT))),
    route("websocket.disconnect", disconnect, path="^/"),
]
