"""Faults of Redis and of those who use it: each is noticed, survived, logged and counted."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from channelserver.layers.redis.replies import ReplyReader


class CountingReader(ReplyReader):
    """Counts how often it begins to read a value."""

    begun = 0

    def _next(self) -> Any:
        self.begun += 1
        return super()._next()


class LongReplyTests(SynchronousTestCase):
    """Answers that come in many parts."""

    def test_each_value_is_read_once(self) -> None:
        """An array in parts takes no more work than one that comes whole, but for one value a part."""
        names = [b"websocket.send.host!%d" % number for number in range(2000)]
        answer = b"*2\r\n*2000\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(name), name) for name in names) + b":7\r\n"
        reader = CountingReader()
        parts = [answer[at : at + 10] for at in range(0, len(answer), 10)]
        values = [value for part in parts for value in reader.feed(part)]
        self.assertEqual(values, [[names, 7]])
        self.assertLessEqual(reader.begun, len(names) + 3 + len(parts))

    def test_nested(self) -> None:
        """Arrays in arrays, empty ones, missing ones and errors, byte by byte."""
        answer = b"*4\r\n*0\r\n*-1\r\n*1\r\n*1\r\n$0\r\n\r\n-ERR no\r\n+OK\r\n$-1\r\n*0\r\n"
        reader = ReplyReader()
        values = [value for byte in answer for value in reader.feed(bytes([byte]))]
        self.assertEqual(values[0][:3], [[], None, [[b""]]])
        self.assertEqual(str(values[0][3]), "ERR no")
        self.assertEqual(values[1:], ["OK", None, []])
        with self.assertRaisesRegex(ValueError, "nested"):
            reader.feed(b"*1\r\n" * 20)
