"""WebSockets: handshake, messages both ways, and the end. The network is not there."""

from __future__ import annotations

import base64
import gc
import hashlib
from typing import Any

from twisted.internet import interfaces

from channelserver.layers.base import FAILED
from channelserver.layers.memory import InMemoryChannelLayer
from channelserver.server.http.exchange import Exchange
from channelserver.server.websocket.frames import Opcode, encode_frame
from channelserver.server.websocket.websocket import CLOSE_SECONDS, WebSocket
from tests.fakes import Client, FakeServer, StrictTestCase, mask_frame, read_frames, text_frame

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = Opcode

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455 section 1.3, with its answer
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

CONNECT, RECEIVE, DISCONNECT, SESSIONS = (
    "websocket.connect",
    "websocket.receive",
    "websocket.disconnect",
    "websocket.session",
)


def handshake(path: str = "/", *lines: str, method: str = "GET", version: str = "1.1", **fields: str | None) -> bytes:
    """Return a handshake; keyword arguments replace its header fields, None leaves one out."""
    head = {
        "host": "testserver", "upgrade": "websocket", "connection": "Upgrade", "sec_websocket_key": KEY,
        "sec_websocket_version": "13", **fields,
    }  # fmt: skip
    rows = [f"{name.replace('_', '-')}: {value}" for name, value in head.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/{version}", *rows, *lines, "", ""]).encode("latin-1")


def close_frame(code: int | None = None, reason: str = "") -> bytes:
    """Return a close frame of a client."""
    return mask_frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode())


class SocketTestCase(StrictTestCase):
    """A server, and clients that open sockets."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.make_server()

    def serve(self, **options: Any) -> FakeServer:
        """Replace the server by one with other options."""
        self.server = self.make_server(**options)
        return self.server

    def shake(self, data: bytes | None = None) -> tuple[Client, dict[str, Any]]:
        """Send a handshake; return the client and the message that the application gets."""
        client = self.server.connect()
        client.send(data or handshake())
        return client, self.server.message(CONNECT)

    def open(self, data: bytes | None = None) -> tuple[Client, str]:
        """Open a socket; return the client, whose news begin with the first frame, and the reply channel."""
        client, message = self.shake(data)
        self.server.reply(message, accept=True)
        self.assertTrue(client.news().startswith(b"HTTP/1.1 101 "), client.received)
        return client, message["reply_channel"]

    def sent(self, client: Client) -> list[tuple[int, bytes]]:
        """Return the frames that have come since the last look."""
        return read_frames(client.news())

    def received(self) -> list[Any]:
        """Return the text or bytes of the messages that the application has got."""
        return [message.get("text", message.get("bytes")) for message in self.server.messages(RECEIVE)]

    def assertDisconnected(self, channel: str, code: int, order: int = 1, path: str = "/") -> None:
        """Assert that the application is told of the end, once, and that nothing of the socket is left."""
        self.assertEqual(
            self.server.messages(DISCONNECT), [{"reply_channel": channel, "path": path, "code": code, "order": order}]
        )
        self.server.pass_time(100)
        self.assertEqual(self.server.messages(DISCONNECT), [])
        self.assertNotIn(channel, self.server.site.replies)
        self.assertEqual(self.server.messages(SESSIONS), [])

    def assertClosedWith(self, client: Client, code: int) -> None:
        """Assert that the next frame closes the socket with this code, and is the last one."""
        (last,) = self.sent(client)
        self.assertEqual((last[0], int.from_bytes(last[1][:2], "big")), (CLOSE, code))


class HandshakeTests(SocketTestCase):
    """RFC 6455 section 4.2: what a handshake needs."""

    def assertRefused(self, data: bytes, status: int, *words: bytes) -> Client:
        """Assert that a handshake is answered with an error, without the application."""
        client = self.server.connect()
        client.send(data)
        response = client.response(data.split(b" ")[0].decode())
        self.assertEqual(response.status, status, data)
        for word in words:
            self.assertIn(word, response.body)
        self.assertTrue(client.transport.write_ended)
        self.assertIsNone(self.server.take(CONNECT))
        self.assertEqual(self.server.messages(SESSIONS), [])
        client.leave()
        self.assertEqual(self.server.messages(DISCONNECT) + self.server.messages("http.disconnect"), [])
        return client

    def test_message(self) -> None:
        """The application gets all keys of the format."""
        self.serve(root_path="/app")
        client, message = self.shake(handshake("/chat%20room?a=%62", "Cookie: c", "X_Evil: d", "Cookie: e"))
        channel = message.pop("reply_channel")
        self.assertRegex(channel, r"^websocket\.send\.[^!]+!.+$")
        headers = message.pop("headers")
        self.assertEqual(
            message,
            {
                "path": "/chat room", "query_string": b"a=%62", "root_path": "/app", "order": 0, "scheme": "ws",
                "client": ["192.0.2.7", 50123], "server": ["192.0.2.1", 8000],
            },
        )  # fmt: skip
        self.assertEqual([value for name, value in headers if name == b"cookie"], [b"c", b"e"])
        self.assertNotIn(b"x_evil", [name for name, _ in headers])
        self.server.layer.send("copy", {**message, "headers": headers})
        self.assertEqual(client.received, b"")

    def test_answer(self) -> None:
        """The answer proves that the server has understood."""
        client, message = self.shake()
        self.server.reply(message, accept=True)
        head, _, rest = client.received.decode().partition("\r\n\r\n")
        lines = head.split("\r\n")
        self.assertEqual(lines[0], "HTTP/1.1 101 Switching Protocols")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        self.assertEqual(fields["sec-websocket-accept"], ACCEPT)
        self.assertEqual((fields["upgrade"].lower(), fields["connection"].lower()), ("websocket", "upgrade"))
        self.assertNotIn("sec-websocket-extensions", fields)
        self.assertNotIn("sec-websocket-protocol", fields)
        self.assertEqual(rest, "")

    def test_other_keys(self) -> None:
        """Each key has its own answer; the blanks around it do not count."""
        key = base64.b64encode(b"0123456789abcdef").decode()
        digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        client, message = self.shake(handshake(sec_websocket_key=f" {key} "))
        self.server.reply(message, accept=True)
        self.assertIn(base64.b64encode(digest), client.received)

    def test_spellings(self) -> None:
        """Names and tokens are read in any case, alone or in lists."""
        for fields in (
            {"upgrade": "WebSocket", "connection": "upgrade"}, {"connection": "keep-alive, Upgrade"},
            {"upgrade": "h2c, websocket"},
        ):  # fmt: skip
            self.shake(handshake(**fields))

    def test_no_handshake(self) -> None:
        """A request without the wish to change is an ordinary request."""
        for fields in ({"upgrade": None}, {"upgrade": "h2c"}, {"upgrade": "websockets"}):
            client = self.server.connect()
            client.send(handshake(**fields))
            self.assertIsNone(self.server.take(CONNECT))
            self.assertIsNotNone(self.server.take("http.request"))

    def test_method_and_body(self) -> None:
        """A handshake is a GET, without a body."""
        for data in (
            handshake(method="POST"), handshake("/", "Content-Length: 5"), handshake(method="HEAD"),
            handshake("/", "Transfer-Encoding: chunked"),
        ):  # fmt: skip
            self.assertRefused(data, 400)

    def test_old_client(self) -> None:
        """RFC 9110 section 7.8: a wish to change is ignored in HTTP/1.0: it is an ordinary request."""
        client = self.server.connect()
        client.send(handshake(version="1.0"))
        self.assertIsNone(self.server.take(CONNECT))
        self.assertEqual(self.server.message("http.request")["http_version"], "1.0")

    def test_connection_field(self) -> None:
        """The Connection field says so, too."""
        for value in (None, "keep-alive", "close", "upgraded"):
            self.assertRefused(handshake(connection=value), 400, b"upgrade")

    def test_version_of_the_protocol(self) -> None:
        """Section 4.4: another version of the protocol is answered with 426 and the one that is spoken."""
        for value in (None, "8", "14", "13, 8", "013"):
            client = self.assertRefused(handshake(sec_websocket_version=value), 426, b"13")
            self.assertEqual(client.response().header("sec-websocket-version"), "13")

    def test_upgrade_field_of_426(self) -> None:
        """RFC 9110 section 15.5.22: such an answer names the protocol to change to."""
        client = self.assertRefused(handshake(sec_websocket_version="8"), 426)
        self.assertEqual((client.response().header("upgrade") or "").lower(), "websocket")

    def test_malformed_key(self) -> None:
        """The key is sixteen bytes in base64, once."""
        short, long = (base64.b64encode(b"x" * size).decode() for size in (15, 17))
        for key in (None, "", "x", KEY[:-1], KEY + "=", short, long, "dGhlIHNhbXBsZSBub25j ZQ==", "\xe9" * 24):
            self.assertRefused(handshake(sec_websocket_key=key), 400, b"Key")
        self.assertRefused(handshake("/", f"Sec-WebSocket-Key: {KEY}"), 400, b"Key")

    def test_host(self) -> None:
        """The host must be one of the site's."""
        self.assertRefused(handshake(host="evil.com"), 400, b"evil.com", b"ALLOWED_HOSTS")
        self.shake(handshake(host="TESTSERVER:8000"))

    def test_origin(self) -> None:
        """A browser's page must be one of the site's, or allowed in writing; who is no browser may."""
        for origin in ("http://evil.com", "null", "http://testserver.evil.com"):
            self.assertRefused(handshake(origin=origin), 403)
        for origin in (None, "http://testserver", "https://testserver:8443"):
            self.shake(handshake(origin=origin))
        self.serve(allowed_origin=["friend.org"])
        self.shake(handshake(origin="https://friend.org"))
        self.serve(allowed_origin=["*"])
        self.shake(handshake(origin="http://evil.com"))

    def test_two_origins(self) -> None:
        """With two Origin fields, the handshake is refused if one of them is not allowed."""
        self.assertRefused(handshake("/", "Origin: http://evil.com", origin="http://testserver"), 403)

    def test_draining(self) -> None:
        """A server that is about to stop opens no more sockets."""
        self.server.site.draining = True
        self.assertRefused(handshake(), 503)

    def test_full(self) -> None:
        """If there is no room for the message, the answer is 503, at once."""
        self.serve(capacity=1)
        self.server.layer.send(CONNECT, {})
        client = self.server.connect()
        client.send(handshake())
        self.assertEqual(client.response().status, 503)
        self.assertTrue(client.transport.write_ended)
        self.assertEqual(len(self.server.site.replies), 0)
        client.leave()
        self.assertEqual(self.server.messages(DISCONNECT), [])

    def test_after_requests(self) -> None:
        """A connection that has carried requests may become a socket, and the handshake may be pipelined."""
        client = self.server.connect()
        client.send(b"GET /1 HTTP/1.1\r\nHost: testserver\r\n\r\n" + handshake("/2"))
        self.assertIsNone(self.server.take(CONNECT))
        self.server.reply(self.server.message("http.request"), status=200, content=b"1")
        message = self.server.message(CONNECT)
        client.news()
        self.server.reply(message, accept=True, text="hello")
        self.assertIn(b" 101 ", client.received)
        self.assertTrue(client.received.endswith(encode_frame(TEXT, b"hello")))

    def test_scheme(self) -> None:
        """Over TLS the scheme is wss."""
        self.patch(interfaces.ISSLTransport, "providedBy", lambda thing: True)
        self.assertEqual(self.shake()[1]["scheme"], "wss")

    def test_names_differ(self) -> None:
        """Each socket has its own reply channel."""
        names = {self.shake()[1]["reply_channel"] for _ in range(10)}
        self.assertEqual(len(names), 10)

    def test_nothing_of_it_is_kept(self) -> None:
        """An open socket may live for days: nothing of its handshake is kept, neither here nor in its connection."""
        client, _ = self.open(handshake("/", "Sec-WebSocket-Protocol: chat"))
        websocket = client.protocol.websocket
        self.assertIsNone(websocket._head)
        self.assertIsNone(client.protocol._head)


