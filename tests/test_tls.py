"""HTTPS on the simple listener, its certificate, and the redirect from plain HTTP."""

from __future__ import annotations

import signal
import socket
import ssl
import warnings
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests
from cryptography import x509
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.common.option import OptionError
from channelserver.server.common.options import resolve
from channelserver.server.edge.certificates import ServerTLS, server_tls
from channelserver.server.edge.covered_names import uncovered
from tests import preloaded
from tests.certificates import DAY, certificate_pem, client_context, key_pem, make_key, write_pair
from tests.http2_client import HTTP2Client
from tests.process import TIMEOUT, Server, ServerTestCase, project


class TLSTestCase(ServerTestCase):
    """Tests on a server with a certificate."""

    files = project("tls")
    extra_settings = """
        SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
        SESSION_COOKIE_SECURE = True
    """

    def setUp(self) -> None:
        """Write the project and the certificate."""
        super().setUp()
        self.certificate, self.key = write_pair(self.folder)

    def start_tls(self, *arguments: str) -> Server:
        """Start a server that speaks HTTPS."""
        return self.start("--tls-cert", self.certificate, "--tls-key", self.key, *arguments)

    def handshake(self, server: Server, context: ssl.SSLContext, **kwargs: Any) -> ssl.SSLSocket:
        """Open a connection."""
        plain = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
        try:
            secure = context.wrap_socket(plain, server_hostname="localhost", **kwargs)
        except BaseException:
            plain.close()
            raise
        self.addCleanup(secure.close)
        return secure


