"""What is sealed where: the messages in queues, the memberships of ordinary channels, and what hosts tell each other.

Runs in any thread; owns nothing.

A value in a queue is ``q`` and a message sealed for its channel; or ``g``, 5 digits of the length of a membership,
that membership, and a message sealed for a group. A script puts the latter together: the message is sealed once,
however many channels are members, and the membership, which was sealed when the channel joined, says that it belongs
there. Before either may be ``k``, a host, and a number, each with a space behind it: the sender has a copy of the
message (:mod:`.copies`).
"""

from __future__ import annotations

import re
from typing import Any

from channelserver.layers.content import Content
from channelserver.layers.redis.seal import PUBLISHED, Sealer, SealError

_copied = re.compile(rb"k([A-Za-z0-9_\-]+ [0-9]+) ").match


def to_queue(sealer: Sealer, channel: str, content: Content, seconds: float) -> bytes:
    """Return a message for a channel.

    :param seconds: how long it may wait.
    """
    return b"q" + sealer.seal(("queue", channel), content, seconds=seconds)


def to_group(sealer: Sealer, group: str, content: Content, expiry: float) -> bytes:
    """Return a message for a group.

    :param expiry: seconds that it may wait in channels that are members.
    """
    return sealer.seal(("group", group), content, seconds=max(PUBLISHED, expiry))


def membership(sealer: Sealer, group: str, channel: str, seconds: float) -> bytes:
    """Return the membership of an ordinary channel."""
    return sealer.seal(("member", group, channel), True, seconds=seconds)


def to_host(sealer: Sealer, host: str, kind: str, *items: Any) -> bytes:
    """Return something that one host tells another."""
    return b"s" + sealer.seal(("host", host, kind), *items)


def copy_of(data: bytes) -> str:
    """Return the host that has a copy of a message that was taken from a channel, a space, and the number of the copy;
    empty: there is none.
    """
    found = _copied(data)
    return found[1].decode() if found else ""


def mark_copied(data: bytes, copy: str) -> bytes:
    """Return a message for a channel, marked with its copy, if it has one; see :func:`copy_of`."""
    return b"k%b %b" % (copy.encode(), data) if copy else data


def from_queue(sealer: Sealer, channel: str, data: bytes) -> Content:
    """Return the content of a message that was taken from a channel.

    :raises SealError: it was altered, or is no message.
    :raises ReplayError: it was sealed for another place or time, or taken before.
    """
    if found := _copied(data):
        data = data[found.end() :]
    kind, data = data[:1], data[1:]
    if kind == b"q":
        _, items = sealer.unseal(data, ("queue", channel).__eq__)
    elif kind == b"g" and data[:5].isdigit():
        end = 5 + int(data[:5])
        (_, group, _), _ = sealer.unseal(
            data[5:end], lambda place: len(place) == 3 and place[::2] == ("member", channel), None
        )
        _, items = sealer.unseal(data[end:], ("group", group).__eq__, channel)
    else:
        raise SealError("it is not what this layer writes")
    return _content(items)


def from_host(sealer: Sealer, host: str, data: bytes) -> tuple[str, list[Any]]:
    """Return the kind of something that another host told, and the rest; ``group``: the group and a message to it.

    :param host: the name of this one.
    :raises SealError: it was altered, or is nothing that hosts tell.
    :raises ReplayError: it was sealed for another place or time, or heard before.
    """
    place, items = sealer.unseal(
        data, lambda place: (len(place), *place[:1]) == (2, "group") or (len(place), *place[:2]) == (3, "host", host)
    )
    return (place[2], items) if place[0] == "host" else ("group", [place[1], _content(items)])


def _content(items: list[Any]) -> Content:
    if len(items) != 1 or not isinstance(items[0], dict):
        raise SealError("it is not a message")
    return items[0]