class DecisionTests(SocketTestCase):
    """What a reply means while the handshake is held."""

    def decide(self, **content: Any) -> Client:
        """Send a handshake and one reply; return the client."""
        client, message = self.shake()
        self.server.reply(message, **content)
        return client

    def assertOpened(self, client: Client) -> list[tuple[int, bytes]]:
        """Assert that the socket is open; return the frames that came behind the answer."""
        head, separator, rest = client.received.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 101 ") and separator, client.received)
        return read_frames(rest)

    def assertAnswered(self, client: Client, status: int) -> None:
        """Assert that the handshake is refused with this status; the application hears of no disconnect."""
        self.assertEqual(client.response().status, status)
        self.assertTrue(client.transport.write_ended)
        client.leave()
        self.assertEqual(self.server.messages(DISCONNECT) + self.server.messages("http.disconnect"), [])
        self.assertEqual(self.server.messages(SESSIONS), [])
        self.assertEqual(len(self.server.site.replies), 0)

    def test_accept(self) -> None:
        """accept: True opens the socket, and sends what comes with it."""
        self.assertEqual(self.assertOpened(self.decide(accept=True)), [])
        self.assertEqual(self.assertOpened(self.decide(accept=True, text="a")), [(TEXT, b"a")])
        self.assertEqual(self.assertOpened(self.decide(accept=True, bytes=b"a")), [(BINARY, b"a")])

    def test_data(self) -> None:
        """Data opens the socket, even if it is empty, and is sent."""
        self.assertEqual(self.assertOpened(self.decide(text="a")), [(TEXT, b"a")])
        self.assertEqual(self.assertOpened(self.decide(bytes=b"\xff")), [(BINARY, b"\xff")])
        self.assertEqual(self.assertOpened(self.decide(text="")), [(TEXT, b"")])
        self.assertEqual(self.assertOpened(self.decide(text="a", bytes=None, order=3, path="/")), [(TEXT, b"a")])

    def test_refuse(self) -> None:
        """accept: False refuses with 403; data beside it is not sent."""
        self.assertAnswered(self.decide(accept=False), 403)
        self.assertAnswered(self.decide(accept=False, text="a"), 403)

    def test_close(self) -> None:
        """close without data refuses with 403, whatever its code."""
        for close in (True, 1000, 3001, 7):
            self.assertAnswered(self.decide(close=close), 403)

    def test_refusal_of_the_application(self) -> None:
        """A refusal has the status, the header fields and the content that the application says."""
        fields = [[b"WWW-Authenticate", b"Basic"], [b"Set-Cookie", b"a=1"], [b"Set-Cookie", b"b=2"]]
        for decision in ({"accept": False}, {"close": 4001}):
            client = self.decide(**decision, status=401, headers=fields, content=b"Log in first.")
            self.assertAnswered(client, 401)
            self.assertEqual(client.response().body, b"Log in first.")
            for line in (b"WWW-Authenticate: Basic", b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"Content-Length: 13"):
                self.assertIn(line + b"\r\n", client.received)
        client = self.decide(accept=False, content=b"no")
        self.assertAnswered(client, 403)
        client = self.decide(accept=False, status=503, headers=[[b"Retry-After", b"5"]])
        self.assertAnswered(client, 503)
        self.assertAnswered(self.decide(accept=False, content=b"x" * 200_000), 403)
        self.assertEqual(self.server.access[-1].split()[-1], "status=403")

    def test_wrong_refusal(self) -> None:
        """One that cannot be sent is logged, and refuses with 500."""
        for wrong in ({"status": 200}, {"content": "text"}, {"headers": [[b"a", b"1\r\nb: 2"]]}):
            client = self.decide(accept=False, **wrong)
            self.assertAnswered(client, 500)
            self.assertNotIn(b"b: 2", client.received)
            self.expect_logged("cannot send the answer to '/'")

    def test_fields(self) -> None:
        """accept: True may bring header fields; what is sent back of the client's own is none of them."""
        client = self.decide(accept=True, headers=[[b"Set-Cookie", b"a=1"], ["Set-Cookie", "b=2"]], text="a")
        self.assertEqual(self.assertOpened(client), [(TEXT, b"a")])
        self.assertIn(b"\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n", client.received)
        client, message = self.shake()
        self.server.reply(message, **{**message, "accept": True})
        self.assertEqual(self.assertOpened(client), [])
        self.assertEqual(client.received.lower().count(b"connection:"), 1)

    def test_wrong_fields(self) -> None:
        """Fields that cannot be sent refuse with 500, and are logged."""
        for headers in ([[b"X", b"1\r\nY: 2"]], [[b"Sec-WebSocket-Accept", b"x"]], [[b"Connection", b"close"]], 7):
            client = self.decide(accept=True, headers=headers)
            self.assertAnswered(client, 500)
            self.assertNotIn(b"Y: 2", client.received)
            self.expect_logged("cannot send the answer to '/'")

    def test_close_with_data(self) -> None:
        """close with data opens the socket, sends, and closes it with the code."""
        self.assertEqual(self.assertOpened(self.decide(text="a", close=3001)), [(TEXT, b"a"), (CLOSE, b"\x0b\xb9")])
        self.assertEqual(self.assertOpened(self.decide(bytes=b"a", close=True)), [(BINARY, b"a"), (CLOSE, b"\x03\xe8")])

    def test_reason(self) -> None:
        """A close has the reason that the application says; one that cannot be sent is left out, and logged."""
        client, channel = self.open()
        self.server.reply(channel, close=4002, reason="too late: \u20ac")
        self.assertEqual(self.sent(client), [(CLOSE, b"\x0f\xa2too late: \xe2\x82\xac")])
        client, channel = self.open()
        self.server.layer.group_add("all", channel)
        self.server.layer.send_group("all", {"text": "a", "close": True, "reason": "end"})
        self.server.turn()
        self.assertEqual(self.sent(client), [(TEXT, b"a"), (CLOSE, b"\x03\xe8end")])
        client, channel = self.open()
        self.server.reply(channel, close=4002, reason="x" * 124)
        self.assertEqual(self.sent(client), [(CLOSE, b"\x0f\xa2")])
        self.expect_logged("closed without the reason")

    def test_accept_and_close(self) -> None:
        """accept: True with close opens the socket and closes it with the code, which refusing could not tell."""
        self.assertEqual(self.assertOpened(self.decide(accept=True, close=4001)), [(CLOSE, b"\x0f\xa1")])

    def test_nothing_decisive(self) -> None:
        """Any other reply decides nothing."""
        for content in (
            {},
            {"text": None},
            {"close": False},
            {"accept": None},
            {"other": 1},
            {"close": None, "text": None},
        ):
            client, message = self.shake()
            self.server.reply(message, **content)
            self.assertEqual(client.received, b"", content)
            self.server.reply(message, accept=True)
            self.assertOpened(client)

    def test_text_and_bytes(self) -> None:
        """A reply with both text and bytes, or of a wrong type, is dropped as a whole, and logged."""
        for content in (
            {"text": "a", "bytes": b"b"},
            {"text": b"a"},
            {"bytes": "b"},
            {"text": 7},
            {"accept": True, "text": b"a"},
        ):
            client, message = self.shake()
            self.server.reply(message, **content)
            self.assertEqual(client.received, b"", content)
        self.expect_logged("'/'", "not sendable")
        self.assertEqual(self.server.layer.drops.totals(), {"not sendable": 5})

    def test_failed(self) -> None:
        """A consumer that failed: the status tells, at once."""
        for status in (500, 404, 503):
            client, message = self.shake()
            self.server.layer.dispatch(message["reply_channel"], {FAILED: status})
            self.server.turn()
            self.assertAnswered(client, status)

    def test_failed_later(self) -> None:
        """An open socket stays open when a consumer fails."""
        client, channel = self.open()
        self.server.layer.dispatch(channel, {FAILED: 500})
        self.server.turn()
        self.assertEqual(client.news(), b"")
        self.assertFalse(client.transport.over)

    def test_only_once(self) -> None:
        """A socket that is open cannot be accepted or refused again."""
        client, channel = self.open()
        for content in ({"accept": True}, {"accept": False}, {"accept": True, "subprotocol": "x"}):
            self.server.reply(channel, **content)
        self.assertEqual(client.news(), b"")
        self.server.reply(channel, accept=False, text="a")
        self.assertEqual(self.sent(client), [(TEXT, b"a")])

    def test_after_a_refusal(self) -> None:
        """What is sent to a refused socket goes nowhere."""
        client, message = self.shake()
        self.server.reply(message, accept=False)
        self.server.reply(message, accept=True, text="a")
        self.assertAnswered(client, 403)
        self.assertEqual(client.transport.too_late, b"")

    def test_nobody_decides(self) -> None:
        """A handshake on which nobody decides is refused after a while, and that is logged."""
        client, message = self.shake()
        self.server.pass_time(9.75)
        self.assertEqual(client.received, b"")
        self.server.pass_time(1)
        self.assertEqual(self.server.site.throttled_log.totals(), {"handshake timeout": 1})
        self.server.reply(message, accept=True)
        self.assertAnswered(client, 403)

    def test_short_time_to_decide(self) -> None:
        """The time for it is an option, also if it is shorter than other times."""
        self.serve(connect_timeout=1)
        client, _ = self.shake()
        self.server.pass_time(2)
        self.assertEqual(client.response().status, 403)

    def test_client_leaves(self) -> None:
        """If the client leaves before, the application hears of no disconnect; a late acceptance opens nothing."""
        client, message = self.shake()
        client.leave()
        self.server.reply(message, accept=True)
        self.assertEqual(client.received, b"")
        self.assertEqual(self.server.messages(DISCONNECT), [])
        self.assertEqual(self.server.messages(SESSIONS), [])

    def test_session(self) -> None:
        """The channel session of a refused socket, or of a client that has left, is deleted."""
        for ends in (
            lambda client, message: self.server.reply(message, accept=False),
            lambda client, _: client.leave(),
        ):
            client, message = self.shake()
            self.server.layer.session_stored(message["reply_channel"])
            self.server.turn()
            ends(client, message)
            self.assertEqual(
                self.server.messages(SESSIONS), [{"reply_channel": message["reply_channel"], "open": False}]
            )

    def test_server_stops(self) -> None:
        """If the server stops before, the answer is 503."""
        client, _ = self.shake()
        client.protocol.websocket.close(1012)
        self.server.turn()
        self.assertAnswered(client, 503)

    def test_access_log(self) -> None:
        """Openings and refusals have a line each."""
        self.decide(accept=False)
        self.decide(accept=True)
        lines = [line.partition(" [")[0] for line in self.server.access]
        self.assertEqual(lines, ["WebSocket REFUSE /", "WebSocket OPEN /"])
        self.assertIn("status=403", self.server.access[0])