class HTTPSTests(TLSTestCase):
    """Requests and sockets over TLS."""

    def test_scheme_and_secure_cookies(self) -> None:
        """The application sees https, and a session in a Secure cookie lasts from request to request."""
        server = self.start_tls()
        self.assertEqual(server.scheme, "https")
        with requests.Session() as session:
            first = session.get(server.url(), verify=self.certificate, timeout=TIMEOUT)
            self.assertTrue(next(iter(session.cookies)).secure)
            seen = session.get(server.url(), verify=self.certificate, timeout=TIMEOUT).json()
        self.assertEqual(first.json()["version"], "HTTP/1.1")
        self.assertEqual(seen["scheme"], "https")
        self.assertTrue(seen["secure"])
        self.assertEqual(seen["seen"], 2)
        self.assertEqual(seen["url"], server.url())

    def test_hsts(self) -> None:
        """--hsts sends the field over HTTP/1.1 and HTTP/2, for files, too; if Django does it, we do not."""
        name = "Strict-Transport-Security"
        server = self.start_tls("--hsts", "5min")
        for path in ("/", "/-/health"):
            answer = requests.get(f"https://localhost:{server.port}{path}", verify=self.certificate, timeout=TIMEOUT)
            self.assertEqual(answer.headers[name], "max-age=300")
        self.assertNotIn(name, server.get(verify=self.certificate).headers)  # not for an IP address
        with closing(HTTP2Client(server, self.certificate)) as client:
            self.assertEqual(client.get("/").headers[name.lower()], "max-age=300")
        self.write({"other.py": "from settings import *\nSECURE_HSTS_SECONDS = 7\n"})
        options = ("--tls-cert", self.certificate, "--tls-key", self.key, "--hsts", "5min", "--local-socket", "")
        server = self.run_process(self.twistd("-s", "other", "-p", "0", *options)).wait_until_up()
        answer = requests.get(f"https://localhost:{server.port}/-/health", verify=self.certificate, timeout=TIMEOUT)
        self.assertNotIn(name, answer.headers)

    def test_websocket(self) -> None:
        """A socket over TLS has the scheme wss, and echoes."""
        server = self.start_tls()
        with server.connect("/", ssl=client_context(self.certificate), server_hostname="localhost") as web_socket:
            self.assertEqual(web_socket.recv(TIMEOUT), "wss")
            for text in ("a", "b" * 100_000):
                web_socket.send(text)
                self.assertEqual(web_socket.recv(TIMEOUT), text)
        self.assertEqual(server.stop(), 0)

    def test_key_in_the_same_file(self) -> None:
        """One file may hold certificate and key."""
        path = self.folder / "both.pem"
        path.write_bytes(Path(self.key).read_bytes() + Path(self.certificate).read_bytes())
        server = self.start("--tls-cert", str(path))
        self.assertEqual(server.get(verify=self.certificate).status_code, 200)

    def test_the_end_of_an_answer_is_told(self) -> None:
        """A closed connection ends with TLS's own good-bye, so the client knows that nothing was cut off."""
        server = self.start_tls()
        secure = self.handshake(server, client_context(self.certificate), suppress_ragged_eofs=False)
        secure.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received = b""
        while part := secure.recv(65536):
            received += part
        self.assertEqual(len(received.partition(b"\r\n\r\n")[2]), 3_000_000)

    def test_endpoint_string(self) -> None:
        """Twisted's own ``ssl:`` endpoints serve HTTPS, too."""
        endpoint = f"ssl:0:privateKey={self.key}:certKey={self.certificate}:interface=127.0.0.1"
        # Twisted 26.10 itself gives pyOpenSSL what pyOpenSSL 26.4 does not want any more.
        warnings = "error,ignore:Passing pyOpenSSL:DeprecationWarning"
        command = self.twistd("--settings", "settings", "-e", endpoint)
        server = self.run_process(command, PYTHONWARNINGS=warnings).wait_until_up()
        self.assertEqual(server.get(verify=self.certificate).json()["scheme"], "https")

    def test_a_silent_client(self) -> None:
        """Who does not finish the handshake is cut off after header_timeout."""
        server = self.start_tls("--header-timeout", "0.5")
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as plain:
            plain.sendall(b"\x16\x03\x01")
            try:
                self.assertEqual(plain.recv(100), b"")
            except ConnectionResetError:
                pass

    def test_idle_connections_do_not_hold_the_server_up(self) -> None:
        """The server stops although clients keep connections open and do not look at them."""
        server = self.start_tls("--drain-timeout", "60")
        for protocol in ("http/1.1", "h2"):
            secure = self.handshake(server, client_context(self.certificate, protocol))
            if protocol == "http/1.1":
                secure.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                secure.recv(100)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("stopping: 2 connections are open")
        self.assertEqual(server.wait(), 0)
        self.assertNotIn("cut off", server.output)

    def test_plain_http_on_the_https_port(self) -> None:
        """Plain HTTP gets a sentence there, and does no harm."""
        server = self.start_tls()
        answer = requests.post(f"http://127.0.0.1:{server.port}/", data=b"x" * 100_000, timeout=TIMEOUT)
        self.assertEqual(answer.status_code, 400)
        self.assertIn("Use https://", answer.text)
        self.assertEqual(server.get(verify=self.certificate).status_code, 200)
        self.assertNotIn("Traceback", server.output)

    def test_several_certificates(self) -> None:
        """Each client gets the certificate for the name that it asks for, else the first; SIGHUP renews them."""
        other, other_key = self.folder / "other.pem", self.folder / "other-key.pem"
        other_key.write_bytes(key_pem(make_key(1)))

        def names(server: Server) -> list[str]:
            found = []
            for name in ("localhost", "WWW.other.test", "else.test"):
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as plain:
                    with context.wrap_socket(plain, server_hostname=name) as secure:
                        certificate = x509.load_der_x509_certificate(secure.getpeercert(True) or b"")
                found.append(certificate.subject.rfc4514_string().removeprefix("CN="))
            return found

        other.write_bytes(certificate_pem(make_key(1), "other", hosts=("www.other.test",)))
        server = self.start_tls("--tls-cert", str(other), "--tls-key", str(other_key))
        self.assertEqual(names(server), ["test 0", "other", "test 0"])
        other.write_bytes(certificate_pem(make_key(1), "new", hosts=("else.test",)))
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("certificate read again: localhost, 127.0.0.1, until .*; else.test, until")
        self.assertEqual(names(server), ["test 0", "test 0", "new"])

    def test_runserver_stays_plain(self) -> None:
        """The development server does not take the certificate from the settings."""
        with open(self.folder / "settings.py", "a") as stream:
            stream.write(f"CHANNELSERVER = {{'tls_cert': {self.certificate!r}, 'tls_key': 'missing'}}\n")
        server = self.runserver()
        self.assertEqual(server.scheme, "http")
        self.assertEqual(server.get().json()["scheme"], "http")


