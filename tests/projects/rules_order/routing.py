"""What every project here has: sockets whose consumers are named after their paths, and views."""

import threading
import time
from collections import Counter

import lab
from django.db import connection, transaction

from channelserver import Channel, Group, channel_layers, route
from channelserver.exceptions import ConsumeLater
from channelserver.sessions import channel_session, enforce_ordering

if "row" not in connection.introspection.table_names():
    connection.cursor().execute("CREATE TABLE row (name TEXT)")
connection.close()


def add_row(name):
    connection.cursor().execute("INSERT INTO row VALUES (%s)", [name])


def count_rows(name):
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM row WHERE name = %s", [name])
        return cursor.fetchone()[0]


together = threading.Barrier(4)
tries = {}


def once_more(key, number):
    """Count the tries of a message; all but the last of `number` end here."""
    tries[key] = tries.get(key, 0) + 1
    if tries[key] < number:
        raise ConsumeLater


# -- rule 7 --

changed = threading.Condition()
begun = Counter()


def take_time(message, sockets, messages):
    """Every second time, end only when a message of another of these sockets has begun later, or all have."""
    socket, crowd = message.reply_channel.name, message["path"].split("/")[1]
    with changed:
        begun.update([crowd, socket])
        number = begun[crowd]
        changed.notify_all()
        rest = (sockets - 1) * messages
        if number % 2 and not changed.wait_for(
            lambda: begun[crowd] > number or begun[crowd] - begun[socket] == rest, 60
        ):
            raise TimeoutError


def jumble(message):
    lab.note("begin", path=message["path"], order=message["order"])
    take_time(message, 6, 60)
    message.reply_channel.send({"text": message["text"]})
    lab.note("end", path=message["path"], order=message["order"])


def parallel(message):
    together.wait(60)
    message.reply_channel.send({"text": "together"})


def gate(message):
    lab.note("receive", text=message["text"])
    if message["text"].startswith("wait"):
        lab.wait_for_gate(message["text"].replace(" ", "."))
    message.reply_channel.send({"text": "done " + message["text"]})


@channel_session
def count(message):
    number = message.channel_session.get("number", 0)
    take_time(message, 3, 50)
    message.channel_session["number"] = number + 1
    message.reply_channel.send({"text": str(number + 1)})


def ordered(message):
    message.channel_session["seen"] = seen = [*message.channel_session.get("seen", []), message["order"]]
    if message["text"] == "fail":
        raise ValueError("the ordered consumer failed")
    message.reply_channel.send({"text": " ".join(map(str, seen))})


strict = enforce_ordering(ordered)
slight = enforce_ordering(slight=True)(ordered)
strict_in_words = enforce_ordering(slight=False)(ordered)


def first(message):
    lab.note("receive", path=message["path"], order=message["order"])


# -- rule 8 --


def held(message):
    Group("held").add(message.reply_channel)
    message.reply_channel.send({"text": "1"})
    Group("held").send({"text": "2"})
    message.reply_channel.send({"bytes": b"3"})
    Channel("noted").send({"text": "held"})
    Group("held").send({"text": "4"})
    lab.wait_for_gate("held")


def immediately(message):
    Group("immediately").add(message.reply_channel)
    message.reply_channel.send({"text": "held back"})
    message.reply_channel.send({"text": "at once"}, immediately=True)
    Group("immediately").send({"text": "at once to all"}, immediately=True)
    lab.wait_for_gate("immediately")


def outside(message):
    Group("outside").add(message.reply_channel)

    def send():
        message.reply_channel.send({"text": "from a thread"})
        Group("outside").send({"text": "from a thread to all"})

    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    lab.wait_for_gate("outside")


def failing(message):
    Group("failing").add(message.reply_channel)
    if message["text"] == "fail":
        message.reply_channel.send({"text": "dropped"})
        Group("failing").send({"text": "dropped"})
        Channel("noted").send({"text": "dropped"})
        message.reply_channel.send({"text": "too early to be dropped"}, immediately=True)
        raise ValueError("the failing consumer failed")
    message.reply_channel.send({"text": message["text"]})
    Channel("noted").send({"text": message["text"]})