class SubprotocolTests(SocketTestCase):
    """RFC 6455 section 4.2.2: subprotocols."""

    def chosen(self, offer: str, *lines: str, **content: Any) -> str | None:
        """Return the subprotocol which the client is told."""
        client, message = self.shake(handshake("/", *lines, sec_websocket_protocol=offer))
        self.offered = message["subprotocols"]
        self.server.reply(message, **{"accept": True, **content})
        rows = client.received.split(b"\r\n\r\n")[0].decode().split("\r\n")
        values = [row.partition(": ")[2] for row in rows if row.lower().startswith("sec-websocket-protocol:")]
        self.assertLessEqual(len(values), 1)
        return values[0] if values else None

    def test_offered(self) -> None:
        """The application is told what the client offers, in its order, from one field or several."""
        self.assertIsNone(self.chosen("a, b,c", "Sec-WebSocket-Protocol: d"))
        self.assertEqual(self.offered, ["a", "b", "c", "d"])
        self.assertNotIn("subprotocols", self.shake()[1])

    def test_list_of_the_server(self) -> None:
        """Without a word of the application, the first offered one on the server's list is chosen."""
        self.serve(ws_protocol=["b", "a"])
        self.assertEqual(self.chosen("x, a, b"), "a")
        self.assertIsNone(self.chosen("x"))
        self.assertEqual(self.chosen("b", text="hello"), "b")

    def test_choice_of_the_application(self) -> None:
        """The application's choice counts, also one that is on no list."""
        self.serve(ws_protocol=["a"])
        self.assertEqual(self.chosen("a, b", subprotocol="b"), "b")
        self.assertEqual(self.chosen("a, b", subprotocol=None), "a")

    def test_not_offered(self) -> None:
        """What the client has not offered is not chosen: it would have to close; that is logged."""
        self.assertIsNone(self.chosen("a", subprotocol="b"))
        self.expect_logged("'b'", "not offered")