class NegotiationTests(TLSTestCase):
    """What the server agrees to."""

    def refused(self, server: Server, context: ssl.SSLContext) -> None:
        """Assert that there is no connection."""
        with self.assertRaises((ssl.SSLError, ConnectionResetError)):
            self.handshake(server, context)

    def test_versions_and_ciphers(self) -> None:
        """TLS 1.2 and 1.3 with forward secrecy and authenticated encryption, nothing else."""
        server = self.start_tls()
        for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
            context = client_context(self.certificate)
            context.minimum_version = context.maximum_version = version
            secure = self.handshake(server, context)
            self.assertEqual(secure.version(), name)
            self.assertIsNone(secure.compression())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old = client_context(self.certificate)
            old.set_ciphers("ALL:@SECLEVEL=0")
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        self.refused(server, old)
        for ciphers, agreed in (
            ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
            ("ECDHE-ECDSA-CHACHA20-POLY1305", True),
            ("ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA", False),
            ("AES128-GCM-SHA256:AES256-SHA:DHE-RSA-AES128-GCM-SHA256", False),
        ):
            context = client_context(self.certificate)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
            if agreed:
                self.assertEqual(self.handshake(server, context).cipher()[0], ciphers)  # type: ignore[index]
            else:
                self.refused(server, context)

    def test_protocols(self) -> None:
        """HTTP/2 for who can, HTTP/1.1 for the others, also for those who do not say."""
        server = self.start_tls()
        for offered, agreed in (
            (("h2", "http/1.1"), "h2"),
            (("http/1.1", "h2"), "h2"),
            (("http/1.1",), "http/1.1"),
            (("spdy/3",), None),
            ((), None),
        ):
            secure = self.handshake(server, client_context(self.certificate, *offered))
            self.assertEqual(secure.selected_alpn_protocol(), agreed)
            if agreed != "h2":
                secure.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                self.assertTrue(secure.recv(100).startswith(b"HTTP/1.1 200 "))

    def test_sessions_are_resumed(self) -> None:
        """A client that comes back needs no full handshake."""
        server = self.start_tls()
        context = client_context(self.certificate)
        first = self.handshake(server, context)
        first.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        first.recv(100)  # the tickets of TLS 1.3 come with the first answer
        self.assertTrue(self.handshake(server, context, session=first.session).session_reused)


class ReloadTests(TLSTestCase):
    """SIGHUP has the certificate read again."""

    def serial(self, server: Server) -> str:
        """The serial number of the certificate a new connection gets."""
        context = ssl.create_default_context()
        context.load_verify_locations(cadata=self.trusted)
        secure = self.handshake(server, context)
        return str(secure.getpeercert()["serialNumber"])  # type: ignore[index]

    def test_reload(self) -> None:
        """New connections get the new certificate, open ones stay; a bad new file changes nothing."""
        self.trusted = Path(self.certificate).read_text()
        server = self.start_tls()
        old = self.serial(server)
        with server.connect("/", ssl=client_context(self.certificate), server_hostname="localhost") as web_socket:
            self.assertEqual(web_socket.recv(TIMEOUT), "wss")
            write_pair(self.folder, 1)
            self.trusted += Path(self.certificate).read_text()
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("certificate read again: localhost")
            new = self.serial(server)
            self.assertNotEqual(new, old)
            self.assertNotIn("does not cover", server.output)

            Path(self.key).write_bytes(key_pem(make_key(2)))
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("the new certificate is not used, the old one stays: .* does not belong to")
            self.assertEqual(self.serial(server), new)

            web_socket.send("still here")
            self.assertEqual(web_socket.recv(TIMEOUT), "still here")
        self.assertEqual(server.stop(), 0)
        self.assertNotIn("Traceback", server.output)