def retried(message):
    message.reply_channel.send({"text": "sent in try %s" % (tries.get("retried", 0) + 1)})
    if message["text"] == "retry":
        once_more("retried", 3)


def membership(message):
    group = Group("membership")
    group.add(message.reply_channel)
    lab.note("members", number=len(group.channel_layer.group_channels("membership")))
    if message["text"] == "send and leave":
        group.send({"text": "who is still here?"})
    group.discard(message.reply_channel)
    lab.note("members", number=len(group.channel_layer.group_channels("membership")))
    message.reply_channel.send({"text": "done"})


def commit(message):
    reply = message.reply_channel
    with transaction.atomic():
        add_row("commit")
        reply.send({"text": "after the commit"}, immediately=True, on_commit=True)
        reply.send({"text": "at once"}, immediately=True)
        lab.wait_for_gate("inside")
    lab.wait_for_gate("behind")


def rollback(message):
    reply = message.reply_channel
    try:
        with transaction.atomic():
            reply.send({"text": "lost"}, on_commit=True)
            Group("rollback").send({"text": "lost"}, on_commit="default")
            raise KeyError
    except KeyError:
        reply.send({"text": "rolled back"})
    with transaction.atomic():
        reply.send({"text": "committed"}, on_commit="default")
    reply.send({"text": "no transaction"}, on_commit=True)


def join(message):
    Group(message["path"].strip("/").split("/")[1]).add(message.reply_channel)


def noted(message):
    lab.note("noted", text=message["text"])


def rows(message):
    lab.note("rows", number=count_rows(message["text"]))


# -- rule 9 --

released, freed = threading.Event(), threading.Event()


def wait_for_pending(number):
    ends = time.monotonic() + 60
    while channel_layers["default"].channel_statistics("later")["messages_pending"] < number:
        if time.monotonic() > ends:
            raise TimeoutError
        time.sleep(0.002)


def block(pending):
    """Keep all four workers until so many messages wait."""
    together.wait(60)
    ends = time.monotonic() + 60
    while not released.is_set() and time.monotonic() < ends:
        if channel_layers["default"].channel_statistics("later")["messages_pending"] >= pending:
            released.set()
        time.sleep(0.002)


def later(message):
    lab.note("try", text=message["text"])
    if "behind" in message and message["text"] not in tries:
        wait_for_pending(message["behind"])
    if "pending" in message:
        block(message["pending"])
    once_more(message["text"], message["tries"])
    lab.note("consumed", text=message["text"])
    if "reply" in message:
        Channel(message["reply"]).send({"text": message["text"]})


def in_place(message):
    text, _, number = message["text"].partition(" ")
    lab.note("try", text=text, path=message["path"])
    if text == "free":
        freed.set()
    if text == "until" and not freed.is_set():
        raise ConsumeLater
    if text != "until":
        once_more(message["path"] + text, int(number or 1))
    message.reply_channel.send({"text": text})


def connect_later(message):
    lab.note("try", text=message["path"])
    once_more(message["path"], 3 if "some" in message["path"] else 100)


RECEIVE = [
    jumble,
    parallel,
    gate,
    count,
    first,
    held,
    immediately,
    outside,
    failing,
    retried,
    membership,
    commit,
    rollback,
    in_place,
]


def connect(message):
    if message["path"] == "/first/":
        message.reply_channel.send({"accept": True}, immediately=True)
        lab.wait_for_gate("first")
    lab.note("connect", path=message["path"])


def disconnect(message):
    lab.note("disconnect", path=message["path"], order=message["order"])


channel_routing = [
    route("websocket.connect", join, path="^/join/"),
    route("websocket.connect", connect_later, path="^/connect_later/"),
    route("websocket.connect", enforce_ordering(slight=True)(connect), path="^/slight/"),
    route("websocket.connect", connect),
    *(route("websocket.receive", consumer, path=f"^/{consumer.__name__}/") for consumer in RECEIVE),
    route("websocket.receive", strict, path="^/strict/"),
    route("websocket.receive", strict_in_words, path="^/strict_in_words/"),
    route("websocket.receive", slight, path="^/slight/"),
    route("websocket.disconnect", disconnect),
    route("noted", noted),
    route("rows", rows),
    route("later", later),
]