class ReceiveTests(SocketTestCase):
    """Messages from the client."""

    def test_message(self) -> None:
        """Text and bytes arrive, with path and order; the key that is not there is left out."""
        client, channel = self.open(handshake("/a"))
        client.send(text_frame("one") + mask_frame(BINARY, b"\xff"))
        client.send(mask_frame(TEXT, b"th", fin=False) + mask_frame(CONTINUATION, b"ree"))
        self.assertEqual(
            self.server.messages(RECEIVE),
            [
                {"reply_channel": channel, "path": "/a", "order": 1, "text": "one"},
                {"reply_channel": channel, "path": "/a", "order": 2, "bytes": b"\xff"},
                {"reply_channel": channel, "path": "/a", "order": 3, "text": "three"},
            ],
        )
        client.leave()
        self.assertDisconnected(channel, 1006, 4, "/a")

    def test_empty(self) -> None:
        """Empty messages are messages."""
        client, _ = self.open()
        client.send(text_frame("") + mask_frame(BINARY))
        self.assertEqual(self.received(), ["", b""])

    def test_early_data(self) -> None:
        """What a client sends before it is accepted arrives afterwards, in order."""
        client, message = self.shake(handshake() + text_frame("one"))
        client.send(text_frame("two"))
        client.send(text_frame("three")[:5])
        self.assertEqual(self.received(), [])
        self.server.reply(message, accept=True)
        self.assertEqual(self.received(), ["one", "two"])
        client.send(text_frame("three")[5:])
        self.assertEqual(self.received(), ["three"])

    def test_much_early_data(self) -> None:
        """If it is much, the client has to wait; nothing is lost."""
        client, message = self.shake()
        for number in range(30):
            client.transport.deliver(text_frame(f"{number:02}" + "x" * 10_000))
        self.assertFalse(client.transport.reading)
        self.server.reply(message, accept=True)
        self.assertTrue(client.transport.reading)
        self.assertEqual([text[:2] for text in self.received()], [f"{number:02}" for number in range(30)])

    def test_early_data_of_a_refused_socket(self) -> None:
        """If the socket is refused, it goes nowhere."""
        client, message = self.shake(handshake() + text_frame("one"))
        for _ in range(10):
            client.transport.deliver(text_frame("x" * 10_000))
        self.server.reply(message, accept=False)
        self.assertEqual(client.response().status, 403)
        self.assertEqual(self.received(), [])
        self.assertIsNone(self.server.take("http.request"))
        self.assertTrue(client.transport.reading)

    def test_early_nonsense(self) -> None:
        """If it is wrong, the socket is opened and closed with the code for it; the application hears of both."""
        client, message = self.shake(handshake() + b"\xff\xff")
        self.server.reply(message, accept=True)
        rest = client.received.partition(b"\r\n\r\n")[2]
        self.assertEqual([(opcode, payload[:2]) for opcode, payload in read_frames(rest)], [(CLOSE, b"\x03\xea")])
        client.leave()
        self.assertDisconnected(message["reply_channel"], 1002)

    def test_ping(self) -> None:
        """A ping is answered with its data, at once."""
        client, _ = self.open()
        client.send(mask_frame(PING, b"a") + text_frame("x") + mask_frame(PING, b""))
        self.assertEqual(self.sent(client), [(PONG, b"a"), (PONG, b"")])

    def test_script_ping(self) -> None:
        """The ping of the JavaScript client is answered at once, and no consumer sees it."""
        client, _ = self.open()
        client.send(text_frame("\0ping") + text_frame("\0ping!"))
        self.assertEqual(self.sent(client), [(TEXT, b"\0pong")])
        self.assertEqual(self.received(), ["\0ping!"])

    def test_pong(self) -> None:
        """A pong is taken without a word."""
        client, _ = self.open()
        client.send(mask_frame(PONG, b"unasked"))
        self.assertEqual(client.news(), b"")
        self.assertEqual(self.received(), [])

    def test_errors(self) -> None:
        """RFC 6455 section 7.4.1: what breaks a rule closes the socket with the code for it, after what came before."""
        self.serve(max_message_bytes=1000)
        for data, code in (
            (b"\xff\xff", 1002), (encode_frame(TEXT, b"no mask"), 1002), (mask_frame(TEXT, b"\xff"), 1007),
            (mask_frame(BINARY, b"x" * 1001), 1009), (mask_frame(3), 1002), (close_frame(1005), 1002),
            (mask_frame(CLOSE, b"x"), 1002),
        ):  # fmt: skip
            client, channel = self.open()
            client.send(text_frame("before") + data + text_frame("after"))
            self.assertEqual(self.received(), ["before"])
            self.assertClosedWith(client, code)
            self.assertTrue(client.transport.write_ended)
            client.send(text_frame("later"))
            self.assertEqual(self.received(), [])
            client.leave()
            self.assertDisconnected(channel, code, 2)

    def test_slots(self) -> None:
        """A socket has no dict: there may be ten thousand of them."""
        client, _ = self.open()
        self.assertRaises(AttributeError, setattr, client.protocol.websocket, "note", 1)


