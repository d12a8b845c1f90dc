"""Which certificate a client gets: by name, by challenge, and while certificates are exchanged."""

from __future__ import annotations

import builtins
import io
import os
import ssl
import time
import tracemalloc
from typing import Any

from twisted.internet.defer import Deferred

from channelserver.server.acme.on_demand import OnDemand
from channelserver.server.tls.contexts import TICKET_KEY_SECONDS, Contexts
from channelserver.server.tls.hello import Hello
from channelserver.server.tls.self_signed import fingerprint, self_signed
from tests.certificates import DAY, key_pem, make_key
from tests.fakes import FakeServer, StrictTestCase, parse_responses
from tests.test_tls_hello import records
from tests.tls_client import VERSIONS, TLSClient, pair

#: unrecognized_name (RFC 8446 section 6.2).
ALERT = b"\x15\x03\x03\0\x02\x02\x70"


class ContextsTestCase(StrictTestCase):
    """Tests with a table of contexts and a server without a network."""

    def setUp(self) -> None:
        super().setUp()
        self.server: FakeServer = self.make_server()
        self.refusals: list[str] = []
        self.server.site.throttled_log.count = lambda kind, text: self.refusals.append(text)  # type: ignore[method-assign,assignment]
        self.time = time.time()
        self.contexts = Contexts((b"h2", b"http/1.1"), lambda: self.time)

    def client(self, name: str | None = None, *protocols: str, **details: Any) -> TLSClient:
        """Return a new client."""
        return TLSClient(self.server, self.contexts, name, *protocols, **details)

    def shown(self, name: str | None, *protocols: str, **details: Any) -> str:
        """Return the subject of the certificate that a client gets."""
        return self.client(name, *protocols, **details).handshake().subject


