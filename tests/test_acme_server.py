"""Servers that get their certificates by themselves, from a real authority on this machine."""

from __future__ import annotations

import http.client
import signal
import socket
import ssl
import stat
import subprocess
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from websockets.sync.client import connect

from tests.certificates import certificate_pem, key_pem, make_key
from tests.pebble import MISSING, Pebble
from tests.process import TIMEOUT, Server, ServerTestCase, free_port, project, wait_until


class AcmeTestCase(ServerTestCase):
    """Servers with ``--https``, and an authority."""

    skip = MISSING
    files = project("acme")
    extra_settings = """
        import settings_names
        ALLOWED_HOSTS = [".test", "127.0.0.1"]
    """

    def setUp(self) -> None:
        """Write the project."""
        super().setUp()
        self.http_port, self.https_port = free_port(), free_port()

    def pebble(self, **options: Any) -> Pebble:
        """Start an authority that looks at the server's ports."""
        pebble = Pebble(**{"http_port": self.http_port, "tls_port": self.https_port, **options})
        self.addCleanup(pebble.close)
        return pebble

    @property
    def store(self) -> Path:
        return self.folder / "state"

    def serve(
        self,
        pebble: Pebble,
        *arguments: str,
        names: str = "a.test",
        site: tuple[str, ...] = ("--settings", "settings"),
        **environment: str,
    ) -> Server:
        """Start a server, and wait until it listens."""
        usual = (
            "serve", *site, "--bind", "127.0.0.1", "--log-format", "text", "--health-figures",
            "127.0.0.0/8", "--https", names, "--email", "me@a.test", "--acme-directory", pebble.directory,
            "--acme-ca-file", pebble.ca_file, "--acme-store", str(self.store), "--https-port", str(self.https_port),
            "--http-port", str(self.http_port), *arguments,
        )  # fmt: skip
        server = self.run_process(self.command(*usual), **environment)
        server.wait_until_up()
        return server

    def certificate(self, name: str = "a.test") -> x509.Certificate:
        """Return the certificate that a handshake for `name` gets."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.https_port), TIMEOUT) as plain:
            with context.wrap_socket(plain, server_hostname=name) as secure:
                return x509.load_der_x509_certificate(secure.getpeercert(True) or b"")

    def page(self, pebble: Pebble, name: str = "a.test") -> http.client.HTTPResponse:
        """Get the start page with the authority's root as the only one that is trusted."""
        context = ssl.create_default_context(cafile=pebble.root)
        plain = socket.create_connection(("127.0.0.1", self.https_port), TIMEOUT)
        connection = http.client.HTTPConnection(name, self.https_port)
        connection.sock = context.wrap_socket(plain, server_hostname=name)
        self.addCleanup(connection.close)
        connection.request("GET", "/")
        return connection.getresponse()

    def renewed(self) -> list[str]:
        """Return what the receiver of ``certificate_renewed`` has noted."""
        path = self.folder / "renewed"
        return sorted(path.read_text().splitlines()) if path.exists() else []


