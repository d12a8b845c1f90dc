"""The Lua scripts that Redis runs, each as one step; ``lua/`` has their texts, arguments and results.

Reads them at import; owns nothing that changes. Every script gets the prefix of all keys as ``KEYS[1]``, the prefix of
the statistics as ``KEYS[2]``, milliseconds to add to Redis's clock (0 outside tests) as ``ARGV[1]``, and its own
arguments from ``ARGV[2]`` on. Time is Redis's own, so hosts need not agree on it.

Keys, after the prefix:

================= ========== ===================================================================================
``q:CHANNEL``     list       messages that wait in a channel, and tokens of lanes that are ready
``lane:LANE``     list       the messages of one lane: a socket's (its reply channel names the lane), or those of one
                             reply channel on an ordinary channel (``CHANNEL REPLY``)
``busy``          hash       lane to the id of its message that is being consumed
``size``          hash       channel to the number of messages in lanes; with a space behind it, to that of
                             tokens (not for sockets)
``idle:CHANNEL``  set        hosts with an idle thread, to be woken by new messages
``held:HOST``     hash       messages that a host is consuming: id to channel, space, lane or reply channel, if any; "+"
                             before it: another worker gets it if the host dies
``kept:HOST``     hash       the messages themselves: id to item
``sent:HOST``     string     number of a host's connection, space, number of the last message it has put in
``refused:HOST``  list       the numbers of its last messages for which there was no room
``once:TOKEN``    string     a message with this token has been put in
``requeued``      sorted set channels of the application's whose messages may be consumed twice, to the time until which
                             that is known
``copies:HOST``   hash       the numbers of messages that wait or are held, and of which a host has copies
``channels``      set        channels in which messages may wait
``books``         hash       when Redis was first used since it was last emptied (``epoch``), the number of the last
                             change of a queue (``serial``; also the source of ids), how many messages wait
``emptied:EPOCH`` hash       what the hosts knew of books that are gone; for a minute
``swept``         string     a host has dropped expired messages a moment ago
``hosts``         sorted set host to the time of its last heartbeat
``doubted``       sorted set the same of hosts that are cut off or dead: what they hold counts as lost later
``group:NAME``    sorted set members that are reply channels, to the end of their membership
``queued:NAME``   hash       members that are ordinary channels, to end of the membership, capacity, sealed membership
``reach:NAME``    sorted set hosts that have members in a group, to the end of the last membership
``joined:HOST``   set        groups in which a host has members
``lease:NAME``    string     the host that has a lease
``vault:NAME``    string     a sealed value that hosts share
``host:HOST``     (pub/sub)  messages to a host
``everyone``      (pub/sub)  group messages to all hosts, while Redis may not know which of them have members
================= ========== ===================================================================================

An item of a queue is one letter (``p`` plain, ``t`` with a reply channel, ``l`` in a lane, ``L`` the token of a lane),
then, except for tokens, 15 digits of the time when it expires, 1 digit that counts the hosts that died with it, 3
digits of the length of a name, the name, and the sealed message (:mod:`.letters`).
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "lua"
_PRELUDE = (_FOLDER / "prelude.lua").read_text("ascii")
#: Redis without memory refuses a write that may need some, but not behind another write of the same script.
_FREES = "redis.call('DEL', P .. 'nothing')\n"


def _script(name: str, frees: bool = False) -> str:
    """Return a script.

    :param frees: it must run when Redis is out of memory, because it makes room or keeps hosts alive that do.
    """
    return _PRELUDE + (_FREES if frees else "") + (_FOLDER / f"{name}.lua").read_text("ascii")


PUSH = _script("push")
PUSH_LANE = _script("push_lane")
POP = _script("pop", frees=True)
FINISH = _script("finish", frees=True)
RECLAIM = _script("reclaim", frees=True)
PASS_ON = _script("pass_on")
RETIRE = _script("retire")
JOIN = _script("join")
JOIN_OTHER = _script("join_other")
JOIN_QUEUE = _script("join_queue")
MEMBERS = _script("members")
SEND_GROUP = _script("send_group")
REMOVE_DEAD = _script("remove_dead", frees=True)
LEAVE = _script("leave", frees=True)
STATISTICS = _script("statistics")
BEAT = _script("beat")
EMPTIED = _script("emptied", frees=True)
SWEEP = _script("sweep", frees=True)
KEEP = _script("keep", frees=True)
MISSING = _script("missing")
LEASE = _script("lease")
RELEASE = _script("release")
GREET = _script("greet", frees=True)