class NameTests(ContextsTestCase):
    """SNI."""

    def test_names(self) -> None:
        """Each name has its certificate, a wildcard stands for one label, and the first is for all others."""
        for number, name in enumerate(("a.test", "b.test", "*.c.test")):
            self.contexts.put(name.upper(), *pair(name, number))
        for newest in VERSIONS:
            for name, subject in (
                ("a.test", "a.test 0"), ("B.test", "b.test 1"), ("x.c.test", "*.c.test 2"), ("c.test", "a.test 0"),
                ("x.y.c.test", "a.test 0"), ("unknown.test", "a.test 0"), (None, "a.test 0"),
            ):  # fmt: skip
                self.assertEqual(self.shown(name, newest=newest), subject, name)
        self.contexts.discard("a.test")
        self.assertEqual(self.shown("a.test"), "b.test 1")

    def test_protocols(self) -> None:
        """HTTP/2 and HTTP/1.1 are negotiated with every certificate."""
        self.contexts.put("a.test", *pair("a.test"))
        self.contexts.put("b.test", *pair("b.test", 1))
        for name in ("a.test", "b.test", None):
            for offered, chosen in ((("http/1.1", "h2"), "h2"), (("http/1.1",), "http/1.1"), (("x",), None)):
                client = self.client(name, *offered).handshake()
                self.assertEqual(client.tls.selected_alpn_protocol(), chosen)

    def test_unknown_names_cost_nothing(self) -> None:
        """10 000 unknown names: no file is opened, and the table does not grow."""
        self.contexts.put("a.test", *pair("a.test"))
        for number in range(100):
            self.contexts.context_for(f"{number}.first.test")

        def no_disk(*arguments: Any, **keywords: Any) -> Any:
            raise AssertionError(f"a file is opened: {arguments}")

        for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "stat")):
            self.patch(module, name, no_disk)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(10_000):
                self.contexts.context_for(f"{number}.unknown.test")
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        self.assertLess(grown, 10_000)
        for number in range(3):
            self.assertIs(
                self.contexts.context_of(Hello(f"{number}.unknown.test")), self.contexts.context_for("a.test")
            )

    def test_placeholder(self) -> None:
        """Until its certificate is there a name has a self-signed one, and then never again."""
        self.contexts.expect(["a.test", "b.test"])
        self.assertEqual(self.shown("a.test"), "channelserver\\, self-signed")
        self.assertEqual(self.shown(None), "channelserver\\, self-signed")
        self.contexts.put("b.test", *pair("b.test", 1))
        self.assertEqual(self.shown("a.test"), "channelserver\\, self-signed")
        self.assertEqual(self.shown(None), "b.test 1")
        self.contexts.put("a.test", *pair("a.test"))
        self.assertEqual(self.shown("a.test"), "a.test 0")
        self.assertEqual(self.shown(None), "a.test 0")  # the first name
        self.contexts.expect(["a.test"])
        self.assertEqual(self.shown("a.test"), "a.test 0")

    def test_an_empty_table(self) -> None:
        """Without any certificate there is a placeholder, too."""
        self.assertEqual(self.shown("a.test"), "channelserver\\, self-signed")

    def test_valid(self) -> None:
        """A placeholder, a certificate that has expired and one of the future are not valid."""
        self.contexts.expect(["a.test"])
        self.assertTrue(self.contexts.serves("A.test."))
        self.assertFalse(self.contexts.valid("a.test"))
        self.contexts.put("a.test", *pair("a.test", begins=-DAY, ends=DAY))
        self.contexts.put("*.b.test", *pair("*.b.test"))
        self.assertTrue(self.contexts.valid("a.test"))
        self.assertTrue(self.contexts.valid("x.b.test"))
        self.assertFalse(self.contexts.valid("b.test"))
        self.assertFalse(self.contexts.serves("b.test"))
        for days in (2, -4):
            self.time += days * 86_400
            self.assertFalse(self.contexts.valid("a.test"))

    def test_what_cannot_be_used(self) -> None:
        """No PEM, an encrypted key, the key of another certificate: an error, and the old one stays."""
        key, certificate = pair("a.test")
        self.contexts.put("a.test", key, certificate)
        for bad_key, bad_certificate in (
            (b"", certificate), (key, b""), (key, key), (key_pem(make_key(1)), certificate),
            (key_pem(make_key(0), b"password"), certificate),
        ):  # fmt: skip
            with self.assertRaises(ValueError) as caught:
                self.contexts.put("a.test", bad_key, bad_certificate)
            self.assertNotIn("\n", str(caught.exception))
        self.assertEqual(self.shown("a.test"), "a.test 0")

    def test_self_signed(self) -> None:
        """Names and addresses; the fingerprint is the one that browsers show."""
        _, certificate = self_signed(["localhost", "127.0.0.1", "::1", "*.a.test"])
        self.assertRegex(fingerprint(certificate), r"^([0-9A-F]{2}:){31}[0-9A-F]{2}$")


class ExchangeTests(ContextsTestCase):
    """A certificate is replaced."""

    def test_next_handshake(self) -> None:
        """The next handshake has the new certificate; a connection and one half-way through its handshake live on."""
        self.contexts.put("a.test", *pair("a.test"))
        open_one = self.client("a.test").handshake()
        half_way = self.client("a.test")
        half_way.deliver(half_way.first())
        self.contexts.put("a.test", *pair("a.test", 1))
        self.assertEqual(self.shown("a.test"), "a.test 1")
        self.assertEqual(half_way.handshake().subject, "a.test 0")
        for client in (open_one, half_way):
            client.ask()
            self.server.reply(self.server.message("http.request"), status=204)
            client.deliver(b"")
            self.assertTrue(client.read().startswith(b"HTTP/1.1 204 "))

    def test_sessions(self) -> None:
        """A session is resumed with the certificate that it began with, not with another; and not for ever."""
        self.contexts.expect(["a.test"])
        for newest in VERSIONS:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode, context.maximum_version = False, ssl.CERT_NONE, newest
            for number, step in enumerate((lambda: None, self._next, self._next, self._key_expires)):
                first = self.client("a.test", context=context).handshake()
                self.assertFalse(first.tls.session_reused)
                first.read()  # with TLS 1.3, what resumes a session comes after the handshake
                session = first.tls.session
                self.assertTrue(
                    self.client("a.test", context=context, session=session).handshake().tls.session_reused, number
                )
                step()
                again = self.client("a.test", context=context, session=session).handshake()
                self.assertEqual(again.tls.session_reused, not number)

    _number = 0

    def _next(self) -> None:
        self._number += 1
        self.contexts.put("a.test", *pair("a.test", self._number))

    def _key_expires(self) -> None:
        self.time += TICKET_KEY_SECONDS


