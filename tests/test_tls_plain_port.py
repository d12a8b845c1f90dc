"""The plain port of --https, and what HTTPS answers say of plain HTTP (HSTS)."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred

from channelserver.server.edge.redirect import BesideFactory, RedirectFactory
from channelserver.server.http.proxy import ProxyPolicy
from channelserver.server.http.ready import Ready
from channelserver.server.tls.contexts import Contexts
from tests.fakes import FakeServer, FakeTransport, Response, StrictTestCase, parse_responses
from tests.tls_client import TLSClient, pair

CHALLENGE = "/.well-known/acme-challenge/"


class PlainPortTestCase(StrictTestCase):
    """A server without a network, of which we ask the plain port."""

    #: The number of the plain port.
    port = 80
    redirects = True

    def setUp(self) -> None:
        super().setUp()
        self.server: FakeServer = self.make_server(hosts=(".test",))
        self.contexts = Contexts((b"http/1.1",))
        self.contexts.expect(["a.test", "b.test"])
        self.contexts.put("a.test", *pair("a.test"))
        self.https_port = 443
        self.server.site.tokens = self._token
        self.factory: RedirectFactory = BesideFactory(
            self.server.site, lambda: self.https_port, self.contexts, self.redirects
        )

    def _token(self, exchange: Any, go_on: Any) -> bool:
        if exchange.head.path != CHALLENGE + "open":
            return False
        exchange.reply({"status": 200, "content": b"answer"})
        return True

    def ask(self, target: str = "/", host: str = "a.test", method: str = "GET", more: str = "") -> Response | None:
        """Send a request; return the answer, None if it has reached the application."""
        transport = FakeTransport(self.server.reactor, host=IPv4Address("TCP", "192.0.2.1", self.port))
        protocol: Any = self.factory.buildProtocol(transport.getPeer())
        transport.protocol = protocol
        protocol.makeConnection(transport)
        transport.deliver(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{more or chr(13) + chr(10)}".encode())
        self.server.turn()
        found = parse_responses(transport.received, method)
        transport.client_leaves()
        return found[0] if found else None

    def place(self, *arguments: str, **details: str) -> str | None:
        """Return where the answer leads to."""
        response = self.ask(*arguments, **details)
        assert response is not None
        return response.header("location")


class RedirectTests(PlainPortTestCase):
    """Who redirects whom to where."""

    def test_same_place(self) -> None:
        """308 for every method, path and query as they are; a body is not read."""
        for method, more in (("GET", ""), ("HEAD", ""), ("POST", "Content-Length: 1000\r\n\r\nabc"), ("DELETE", "")):
            response = self.ask("/x%2Fy?a=%20b&c", method=method, more=more)
            assert response is not None
            self.assertEqual(response.status, 308)
            self.assertEqual(response.header("location"), "https://a.test/x%2Fy?a=%20b&c")
        upgrade = "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n"
        self.assertEqual(self.place("/socket", more=upgrade), "https://a.test/socket")
        self.assertEqual(self.place("http://A.test./y", host="A.test."), "https://a.test/y")

    def test_ports(self) -> None:
        """The port of HTTPS is named unless it is 443, or ports are mapped."""
        for own, https, host, expected in (
            (80, 443, "a.test", "a.test"), (80, 443, "a.test:80", "a.test"), (80, 8443, "a.test", "a.test:8443"),
            (8080, 8443, "a.test:8080", "a.test:8443"), (8080, 8443, "a.test", "a.test"),
        ):  # fmt: skip
            self.port, self.https_port = own, https
            self.assertEqual(self.place("/", host=host), f"https://{expected}/")

    def test_challenges(self) -> None:
        """An open one is answered for any host and before the first certificate; others go to the application."""
        for host in ("a.test", "b.test", "evil.example", "192.0.2.1"):
            response = self.ask(CHALLENGE + "open", host=host)
            assert response is not None
            self.assertEqual((response.status, response.body), (200, b"answer"))
            for method, more in (("GET", ""), ("POST", "Content-Length: 3\r\n\r\nabc")):
                self.assertIsNone(self.ask(CHALLENGE + "other", host=host, method=method, more=more))
                message, *_ = self.server.messages("http.request")
                self.assertEqual(message["path"], CHALLENGE + "other")
                self.assertEqual(message["body"], b"abc" if more else b"")

    def test_names_that_are_not_served(self) -> None:
        """404 without a place to go to, also for a host of ALLOWED_HOSTS that has no certificate here."""
        for host in ("evil.example", "c.test", "192.0.2.1", "evil.example:80"):
            response = self.ask("/", host=host)
            assert response is not None
            self.assertEqual(response.status, 404, host)
            self.assertIsNone(response.header("location"))
        self.assertEqual(self.server.messages("http.request"), [])

    def test_before_the_first_certificate(self) -> None:
        """503 with a sentence; then the redirect."""
        for method in ("GET", "POST"):
            response = self.ask("/", host="b.test", method=method)
            assert response is not None
            self.assertEqual(response.status, 503)
            self.assertEqual(response.header("retry-after"), "60")
            self.assertIn(b"HTTPS for b.test is being set up", response.body)
        self.contexts.put("b.test", *pair("b.test", 1))
        self.assertEqual(self.place("/", host="b.test"), "https://b.test/")

    def test_files_in_memory(self) -> None:
        """A static file that lies ready is redirected like everything else, here and beside --redirect-http."""

        class Files:
            def __call__(self, exchange: Any) -> bool:
                exchange.reply(self.file.reply())
                return True

            def ready(self, head: Any, turn: float, now: Any) -> Ready | None:
                return self.file

            file = Ready([[b"Content-Type", b"text/css"]], b"a file")

        self.server.site.static = Files()
        for factory, status in ((self.factory, 308), (RedirectFactory(self.server.site, lambda: 443), 301)):
            self.factory = factory
            response = self.ask("/static/site.css")
            assert response is not None
            self.assertEqual((response.status, response.header("location")), (status, "https://a.test/static/site.css"))

    def test_behind_a_proxy_that_speaks_https(self) -> None:
        """Its requests reach the application: a redirect would lead back here, for ever."""
        self.server.site.proxies = ProxyPolicy(("192.0.2.0/24",))
        self.factory = BesideFactory(self.server.site, lambda: 443, self.contexts, True)
        self.assertIsNone(self.ask("/x", more="X-Forwarded-Proto: https\r\n\r\n"))
        self.assertEqual(self.server.message("http.request")["scheme"], "https")
        self.assertEqual(self.place("/x", more="X-Forwarded-Proto: http\r\n\r\n"), "https://a.test/x")

    def test_certificates_on_demand(self) -> None:
        """Hosts of ALLOWED_HOSTS are redirected, as their certificate is ordered then; others are not."""
        self.contexts.on_unknown = lambda name, peer: Deferred()
        self.assertEqual(self.place("/", host="new.test"), "https://new.test/")
        response = self.ask("/", host="evil.example")
        assert response is not None
        self.assertEqual(response.status, 404)


class DjangoRedirectsTests(PlainPortTestCase):
    """SECURE_SSL_REDIRECT."""

    redirects = False

    def test_the_application_decides(self) -> None:
        """Requests reach it, with their bodies; but not before there is a certificate."""
        self.assertIsNone(self.ask("/x", method="POST", more="Content-Length: 3\r\n\r\nabc"))
        (message, *_) = self.server.messages("http.request")
        self.assertEqual((message["path"], message["body"], message["scheme"]), ("/x", b"abc", "http"))
        for host, status in (("b.test", 503), ("evil.example", 404)):
            response = self.ask("/", host=host)
            assert response is not None
            self.assertEqual(response.status, status)


class HSTSTests(StrictTestCase):
    """Strict-Transport-Security."""

    def setUp(self) -> None:
        super().setUp()
        self.contexts = Contexts((b"h2", b"http/1.1"))
        self.contexts.expect(["a.test", "b.test"])

    def field(self, name: str | None = "a.test", hsts: int = 300, headers: Any = ()) -> list[str | None]:
        """Return the field that answers have, over HTTP/1.1 and HTTP/2."""
        server = self.make_server(hosts=("*",), hsts=hsts)
        first = TLSClient(server, self.contexts, name).handshake()
        first.ask(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        server.reply(server.message("http.request"), status=200, headers=headers, content=b"x")
        first.deliver(b"")
        (response,) = parse_responses(first.read())
        return [response.header("strict-transport-security")]

    def test_only_with_a_valid_certificate(self) -> None:
        """Not with a placeholder, nor without a name, nor if it is off; a connection keeps what it began with."""
        self.assertEqual(self.field(), [None])
        self.contexts.put("a.test", *pair("a.test"))
        self.assertEqual(self.field(), ["max-age=300"])
        self.assertEqual(self.field("b.test"), [None])
        self.assertEqual(self.field(None), [None])
        self.assertEqual(self.field(hsts=0), [None])

    def test_the_application_s_own(self) -> None:
        """What a view says counts."""
        self.contexts.put("a.test", *pair("a.test"))
        self.assertEqual(self.field(headers=[[b"strict-transport-security", b"max-age=0"]]), ["max-age=0"])
