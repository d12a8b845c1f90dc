import lab

from channelserver import Channel, Group, route
from channelserver.exceptions import DenyConnection, WebsocketCloseException


def receive(message):
    reply, order = message.reply_channel, message["text"]
    if order == "deny":
        raise DenyConnection
    elif order.startswith("close"):
        raise WebsocketCloseException(int(order.split()[1]) if " " in order else None)
    elif order == "fill":
        Channel("hole").send({})
        Channel("hole").send({})
        reply.send({"text": "after the hole"})
    elif order.startswith("wait"):
        lab.wait_for_gate(order.split()[1])
    elif order == "join":
        Group("everybody").add(reply)
        reply.send({"text": "joined"})
    else:
        reply.send({"text": order})


def disconnect(message):
    lab.note("disconnect", path=message["path"], order=message["order"])
    if "deny" in message["path"]:
        raise DenyConnection


def task(message):
    if message.get("deny"):
        raise DenyConnection
    lab.note("task")


channel_routing = [
    route("websocket.receive", receive),
    route("websocket.disconnect", disconnect),
    route("task", task),
]
