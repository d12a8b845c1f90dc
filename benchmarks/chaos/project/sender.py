"""Sends background, delayed and group messages until the file ``stop`` appears, and writes down what became of each: s
it was accepted, r it was refused (it did not arrive), u nobody knows.
"""

import os
import time
from pathlib import Path

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
django.setup()

from django.db import Error  # noqa: E402

from channelserver import Channel, Group, channel_layers  # noqa: E402
from channelserver.layers.base import ChannelFull  # noqa: E402
from channelserver.processes.local_client import NoServerError  # noqa: E402

#: Messages a second: background, delayed, to a group.
RATES = (("work", 80.0), ("delayed", 4.0), ("group", 10.0))

folder = Path(__file__).resolve().parent
diary = open(folder / "sent", "a", buffering=1)


def send(kind, identity):
    if kind == "group":
        Group("all").send({"text": identity})
    else:
        Channel("chaos.work").send({"id": identity}, delay=1.0 if kind == "delayed" else None)


def attempt(kind, identity):
    try:
        send(kind, identity)
    except NoServerError:
        return "r"
    except ChannelFull as error:
        return "r" if error.retry else "u"
    except Error:
        return "u"
    except Exception as error:
        diary.write(f"# {type(error).__name__}: {error}\n")
        return "u"
    return "s"


number, due = 0, {kind: time.monotonic() for kind, _ in RATES}
while not (folder / "stop").exists():
    for kind, rate in RATES:
        now = time.monotonic()
        if due[kind] <= now:
            due[kind] = max(due[kind] + 1 / rate, now - 1.0)
            number += 1
            identity = f"{kind}.{number}"
            diary.write(f"{attempt(kind, identity)} {identity}\n")
    time.sleep(max(0.0, min(min(due.values()) - time.monotonic(), 0.05)))
for reason, lost in channel_layers["default"].channel_layer.drops.totals().items():
    diary.write(f"l {lost} {reason}\n")
diary.write("# end\n")
