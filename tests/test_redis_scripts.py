"""The Lua scripts of the Redis layer, one by one, on a real Redis."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from channelserver.layers.redis import scripts
from channelserver.layers.redis.replies import ReplyReader
from tests.process import TIMEOUT
from tests.test_redis_layer import shared_redis

SECOND, MINUTE = 1000, 60_000

#: Reply channels of the hosts "one" and "two".
REPLY, SOCKET, OTHER = "http.response.one!1", "websocket.send.one!2", "websocket.send.two!3"

_prefixes = map("scripts-{}:".format, itertools.count())


class Listener:
    """Subscribes to the messages of one host.

    :param channel: the pub/sub channel.
    """

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._reader = ReplyReader()
        self._socket = socket.create_connection(("127.0.0.1", shared_redis().port), TIMEOUT)
        self._socket.sendall(b"SUBSCRIBE %b\r\n" % channel.encode())
        self._received: list[Any] = []
        while not self._received:
            self._receive()
        del self._received[:]

    def _receive(self) -> None:
        self._received += self._reader.feed(self._socket.recv(65536))

    def heard(self) -> list[bytes]:
        """Return what was published since the last call."""
        shared_redis().command("PUBLISH", self._channel, "end")
        while not self._received or self._received[-1][2] != b"end":
            self._receive()
        messages = [message[2] for message in self._received[:-1]]
        del self._received[:]
        return messages

    def close(self) -> None:
        """Stop listening, and wait until Redis knows."""
        self._socket.sendall(b"UNSUBSCRIBE\r\n")
        while not self._received or self._received[-1][0] != b"unsubscribe":
            self._receive()
        self._socket.close()


class ScriptTestCase(SynchronousTestCase):
    """Keys of its own on a Redis for all tests. Time passes by the scripts' first argument, not by waiting."""

    def setUp(self) -> None:
        self.prefix = next(_prefixes)
        self.late = 0

    def command(self, *words: str | int | bytes) -> Any:
        """Return the answer to a command."""
        encoded = [word if isinstance(word, bytes) else str(word) for word in words]
        (answer,) = ReplyReader().feed(shared_redis().command(*encoded))
        if isinstance(answer, Exception):
            raise answer
        return answer

    #: What the last script of these told of the books: epoch, last change, waiting messages, held ones.
    books: Sequence[Any] = (b"", 0, 0, 0)
    booked = frozenset(
        {
            scripts.PUSH, scripts.PUSH_LANE, scripts.POP, scripts.FINISH, scripts.RECLAIM, scripts.SEND_GROUP,
            scripts.BEAT, scripts.SWEEP, scripts.MISSING,
        }
    )  # fmt: skip
    #: The number of the last message that was put in.
    number = 0

    def run_script(self, script: str, *arguments: str | int | bytes) -> Any:
        """Return the script's answer, without the books."""
        answer = self.command("EVAL", script, 2, self.prefix, f"{self.prefix}meta:", self.late, *arguments)
        if script in self.booked:
            *answer, self.books = answer
        return answer

    def held(self, host: str) -> dict[str, str]:
        """Return what a host holds: id by channel, a space, and lane or reply channel."""
        words = [word.decode() for word in self.command("HGETALL", f"{self.prefix}held:{host}")]
        return dict(zip(words[1::2], words[::2], strict=True))

    def finish(self, host: str, lane: str, mark: str = "") -> None:
        """Let a host report that it has consumed the message of a lane."""
        ids = [number for what, number in self.held(host).items() if what.partition(" ")[2] == lane]
        self.run_script(scripts.FINISH, host, *(mark + number for number in ids))

    def reclaim(self, host: str, *held: tuple[str, ...], emptied: int = 0, connection: int = 1) -> Any:
        """Let a host tell what it holds: id, what HELD tells, and name and sealed message if others are to get it."""
        words = [word for one in held for word in (*one, "", "")[:4]]
        return self.run_script(scripts.RECLAIM, host, connection, emptied, MINUTE, *words)

    def age(self) -> None:
        """Let the books be old."""
        begun = int(self.command("TIME")[0]) - 60
        self.command(
            "HSET",
            f"{self.prefix}books",
            "epoch",
            begun * 1_000_000,
            "serial",
            begun * 1_000_000,
            "waiting",
            0,
            "held",
            0,
        )

    def listen(self, host: str) -> Listener:
        """Let a host listen, to the end of the test."""
        listener = Listener(f"{self.prefix}host:{host}")
        self.addCleanup(listener.close)
        return listener

    def beat(self, host: str) -> None:
        """Let a host give a sign of life, now."""
        seconds, micros = self.command("TIME")
        self.command("ZADD", f"{self.prefix}hosts", int(seconds) * 1000 + int(micros) // 1000 + self.late, host)

    def put(self, script: str, *arguments: str | int, connection: int = 1, token: str = "", copied: int = 0) -> Any:
        """Put in a message over a connection of host "one"."""
        self.number += 1
        return self.run_script(script, "one", connection, self.number, token, copied, *arguments)

    def push(
        self, data: str, channel: str = "work", capacity: int = 10, name: str | None = None, connection: int = 1,
        token: str = "", copied: int = 0,
    ) -> Any:  # fmt: skip
        words = (channel, capacity, MINUTE, "p", name or channel, data)
        return self.put(scripts.PUSH, *words, connection=connection, token=token, copied=copied)

    def push_request(self, data: str, reply: str = REPLY) -> Any:
        return self.put(scripts.PUSH, "http.request", 10, MINUTE, "t", reply, data)

    def push_lane(
        self,
        data: str,
        channel: str = "websocket.receive",
        capacity: int = 10,
        places: int = 10,
        urgent: int = 0,
        lane: str = SOCKET,
    ) -> Any:
        return self.put(scripts.PUSH_LANE, channel, capacity, MINUTE, lane, -1 if urgent else places, data)

    def pop(self, *channels: str, host: str = "one", number: int = 1, wake: int = 0) -> list[bytes]:
        """Take messages of which none has expired; return what was sent."""
        items, gone = self.take(*channels, host=host, number=number, wake=wake)
        self.assertEqual(gone, [])
        return list(items[3::5])

    def take(
        self, *channels: str, host: str = "one", number: int = 1, wake: int = 0, holds: int = 1, connection: int = 1
    ) -> Any:
        """Return all that POP tells."""
        return self.run_script(scripts.POP, host, connection, number, wake, holds, *(channels or ("work",)))

    def statistics(self, channel: str = "work") -> list[int]:
        """Return messages so far, refused ones and waiting ones."""
        return list(self.run_script(scripts.STATISTICS, channel)[:3])


class FileTests(SynchronousTestCase):
    """The files."""

    def test_each_file_is_a_script(self) -> None:
        """Each file but the prelude has its constant, and begins with its arguments."""
        folder = Path(scripts.__file__).parent / "lua"
        names = {path.stem.upper() for path in folder.glob("*.lua")}
        self.assertEqual(names, {name for name in vars(scripts) if name.isupper() and name[0] != "_"} | {"PRELUDE"})
        for path in folder.glob("*.lua"):
            if path.stem != "prelude":
                self.assertIn("-- Arguments: ", path.read_text())


class QueueScriptTests(ScriptTestCase):
    """Messages to ordinary channels: PUSH, POP, STATISTICS."""

    def test_first_in_first_out(self) -> None:
        """Messages come out in the order in which they went in."""
        self.assertEqual([self.push(data) for data in "abc"], [[1, 0]] * 3)
        self.assertEqual(self.pop(number=2), [b"a", b"b"])
        self.assertEqual(self.pop(number=2), [b"c"])
        self.assertEqual(self.pop(), [])

    def test_an_item(self) -> None:
        """A message comes with its channel, the milliseconds it has left, and its reply channel, if that is known."""
        self.push("a")
        self.push_request("b")
        self.late = 10 * SECOND
        items, _ = self.take("work", "http.request", number=5)
        self.assertEqual((items[0], items[2], items[3]), (b"work", b"", b"a"))
        self.assertEqual((items[5], items[7], items[8]), (b"http.request", REPLY.encode(), b"b"))
        for left in (items[1], items[6]):
            self.assertTrue(40 * SECOND < int(left) <= 50 * SECOND, left)

    def test_channels_take_turns(self) -> None:
        """One message of each channel, then the next of each."""
        for data in "abc":
            self.push(data, "work")
            self.push(data.upper(), "other")
        self.assertEqual(self.pop("work", "other", number=5), [b"a", b"A", b"b", b"B", b"c"])

    def test_full(self) -> None:
        """A full channel takes no more; that is counted."""
        self.push("a", capacity=2)
        self.push("b", capacity=2)
        self.assertEqual(self.push("c", capacity=2), [0, 0])
        self.assertEqual(self.statistics(), [2, 1, 2])
        self.assertEqual(self.pop(number=5), [b"a", b"b"])

    def test_expired_ones_make_room(self) -> None:
        """Expired messages of a full channel go, and are reported."""
        self.push("a", capacity=3)
        self.push("b", capacity=3)
        self.late = 50 * SECOND
        self.push("c", capacity=3)
        self.late = MINUTE + SECOND
        self.assertEqual(self.push("d", capacity=3), [1, 2])
        self.assertEqual(self.pop(number=5), [b"c", b"d"])

    def test_expired_ones_are_not_taken(self) -> None:
        """They are reported by channel instead."""
        self.push("a")
        self.push("b")
        self.late = MINUTE + SECOND
        self.push("c")
        self.assertEqual(self.take(number=5)[1], [b"work", 2])

    def test_parts_of_a_channel(self) -> None:
        """Channels with the same part up to "!" share a queue; each message keeps its full name."""
        self.push("a", "own!", name="own!x")
        self.push("b", "own!", name="own!y")
        items, _ = self.take("own!", number=5)
        self.assertEqual((items[0], items[5]), (b"own!x", b"own!y"))

    def test_moved_by_hand(self) -> None:
        """A message that somebody has moved to another channel does not claim to be from the first."""
        self.push("a", "work", name="other")
        self.assertEqual(self.take(number=5)[0][0], b"work")

    def test_statistics(self) -> None:
        """Messages so far, refused, waiting, and what the oldest has left; -1 without one that waits."""
        self.assertEqual(self.run_script(scripts.STATISTICS, "work"), [0, 0, 0, -1])
        self.push("a")
        self.push("b")
        self.pop()
        self.late = 10 * SECOND
        *numbers, left = self.run_script(scripts.STATISTICS, "work")
        self.assertEqual(numbers, [2, 0, 1])
        self.assertTrue(40 * SECOND < left <= 50 * SECOND, left)
        self.push_lane("c")
        *numbers, left = self.run_script(scripts.STATISTICS, "websocket.receive")
        self.assertEqual((numbers, left > 0), ([1, 0, 1], True))


class WakingScriptTests(ScriptTestCase):
    """Idle hosts: POP, PUSH, PASS_ON, RETIRE."""

    def setUp(self) -> None:
        super().setUp()
        self.one, self.two = self.listen("one"), self.listen("two")

    def woken(self) -> list[list[bytes]]:
        """Return what the two hosts have heard."""
        return [self.one.heard(), self.two.heard()]

    def test_one_host_is_woken_once(self) -> None:
        """A message wakes one of the hosts that found too little; it is idle no longer."""
        self.pop(host="one", wake=1)
        self.push("a")
        self.push("b")
        self.assertEqual(self.woken(), [[b"wwork"], []])

    def test_only_who_wants_it(self) -> None:
        """A host that found enough, or did not ask for it, is not woken."""
        self.push("a")
        self.pop(host="one", wake=1)
        self.pop(host="two", wake=0)
        self.push("b")
        self.assertEqual(self.woken(), [[], []])

    def test_who_does_not_listen_is_passed_over(self) -> None:
        """The next host is woken instead of one whose connection is lost."""
        for host in ("two", *(f"lost-{number}" for number in range(20))):
            self.pop(host=host, wake=1)
        self.push("a")
        self.assertEqual(self.woken(), [[], [b"wwork"]])

    def test_pass_on(self) -> None:
        """A woken host without an idle thread has another one woken, if there is still work."""
        self.push("a")
        self.command("SADD", f"{self.prefix}idle:work", "two")
        self.run_script(scripts.PASS_ON, "work")
        self.assertEqual(self.woken(), [[], [b"wwork"]])
        self.pop()
        self.command("SADD", f"{self.prefix}idle:work", "two")
        self.run_script(scripts.PASS_ON, "work")
        self.assertEqual(self.woken(), [[], []])

    def test_retire(self) -> None:
        """A host that stops is not woken any more, for any of its channels."""
        self.pop("work", "other", host="one", wake=1)
        self.run_script(scripts.RETIRE, "one", "work", "other")
        self.push("a", "work")
        self.push("b", "other")
        self.assertEqual(self.woken(), [[], []])

    def test_a_lane_wakes_when_it_goes_on(self) -> None:
        """A socket's next message wakes a host when the one before has been consumed, not earlier."""
        self.push_lane("a")
        self.pop("websocket.receive", host="two")
        self.pop("websocket.receive", host="one", wake=1)
        self.push_lane("b")
        self.assertEqual(self.woken(), [[], []])
        self.finish("two", SOCKET)
        self.assertEqual(self.woken(), [[b"wwebsocket.receive"], []])


class LaneScriptTests(ScriptTestCase):
    """Messages of one socket: PUSH_LANE, POP, FINISH, RECLAIM."""

    def receive(self, host: str = "one") -> list[bytes]:
        return self.pop("websocket.connect", "websocket.receive", host=host, number=5)

    def test_one_at_a_time(self) -> None:
        """The next message comes when the one before has been consumed, whatever channel it is on."""
        self.assertEqual(self.push_lane("a", "websocket.connect"), [1, 0])
        self.push_lane("b")
        self.assertEqual(self.receive(), [b"a"])
        self.push_lane("c")
        self.assertEqual(self.receive("two"), [])
        self.finish("one", SOCKET)
        self.assertEqual(self.receive("two"), [b"b"])
        self.finish("one", SOCKET)
        self.assertEqual(self.receive(), [], "another host has said that it is finished")
        self.finish("two", SOCKET)
        self.assertEqual(self.receive(), [b"c"])

    def test_full_channel(self) -> None:
        """The channel's capacity is that of all lanes; a message that must go in is put in."""
        self.push_lane("a", capacity=1)
        self.assertEqual(self.push_lane("b", capacity=1), [0, 0])
        self.assertEqual(self.statistics("websocket.receive"), [1, 1, 1])
        self.assertEqual(self.push_lane("c", capacity=1, urgent=1), [1, 0])

    def test_full_lane(self) -> None:
        """A lane has a capacity of its own; what has been taken does not count."""
        self.push_lane("a", places=1)
        self.assertEqual(self.push_lane("b", places=1), [0, 0])
        self.receive()
        self.assertEqual(self.push_lane("b", places=1), [1, 0])

    def test_expired(self) -> None:
        """An expired message gives way to the next one of its lane."""
        self.push_lane("a")
        self.late = MINUTE + SECOND
        self.push_lane("b")
        items, gone = self.take("websocket.receive", number=5)
        self.assertEqual((items[3::5], gone), ([b"b"], [b"websocket.receive", 1]))
        self.assertEqual(self.statistics("websocket.receive"), [2, 0, 0])

    def test_lanes_take_turns(self) -> None:
        """A lane that goes on is behind those that wait already."""
        for data, lane in (("a", SOCKET), ("b", SOCKET), ("c", OTHER)):
            self.push_lane(data, lane=lane)
        self.assertEqual(self.pop("websocket.receive"), [b"a"])
        self.finish("one", SOCKET)
        self.assertEqual(self.receive(), [b"c", b"b"])

    def test_expired_ones_make_room(self) -> None:
        """Expired messages of a full channel go, each from the head of its lane; the rest of the lane goes on."""
        self.push_lane("a", capacity=4)
        self.push_lane("b", capacity=4)
        self.push_lane("c", capacity=4, lane=OTHER)
        self.late = 50 * SECOND
        self.push_lane("d", capacity=4)
        self.late = MINUTE + SECOND
        self.assertEqual(self.push_lane("e", capacity=4), [1, 3])
        self.assertEqual(self.statistics("websocket.receive"), [5, 0, 2])
        self.assertEqual(self.receive(), [b"d"])
        self.finish("one", SOCKET)
        self.assertEqual(self.receive(), [b"e"])
        self.assertEqual(self.command("HEXISTS", f"{self.prefix}size", "websocket.receive"), 0)

    def test_a_lane_is_free_after_a_loss(self) -> None:
        """When the host that had a socket's last message is gone, the next one can be taken."""
        self.push_lane("a")
        self.receive("two")
        self.run_script(scripts.LEAVE, "two", MINUTE, 3)
        self.push_lane("b")
        self.assertEqual(self.receive(), [b"b"])

    def test_what_is_held(self) -> None:
        """A host holds each message, and some of them for other workers."""
        self.push("a")
        self.push_request("b")
        self.push_lane("c")
        items, _ = self.take("+work", "http.request", "websocket.receive", host="two", number=9)
        ids = [word.decode() for word in items[4::5]]
        whats = ["+work ", f"http.request {REPLY}", f"websocket.receive {SOCKET}"]
        self.assertEqual(self.held("two"), dict(zip(whats, ids, strict=True)))
        kept = self.command("HGETALL", f"{self.prefix}kept:two")
        self.assertEqual([item[-1:] for item in kept[1::2]], [b"a", b"b", b"c"])
        self.run_script(scripts.FINISH, "two", *ids)
        self.assertEqual(self.command("EXISTS", f"{self.prefix}held:two", f"{self.prefix}kept:two"), 0)

    def test_keep(self) -> None:
        """A host replaces what is kept of a message that it holds; the next worker gets that."""
        self.push("a")
        self.push("b")
        items, _ = self.take("+work", host="two", number=2)
        self.run_script(scripts.KEEP, "two", items[4], "sealed again")
        self.run_script(scripts.FINISH, "two", items[9])
        self.run_script(scripts.KEEP, "two", items[9], "too late")
        self.run_script(scripts.LEAVE, "two", MINUTE, 3)
        self.assertEqual(self.pop(number=2), [b"sealed again"])

    def test_not_held(self) -> None:
        """A taker that will not report holds nothing; the lane goes on."""
        self.push_lane("a")
        self.push_lane("b")
        for data in (b"a", b"b"):
            items, _ = self.take("+websocket.receive", holds=0)
            self.assertEqual(items[3], data)
        self.assertEqual(self.held("one"), {})

    def test_a_lane_goes_on_before_its_message(self) -> None:
        """The host says so; it still holds the message, whose end does not concern the lane any more."""
        self.push_lane("a")
        self.push_lane("b")
        self.push_lane("c")
        self.receive()
        (number,) = self.held("one").values()
        self.finish("one", SOCKET, "~")
        self.assertEqual(self.receive("two"), [b"b"])
        self.assertEqual(self.held("one"), {"websocket.receive ": number})
        self.run_script(scripts.FINISH, "one", number)
        self.assertEqual(self.receive(), [])
        self.assertEqual(self.held("one"), {})

    def test_reclaim(self) -> None:
        """What a host that was cut off does not hold did not arrive: it is put back before all others, in order."""
        listener = self.listen("one")
        self.push_request("a")
        self.push_request("b", "http.response.one!4")
        self.push_lane("c")
        self.push_lane("d")
        self.push("e")
        self.push("f")
        taken = self.pop("http.request", "websocket.receive", "work", host="two", number=9)
        self.assertEqual(taken, [b"a", b"c", b"e", b"b", b"f"])
        waiting = self.books[2]
        self.push("g")
        self.push_request("h")
        what = f"http.request {REPLY}"
        back, lost = self.reclaim("two", (self.held("two")[what], what))
        self.assertEqual((sorted(back), lost), ([b"http.request", b"websocket.receive", b"work", b"work"], []))
        self.assertEqual(self.books[2], waiting + 2 + 4)
        self.assertEqual((listener.heard(), list(self.held("two"))), ([], [what]))
        self.assertEqual(self.pop(number=9), [b"e", b"f", b"g"])
        self.assertEqual(self.pop("http.request", number=9), [b"b", b"h"])
        self.assertEqual(self.receive(), [b"c"])
        self.finish("one", SOCKET)
        self.assertEqual(self.receive(), [b"d"])

    def test_too_late(self) -> None:
        """What comes over a connection after the next one has greeted does nothing."""
        self.push("a")
        self.assertEqual(self.run_script(scripts.GREET, "one", 2), [b"1", []])
        self.push("b")
        self.assertEqual(self.take("work"), [[], []])
        self.assertEqual(self.statistics(), [1, 0, 1])
        self.assertEqual(self.push("c", connection=2), [1, 0])
        self.assertEqual(self.take("work", number=9, connection=2)[0][3::5], [b"a", b"c"])
        self.assertEqual(self.run_script(scripts.GREET, "three", 3), [])
        self.assertEqual(self.reclaim("one"), [[], []], "what the next connection has taken since is not put back")
        self.assertEqual(len(self.reclaim("one", connection=2)[0]), 2)

    def test_what_has_arrived(self) -> None:
        """A host that greets learns the last message that arrived, and for which there was no room."""
        self.push("a", capacity=1)
        self.push("b", capacity=1)
        self.push_lane("c")
        for connection in (2, 3):  # the answer may have been lost
            self.assertEqual(self.run_script(scripts.GREET, "one", connection), [b"3", [b"2"]])

    def test_token(self) -> None:
        """A message with a token is put in once; one for which there was no room, when there is."""
        self.push("a")
        self.assertEqual(self.push("b", capacity=1, token="b"), [0, 0])
        for _ in range(2):
            self.assertEqual(self.push("b", token="b"), [1, 0])
        self.assertEqual(self.pop(number=9), [b"a", b"b"])
        for _ in range(2):
            self.put(scripts.PUSH_LANE, "websocket.receive", 10, MINUTE, SOCKET, 10, "c", token="c")
        self.assertEqual(self.receive(), [b"c"])
        self.finish("one", SOCKET)
        self.assertEqual(self.receive(), [])

    def test_lane_that_went_on(self) -> None:
        """A message whose lane went on before it ended goes to another worker in no order."""
        self.push_lane("a")
        self.take("+websocket.receive", host="two")
        self.finish("two", SOCKET, "~")
        self.run_script(scripts.LEAVE, "two", MINUTE, 3)
        for _ in range(2):
            (item,) = [self.receive()]
            self.assertEqual(item, [b"a"])
            self.reclaim("one")

    def test_finished_ones_are_not_reclaimed(self) -> None:
        """What has been consumed is no longer in the host's hands."""
        listener = self.listen("one")
        self.push_request("a")
        self.pop("http.request", host="two")
        self.finish("two", REPLY)
        self.reclaim("two")
        self.assertEqual(listener.heard(), [])

    def test_reclaim_when_emptied(self) -> None:
        """A Redis that has been emptied is told what a host holds: the lane stays busy until it is consumed."""
        held = ("17", f"websocket.receive {SOCKET}"), ("18", "work ")
        self.assertEqual(self.reclaim("two", *held, emptied=1), [[], []])
        self.assertEqual(self.held("two"), {what: number for number, what in held})
        self.push("c")
        self.assertEqual(self.pop(host="two"), [b"c"])
        self.assertEqual(self.reclaim("two", *held, emptied=1), [[], []], "it may be on its way")
        self.push_lane("b")
        self.assertEqual(self.receive(), [])
        self.run_script(scripts.FINISH, "two", "17")
        self.assertEqual(self.receive(), [b"b"])


class CopyScriptTests(ScriptTestCase):
    """Messages that may be consumed twice, of which the sender keeps copies: PUSH, BEAT, FINISH, RECLAIM, MISSING."""

    def setUp(self) -> None:
        super().setUp()
        self.listener = self.listen("one")

    def put_three(self) -> None:
        """Send one without a copy, and two with."""
        self.assertEqual(self.push("a"), [1, 0])
        self.assertEqual(self.push("b", copied=1), [2, 0])
        self.run_script(scripts.BEAT, "two", 2 * SECOND, 20 * SECOND, "work")
        self.put(scripts.PUSH_LANE, "work", 10, MINUTE, f"work {REPLY}", 10, "c")

    def missing(self) -> list[int]:
        """Return which of the three Redis has not."""
        return [int(number) for number in self.run_script(scripts.MISSING, "one", 1, 2, 3)[0]]

    def test_the_sender_learns_the_end(self) -> None:
        """Redis knows of a message from PUSH to FINISH, and tells its sender then."""
        self.put_three()
        self.assertEqual(self.missing(), [1])
        items, _ = self.take("+work", host="two", number=3)
        self.assertEqual(items[3::5], [b"a", b"kone 2 b", b"kone 3 c"])
        self.assertEqual((self.missing(), self.listener.heard()), ([1], []))
        ids = [word.decode() for word in items[4::5]]
        self.run_script(scripts.FINISH, "two", ids[0], f"{ids[1]} one 2", f"~{ids[2]}")
        self.assertEqual((self.missing(), self.listener.heard()), ([1, 2], [b"c2"]))
        self.run_script(scripts.FINISH, "two", f"{ids[2]} one 3")
        self.assertEqual((self.missing(), self.listener.heard()), ([1, 2, 3], [b"c3"]))
        self.assertEqual(self.command("EXISTS", f"{self.prefix}copies:one"), 0)

    def test_who_is_told_so_lately(self) -> None:
        """What the consumers of a channel have said holds for a minute; a full channel takes no copy."""
        self.put_three()
        self.assertEqual(self.push("d", capacity=1, copied=1), [0, 0])
        self.assertEqual(self.command("HKEYS", f"{self.prefix}copies:one"), [b"2", b"3"])
        self.late = 2 * MINUTE
        self.assertEqual(self.push("e"), [1, 0])

    def test_lost_ones_end(self) -> None:
        """So do those that expire, that are taken for good, and that have seen too many deaths."""
        self.put_three()
        self.take(host="two", number=2, holds=0)
        self.assertEqual(self.listener.heard(), [b"c2"])
        self.late = 2 * MINUTE
        self.assertEqual(self.take()[1], [b"work", 1])
        self.assertEqual(self.listener.heard(), [b"c3"])
        for data in ("d", "e"):
            self.push(data, copied=1)
        self.push_lane("f", channel="work", lane=f"work {REPLY}")
        self.late = 4 * MINUTE
        self.run_script(scripts.STATISTICS, "work")
        self.assertEqual(self.listener.heard(), [b"c4", b"c5"])
        self.push("g", copied=1)
        self.take("+work", host="two")
        self.run_script(scripts.LEAVE, "two", MINUTE, 0)
        self.assertEqual(self.listener.heard(), [b"c7"])

    def test_emptied(self) -> None:
        """A host tells what it holds, with the message: its sender need not put it back, and others may get it."""
        held = ("7", "+work ", "work", "kone 2 b"), ("8", f"+work work {REPLY}", "work", "kone 3 c")
        self.reclaim("two", *held, emptied=1)
        self.assertEqual(self.missing(), [1])
        self.run_script(scripts.LEAVE, "two", MINUTE, 3)
        items, _ = self.take("+work", host="three", number=3)
        self.assertEqual(items[2::5], [b"", f"work {REPLY}".encode()])
        self.assertEqual(items[3::5], [b"kone 2 b", b"kone 3 c"])
        self.assertEqual((self.missing(), self.listener.heard()), ([1], []))

    def test_what_is_put_back_is_not_lost(self) -> None:
        """Of the messages that waited, and of those that dead hosts held, it is not counted."""
        for data in "abcde":
            self.push(data)
        self.take(host="two", number=2)
        for back, waited, died in ((0, 3, 2), (2, 1, 2), (4, 0, 1), (5, 0, 0), (6, 0, 0)):
            answer = self.run_script(scripts.EMPTIED, *self.books, "one", 0, back, "")
            self.assertEqual(answer, [0, 0, waited, died])


class GroupScriptTests(ScriptTestCase):
    """Groups: JOIN, JOIN_OTHER, JOIN_QUEUE, MEMBERS, SEND_GROUP."""

    def setUp(self) -> None:
        super().setUp()
        self.age()
        self.beat("one")
        self.beat("two")

    def test_young_books(self) -> None:
        """Soon after Redis was emptied, all hosts hear a message, and who sent it."""
        self.command("DEL", f"{self.prefix}books")
        everyone = Listener(f"{self.prefix}everyone")
        self.addCleanup(everyone.close)
        two = self.listen("two")
        self.join(OTHER, "two")
        self.run_script(scripts.JOIN_QUEUE, "group", "work", MINUTE, 10, "m")
        self.assertEqual(self.send("one"), [0, [], []])
        self.assertEqual((two.heard(), everyone.heard()), ([], [b"eone hello"]))
        self.assertEqual(self.pop(), [b"g00001mhello"])

    def join(self, channel: str, host: str, begins: int = 1, has_members: int = 1) -> None:
        self.run_script(scripts.JOIN, "group", host, MINUTE, has_members, channel, begins)

    def members(self) -> list[bytes]:
        return sorted(self.run_script(scripts.MEMBERS, "group", 20 * SECOND))

    def send(self, sender: str = "one", data: str = "hello", reply: str = "") -> Any:
        return self.run_script(scripts.SEND_GROUP, "group", sender, MINUTE, 20 * SECOND, data, reply, 3 * SECOND)

    def test_join(self) -> None:
        """Members begin and end."""
        self.run_script(scripts.JOIN, "group", "one", MINUTE, 1, REPLY, 1, SOCKET, 1)
        self.join(OTHER, "two")
        self.assertEqual(self.members(), sorted(name.encode() for name in (REPLY, SOCKET, OTHER)))
        self.run_script(scripts.JOIN, "group", "one", MINUTE, 1, REPLY, 0)
        self.join(OTHER, "two", 0, 0)
        self.assertEqual(self.members(), [SOCKET.encode()])

    def test_memberships_expire(self) -> None:
        """After their lifetime, counted from the last renewal."""
        self.join(SOCKET, "one")
        self.join(OTHER, "two")
        self.late = 50 * SECOND
        self.join(OTHER, "two")
        self.late = MINUTE + SECOND
        self.beat("two")
        self.assertEqual(self.members(), [OTHER.encode()])

    def test_members_of_dead_hosts(self) -> None:
        """A host without a sign of life has no members."""
        self.join(SOCKET, "one")
        self.join(OTHER, "two")
        self.late = 21 * SECOND
        self.beat("two")
        self.assertEqual(self.members(), [OTHER.encode()])

    def test_join_other(self) -> None:
        """Another host hears of it, and has a member; one that does not listen has none."""
        self.assertEqual(self.run_script(scripts.JOIN_OTHER, "group", SOCKET, "one", MINUTE, "news"), 0)
        self.assertEqual(self.members(), [])
        listener = self.listen("one")
        self.assertEqual(self.run_script(scripts.JOIN_OTHER, "group", SOCKET, "one", MINUTE, "news"), 1)
        self.assertEqual(listener.heard(), [b"news"])
        self.assertEqual(self.members(), [SOCKET.encode()])
        self.send("two")
        self.assertEqual(listener.heard(), [b"shello"])
        self.run_script(scripts.JOIN_OTHER, "group", SOCKET, "one", 0, "end of it")
        self.assertEqual(self.members(), [])
        self.assertEqual(listener.heard(), [b"end of it"])

    def test_queues(self) -> None:
        """Ordinary channels are members until they leave or their time is over."""
        self.run_script(scripts.JOIN_QUEUE, "group", "work", MINUTE, 10, "m")
        self.run_script(scripts.JOIN_QUEUE, "group", "other", MINUTE, 10, "m")
        self.assertEqual(self.members(), [b"other", b"work"])
        self.run_script(scripts.JOIN_QUEUE, "group", "other", 0, 10, "m")
        self.assertEqual(self.members(), [b"work"])
        self.late = MINUTE + SECOND
        self.assertEqual(self.members(), [])
        self.assertEqual(self.send(), [0, [], []])
        self.assertEqual(self.pop(), [])

    def test_send(self) -> None:
        """Each host with members hears it once, but not the sender; a channel gets it as a message."""
        one, two = self.listen("one"), self.listen("two")
        self.join(SOCKET, "one")
        self.join(OTHER, "two")
        self.join("websocket.send.two!4", "two")
        self.run_script(scripts.JOIN_QUEUE, "group", "work", MINUTE, 10, "m")
        self.assertEqual(self.send("one"), [0, [], []])
        self.assertEqual((one.heard(), two.heard()), ([], [b"shello"]))
        self.assertEqual(self.pop(number=5), [b"g00001mhello"])

    def test_send_to_a_lane(self) -> None:
        """A message with a reply channel goes to a channel in order with others of that reply channel."""
        self.run_script(scripts.JOIN_QUEUE, "group", "work", MINUTE, 3, "m")
        self.run_script(scripts.JOIN_QUEUE, "group", "own!1", MINUTE, 3, "m")
        self.push_lane("a", "work", lane=f"work {REPLY}")
        self.assertEqual(self.send(data="b", reply=REPLY), [0, [], []])
        self.assertEqual(self.push("c"), [1, 0])
        self.assertEqual(self.statistics("work"), [3, 0, 3])
        self.assertEqual(self.send(data="d"), [0, [b"work"], []])
        self.assertEqual(self.push_lane("e", "work", capacity=3, lane="work x"), [0, 0])
        self.assertEqual(self.pop(number=5), [b"a", b"c"])
        self.finish("one", f"work {REPLY}")
        self.assertEqual(self.pop(number=5), [b"g00001mb"])
        self.assertEqual(self.pop("own!", number=5), [b"g00001mb", b"g00001md"])
        self.finish("one", f"work {REPLY}")
        self.assertEqual(self.statistics("work"), [3, 2, 0])
        self.assertEqual(self.command("EXISTS", f"{self.prefix}size"), 0)

    def test_no_members_any_more(self) -> None:
        """A host whose last member has left hears nothing."""
        two = self.listen("two")
        self.join(OTHER, "two")
        self.join(OTHER, "two", 0, 0)
        self.assertEqual(self.send("one"), [0, [], []])
        self.assertEqual(two.heard(), [])

    def test_deaf_hosts(self) -> None:
        """A live host that does not listen is reported; a dead one is forgotten."""
        self.join(OTHER, "two")
        self.assertEqual(self.send("one")[0], 1)
        self.late = 21 * SECOND
        self.assertEqual(self.send("one")[0], 0)
        self.assertEqual(self.command("ZRANGE", f"{self.prefix}reach:group", 0, -1), [])

    def test_full_and_expired(self) -> None:
        """A full channel is reported by its name, and so is what had expired in it."""
        self.run_script(scripts.JOIN_QUEUE, "group", "own!x", 10 * MINUTE, 1, "m")
        self.assertEqual(self.send(), [0, [], []])
        self.assertEqual(self.send(), [0, [b"own!x"], []])
        self.late = MINUTE + SECOND
        self.assertEqual(self.send(), [0, [], [b"own!", 1]])


class ExpiryTests(ScriptTestCase):
    """What a site that has gone leaves in Redis."""

    def test_keys_end_by_themselves(self) -> None:
        """All that grows with the number of messages, sockets and groups ends at some time."""
        self.push("a")
        self.push_lane("b")
        self.push_lane("c", lane=OTHER)
        self.pop("websocket.receive", host="two")
        self.run_script(scripts.JOIN, "group", "one", MINUTE, 1, SOCKET, 1)
        self.run_script(scripts.JOIN_QUEUE, "group", "work", MINUTE, 10, "m")
        keys = {key.decode().removeprefix(self.prefix) for key in self.command("KEYS", f"{self.prefix}*")}
        lasting = {key for key in keys if self.command("PTTL", self.prefix + key) < 0}
        self.assertEqual(lasting, {"books", "busy", "channels", "size", "held:two", "kept:two", "joined:one"})
        self.assertEqual(keys - lasting, {
            "q:work", "q:websocket.receive", f"lane:{OTHER}", "group:group", "queued:group", "reach:group",
            "meta:work:messages_count", "meta:websocket.receive:messages_count", "sent:one",
        })  # fmt: skip


class DeadHostScriptTests(ScriptTestCase):
    """Hosts that die or leave: REMOVE_DEAD, LEAVE."""

    def setUp(self) -> None:
        super().setUp()
        self.beat("one")
        self.beat("two")
        self.run_script(scripts.JOIN, "group", "two", 10 * MINUTE, 1, OTHER, 1)
        self.push_lane("a")
        self.push_lane("b")
        self.push_request("c")
        self.assertEqual(self.pop("websocket.receive", "http.request", host="two", number=5), [b"a", b"c"])

    def remove(self, *hosts: str) -> list[bytes | int]:
        return list(self.run_script(scripts.REMOVE_DEAD, 20 * SECOND, 2 * SECOND, MINUTE, 3, *hosts))

    def assert_two(self, removed: list[Any], before: int = 0, lost: int = 1) -> None:
        """Assert that "two" was removed, and how many messages of each of two channels count as lost."""
        (name, *first, rows) = removed
        self.assertEqual((name, first), (b"two", [before]))
        self.assert_lost(rows, lost)

    def assert_lost(self, rows: list[Any], lost: int = 1) -> None:
        """Assert how many messages of each of two channels are lost."""
        found = {rows[at]: rows[at + 1 : at + 4] for at in range(0, len(rows), 4)}
        self.assertEqual(found, {b"http.request": [lost, 0, 0], b"websocket.receive": [lost, 0, 0]})

    def assert_removed(self, listener: Listener, *held: str) -> None:
        """Assert that nothing of "two" is left: the client has its answer, the socket's next message can be taken."""
        self.assertEqual(listener.heard(), [b"f" + REPLY.encode()])
        self.assertEqual(self.pop("websocket.receive", host="one"), [b"b"])
        self.assertEqual(self.command("ZRANGE", f"{self.prefix}hosts", 0, -1), [b"one"])
        self.assertEqual(self.run_script(scripts.MEMBERS, "group", 20 * SECOND), [])
        left = {"reach:group", "group:group", "joined:two", "held:two"}
        left &= {key.decode().removeprefix(self.prefix) for key in self.command("KEYS", f"{self.prefix}*")}
        self.assertEqual(left, set(held))

    def test_one_that_does_not_listen(self) -> None:
        """It is dead after the shorter time. What it held counts as lost after the longer one."""
        listener = self.listen("one")
        self.assertEqual(self.remove("two", "nobody"), [])
        self.late = 3 * SECOND
        self.beat("one")
        self.assert_two(self.remove("one", "two", "nobody"), lost=0)
        self.assert_removed(listener, "held:two")
        self.assertEqual(self.remove("two"), [], "removed twice")
        self.late = 21 * SECOND
        self.beat("one")
        self.assertEqual(self.run_script(scripts.BEAT, "one", 2 * SECOND, 20 * SECOND), [0, [b"two"]])
        self.assert_two(self.remove("two"), 1)
        self.assertEqual(self.command("KEYS", f"{self.prefix}*two"), [])
        self.assertEqual(self.remove("two"), [], "removed again")

    def test_one_that_was_cut_off(self) -> None:
        """When it is back, what it has consumed does not count as lost; what it never got waits again, or is lost."""
        self.push("d")
        self.push("e")
        self.push("f")
        self.assertEqual(self.pop(host="two", number=3), [b"d", b"e", b"f"])
        self.late = 3 * SECOND
        self.remove("two")
        everything = self.command("HGETALL", f"{self.prefix}held:two")
        pairs = zip(everything[::2], everything[1::2], strict=True)
        of_work = sorted(number.decode() for number, what in pairs if what == b"work ")
        self.run_script(scripts.FINISH, "two", of_work[0])
        back, lost = self.reclaim("two", (of_work[1], "work "))
        self.assertEqual((back, sorted(lost)), ([b"work"], [b"http.request", b"websocket.receive"]))
        self.assertEqual(self.pop(number=9), [b"f"])
        self.run_script(scripts.BEAT, "two", 2 * SECOND, 20 * SECOND)
        self.run_script(scripts.FINISH, "two", of_work[1])
        self.late = 40 * SECOND
        self.assertEqual(self.run_script(scripts.BEAT, "two", 2 * SECOND, 20 * SECOND)[1], [b"one"])
        self.assertEqual(self.remove("two"), [])

    def test_one_that_listens(self) -> None:
        """It may be only slow: it is dead after the longer time."""
        listener = self.listen("one")
        self.listen("two")
        self.late = 3 * SECOND
        self.assertEqual(self.remove("two"), [])
        self.late = 21 * SECOND
        self.beat("one")
        self.assert_two(self.remove("one", "two"))
        self.assert_removed(listener)

    def test_leave(self) -> None:
        """It is removed at once."""
        listener = self.listen("one")
        self.assert_lost(self.run_script(scripts.LEAVE, "two", MINUTE, 3))
        self.assert_removed(listener)

    def test_again(self) -> None:
        """Kept messages go to another worker, before all others, with new time; after three deaths they are lost."""
        self.pop("websocket.receive", "http.request", number=9, host="two")
        for data in "xyz":
            self.push(data)
        self.push_lane("k", "own", lane=f"own {REPLY}")
        self.push_lane("l", "own", lane=f"own {REPLY}")
        self.late = 50 * SECOND
        before = self.run_script(scripts.BEAT, "two", 2 * SECOND, 20 * SECOND) and self.books[2]
        for deaths in range(3):
            items, _ = self.take("+work", "+own", host=f"h{deaths}", number=3)
            self.assertEqual(items[3::5], [b"x", b"k", b"y"])
            rows = self.run_script(scripts.LEAVE, f"h{deaths}", MINUTE, 3)
            self.assertEqual(sorted(rows[at : at + 4] for at in (0, 4)), [[b"own", 0, 0, 1], [b"work", 0, 0, 2]])
            self.run_script(scripts.BEAT, "two", 2 * SECOND, 20 * SECOND)
            self.assertEqual(self.books[2], before)
        items, _ = self.take("+work", "+own", host="last", number=3)
        self.assertEqual(items[3::5], [b"x", b"k", b"y"])
        self.assertGreater(int(items[1]), 50 * SECOND)
        rows = self.run_script(scripts.LEAVE, "last", MINUTE, 3)
        self.assertEqual(sorted(rows[at : at + 4] for at in (0, 4)), [[b"own", 1, 1, 0], [b"work", 2, 2, 0]])
        self.assertEqual(self.pop("work", "own", number=9), [b"z", b"l"])


class BooksScriptTests(ScriptTestCase):
    """What is known of the queues, and what of it outlives an emptied Redis: BEAT, EMPTIED, SWEEP."""

    def test_changes(self) -> None:
        """Each script that changes a queue tells how many messages wait in all; later changes have higher numbers."""
        numbers, waiting = [], []
        for change in (
            lambda: self.push("a"), lambda: self.push_lane("b"), lambda: self.push("c", "other"),
            lambda: self.pop(), lambda: self.pop("websocket.receive", "other", number=5), lambda: self.push("d"),
        ):  # fmt: skip
            change()
            numbers.append(self.books[1])
            waiting.append(self.books[2])
        self.assertEqual(waiting, [1, 2, 3, 2, 0, 1])
        self.assertEqual(numbers, sorted(set(numbers)))
        self.late = 2 * MINUTE
        self.assertEqual(self.take()[1], [b"work", 1])
        self.assertEqual(self.books[2], 0)

    def test_emptied(self) -> None:
        """The books begin anew, with higher numbers; the host that made the last change is believed, one is to ask."""
        self.push("a")
        first = self.books
        self.push("b")
        last = self.books
        self.command("DEL", *self.command("KEYS", f"{self.prefix}*"))
        added, silent = self.run_script(scripts.BEAT, "one", 2 * SECOND, 20 * SECOND)
        self.assertEqual((added, silent, self.books[2]), (1, [], 0))
        self.assertGreater(int(self.books[0]), int(last[0]))
        self.assertGreater(self.books[1], last[1])
        told = [
            self.run_script(scripts.EMPTIED, *books, "one", 0, 0, what)
            for books, what in ((first, ""), (last, MINUTE), (first, ""))
        ]
        self.assertEqual(told, [[0, 0, 1, 0], [0, 0, 2, 0], [0, 0, 2, 0]])
        self.age()
        self.assertEqual(self.run_script(scripts.EMPTIED, *first, "one", 0, 0, SECOND), [1, 1, 2, 0])
        self.assertEqual(self.run_script(scripts.EMPTIED, *last, "one", 0, 0, SECOND), [0, 1, 2, 0])

    def test_held(self) -> None:
        """The books tell how many messages are held; those that no host tells of when Redis was emptied are lost."""
        for data in "abcdef":
            self.push(data)
        self.push_lane("g")
        self.take("+work", host="two", number=2)
        self.take(host="one", number=2)
        self.take("websocket.receive", host="three", number=9)
        self.assertEqual(self.books[2:], [2, 5])
        self.run_script(scripts.LEAVE, "two", MINUTE, 3)
        self.finish("three", SOCKET, "~")
        self.assertEqual(self.books[2:], [4, 3])
        self.finish("three", "")
        self.assertEqual(self.books[2:], [4, 2])
        self.reclaim("one", (max(self.held("one").values()), "work "))
        self.assertEqual(self.books[2:], [5, 1])
        self.take(host="two", number=2)
        before = self.books
        self.command("DEL", *self.command("KEYS", f"{self.prefix}*"))
        self.reclaim("two", ("8", "work "), ("9", "work "), emptied=1)
        self.assertEqual(self.books[2:], [0, 2])
        self.age()
        for _ in range(2):
            self.run_script(scripts.EMPTIED, *before, "two", 2, 0, "")
        self.assertEqual(self.run_script(scripts.EMPTIED, *before, "three", 0, 0, SECOND), [1, 1, 3, 1])

    def test_counted_before_it_was_emptied_again(self) -> None:
        """Hosts tell a Redis that was emptied again what has been counted; it is not counted again."""
        self.push("a")
        books = self.books
        self.run_script(scripts.EMPTIED, *books, "one", 0, 0, "")
        self.run_script(scripts.EMPTIED, *books, "one", 0, 0, "counted")
        self.age()
        self.assertEqual(self.run_script(scripts.EMPTIED, *books, "one", 0, 0, SECOND), [0, 1, 1, 0])

    def test_silent(self) -> None:
        """A sign of life tells which hosts give none."""
        self.run_script(scripts.BEAT, "one", 2 * SECOND, 20 * SECOND)
        self.late = 3 * SECOND
        self.assertEqual(self.run_script(scripts.BEAT, "two", 2 * SECOND, 20 * SECOND), [1, [b"one"]])
        self.assertEqual(self.run_script(scripts.BEAT, "two", 2 * SECOND, 20 * SECOND)[0], 0)

    def test_sweep(self) -> None:
        """Expired messages that nobody takes are counted, too, once."""
        self.push("a")
        self.push("b", "other")
        self.push_lane("c", "other", lane=f"other {REPLY}")
        self.late = MINUTE + SECOND
        self.push("d")
        ((*gone,),) = self.run_script(scripts.SWEEP, 100_000)
        self.assertEqual(dict(zip(gone[::2], gone[1::2], strict=True)), {b"work": 1, b"other": 2})
        self.assertEqual(self.books[2], 1)
        self.assertEqual(self.run_script(scripts.SWEEP, 100_000), [[]])
        self.assertEqual(self.command("SMEMBERS", f"{self.prefix}channels"), [b"work"])