class BackPressureTests(SocketTestCase):
    """A layer without room for a client's messages."""

    def setUp(self) -> None:
        super().setUp()
        self.serve(capacity=4)

    def test_reading_pauses(self) -> None:
        """The client is not read from until there is room; nothing is lost, and the order is kept."""
        client, _ = self.open()
        for number in range(20):
            client.send(text_frame(str(number)))
        self.assertFalse(client.transport.reading)
        received = []
        for _ in range(40):
            delivery = self.server.take(RECEIVE)
            if delivery is not None:
                received.append((delivery.content["order"], delivery.content["text"]))
            self.server.turn()
        self.assertEqual(received, [(number + 1, str(number)) for number in range(20)])
        self.assertTrue(client.transport.reading)
        self.assertEqual(self.server.layer.drops.totals(), {})

    def test_messages_that_came_together(self) -> None:
        """Also messages that came in one piece with the one that did not fit are kept."""
        client, _ = self.open()
        client.send(b"".join(text_frame(str(number)) for number in range(20)))
        received: list[Any] = []
        for _ in range(20):
            received += self.received()
            self.server.turn()
        self.assertEqual(received, [str(number) for number in range(20)])

    def test_no_polling(self) -> None:
        """While there is no room, nothing is tried."""
        client, _ = self.open()
        client.send(text_frame("x") * 6)
        self.server.turn()
        tries = self.server.layer.channel_statistics(RECEIVE)["channel_full_count"]
        self.server.pass_time(30)
        self.assertEqual(self.server.layer.channel_statistics(RECEIVE)["channel_full_count"], tries)

    def test_others_go_on(self) -> None:
        """Pings of the client behind the message wait; what is sent to it does not."""
        client, channel = self.open()
        client.send(text_frame("x") * 6)
        client.send(mask_frame(PING, b"late"))
        self.server.reply(channel, text="hello")
        self.assertEqual(self.sent(client), [(TEXT, b"hello")])
        self.received()
        self.server.turn()
        self.assertEqual(self.sent(client), [(PONG, b"late")])

    def test_one_that_floods(self) -> None:
        """A client which floods the server has its own limit: others have room."""
        self.serve()
        flood, _ = self.open(handshake("/flood"))
        for number in range(300):
            flood.send(text_frame(str(number)))
        self.assertFalse(flood.transport.reading)
        self.assertLessEqual(self.server.layer.channel_statistics(RECEIVE)["messages_pending"], 100)
        quiet, _ = self.open(handshake("/quiet"))
        quiet.send(text_frame("hello"))
        self.assertTrue(quiet.transport.reading)
        received: list[Any] = []
        for _ in range(500):
            received += self.received()
            self.server.turn()
        self.assertEqual([text for text in received if text != "hello"], [str(number) for number in range(300)])

    def test_early_data(self) -> None:
        """If early data finds no room, the client is not read from either. Its first message always does."""
        for _ in range(4):
            self.server.layer.send(RECEIVE, {"text": "-"})
        client, message = self.shake(handshake() + text_frame("one"))
        client.send(text_frame("two"))
        self.server.reply(message, accept=True)
        self.assertFalse(client.transport.reading)
        received: list[Any] = []
        for _ in range(5):
            received += self.received()
            self.server.turn()
        self.assertEqual([text for text in received if text != "-"], ["one", "two"])
        self.assertEqual(len(received), 6)
        self.assertTrue(client.transport.reading)

    def test_silence_means_nothing(self) -> None:
        """A client that is not read from is not taken for dead."""
        self.serve(capacity=4, expiry=1000)
        client, _ = self.open()
        client.send(text_frame("x") * 6)
        self.server.pass_time(200)
        self.assertFalse(client.transport.over)
        self.assertEqual(len(self.received()), 4)
        self.server.pass_time(10)
        self.assertFalse(client.transport.over)

    def test_left_meanwhile(self) -> None:
        """If the client leaves meanwhile, its messages still arrive, and only then its disconnect, once."""
        client, channel = self.open()
        for number in range(6):
            client.send(text_frame(str(number)))
        self.assertFalse(client.transport.reading)
        client.leave()
        self.assertEqual(self.server.messages(DISCONNECT), [])
        received = self.received()
        self.server.turn()
        received += self.received()
        self.assertEqual(received, [str(number) for number in range(len(received))])
        self.assertGreaterEqual(len(received), 5)
        self.assertDisconnected(channel, 1006, len(received) + 1)

    def test_closed_meanwhile(self) -> None:
        """So it is if the client closes in an orderly way in the same piece."""
        client, channel = self.open()
        client.send(b"".join(text_frame(str(number)) for number in range(6)) + close_frame(1001))
        client.leave()
        received = self.received()
        self.server.turn()
        received += self.received()
        self.assertEqual(received, [str(number) for number in range(6)])
        self.assertDisconnected(channel, 1001, 7)

    def test_closed_by_the_server_meanwhile(self) -> None:
        """So it is if the server closes the socket: what was read before arrives, and the client's answer is read."""
        client, channel = self.open()
        client.send(b"".join(text_frame(str(number)) for number in range(6)))
        self.server.reply(channel, close=3001)
        received = self.received()
        self.server.turn()
        received += self.received()
        self.assertEqual(received, [str(number) for number in range(6)])
        client.send(close_frame(3001))
        self.assertTrue(client.transport.write_ended)
        client.leave()
        self.assertDisconnected(channel, 3001, 7)

    def test_disconnect_needs_no_room(self) -> None:
        """The disconnect message gets through though its channel is full, and does not expire."""
        client, channel = self.open()
        for _ in range(4):
            self.server.layer.send(DISCONNECT, {"n": 1})
        client.leave()
        self.server.pass_time(100)
        (message,) = self.server.messages(DISCONNECT)
        self.assertEqual(message["reply_channel"], channel)
        self.expect_logged("expired")


class SendTests(SocketTestCase):
    """Messages to the client."""

    def test_text_and_bytes(self) -> None:
        """Text and bytes are sent, also empty ones, in order."""
        client, channel = self.open()
        for content in (
            {"text": "snow ☃"},
            {"bytes": b"\xff"},
            {"text": ""},
            {"bytes": b""},
            {"text": None, "bytes": b"x"},
        ):
            self.server.reply(channel, **content)
        self.assertEqual(
            self.sent(client),
            [
                (TEXT, "snow ☃".encode()),
                (BINARY, b"\xff"),
                (TEXT, b""),
                (BINARY, b""),
                (BINARY, b"x"),
            ],
        )

    def test_message_sent_back(self) -> None:
        """A received message can be sent back as it is: keys that mean nothing are ignored."""
        client, _ = self.open()
        client.send(text_frame("echo"))
        message = self.server.message(RECEIVE)
        self.server.reply(message, **message)
        self.assertEqual(self.sent(client), [(TEXT, b"echo")])

    def test_nothing_to_send(self) -> None:
        """A reply without anything to send or do is ignored."""
        client, channel = self.open()
        for content in ({}, {"text": None}, {"content": "x"}, {"close": False}):
            self.server.reply(channel, **content)
        self.assertEqual(client.news(), b"")

    def test_wrong_types(self) -> None:
        """Text that is bytes, bytes that are text, and both at once, are dropped and logged; the socket stays open."""
        client, channel = self.open()
        for content in ({"text": b"a"}, {"bytes": "a"}, {"text": "a", "bytes": b"b"}, {"text": ["a"]}):
            self.server.reply(channel, **content)
        self.expect_logged("not sendable", "'/'")
        self.assertEqual(self.server.layer.drops.totals(), {"not sendable": 4})
        self.server.reply(channel, text="good")
        self.assertEqual(self.sent(client), [(TEXT, b"good")])

    def test_close(self) -> None:
        """close sends a close frame with its code, after the data; the transport is closed when the client answers."""
        for close, code in ((True, 1000), (1000, 1000), (1001, 1001), (3000, 3000), (4999, 4999)):
            client, channel = self.open()
            self.server.reply(channel, text="bye", close=close)
            self.assertEqual(self.sent(client), [(TEXT, b"bye"), (CLOSE, code.to_bytes(2, "big"))])
            self.assertFalse(client.transport.over)
            client.send(close_frame(code))
            self.assertTrue(client.transport.write_ended)
            self.assertEqual(client.news(), b"")
            client.leave()
            self.assertDisconnected(channel, code)

    def test_codes_that_must_not_be_sent(self) -> None:
        """A code which must not be sent is logged, and 1000 sent instead."""
        for close in (1, 999, 1004, 1005, 1006, 1015, 2000, 5000, -1, "3000", 1000.5):
            client, channel = self.open()
            self.server.reply(channel, close=close)
            self.assertClosedWith(client, 1000)
            self.expect_logged("close code", repr(close))

    def test_after_the_close(self) -> None:
        """Nothing is sent after the close frame, and nothing received; pings are not answered."""
        client, channel = self.open()
        self.server.reply(channel, close=True)
        client.news()
        self.server.reply(channel, text="late")
        self.server.reply(channel, close=3000)
        self.server.layer.group_add("g", channel)
        self.server.layer.send_group("g", {"text": "late"})
        client.send(text_frame("late") + mask_frame(PING, b"late"))
        self.assertEqual(client.news(), b"")
        self.assertEqual(self.received(), [])

    def test_client_that_does_not_answer_the_close(self) -> None:
        """A client that does not answer is cut off after a while."""
        client, channel = self.open()
        self.server.reply(channel, close=3001)
        self.server.pass_time(CLOSE_SECONDS - 0.5)
        self.assertFalse(client.transport.over)
        self.server.pass_time(1.5)
        self.assertTrue(client.transport.aborted)
        self.assertDisconnected(channel, 3001)