class FirstCertificateTests(AcmeTestCase):
    """The first certificate."""

    def test_one_command(self) -> None:
        """Both ports are up; HTTP/2 and WebSockets work on the certificate; the store is for this user alone."""
        pebble = self.pebble()
        server = self.serve(pebble)
        server.wait_for(r"certificate \(the first one\) for a\.test: valid until")
        curl = subprocess.run(
            ["curl", "-s", "--http2", "--cacert", pebble.root, "--resolve", f"a.test:{self.https_port}:127.0.0.1",
             "-w", " %{http_version} %{ssl_verify_result}", f"https://a.test:{self.https_port}/x"],
            capture_output=True, text=True, timeout=TIMEOUT, check=True,
        )  # fmt: skip
        self.assertEqual(curl.stdout, f"https HTTP/2 a.test:{self.https_port} /x 2 0")
        context = ssl.create_default_context(cafile=pebble.root)
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # see Server.connect
        plain = socket.create_connection(("127.0.0.1", self.https_port), TIMEOUT)
        with connect("wss://a.test/", sock=plain, ssl=context, compression=None, proxy=None) as web_socket:
            web_socket.send("hello")
            self.assertEqual(web_socket.recv(TIMEOUT), "hello")
        found = [self.store, *self.store.rglob("*")]
        self.assertGreater(len(found), 10)
        for path in found:
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o700 if path.is_dir() else 0o600, path)
        self.assertEqual((pebble.orders, pebble.accounts), (1, 1))
        self.assertEqual(server.stop(), 0)
        again = self.serve(pebble)
        again.wait_for(r"certificate for a\.test: valid until")
        self.assertEqual(self.page(pebble).status, 200)
        self.assertEqual(pebble.orders, 1)

    def test_demo(self) -> None:
        """The demo answers to the names of --https: one command shows a page with a valid certificate."""
        pebble = self.pebble()
        server = self.serve(pebble, names="demo.localhost", site=("--demo",))
        server.wait_for(r"certificate \(the first one\) for demo\.localhost")
        self.assertEqual(self.page(pebble, "demo.localhost").status, 302)

    def test_one_kind_of_challenge(self) -> None:
        """With the port for plain HTTP blocked tls-alpn-01 is enough; with HTTPS elsewhere http-01 is."""
        for other in ({"http_port": free_port()}, {"tls_port": free_port()}):
            pebble = self.pebble(**other)
            server = self.serve(pebble)
            server.wait_for(r"certificate \(the first one\) for a\.test")
            self.assertEqual(self.page(pebble).status, 200)
            self.assertLessEqual(pebble.orders, 2)
            server.stop()

    def test_several(self) -> None:
        """Each name has a certificate of its own; a plus joins names in one; those of files serve all other names."""
        pebble = self.pebble()
        path = self.folder / "own.pem"
        path.write_bytes(certificate_pem(make_key(1), "own", hosts=("*.own.test", "a.test")) + key_pem(make_key(1)))
        server = self.serve(pebble, "--tls-cert", str(path), names="a.test,b.test,c.test+d.test")
        for names in ("a.test", "b.test", "c.test, d.test"):
            server.wait_for(rf"certificate \(the first one\) for {names}:")
        renewed = wait_until(lambda: len(self.renewed()) == 3 and self.renewed(), "the signals")
        self.assertEqual([line.split()[0] for line in renewed], ["a.test", "b.test", "c.test+d.test"])
        serials = [self.certificate(name).serial_number for name in ("a.test", "b.test", "c.test", "d.test")]
        self.assertEqual(len(set(serials)), 3)
        self.assertEqual(serials[2], serials[3])
        self.assertEqual((pebble.orders, pebble.accounts), (3, 1))
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("certificate read again")
        self.assertEqual(self.certificate("a.test").serial_number, serials[0])
        for name in ("x.own.test", "unknown.test"):
            self.assertIn("own", self.certificate(name).subject.rfc4514_string())
        figures = httpx.get(f"https://127.0.0.1:{self.https_port}/-/health", verify=False).json()
        self.assertEqual(figures["certificates"]["a.test"]["state"], "valid")
        self.assertEqual(figures["certificate_orders"], {"issued": 3, "failed": 0})


class ProcessesTests(AcmeTestCase):
    """Several processes on one machine."""

    def test_processes(self) -> None:
        """The first process orders, once; each answers challenges, and serves the certificate."""
        pebble = self.pebble()
        server = self.serve(pebble, "--processes", "3", names="a.test,b.test")
        for name in ("a.test", "b.test"):
            server.wait_for(rf"certificate \(the first one\) for {name}")
        self.assertEqual(pebble.count("Added order"), 2)
        serial = self.certificate().serial_number
        for _ in range(30):  # whichever process accepts
            self.assertEqual(self.certificate().serial_number, serial)
            self.assertEqual(self.page(pebble).status, 200)
        figures = httpx.get(f"https://127.0.0.1:{self.https_port}/-/health", verify=False).json()
        self.assertEqual(figures["certificate_orders"], {"issued": 2, "failed": 0})
        self.assertEqual(server.stop(), 0)
