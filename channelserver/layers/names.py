"""Rules for the names of channels and groups (ASGI draft of Channels 1, "Channels" and "Groups").

Runs in any thread; owns nothing.
"""

import re
import secrets

#: The alias of the layer that is used where none is named.
DEFAULT_CHANNEL_LAYER = "default"

#: A name is shorter than this many characters.
MAX_LENGTH = 100

#: Characters of the two random parts of a reply channel's name: the host's, and the connection's. The whole name has at
#: most 37 characters, as daphne's had: projects store it in columns of that width.
HOST_CHARACTERS, REPLY_CHARACTERS = 9, 12

_channel = re.compile(r"[A-Za-z0-9_.\-]+(?:[!?][A-Za-z0-9_.\-]*)?").fullmatch
_usual_channel = re.compile(r"[A-Za-z0-9_.\-]{1,50}(?:![A-Za-z0-9_.\-]{0,48})?").fullmatch
_group = re.compile(r"[A-Za-z0-9_.\-]+").fullmatch

_CURE = "use ASCII letters, digits, '-', '_' and '.', fewer than 100 of them"


def check_channel_name(name: object, receive: bool = False) -> str:
    """Return `name` if it is a valid channel name.

    :param name: what the caller gave as a name.
    :param receive: whether the name is to be received on. A process-specific channel is received on by the part
        up to and with its ``!``.
    :raises TypeError: the name is no text or breaks a rule; the message names it and the cure.
    """
    if type(name) is str and _usual_channel(name) and not receive:
        return name
    if not isinstance(name, str):
        raise TypeError(f"channel name must be str, not {type(name).__name__}: {name!r}")
    if len(name) >= MAX_LENGTH or not _channel(name):
        raise TypeError(f"invalid channel name {name!r}: {_CURE}, and at most one part that starts with '!' or '?'")
    if name[-1] == "?":
        raise TypeError(f"invalid channel name {name!r}: it ends in '?'; new_channel() completes such a pattern")
    if receive and "!" in name and name[-1] != "!":
        raise TypeError(
            f"cannot receive on {name!r}: receive on {local_prefix(name)!r}, which serves all of its channels"
        )
    return name


def check_group_name(name: object) -> str:
    """Return `name` if it is a valid group name.

    :raises TypeError: the name is no text or breaks a rule; the message names it and the cure.
    """
    if not isinstance(name, str):
        raise TypeError(f"group name must be str, not {type(name).__name__}: {name!r}")
    if len(name) >= MAX_LENGTH or not _group(name):
        raise TypeError(f"invalid group name {name!r}: {_CURE}")
    return name


def local_prefix(name: str) -> str:
    """Return the part of a process-specific name up to and with ``!``; any other name as it is."""
    head, mark, _ = name.partition("!")
    return head + mark


def new_host_name() -> str:
    """Return a random name for a process, the first random part of its reply channels' names."""
    return secrets.token_urlsafe(HOST_CHARACTERS)[:HOST_CHARACTERS]