class GroupTests(SocketTestCase):
    """Group sends."""

    def join(self, *channels: str) -> None:
        """Make sockets members of the group."""
        for channel in channels:
            self.server.layer.group_add("g", channel)

    def send(self, **content: Any) -> None:
        """Send to the group."""
        self.server.layer.send_group("g", content)
        self.server.turn()

    def test_all_members(self) -> None:
        """Every member gets the frame; it is encoded once, and crosses to the reactor as one."""
        sockets = [self.open() for _ in range(20)]
        self.join(*(channel for _, channel in sockets))
        self.server.reactor.wake_ups = 0
        self.send(text="hello")
        self.assertEqual(self.server.reactor.wake_ups, 1)
        for client, _ in sockets:
            self.assertEqual(self.sent(client), [(TEXT, b"hello")])

    def test_order_with_single_sends(self) -> None:
        """Group sends and single sends arrive in the order in which they were made."""
        client, channel = self.open()
        self.join(channel)
        layer = self.server.layer
        layer.send(channel, {"text": "1"})
        layer.send_group("g", {"text": "2"})
        layer.send(channel, {"text": "3"})
        layer.send_group("g", {"bytes": b"4"})
        self.server.turn()
        self.assertEqual([payload for _, payload in self.sent(client)], [b"1", b"2", b"3", b"4"])

    def test_members_come_and_go(self) -> None:
        """Who the members are is found out anew when they have changed, and one that has left is not kept."""
        sockets = [self.open() for _ in range(3)]
        (first, first_name), (second, second_name), (third, third_name) = sockets
        self.join(first_name, second_name)
        for text in ("1", "2"):
            self.send(text=text)
        self.join(third_name)
        self.send(text="3")
        self.server.layer.send_group("g", {"text": "4"})
        self.server.layer.group_discard("g", third_name)
        first.leave()  # before the reactor has dealt with the message
        self.send(text="5")
        self.assertEqual([payload for _, payload in self.sent(second)], [b"1", b"2", b"3", b"4", b"5"])
        self.assertEqual([payload for _, payload in self.sent(third)], [b"3", b"4"])
        self.server.clients.remove(first)
        del first, sockets
        gc.collect()
        kept = {each.name for each in gc.get_objects() if type(each) is WebSocket}
        self.assertEqual(kept & {first_name, second_name}, {second_name})

    def test_requests(self) -> None:
        """A request can be a member, too, and be answered. For one that has gone it is too late; nobody complains."""
        gone, stays = self.server.connect(), self.server.connect()
        self.join(*(client.request()["reply_channel"] for client in (gone, stays)))
        self.send(text="for sockets")
        self.server.layer.send_group("g", {"status": 204})
        gone.leave()
        self.server.turn()
        self.assertEqual(gone.received, b"")
        self.assertTrue(stays.received.startswith(b"HTTP/1.1 204 "))

    def test_a_request_that_is_answered(self) -> None:
        """It is still a member, but nothing else is kept of it."""
        client, name = self.server.connect(), ""
        for _ in range(2):
            name = client.request()["reply_channel"]
            self.join(name)
            self.send(text="for sockets")
            self.server.reply(name, status=200)
        gc.collect()
        self.assertIn(name, self.server.layer.group_channels("g"))
        self.assertEqual([each for each in gc.get_objects() if type(each) is Exchange and each.name == name], [])

    def test_waiting_member(self) -> None:
        """A member whose handshake is held is accepted by data, also empty, and gets it."""
        for content, frame in (({"text": "hello"}, (TEXT, b"hello")), ({"bytes": b""}, (BINARY, b""))):
            client, message = self.shake()
            self.join(message["reply_channel"])
            self.send(**content)
            self.assertTrue(client.received.startswith(b"HTTP/1.1 101 "))
            self.assertEqual(read_frames(client.received.partition(b"\r\n\r\n")[2]), [frame])
            self.server.layer.flush()

    def test_close(self) -> None:
        """A group can be closed, with a last word."""
        sockets = [self.open() for _ in range(3)]
        self.join(*(channel for _, channel in sockets))
        self.send(text="bye", close=3001)
        for client, _ in sockets:
            self.assertEqual(self.sent(client), [(TEXT, b"bye"), (CLOSE, b"\x0b\xb9")])

    def test_broken_member(self) -> None:
        """A member whose transport fails does not cost the others their message."""
        sockets = [self.open() for _ in range(3)]
        self.join(*(channel for _, channel in sockets))

        def broken(data: bytes) -> None:
            raise ValueError("on purpose")

        write, sockets[1][0].transport.write = sockets[1][0].transport.write, broken  # type: ignore[method-assign]
        self.send(text="hello")
        self.assertEqual(self.sent(sockets[0][0]) + self.sent(sockets[2][0]), [(TEXT, b"hello")] * 2)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.expect_logged("cannot send")
        sockets[1][0].transport.write = write  # type: ignore[method-assign]

    def test_membership_ends_with_the_socket(self) -> None:
        """A socket that closes is a member no more, and cannot join again."""
        client, channel = self.open()
        self.join(channel)
        client.leave()
        self.assertEqual(self.server.layer.group_channels("g"), [])
        self.join(channel)
        self.assertEqual(self.server.layer.group_channels("g"), [])

    def test_membership_ends_with_a_refusal(self) -> None:
        """So it is with a socket that is refused."""
        _, message = self.shake()
        self.join(message["reply_channel"])
        self.server.reply(message, accept=False)
        self.assertEqual(self.server.layer.group_channels("g"), [])

    def test_useless_content(self) -> None:
        """A group send without anything to send does nothing."""
        client, channel = self.open()
        self.join(channel)
        self.send(content="x")
        self.assertEqual(client.news(), b"")