class ChallengeTests(ContextsTestCase):
    """tls-alpn-01 (RFC 8737)."""

    def setUp(self) -> None:
        super().setUp()
        self.contexts.put("a.test", *pair("a.test"))
        self.contexts.challenge("New.test", *pair("new.test", 1))

    def test_answer(self) -> None:
        """Who asks for nothing else gets the challenge's certificate; then the connection ends."""
        for newest in VERSIONS:
            for cut in (None, 1, 150):
                client = self.client("new.test", "acme-tls/1", newest=newest)
                hello = client.first()
                if cut == 1:
                    for index in range(len(hello)):
                        client.deliver(hello[index : index + 1])
                elif cut is not None:
                    client.deliver(records(hello, [1, 4, cut, cut + 1]))
                else:
                    client.deliver(hello)
                client.handshake()
                self.assertEqual(client.subject, "new.test 1")
                self.assertEqual(client.tls.selected_alpn_protocol(), "acme-tls/1")
                self.assertTrue(client.transport.lost)
        self.assertEqual(self.server.site.connections, set())

    def test_no_answer(self) -> None:
        """With other protocols, for another name, for none, and after its end: the normal certificate."""
        for name, protocols in (
            ("new.test", ("acme-tls/1", "h2")), ("new.test", ("h2",)), ("new.test", ()), ("a.test", ("acme-tls/1",)),
            (None, ("acme-tls/1",)),
        ):  # fmt: skip
            for newest in VERSIONS:
                client = self.client(name, *protocols, newest=newest).handshake()
                self.assertEqual(client.subject, "a.test 0")
                self.assertNotEqual(client.tls.selected_alpn_protocol(), "acme-tls/1")
        self.contexts.end_challenge("new.test")
        self.contexts.end_challenge("new.test")
        self.assertEqual(self.shown("new.test", "acme-tls/1"), "a.test 0")