#: OpenSSL's SSL_OP_ALLOW_CLIENT_RENEGOTIATION, which pyOpenSSL does not name. The default before OpenSSL 3, and what a
#: configuration of the machine may ask for.
ALLOW_CLIENT_RENEGOTIATION = 1 << 8


class MemoryTests(SynchronousTestCase):
    """Handshakes without a network."""

    def setUp(self) -> None:
        """Make a certificate, with one more that might lead to a root."""
        self.path, key = self.mktemp(), make_key()
        chain = certificate_pem(key) + certificate_pem(make_key(1), "issuer")
        Path(self.path).write_bytes(chain + key_pem(key))

    def connect(self, server_options: int = 0) -> tuple[SSL.Connection, SSL.Connection]:
        """Return both ends of a connection by TLS 1.2, after the handshake.

        :param server_options: set beside those of the server's context.
        """
        self.tls = ServerTLS([(self.path, None)], (b"http/1.1",))
        server = self.tls.contexts.serverConnectionForTLS(None)
        server.set_options(server_options)
        server.set_context(self.tls.contexts.context_for(None))
        server.set_accept_state()
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        client = SSL.Connection(context, None)
        client.set_connect_state()
        self.handshake(client, server)
        return client, server

    def handshake(self, client: SSL.Connection, server: SSL.Connection) -> None:
        """Pass bytes on until both have done a handshake."""
        undone = {client: server, server: client}
        while undone:
            for end, other in list(undone.items()):
                try:
                    end.do_handshake()
                    del undone[end]
                except SSL.WantReadError:
                    pass
                try:
                    other.bio_write(end.bio_read(65536))
                except SSL.WantReadError:
                    pass

    def test_a_chain_is_sent_whole(self) -> None:
        """All certificates in the file reach the client, in their order."""
        client, _ = self.connect()
        chain = client.get_peer_cert_chain(as_cryptography=True) or ()
        self.assertEqual([certificate.subject.rfc4514_string() for certificate in chain], ["CN=a test", "CN=issuer"])
        self.assertTrue(self.tls.summary.startswith("localhost, 127.0.0.1, until 20"))

    def test_no_renegotiation(self) -> None:
        """A client that asks for a new handshake on its connection is refused it, even if OpenSSL would allow that."""
        client, server = self.connect(ALLOW_CLIENT_RENEGOTIATION)
        self.assertTrue(client.renegotiate())
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        server.bio_write(client.bio_read(65536))
        self.assertRaises(SSL.WantReadError, server.recv, 100)
        client.bio_write(server.bio_read(65536))
        with self.assertRaises(SSL.Error) as caught:
            client.do_handshake()
        self.assertIn("no renegotiation", str(caught.exception))


