"""What a reply to a WebSocket may hold: checked where it is sent, and again by the server."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from channelserver import Channel, Group
from channelserver.exceptions import DenyConnection, WebsocketCloseException
from channelserver.layers.reply import check_reply

SOCKET = "websocket.send.abc!1"
COOKIE = [b"Set-Cookie", b"seen=1; Path=/"]

#: Replies that cannot be sent, and words of the error.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"close": 4002, "reason": "x" * 124}, "124 bytes"),
    ({"close": 4002, "reason": "ä" * 62}, "124 bytes"),
    ({"close": True, "reason": b"late"}, "must be str"),
    ({"close": True, "reason": 7}, "must be str"),
    ({"accept": True, "headers": [[b"X-A", b"1\r\nSet-Cookie: b=2"]]}, "line break"),
    ({"accept": True, "headers": [[b"X-A", b"1\n"]]}, "line break"),
    ({"accept": True, "headers": [[b"X-A", b"\0"]]}, "NUL"),
    ({"accept": True, "headers": [[b"X A", b"1"]]}, "malformed header b'X A'"),
    ({"accept": True, "headers": [[b"", b"1"]]}, "malformed header b''"),
    ({"accept": True, "headers": [[b"X-A: 1\r\nX-B", b"1"]]}, "malformed header"),
    ({"accept": True, "headers": [[b"X-A"]]}, "pair"),
    ({"accept": True, "headers": [[b"X-A", 1]]}, "pair"),
    ({"accept": True, "headers": [["X-A", "€"]]}, "pair"),
    ({"accept": True, "headers": [7]}, "pair"),
    ({"accept": True, "headers": {b"X-A": b"1"}}, "list"),
    ({"accept": True, "headers": [[b"Sec-WebSocket-Protocol", b"chat"]]}, "set by the server"),
    ({"accept": True, "headers": [[b"sec-websocket-ACCEPT", b"x"]]}, "set by the server"),
    ({"accept": True, "headers": [[b"Connection", b"close"]]}, "set by the server"),
    ({"accept": True, "headers": [[b"Upgrade", b"h2c"]]}, "set by the server"),
    ({"accept": True, "headers": [[b"Transfer-Encoding", b"chunked"]]}, "set by the server"),
    ({"accept": True, "headers": [[b"Content-Length", b"5"]]}, "set by the server"),
    ({"accept": False, "headers": [[b"Keep-Alive", b"5"]]}, "set by the server"),
    ({"accept": False, "headers": [[b"X-A", b"\r"]]}, "line break"),
    ({"accept": False, "status": 200}, "300 to 599"),
    ({"accept": False, "status": 101}, "300 to 599"),
    ({"accept": False, "status": 600}, "300 to 599"),
    ({"accept": False, "status": "401"}, "300 to 599"),
    ({"accept": False, "status": True}, "300 to 599"),
    ({"close": True, "content": "text"}, "bytes"),
]

RIGHT: list[dict[str, Any]] = [
    {"close": 4002, "reason": "x" * 123},
    {"close": 4002, "reason": "ä" * 61},
    {"close": 4002, "reason": "\ud83d" * 41},  # U+FFFD takes its place, of three bytes
    {"close": 4002, "reason": None},
    {"close": 4002, "reason": ""},
    {"close": False, "reason": 7},
    {"accept": True, "headers": [COOKIE, [b"set-cookie", b"other=2"], ("X-Text", "1")]},
    {"accept": True, "headers": None},
    {"accept": True, "status": "x", "content": 7},
    {"accept": False, "status": 401, "headers": [[b"WWW-Authenticate", b"Basic"]], "content": b"log in"},
    {"accept": False, "headers": [[b"Content-Length", b"6"]], "content": b"log in"},
    {"text": "a", "headers": 7, "status": 7},
    # A message of the server's, sent back.
    {"reply_channel": SOCKET, "path": "/", "headers": [[b"connection", b"Upgrade"]], "accept": True},
    {"reply_channel": SOCKET, "path": "/", "headers": [[b"connection", b"Upgrade"]], "close": True},
]


class CheckTests(SynchronousTestCase):
    def test_wrong(self) -> None:
        """An error names what is wrong; the value of a header is not in it, as it may be a cookie."""
        for content, words in WRONG:
            with self.assertRaises(ValueError, msg=str(content)) as caught:
                check_reply(content)
            self.assertIn(words, str(caught.exception), content)
            with self.assertRaises(ValueError, msg=str(content)):
                Channel(SOCKET).send(content)

    def test_data(self) -> None:
        """Text and bytes of another type are a TypeError at the send, to sockets and to groups of them."""
        for content in ({"text": {"a": 1}}, {"text": b"a"}, {"bytes": "a"}, {"text": 7, "close": True}):
            for receiver in (Channel(SOCKET), Group("all")):
                with self.assertRaises(TypeError):
                    receiver.send(content)
            Channel("orders").send(content)
        for right in ({"text": None, "bytes": b"a"}, {"text": "a", "bytes": None}):
            Channel(SOCKET).send(right)

    def test_right(self) -> None:
        """Everything else passes, also what means nothing in such a reply."""
        for content in RIGHT:
            check_reply(content)

    def test_other_channels(self) -> None:
        """On channels of the application's own these keys are its own, in groups the reason of a close is checked."""
        for content, _ in WRONG:
            if not isinstance(content.get("headers"), dict):  # a dict with keys of bytes is no message at all
                Channel("orders").send(content)
        with self.assertRaises(ValueError):
            Group("all").send({"close": 4002, "reason": "x" * 124})
        Group("all").send({"reason": "x" * 124, "text": "a"})

    def test_exceptions(self) -> None:
        """They take the same, and check it where they are raised."""
        with self.assertRaises(ValueError):
            DenyConnection(status=200)
        with self.assertRaises(ValueError):
            WebsocketCloseException(4000, "x" * 124)
        with self.assertRaises(TypeError):
            DenyConnection(code=401)
        self.assertEqual(DenyConnection().reply, {"accept": False})
        self.assertEqual(str(DenyConnection("no ticket")), "no ticket")
        self.assertEqual(DenyConnection(status=401).reply, {"accept": False, "status": 401})

        class Own(DenyConnection):
            def __init__(self) -> None:
                """Call nobody's, as subclasses do."""

        self.assertEqual(Own().reply, {"accept": False})