class FirstBytesTests(ContextsTestCase):
    """What comes in place of a hello, and how long it may take."""

    def setUp(self) -> None:
        super().setUp()
        self.contexts.put("a.test", *pair("a.test"))

    def test_plain_http(self) -> None:
        """A sentence with 400, of any method, in one piece or many; then the connection ends."""
        for request in (b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
            for pieces in ([request], [request[index : index + 1] for index in range(len(request))]):
                client = self.client()
                for piece in pieces:
                    client.deliver(piece)
                (response,) = parse_responses(client.transport.received)
                self.assertEqual(response.status, 400)
                self.assertIn(b"Use https:// instead of http://", response.body)
                self.assertTrue(client.transport.write_ended)
                self.server.pass_time(6)
                self.assertTrue(client.transport.lost)
        self.assertEqual(self.server.site.connections, set())
        self.assertIn("plain HTTP on the HTTPS port", self.refusals[0])

    def test_neither(self) -> None:
        """Other bytes get what OpenSSL sends, and the end."""
        for data in (b"\0", b"\x80\x2e\x01", b"\x16\x03\x01\0\x01\x02", b"\x17\x03\x03\0\x01\0"):
            client = self.client()
            client.deliver(data * 20)
            self.server.pass_time(11)
            self.assertTrue(client.transport.lost, data)

    def test_too_long(self) -> None:
        """70 KiB get an alert and the end, whether they are announced or not."""
        client = self.client()
        for index in range(70 * 1024 // 1029):
            client.deliver(b"\x16\x03\x01\x04\0" + (b"\x01\0\xff\xff" if not index else b"\0\0\0\0") + bytes(1020))
        self.assertEqual(client.transport.received, b"\x15\x03\x03\0\x02\x02\x32")
        announced = self.client()
        announced.deliver(b"\x16\x03\x01\0\x04\x01\x01\x18\0")
        self.assertEqual(announced.transport.received, b"\x15\x03\x03\0\x02\x02\x32")
        self.server.pass_time(16)
        self.assertTrue(client.transport.lost and announced.transport.lost)
        self.assertIn("ClientHello", self.refusals[0])

    def test_deadline_and_memory(self) -> None:
        """Half a hello is kept in the connection's account, and cut off after header_timeout."""
        client = self.client()
        before = self.server.site.memory.bytes
        client.deliver(b"\x16\x03\x01\x40\0\x01\0\xff\0" + bytes(16_000))
        self.assertGreaterEqual(self.server.site.memory.bytes, before + 16_000)
        for _ in range(22):
            self.server.pass_time(0.5)
            client.transport.deliver(b"\0")
        self.assertTrue(client.transport.lost)
        self.assertEqual(self.server.site.memory.bytes, 0)


class RefusalTests(ContextsTestCase):
    """A connection too many."""

    def test_full(self) -> None:
        """The client gets its 503 inside TLS."""
        self.server = self.make_server(max_connections=1)
        first = self.client("a.test").handshake()
        second = self.client("a.test").handshake()
        second.deliver(b"")
        self.assertTrue(second.read().startswith(b"HTTP/1.1 503 "))
        self.assertEqual(len(self.server.site.connections), 1)
        first.ask()
        self.server.reply(self.server.message("http.request"), status=204)


class UnknownNameTests(ContextsTestCase):
    """The hook for names without a certificate."""

    def setUp(self) -> None:
        super().setUp()
        self.contexts.put("a.test", *pair("a.test"))
        self.asked: list[tuple[str, str | None]] = []
        self.answer: Deferred[bool] = Deferred()

        def ask(name: str, peer: str | None) -> Deferred[bool]:
            self.asked.append((name, peer))
            return self.answer

        self.contexts.on_unknown = ask

    def test_known_names_do_not_ask(self) -> None:
        """Nor do clients that name no host."""
        self.assertEqual([self.shown("a.test"), self.shown(None)], ["a.test 0"] * 2)
        self.assertEqual(self.asked, [])

    def test_yes(self) -> None:
        """The handshake waits, and goes on with the certificate that has come meanwhile."""
        client = self.client("new.test")
        client.deliver(client.first())
        self.assertEqual(self.asked, [("new.test", "192.0.2.7")])
        self.assertEqual(client.transport.received, b"")
        self.contexts.put("new.test", *pair("new.test", 1))
        self.answer.callback(True)
        client.deliver(b"")
        self.assertEqual(client.handshake().subject, "new.test 1")

    def test_no_is_quick(self) -> None:
        """A no is passed on in the turn in which it comes; later hellos are answered in their turns, without asking."""
        self.contexts.on_unknown = OnDemand(self.contexts, self.contexts.on_unknown, self.fail, self.server.reactor)
        first = self.client("new.test")
        first.deliver(first.first())
        self.assertEqual(first.transport.received, b"")
        self.answer.callback(False)
        self.assertEqual(first.transport._under_way, ALERT)
        for _ in range(3):
            client = self.client("new.test")
            client.deliver(client.first())
            self.assertEqual(client.transport.received, ALERT)
        self.assertEqual(self.asked, [("new.test", "192.0.2.7")])

    def test_no(self) -> None:
        """An alert that says why, and the end; the same if the question fails."""
        for answer in (False, ValueError()):
            self.answer = Deferred()
            client = self.client("new.test")
            client.deliver(client.first())
            self.answer.errback(answer) if isinstance(answer, ValueError) else self.answer.callback(answer)
            with self.assertRaises(ssl.SSLError) as caught:
                client.handshake()
            self.assertEqual(caught.exception.reason, "TLSV1_UNRECOGNIZED_NAME")

    def test_client_leaves(self) -> None:
        """The answer comes too late, and nothing happens."""
        for late in (False, True):
            self.answer = Deferred()
            client = self.client("new.test")
            client.deliver(client.first())
            if late:
                self.server.pass_time(11)
            else:
                client.transport.client_leaves()
            self.answer.callback(True)
            self.server.turn()
            self.assertTrue(client.transport.lost)
            self.assertEqual(client.transport.received, b"")
