"""The rules about connections: how a WebSocket is accepted, refused, kept open and closed (rules 1 to 6)."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.lab import CLOSE, LabTestCase, RawClient, close_code
from tests.process import TIMEOUT, project


class ConnectionTestCase(LabTestCase):
    files = project("rules_connection")

    def status(self, path: str, **fields: str) -> int:
        """Return the status a handshake is answered with."""
        with RawClient(self.server) as client:
            client.handshake(path, **fields)
            return client.head().status

    def send(self, content: dict[str, Any], **where: str) -> None:
        """Have a view send a message to a channel or a group."""
        response = self.server.post("/send", data=json.dumps({**where, "content": content}))
        self.assertEqual(response.text, "sent")

    def assertEchoes(self, path: str) -> None:
        """Assert that a path's socket is accepted and works."""
        with self.server.connect(path) as client:
            client.send("works")
            self.assertEqual(client.recv(TIMEOUT), "echo works")


class DefaultTests(ConnectionTestCase):
    """Rules 1 to 6 as they hold without any option."""

    # Level debug is for those who ask for it.
    extra_settings = """
        LOGGING = {
            "version": 1, "disable_existing_loggers": False,
            "loggers": {"channelserver.server.websocket": {"level": "DEBUG"}},
        }
    """

    # What hangs would hang until the test fails.
    arguments = ("--connect-timeout", "600", "--threads", "4", "--ping-interval", "0", "--log-level", "debug")

    # -- rule 1 --------------------------------------------------------------------------------------------------------

    def test_rule_01_handshake_is_held_until_consumer_has_ended(self) -> None:
        """The client gets no answer while the connect consumer runs; when it has ended, the socket is open."""
        with RawClient(self.server) as client:
            client.handshake("/held/")
            self.wait_for_note("at gate", gate="held")
            self.assertTrue(client.silent())
            self.open_gate("held")
            self.assertEqual(client.head().status, 101)

    def test_rule_01_ended_normally_without_decision(self) -> None:
        """A consumer that ends normally, having sent nothing decisive, accepts the socket."""
        for path in ("/nothing_special/", "/nonsense/", "/resent/"):
            self.assertEchoes(path)

    def test_rule_01_accepted_in_so_many_words(self) -> None:
        """``accept`` accepts; the implicit acceptance afterwards does no harm."""
        self.assertEchoes("/accept/")

    def test_rule_01_data_accepts(self) -> None:
        """Text or bytes, empty ones too, accept the socket and reach the client as its first frame."""
        for path, data in (("/text/", "hello"), ("/data/", b"\x00\xff"), ("/nothing/", "")):
            with self.server.connect(path) as client:
                self.assertEqual(client.recv(TIMEOUT), data)
                client.send("works")
                self.assertEqual(client.recv(TIMEOUT), "echo works")

    def test_rule_01_accepted_immediately(self) -> None:
        """An ``accept`` sent immediately does not wait for the consumer's end."""
        with RawClient(self.server) as client:
            client.handshake("/at_once/")
            self.assertEqual(client.head().status, 101)
            self.assertEqual(self.diary("through gate", gate="at_once"), [])
            self.open_gate("at_once")

    def test_rule_01_data_and_close(self) -> None:
        """``close`` with data accepts, sends, and closes with the code."""
        with RawClient(self.server) as client:
            client.open("/goodbye/")
            self.assertEqual(client.data(), "and good-bye")
            opcode, payload = client.frame() or (0, b"")
            self.assertEqual((opcode, close_code(payload)), (CLOSE, 4001))

    def test_rule_01_four_ways_to_refuse(self) -> None:
        """``accept`` False, ``close`` without data, with or without a code, and both exceptions: HTTP 403 at once."""
        for path in ("/not_accept/", "/close/", "/close_code/", "/deny/", "/close_exception/"):
            self.assertEqual((path, self.status(path)), (path, 403))
        self.assertNoTraceback()

    def test_rule_01_consumer_raised(self) -> None:
        """A connect consumer that raises: HTTP 500 at once, and a traceback in the log."""
        self.assertEqual(self.status("/fail/"), 500)
        self.assertLogged("raised RuntimeError on 'websocket.connect'")
        self.assertLogged("Traceback")
        self.assertLogged(r"line \d+, in fail$")
        self.assertLogged("RuntimeError: the connect consumer failed$")

    def test_rule_01_consumer_accepted_and_raised(self) -> None:
        """The acceptance is held back with everything else, and dropped when the consumer raises: HTTP 500."""
        self.assertEqual(self.status("/accept_and_fail/"), 500)
        self.assertLogged("RuntimeError: the connect consumer failed late$")

    def test_rule_01_refused_sockets_have_no_end(self) -> None:
        """``websocket.disconnect`` is sent once for every accepted socket, and never for a refused one."""
        for path in ("/deny/end/", "/close/end/", "/fail/end/"):
            self.assertNotEqual(self.status(path), 101)
        with RawClient(self.server) as client:
            client.handshake("/held/left/")
            self.wait_for_note("at gate", gate="held.left")
        self.assertLogged("WebSocket REFUSE /held/left/ .*499")
        self.open_gate("held.left")
        self.assertEchoes("/accept/end/")
        self.wait_for_note("disconnect", path="/accept/end/")
        self.assertLogged("WebSocket CLOSE /accept/end/")
        ended = [entry["path"] for entry in self.diary("disconnect")]
        self.assertEqual([path for path in ended if path.endswith(("/end/", "/left/"))], ["/accept/end/"])

    # -- rule 2 --------------------------------------------------------------------------------------------------------

    def test_rule_02_no_route_for_connect(self) -> None:
        """A path which no connect route matches is accepted, so that a receive consumer alone makes an echo."""
        self.assertEchoes("/echo/")

    def test_rule_02_no_route_at_all(self) -> None:
        """A path which no route matches at all is accepted, too; what comes there is taken and forgotten."""
        with self.server.connect("/nobody/") as client:
            client.send("anybody?")
            client.ping().wait(TIMEOUT)
        self.assertLogged("WebSocket CLOSE /nobody/ .*received=1")
        self.assertNotIn("no route", self.log())

    # -- rule 3 --------------------------------------------------------------------------------------------------------

    def test_rule_03_receive_raised(self) -> None:
        """An exception in a receive consumer is logged with its traceback, and the socket stays open."""
        with self.server.connect("/accept/") as client:
            client.send("fail")
            client.send("works")
            self.assertEqual(client.recv(TIMEOUT), "echo works")
        self.assertLogged("raised ValueError on 'websocket.receive'")
        self.assertLogged("Traceback")
        self.assertLogged(r"line \d+, in receive$")
        self.assertLogged("ValueError: the receive consumer failed$")

    def test_rule_03_disconnect_raised(self) -> None:
        """An exception in a disconnect consumer is logged with its traceback."""
        with self.server.connect("/accept/fail/"):
            pass
        self.assertLogged("raised ValueError on 'websocket.disconnect'")
        self.assertLogged(r"line \d+, in disconnect$")
        self.assertLogged("ValueError: the disconnect consumer failed$")
        self.assertEchoes("/accept/")

    def test_rule_03_deny_connection_elsewhere(self) -> None:
        """``DenyConnection`` in a receive or disconnect consumer is an exception like any other."""
        with self.server.connect("/accept/deny/") as client:
            client.send("deny")
            client.send("works")
            self.assertEqual(client.recv(TIMEOUT), "echo works")
        self.assertLogged("raised DenyConnection on 'websocket.receive'")
        self.assertLogged("DenyConnection: too late for that$")
        self.assertLogged("raised DenyConnection on 'websocket.disconnect'")
        self.assertLogged("DenyConnection: far too late$")

    def test_rule_03_close_exception(self) -> None:
        """``WebsocketCloseException`` closes the socket with its code; without one, with 1000."""
        for order, code in (("close", 1000), ("close 1000", 1000), ("close 3000", 3000), ("close 4999", 4999)):
            with RawClient(self.server) as client:
                client.open("/accept/")
                client.send_frame(1, order.encode())
                opcode, payload = client.frame() or (0, b"")
                self.assertEqual((order, opcode, close_code(payload)), (order, CLOSE, code))
        self.assertNoTraceback()

    def test_rule_03_close_exception_wrong_code(self) -> None:
        """Any other code is an error of the caller: logged, and the socket stays open."""
        wrong = ("999", "1001", "1005", "1006", "1015", "2999", "5000", "-1", "0", "text")
        with self.server.connect("/accept/") as client:
            for code in wrong:
                client.send(f"close {code}")
            client.send("works")
            self.assertEqual(client.recv(TIMEOUT), "echo works")
        self.assertLogged("raised ValueError on 'websocket.receive'", len(wrong))

    def test_rule_03_close_exception_in_disconnect(self) -> None:
        """There is no socket left to close, and nothing to complain of."""
        with self.server.connect("/accept/closing/"):
            pass
        self.wait_for_note("disconnect", path="/accept/closing/")
        self.assertEchoes("/accept/")
        self.assertNoTraceback()

    def test_rule_03_group_data_accepts(self) -> None:
        """Data from a group to a socket that still waits accepts it, and is its first frame."""
        with RawClient(self.server) as client:
            client.handshake("/waiting/group/")
            self.wait_for_note("at gate", gate="waiting.group")
            self.assertTrue(client.silent())
            self.send({"text": "welcome, all"}, group="waiting.group")
            self.assertEqual(client.head().status, 101)
            self.assertEqual(client.data(), "welcome, all")
            self.assertEqual(self.diary("through gate", gate="waiting.group"), [])

    def test_rule_03_data_accepts_from_elsewhere(self) -> None:
        """So does data sent to its reply channel from anywhere."""
        with RawClient(self.server) as client:
            client.handshake("/waiting/direct/")
            (entry,) = self.wait_for_note("connect", path="/waiting/direct/")
            self.send({"text": ""}, channel=entry["reply"])
            self.assertEqual(client.head().status, 101)
            self.assertEqual(client.data(), "")

    def test_rule_03_empty_frames(self) -> None:
        """Empty text and empty bytes are sent as frames, by a reply and by a group."""
        for order in ("empty", "empty to group"):
            with self.server.connect("/accept/") as client:
                client.send(order)
                self.assertEqual([client.recv(TIMEOUT), client.recv(TIMEOUT)], ["", b""])

    def test_rule_03_empty_frames_received(self) -> None:
        """A client's empty frames reach the consumer as empty text and bytes."""
        with self.server.connect("/accept/") as client:
            client.send("")
            self.assertEqual(client.recv(TIMEOUT), "echo ")
            client.send(b"")
            self.assertEqual(client.recv(TIMEOUT), b"")

    # -- rule 4 --------------------------------------------------------------------------------------------------------

    def test_rule_04_unknown_keys_are_ignored(self) -> None:
        """A reply's unknown keys are ignored; a reply of nothing else does nothing, and is no error."""
        with self.server.connect("/accept/") as client:
            client.send("unknown")
            self.assertEqual([client.recv(TIMEOUT), client.recv(TIMEOUT)], ["known", "known to all"])
        self.assertLogged("DEBUG .*a reply without text, bytes, close and accept", 2)
        self.assertNotRegex(self.log(), r" (WARNING (?!channelserver.check)|ERROR|CRITICAL) ")

    def test_rule_04_content_sent_again(self) -> None:
        """A received message's content can be sent as it is, to the socket or to a group."""
        with self.server.connect("/accept/") as client:
            client.send("resend")
            self.assertEqual(client.recv(TIMEOUT), "resend")
            client.send("resend to group")
            self.assertEqual(client.recv(TIMEOUT), "resend to group")
            client.send(b"\x00bytes")
            self.assertEqual(client.recv(TIMEOUT), b"\x00bytes")
        self.assertNotRegex(self.log(), r" (WARNING (?!channelserver.check)|ERROR|CRITICAL) ")

    def test_rule_04_none_stands_for_absent(self) -> None:
        """Of ``text`` and ``bytes`` one may be None."""
        with self.server.connect("/accept/") as client:
            client.send("none")
            self.assertEqual([client.recv(TIMEOUT), client.recv(TIMEOUT)], ["text", b"bytes"])

    def test_rule_04_text_and_bytes_at_once(self) -> None:
        """Both at once are an error, of which the socket hears nothing."""
        with self.server.connect("/accept/") as client:
            client.send("both")
            self.assertEqual(client.recv(TIMEOUT), "after both")
        self.assertLogged("both text and bytes")

    # -- rules 5 and 6 -------------------------------------------------------------------------------------------------

    def test_rule_05_host(self) -> None:
        """The Host of a handshake must be in ``ALLOWED_HOSTS``, whatever its port; else it is answered 400."""
        for host in ("127.0.0.1", "127.0.0.1:1", "localhost", "LOCALHOST:80"):
            self.assertEqual((host, self.status("/accept/", host=host)), (host, 101))
        for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8000"):
            self.assertEqual((host, self.status("/accept/", host=host)), (host, 400))

    def test_rule_05_origin(self) -> None:
        """A browser's Origin must name the same host, with any port, or one in ``ALLOWED_HOSTS``; else 403."""
        for origin in ("http://127.0.0.1", "http://127.0.0.1:9", "https://127.0.0.1", "http://localhost:3000"):
            self.assertEqual((origin, self.status("/accept/", origin=origin)), (origin, 101))
        for origin in ("http://evil.example", "https://127.0.0.1.evil.example", "null", "", "127.0.0.1", "file://"):
            self.assertEqual((origin, self.status("/accept/", origin=origin)), (origin, 403))

    def test_rule_05_no_origin(self) -> None:
        """What sends no Origin is no browser, and passes."""
        self.assertEqual(self.status("/accept/"), 101)

    def test_rule_05_refused_before_any_consumer(self) -> None:
        """The application does not hear of a handshake that is refused for its Host or Origin."""
        self.assertEqual(self.status("/accept/foreign/", origin="http://evil.example"), 403)
        self.assertEqual(self.status("/accept/foreign/", host="evil.example"), 400)
        self.assertEchoes("/accept/")
        self.assertEqual(self.diary("connect", path="/accept/foreign/"), [])

    def test_rule_06_no_list(self) -> None:
        """Without a list and without the consumer's word, no subprotocol is chosen, and the socket is open."""
        with RawClient(self.server) as client:
            client.handshake("/accept/", sec_websocket_protocol="chat")
            head = client.head()
        self.assertEqual(head.status, 101)
        self.assertNotIn("sec-websocket-protocol", head.fields)