class CertificateTests(SynchronousTestCase):
    """One sentence for each way in which the files can be wrong."""

    def setUp(self) -> None:
        """Make a place for the files."""
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def complain(self, certificate: bytes | None, key: bytes | None, words: str) -> None:
        """Assert that files with this content are refused, in these words."""
        cert_path, key_path = self.folder / "c.pem", self.folder / "k.pem"
        for path, content in ((cert_path, certificate), (key_path, key)):
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
        with self.assertRaises(OptionError) as caught:
            ServerTLS([(str(cert_path), str(key_path))], (b"http/1.1",))
        self.assertIn(words, str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))

    def test_wrong_files(self) -> None:
        """Missing, empty, garbage, expired, early, of another key, encrypted, in the wrong order."""
        key, other = make_key(), make_key(1)
        good, good_key = certificate_pem(key), key_pem(key)
        self.complain(None, good_key, "--tls-cert")
        self.complain(None, good_key, "cannot be read: no such file")
        self.complain(good, None, "--tls-key")
        self.complain(b"", good_key, "holds no certificate in PEM form")
        self.complain(b"hello", good_key, "holds no certificate in PEM form")
        self.complain(good, b"hello", "holds no private key in PEM form")
        self.complain(good, good, "holds no private key in PEM form")
        self.complain(good, key_pem(key, b"secret"), "is encrypted")
        self.complain(good, key_pem(other), "does not belong to the certificate")
        self.complain(certificate_pem(key, ends=-timedelta(hours=1)), good_key, "expired on 20")
        self.complain(certificate_pem(key, begins=DAY / 2), good_key, "is this machine's clock right?")
        self.complain(certificate_pem(other) + good, good_key, "must be the first one")

    def test_key_missing_in_the_certificate_s_file(self) -> None:
        """Without --tls-key, the cure is named."""
        path = self.folder / "c.pem"
        path.write_bytes(certificate_pem(make_key()))
        with self.assertRaises(OptionError) as caught:
            ServerTLS([(str(path), None)], (b"http/1.1",))
        self.assertIn("name its file with --tls-key", str(caught.exception))

    def test_options_that_do_not_go_together(self) -> None:
        """A key or a redirect without a certificate."""
        for given in ({"tls_key": ["k.pem"]}, {"redirect_http": True}):
            with self.assertRaises(OptionError) as caught:
                server_tls(resolve(given, {}))
            self.assertIn("needs --tls-cert", str(caught.exception))
        with self.assertRaises(OptionError) as caught:
            server_tls(resolve({"tls_cert": ["a.pem", "b.pem"]}, {"tls_key": "k.pem"}))
        self.assertIn("one key for each certificate", str(caught.exception))
        self.assertIsNone(server_tls(resolve({}, {})))
        self.assertTrue(resolve({"tls_cert": ["c.pem"], "endpoint": ["tcp:1"]}, {}).simple_listener)


class CoveredNamesTests(SynchronousTestCase):
    """Which of ALLOWED_HOSTS a certificate covers."""

    def missing(self, names: tuple[str, ...], *hosts: str) -> list[str]:
        """Return which of `hosts` a certificate with `names` does not cover."""
        return uncovered([x509.load_pem_x509_certificate(certificate_pem(make_key(), hosts=names))], hosts)

    def test_names(self) -> None:
        """Names are compared as clients do: in any case, a wildcard stands for one label."""
        names = ("example.org", "*.example.org", "192.0.2.1", "2001:db8::1")
        for host, missing in (
            ("example.org", []), ("Example.ORG.", []), ("www.example.org", []), (".example.org", []),
            ("a.www.example.org", ["a.www.example.org"]), ("example.com", ["example.com"]),
            (".example.com", ["example.com", "*.example.com"]), ("not a name", ["not a name"]),
            ("192.0.2.1", []), ("[2001:db8::1]", []), ("192.0.2.2", ["192.0.2.2"]),
        ):  # fmt: skip
            self.assertEqual(self.missing(names, host), missing, host)
        self.assertEqual(self.missing(("example.org", "www.example.org"), ".example.org"), ["*.example.org"])
        self.assertEqual(self.missing(("*.example.org",), ".example.org"), ["example.org"])

    def test_names_no_certificate_has(self) -> None:
        """ "*" and the names of this machine need no certificate."""
        self.assertEqual(self.missing(("example.org",), "*", "localhost", ".localhost", "127.0.0.1", "[::1]"), [])

    def test_certificates_of_no_use(self) -> None:
        """A certificate without names, or with malformed ones, covers nothing."""
        for names in ((), ("*.org",)):
            self.assertEqual(self.missing(names, "example.org"), ["example.org"], names)


class GapTests(TLSTestCase):
    """The user learns which names are missing."""

    extra_settings = """
        ALLOWED_HOSTS = ["localhost", ".example.org"]
    """
    sentence = "the certificate does not cover example.org, [*].example.org of ALLOWED_HOSTS"

    def test_check(self) -> None:
        """--check says so; it is no error, as a proxy may have a certificate of its own."""
        done = preloaded.run(
            self.twistd("-s", "settings", "--tls-cert", self.certificate, "--tls-key", self.key, "--check"),
            self.folder, self.environment, TIMEOUT,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, self.sentence)

    def test_start_and_reload(self) -> None:
        """The log says so at the start, and when the certificate is read again, until it covers them."""
        server = self.start_tls()
        self.assertRegex(server.output, self.sentence)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("certificate read again: localhost")
        hosts = ("example.org", "*.example.org")
        Path(self.certificate).write_bytes(certificate_pem(make_key(0), hosts=hosts))
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(r"certificate read again: example.org, [*].example.org")
        self.assertEqual(server.stop(), 0)
        self.assertEqual(server.output.count("does not cover"), 2)