class SlowReaderTests(SocketTestCase):
    """Clients that do not read what is sent to them."""

    def setUp(self) -> None:
        super().setUp()
        self.serve(send_buffer_bytes=500_000)

    def slow(self) -> tuple[Client, str]:
        """Open a socket whose client does not read."""
        client, channel = self.open()
        client.transport.slow = True
        return client, channel

    def test_within_limits(self) -> None:
        """What a client does not read yet waits; it gets all of it, in order, when it reads."""
        client, channel = self.slow()
        for number in range(40):
            self.server.reply(channel, text=f"{number:02}" + "x" * 10_000)
        self.server.reply(channel, bytes=b"last")
        self.assertEqual(client.news(), b"")
        for _ in range(20):
            client.transport.client_reads()
            self.server.turn()
        frames = self.sent(client)
        self.assertEqual([payload[:2] for _, payload in frames[:-1]], [b"%02d" % number for number in range(40)])
        self.assertEqual(frames[-1], (BINARY, b"last"))

    def test_overflow(self) -> None:
        """Beyond the limit this socket is closed with 1013, counted and logged with its path."""
        client, channel = self.slow()
        for _ in range(80):
            self.server.reply(channel, text="x" * 10_000)
        self.expect_logged("slow reader")
        self.assertGreater(self.server.layer.drops.totals()["slow reader"], 40)
        self.server.pass_time(6)
        self.assertTrue(client.transport.aborted)
        self.assertDisconnected(channel, 1013)

    def test_overflow_of_one_that_reads_again(self) -> None:
        """If the client reads after all, it finds whole frames, then one close frame with 1013, and nothing more."""
        client, channel = self.slow()
        for _ in range(80):
            self.server.reply(channel, text="x" * 10_000)
        del self.logged[:]
        client.transport.slow = False
        client.transport.client_reads()
        self.server.turn()
        frames = self.sent(client)
        self.assertEqual({len(payload) for _, payload in frames[:-1]}, {10_000})
        self.assertEqual((frames[-1][0], frames[-1][1][:2]), (CLOSE, (1013).to_bytes(2, "big")))
        client.send(close_frame(1013))
        client.leave()
        self.assertDisconnected(channel, 1013)

    def test_others_notice_nothing(self) -> None:
        """The other members of its groups get their messages as before."""
        slow, fast = self.slow(), self.open()
        for _, channel in (slow, fast):
            self.server.layer.group_add("g", channel)
        for _ in range(80):
            self.server.layer.send_group("g", {"text": "x" * 10_000})
            self.server.turn()
        self.assertEqual(len(self.sent(fast[0])), 80)
        self.assertFalse(fast[0].transport.over)
        del self.logged[:]

    def test_close_comes_last(self) -> None:
        """A close frame waits behind what the client has not read, and is sent once, with its reason."""
        client, channel = self.slow()
        for _ in range(20):
            self.server.reply(channel, text="x" * 10_000)
        client.protocol.websocket.close(1012, "server is stopping")
        client.transport.slow = False
        client.transport.client_reads()
        self.server.turn()
        frames = self.sent(client)
        self.assertEqual(len(frames), 21)
        self.assertEqual(frames[-1], (CLOSE, (1012).to_bytes(2, "big") + b"server is stopping"))

    def test_close_with_nothing_waiting(self) -> None:
        """A close frame is sent once, also if it is written while the transport is full but nothing else waits."""
        client, channel = self.slow()
        self.server.reply(channel, text="x" * 100_000)
        self.server.reply(channel, close=3001)
        client.transport.slow = False
        client.transport.client_reads()
        self.server.turn()
        self.assertEqual([opcode for opcode, _ in self.sent(client)], [TEXT, CLOSE])

    def test_reads_and_stops_again(self) -> None:
        """A client may be slow again and again."""
        client, channel = self.slow()
        expected = 0
        for _ in range(5):
            for _ in range(30):
                self.server.reply(channel, text="x" * 10_000)
            expected += 30
            for _ in range(10):
                client.transport.client_reads()
                self.server.turn()
            self.assertEqual(len(read_frames(client.received.partition(b"\r\n\r\n")[2])), expected)

    def test_paused_before_the_handshake(self) -> None:
        """A connection that is full when it becomes a socket is a slow one from the start; nothing is lost."""
        client = self.server.connect()
        client.transport.slow = True
        client.send(b"GET / HTTP/1.1\r\nHost: testserver\r\n\r\n" + handshake())
        self.server.reply(self.server.message("http.request"), status=200, content=b"x" * 100_000)
        client.transport.client_reads()
        self.server.turn()
        message = self.server.message(CONNECT)
        self.server.reply(message, text="hello")
        client.transport.client_reads()
        self.server.turn()
        self.assertTrue(client.received.endswith(encode_frame(TEXT, b"hello")))


class EndTests(SocketTestCase):
    """How a socket ends. The application is told once, with the right code."""

    def test_client_closes(self) -> None:
        """RFC 6455 section 5.5.1: a close frame is answered with its code, then the transport is closed."""
        for code in (1000, 1001, 3001, 4999):
            client, channel = self.open()
            client.send(close_frame(code, "bye"))
            self.assertEqual(self.sent(client), [(CLOSE, code.to_bytes(2, "big"))])
            self.assertTrue(client.transport.write_ended)
            self.assertEqual(self.server.messages(DISCONNECT), [])
            client.leave()
            self.assertDisconnected(channel, code)

    def test_client_closes_without_a_code(self) -> None:
        """A close frame without a code is answered likewise; the application hears 1005."""
        client, channel = self.open()
        client.send(close_frame())
        self.assertEqual(self.sent(client), [(CLOSE, b"")])
        client.leave()
        self.assertDisconnected(channel, 1005)

    def test_client_vanishes(self) -> None:
        """Without a close frame the application hears 1006."""
        client, channel = self.open()
        client.send(text_frame("x"))
        client.leave()
        self.received()
        self.assertDisconnected(channel, 1006, 2)

    def test_client_does_not_close_its_side(self) -> None:
        """A client that said goodbye and stays is cut off after a while."""
        client, channel = self.open()
        client.send(close_frame(1000))
        self.server.pass_time(CLOSE_SECONDS + 1)
        self.assertTrue(client.transport.aborted)
        self.assertDisconnected(channel, 1000)

    def test_both_at_once(self) -> None:
        """If both sides close at the same time, each has one close frame of the other."""
        client, channel = self.open()
        self.server.reply(channel, close=3001)
        client.send(close_frame(1001))
        self.assertEqual([opcode for opcode, _ in self.sent(client)], [CLOSE])
        client.leave()
        self.assertEqual(len(self.server.messages(DISCONNECT)), 1)

    def test_the_client_ends_it_while_our_close_frame_waits(self) -> None:
        """Ours waits behind messages for a slow client: it gets the frame at once, with our code, and then nothing."""
        flood = mask_frame(PING, b"") * 3000
        for close, end, code in ((True, close_frame(), 1000), (True, b"\x87\xff", 1000), (False, flood, 1008)):
            client, channel = self.open()
            client.transport.slow = True
            self.server.reply(channel, text="x" * 100_000)
            self.server.reply(channel, text="waits", **{"close": True} if close else {})
            client.send(end)
            for _ in range(5):
                client.transport.client_reads()
                self.server.turn()
            frames = [(opcode, payload[:2]) for opcode, payload in self.sent(client)]
            self.assertEqual(frames, [(TEXT, b"xx"), (CLOSE, code.to_bytes(2, "big"))])
            self.assertEqual(client.protocol.account.shared, 0)
            client.leave()

    def test_messages_before_the_close(self) -> None:
        """Messages before the close frame arrive, those after it do not."""
        client, channel = self.open()
        client.send(text_frame("before") + close_frame(1000) + text_frame("after"))
        client.send(text_frame("later"))
        self.assertEqual(self.received(), ["before"])
        client.leave()
        self.assertDisconnected(channel, 1000, 2)

    def test_server_stops(self) -> None:
        """A server that stops closes with 1012 and says why."""
        client, channel = self.open()
        client.protocol.websocket.close(1012, "server is stopping")
        self.server.turn()
        self.assertEqual(self.sent(client), [(CLOSE, b"\x03\xf4server is stopping")])
        client.send(close_frame(1012))
        client.leave()
        self.assertDisconnected(channel, 1012)

    def test_access_log(self) -> None:
        """The end has a line with code, duration, and the number of messages both ways."""
        client, channel = self.open()
        client.send(text_frame("1") + text_frame("2"))
        self.server.reply(channel, text="3")
        self.server.pass_time(5)
        client.send(close_frame(1001))
        client.leave()
        (line,) = (line for line in self.server.access if "CLOSE" in line)
        self.assertTrue(line.endswith(" code=1001 seconds=5.0 received=2 sent=1"), line)