class StrictTests(ConnectionTestCase):
    """The options that make acceptance stricter, and those that name protocols and origins."""

    arguments = (
        *("--no-auto-accept", "--connect-timeout", "5", "--reject-unrouted", "--ws-protocol", "chat"),
        *("--ws-protocol", "news", "--allowed-origin", "friend.example", "--allowed-origin", "https://pal.example:8443"),
    )  # fmt: skip

    def test_rule_01_no_auto_accept(self) -> None:
        """With ``--no-auto-accept`` a consumer that ended without a decision accepts nothing: 403 after the timeout."""
        began = time.monotonic()
        with RawClient(self.server) as client:
            client.handshake("/nonsense/")
            self.wait_for_note("connect", path="/nonsense/")
            self.assertTrue(client.silent())
            self.assertEqual(client.head().status, 403)
        self.assertGreaterEqual(time.monotonic() - began, 5.0)

    def test_rule_01_no_auto_accept_explicit(self) -> None:
        """``accept`` and data accept as ever; a refusal refuses at once, a failure fails at once."""
        self.assertEchoes("/accept/")
        with self.server.connect("/text/") as client:
            self.assertEqual(client.recv(TIMEOUT), "hello")
        self.assertEqual((self.status("/deny/"), self.status("/fail/")), (403, 500))
        self.assertNotIn("in time", self.log())

    def test_rule_01_no_auto_accept_from_elsewhere(self) -> None:
        """The acceptance may come from anywhere, after the connect consumer has ended."""
        with RawClient(self.server) as client:
            client.handshake("/nonsense/later/")
            (entry,) = self.wait_for_note("connect", path="/nonsense/later/")
            self.send({"accept": True}, channel=entry["reply"])
            self.assertEqual(client.head().status, 101)

    def test_rule_01_no_auto_accept_too_late(self) -> None:
        """What comes for a socket that has been refused meanwhile is dropped."""
        with RawClient(self.server) as client:
            client.handshake("/nonsense/late/")
            (entry,) = self.wait_for_note("connect", path="/nonsense/late/")
            self.assertEqual(client.head().status, 403)
            self.send({"accept": True}, channel=entry["reply"])
            self.send({"text": "late"}, channel=entry["reply"])
            client.send(b"\r\n")
            self.assertNotIn(b"101", client.rest())
        self.assertNotRegex(self.log(), " (ERROR|CRITICAL) ")

    def test_rule_02_reject_unrouted(self) -> None:
        """With ``--reject-unrouted`` a path which no route matches is answered 404 at once; others are served."""
        self.assertEqual(self.status("/nobody/"), 404)
        self.assertNotIn("in time", self.log())
        self.assertEchoes("/accept/")

    def test_rule_03_group_data_accepts_without_auto_accept(self) -> None:
        """Data from a group accepts a socket whose connect consumer has ended, too."""
        self.open_gate("waiting.strict")
        with RawClient(self.server) as client:
            client.handshake("/waiting/strict/")
            self.wait_for_note("through gate", gate="waiting.strict")
            self.send({"text": "welcome, all"}, group="waiting.strict")
            self.assertEqual(client.head().status, 101)
            self.assertEqual(client.data(), "welcome, all")

    def test_rule_05_allowed_origin(self) -> None:
        """``--allowed-origin`` adds to the origins that may connect, and only those."""
        for origin in ("https://friend.example", "http://friend.example:3000", "https://pal.example"):
            self.assertEqual((origin, self.status("/accept/", origin=origin)), (origin, 101))
        for origin in ("https://evil.example", "https://not.friend.example", "https://friend.example.evil.example"):
            self.assertEqual((origin, self.status("/accept/", origin=origin)), (origin, 403))

    def test_rule_06_server_chooses(self) -> None:
        """The first subprotocol that the client offers and the server's list holds is chosen."""
        for offered, chosen in (("other, news, chat", "news"), ("chat,news", "chat"), ("other", None)):
            with RawClient(self.server) as client:
                client.handshake("/accept/", sec_websocket_protocol=offered)
                head = client.head()
            self.assertEqual((offered, head.status), (offered, 101))
            self.assertEqual(head.fields.get("sec-websocket-protocol"), chosen)

    def test_rule_06_consumer_chooses(self) -> None:
        """The ``subprotocol`` key of a reply beats the server's list; the offer is in the message."""
        with RawClient(self.server) as client:
            client.handshake("/protocol/other/", sec_websocket_protocol="chat, other")
            self.assertEqual(client.head().fields["sec-websocket-protocol"], "other")
        (entry,) = self.diary("offered")
        self.assertEqual(entry["offered"], ["chat", "other"])

    def test_rule_06_consumer_chooses_what_was_not_offered(self) -> None:
        """A subprotocol which the client did not offer must not be answered; that is logged, and the socket is open."""
        with RawClient(self.server) as client:
            client.handshake("/protocol/other/", sec_websocket_protocol="chat")
            head = client.head()
        self.assertEqual(head.status, 101)
        self.assertNotIn("sec-websocket-protocol", head.fields)
        self.assertLogged("subprotocol 'other' was not offered")


class UnroutedTests(ConnectionTestCase):
    """An unrouted socket and ``--no-auto-accept``."""

    arguments = ("--no-auto-accept", "--connect-timeout", "600", "--allowed-origin", "*")

    def test_rule_02_no_auto_accept(self) -> None:
        """No consumer could accept a path without a route, so it is accepted all the same."""
        self.assertEchoes("/echo/")
        with self.server.connect("/nobody/") as client:
            client.ping().wait(TIMEOUT)

    def test_rule_05_every_origin_allowed(self) -> None:
        """``--allowed-origin '*'`` lets pages of any site connect; the Host is checked nevertheless."""
        for origin in ("https://evil.example", "null"):
            self.assertEqual((origin, self.status("/accept/", origin=origin)), (origin, 101))
        self.assertEqual(self.status("/accept/", origin="https://evil.example", host="evil.example"), 400)