class StartTests(TLSTestCase):
    """The sentence reaches the user."""

    def test_one_sentence(self) -> None:
        """With and without --check: exit code 1, one line, no traceback."""
        for extra in (["--check"], []):
            done = preloaded.run(
                self.twistd("-s", "settings", "--tls-cert", self.certificate, "--tls-key", "missing.pem", *extra),
                self.folder, self.environment, TIMEOUT,
            )  # fmt: skip
            self.assertEqual(done.returncode, 1)
            self.assertIn(
                f"channelserver: --tls-key '{self.folder}/missing.pem' cannot be read: no such file", done.stderr
            )
            self.assertNotIn("Traceback", done.stderr + done.stdout)

    def test_check(self) -> None:
        """--check is content with good files."""
        done = preloaded.run(
            self.twistd("-s", "settings", "--tls-cert", self.certificate, "--tls-key", self.key, "--check"),
            self.folder, self.environment, TIMEOUT,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)


class RedirectTests(TLSTestCase):
    """--redirect-http."""

    def setUp(self) -> None:
        """Start a server, learn the port."""
        super().setUp()
        self.server = self.start_tls("--redirect-http", "--redirect-port", "0", "--header-timeout", "3")
        self.port = int(self.server.wait_for(r"listening on .*http://127.0.0.1:(\d+)/ \(redirects to https\)")[1])

    def ask(self, request: bytes) -> bytes:
        """Send bytes, return all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT) as plain:
            plain.sendall(request)
            answer = b""
            while part := plain.recv(65536):
                answer += part
        return answer

    def test_same_place(self) -> None:
        """Host, path and query stay, byte for byte; a browser ends at the page."""
        for method, status in (("GET", 301), ("HEAD", 301), ("POST", 308), ("DELETE", 308)):
            answer = requests.request(
                method, f"http://localhost:{self.port}/a%2Fb?c=%20d&e", allow_redirects=False, timeout=TIMEOUT
            )
            self.assertEqual(answer.status_code, status)
            self.assertEqual(answer.headers["Location"], f"https://localhost:{self.server.port}/a%2Fb?c=%20d&e")
        page = requests.get(f"http://127.0.0.1:{self.port}/", verify=self.certificate, timeout=TIMEOUT)
        self.assertEqual(page.json()["scheme"], "https")

    def test_refusals(self) -> None:
        """A host that is not served, and what is no request, gets 400; none of it reaches the application."""
        for request in (
            b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost:80@evil.example\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET /\r\nHost: localhost\r\n\r\n",
            b"\x16\x03\x01\r\n\r\n",
        ):
            answer = self.ask(request)
            self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer)
            self.assertNotIn(b"Location", answer)
        self.assertTrue(self.ask(b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000).startswith(b"HTTP/1.1 431 "))
        self.assertTrue(self.ask(b"GET / HTTP/1.1\r\nHost: loc").startswith(b"HTTP/1.1 408 "))
        self.assertNotIn("HTTP GET", self.server.output)

    def test_forms_of_the_target(self) -> None:
        """Absolute form; the asterisk and health are answered as on any listener."""
        self.assertTrue(
            self.ask(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 204 ")
        )
        for target, place in ((b"http://localhost/x?y", b"/x?y"), (b"http://localhost", b"/")):
            answer = self.ask(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertIn(b"Location: https://localhost:%d%s\r\n" % (self.server.port, place), answer)

    def test_stop(self) -> None:
        """An open connection does not hold the server up."""
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT) as plain:
            plain.sendall(b"GET / ")
            self.assertEqual(self.server.stop(timeout=TIMEOUT), 0)