class SessionTests(SocketTestCase):
    """What the workers are told of the channel session of a socket."""

    def test_lives_as_long_as_the_socket(self) -> None:
        """It is renewed once a day, deleted after the last message, and again if it is stored later."""
        server = self.server = FakeServer(ping_interval=0)
        server.site.start()
        client, channel = self.open()
        server.layer.session_stored(channel)
        server.turn()
        self.assertEqual(server.messages(SESSIONS), [])
        server.reactor.advance(86400 - 10)
        server.layer.session_stored(channel)  # once is enough
        server.turn()
        self.assertEqual(server.messages(SESSIONS), [])
        for _ in range(2):
            server.reactor.advance(20)
            self.assertEqual(server.messages(SESSIONS), [{"reply_channel": channel, "open": True}])
            server.reactor.advance(86400 - 20)
            self.assertEqual(server.messages(SESSIONS), [])
        client.leave()
        ends = {"reply_channel": channel, "open": False}
        self.assertIsNone(server.take(SESSIONS))
        self.assertEqual(len(server.messages(DISCONNECT)), 1)
        self.assertEqual(server.messages(SESSIONS), [ends])
        server.layer.session_stored(channel)
        server.turn()
        self.assertEqual(server.messages(SESSIONS), [ends])

    def test_without_session(self) -> None:
        """Nothing is told of a socket without one."""
        client, _ = self.open()
        client.leave()
        self.assertEqual(self.server.messages(SESSIONS), [])


class PingTests(SocketTestCase):
    """Clients that are silent."""

    def pings(self, client: Client, seconds: float) -> int:
        """Let time pass; return how many pings came."""
        self.server.pass_time(seconds)
        frames = self.sent(client)
        self.assertEqual({opcode for opcode, _ in frames} - {PING}, set())
        return len(frames)

    def test_pinged(self) -> None:
        """A client from which nothing comes is pinged after a while, and again when it has answered."""
        client, _ = self.open()
        self.assertEqual(self.pings(client, 19.75), 0)
        for _ in range(5):
            self.assertEqual(self.pings(client, 1.75), 1)
            client.send(mask_frame(PONG, b""))
            self.assertEqual(self.pings(client, 19.0), 0)
            self.assertFalse(client.transport.over)

    def test_busy_client(self) -> None:
        """A client from which something comes is not pinged."""
        client, _ = self.open()
        for _ in range(10):
            self.assertEqual(self.pings(client, 15), 0)
            client.send(text_frame("x"))

    def test_what_is_sent_means_nothing(self) -> None:
        """What is sent to a client is no sign of its life."""
        client, channel = self.open()
        for _ in range(7):
            self.server.pass_time(3)
            self.server.reply(channel, text="x")
        self.assertIn((PING, b""), self.sent(client))

    def test_no_answer(self) -> None:
        """A client that does not answer is cut off; the application hears 1006."""
        client, channel = self.open()
        self.server.pass_time(49.5)
        self.assertFalse(client.transport.over)
        self.server.pass_time(2)
        self.assertTrue(client.transport.aborted)
        self.assertDisconnected(channel, 1006)

    def test_any_answer(self) -> None:
        """Any byte is an answer."""
        client, _ = self.open()
        for data in (b"\x81", b"\x80", b"mask"):
            self.server.pass_time(45)
            client.send(data)
        self.server.pass_time(15)
        self.assertFalse(client.transport.over)

    def test_short_interval(self) -> None:
        """An interval that is shorter than other times holds, too."""
        self.serve(ping_interval=2, ping_timeout=3)
        client, _ = self.open()
        self.assertEqual(self.pings(client, 3), 1)
        self.server.pass_time(3.5)
        self.assertTrue(client.transport.aborted)

    def test_off(self) -> None:
        """Without an interval nobody is pinged or cut off."""
        self.serve(ping_interval=0)
        client, _ = self.open()
        self.assertEqual(self.pings(client, 10_000), 0)
        self.assertFalse(client.transport.over)

    def test_timeout_off(self) -> None:
        """Without a time-out a silent client is pinged again and again, and never cut off."""
        self.serve(ping_timeout=0)
        client, _ = self.open()
        self.assertGreaterEqual(self.pings(client, 200), 8)
        self.assertFalse(client.transport.over)

    def test_full_transport(self) -> None:
        """Nothing is added to what a client does not read; if nothing comes from it, it is cut off all the same."""
        client = self.open_slow()
        self.server.pass_time(20)
        self.assertTrue(client.transport.aborted)

    def test_slow_when_it_was_to_be_pinged(self) -> None:
        """It is pinged as soon as it reads again, and has the whole time to answer."""
        client = self.open_slow()
        self.assertEqual(client.transport.received.count(encode_frame(PING, b"")), 0)
        self.read_again(client)
        self.assertEqual([opcode for opcode, _ in self.sent(client)], [TEXT, PING])
        self.server.pass_time(29)
        self.assertFalse(client.transport.over)
        self.server.pass_time(3)
        self.assertTrue(client.transport.aborted)

    def test_slow_but_not_silent(self) -> None:
        """A client that has said something since is not pinged for it."""
        client = self.open_slow()
        client.send(text_frame("here"))
        self.read_again(client)
        self.assertEqual([opcode for opcode, _ in self.sent(client)], [TEXT])

    def open_slow(self) -> Client:
        """Return a client that does not read, when it would have been pinged."""
        client, channel = self.open()
        client.transport.slow = True
        self.server.reply(channel, text="x" * 100_000)
        self.server.pass_time(40)
        return client

    def read_again(self, client: Client) -> None:
        """Let a slow client read everything, and be slow no more."""
        client.transport.slow = False
        client.transport.client_reads()
        self.server.turn()

    def test_one_timer(self) -> None:
        """Many sockets have one timer."""
        for _ in range(50):
            self.open()
        self.assertEqual(len(self.server.reactor.getDelayedCalls()), 1)


class LayerTests(SocketTestCase):
    """The layer the tests use."""

    def test_ordered_channels(self) -> None:
        """All messages of a socket are in one lane, so they are consumed in order."""
        client, message = self.shake()
        self.server.layer.submit(CONNECT, {"reply_channel": message["reply_channel"], "n": 1})
        assert isinstance(self.server.layer, InMemoryChannelLayer)
        delivery = self.server.layer.queues.take([CONNECT])
        assert delivery is not None
        self.server.reply(message, accept=True)
        client.send(text_frame("x"))
        client.leave()
        self.assertIsNone(self.server.take(RECEIVE))
        self.assertIsNone(self.server.take(DISCONNECT))
        self.server.layer.queues.finish(delivery)
        self.assertIsNone(self.server.take(DISCONNECT))
        self.assertEqual(self.received(), ["x"])
        self.assertEqual(len(self.server.messages(DISCONNECT)), 1)
