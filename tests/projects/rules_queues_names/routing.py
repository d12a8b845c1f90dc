import datetime
import decimal

import lab
from django.utils.safestring import mark_safe

from channelserver import Channel, Group, route


def name(message):
    verdicts = {}
    for number, value in enumerate(NAMES):
        for kind in (Channel, Group):
            verdicts[f"{kind.__name__} {number}"] = verdict(kind, value)
    lab.note("names", **verdicts)


def verdict(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return type(error).__name__
    return "ok"


NAMES = [
    "a",
    "A.b-c_9",
    "x!y",
    "x?y",
    "x!",
    "a" * 99,
    "x!" + "y" * 97,
    b"bytes",
    "x?",
    "",
    "a" * 100,
    "x!" + "y" * 98,
    "a b",
    "a/b",
    "\u00e4",
    "a\n",
    "x!\u00e4",
    "a!b!c",
    "a?b?c",
    "a!b?c",
    "!a",
    "?a",
    None,
    5,
    ["a"],
    b"\xe4",
    "a:b",
    "a\u0660",
]


class Text(str):
    pass


CONTENTS = [
    {},
    {"bytes": b"\x00\xff"},
    {"text": "\u00e4\U0001f600\x00"},
    {"int": -(2**63), "long": 2**63 - 1},
    {"float": 1.5, "inf": float("inf")},
    {"bool": True, "no": False},
    {"none": None},
    {"list": [1, [2, {"three": [3]}]]},
    {"dict": {"in": {"in": {}}}},
    {"": "empty key"},
    {"tuple": (1, 2)},
    {"safe": mark_safe("<b>")},
    {"own": Text("own")},
]
endless = {}
endless["endless"] = [endless]
BAD_CONTENTS = [
    {"int": 2**63},
    {"int": -(2**63) - 1},
    {"set": {1}},
    {"object": object()},
    {"date": datetime.date(2020, 1, 1)},
    {"decimal": decimal.Decimal(1)},
    {1: "key"},
    {"in": [{None: 1}]},
    {"complex": 1j},
    {"class": int},
    endless,
    {"bytearray": bytearray(b"a")},
    None,
    "text",
    ["list"],
    5,
]


def content(message):
    for number, value in enumerate(CONTENTS):
        Channel("contents").send({"number": number, "value": value})
    lab.note(
        "bad",
        channel=[verdict(Channel("contents").send, value) for value in BAD_CONTENTS],
        group=[verdict(Group("contents").send, value) for value in BAD_CONTENTS],
    )


def contents(message):
    lab.note(
        "content",
        number=message["number"],
        value=repr(message["value"]),
        types=[type(value).__name__ for value in message["value"].values()],
    )


def alter(message):
    content = {"list": [1], "dict": {"key": [1]}}
    Channel("altered").send(content)
    Channel("altered").send(content, immediately=True)
    Group("altered").add("altered")
    Group("altered").add("altered.too")
    Group("altered").send(content)
    content["list"].append(2)
    content["dict"]["key"].append(2)
    content["more"] = True
    del content


def altered(message):
    lab.note("altered", channel=message.channel.name, content=repr(sorted(message.content.items())))
    message.content["list"].append(3)
    message.content["dict"]["key"].append(3)


tasks = {"names": name, "contents": content, "alter": alter}


def receive(message):
    tasks[message["text"]](message)
    message.reply_channel.send({"text": "done"})


channel_routing = [
    route("websocket.receive", receive),
    route("contents", contents),
    route(["altered", "altered.too"], altered),
]
