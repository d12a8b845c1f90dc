"""Strangers' opinion of the TLS and HTTP/2 that we speak: testssl, h2load and curl, against a running server."""

from __future__ import annotations

import json
import os
import re
import subprocess

from tests.certificates import certificate_pem, key_pem, make_key, write_pair
from tests.process import TIMEOUT, Server, ServerTestCase

URLS = """
    from django.http import HttpResponse
    from django.urls import path

    urlpatterns = [path("", lambda request: HttpResponse("by " + request.META["SERVER_PROTOCOL"]))]
"""


class StrangersTests(ServerTestCase):
    """A server with a certificate, and programs that know nothing of it."""

    files = {"urls.py": URLS}
    #: Seconds for a test.
    timeout = 900

    def setUp(self) -> None:
        """Start the server."""
        super().setUp()
        self.certificate, self.key = write_pair(self.folder)

    def start_tls(self) -> Server:
        """Return a server that speaks HTTPS and HTTP/2, and has another certificate for clients that name no host."""
        other, other_key = self.folder / "other.pem", self.folder / "other-key.pem"
        other.write_bytes(certificate_pem(make_key(1), "other", hosts=("other.test",)))
        other_key.write_bytes(key_pem(make_key(1)))
        first = ("--tls-cert", str(other), "--tls-key", str(other_key))
        return self.start(*first, "--tls-cert", self.certificate, "--tls-key", self.key, "--access-log", "")

    def run_program(self, *command: str, timeout: float = TIMEOUT * 3) -> str:
        """Run a program to its end and return what it prints."""
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=timeout)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_testssl(self) -> None:
        """``testssl`` finds no weakness: protocols, kinds of ciphers, forward secrecy, all the known attacks."""
        server = self.start_tls()
        # Its exit status counts what it could not try with the OpenSSL that is installed; its report is what matters.
        subprocess.run(
            ["testssl", "--quiet", "--color", "0", "--warnings", "off", "--ip", "one", "-p", "-s", "-f", "-U",
             "--jsonfile", "report.json", f"localhost:{server.port}"],
            cwd=self.folder, capture_output=True, timeout=self.timeout - 60,
            env={**os.environ, "NO_ENGINE": "true"},  # else it warns of an OpenSSL that has no GOST
        )  # fmt: skip
        findings = json.loads((self.folder / "report.json").read_text())
        rated = {finding["id"]: finding["severity"] for finding in findings}
        self.assertEqual({name: rating for name, rating in rated.items() if rating not in ("OK", "INFO")}, {})
        known = {"heartbleed", "ROBOT", "secure_client_renego", "CRIME_TLS", "POODLE_SSL", "SWEET32", "BEAST"}
        self.assertEqual(known - set(rated), set())
        self.assertEqual(server.stop(), 0)

    def test_h2load(self) -> None:
        """A thousand requests over ten HTTP/2 connections, ten at once on each: all answered."""
        server = self.start_tls()
        report = self.run_program("h2load", "-n", "1000", "-c", "10", "-m", "10", f"https://localhost:{server.port}/")
        self.assertIn("Application protocol: h2", report)
        self.assertIn("1000 succeeded, 0 failed, 0 errored, 0 timeout", re.sub(r"\s+", " ", report))
        self.assertEqual(server.stop(), 0)

    def test_curl(self) -> None:
        """``curl`` gets HTTP/2 when it asks for it, HTTP/1.1 when not, and trusts the certificate."""
        server = self.start_tls()
        for flag, version in (("--http2", "2"), ("--http1.1", "1.1")):
            answer = self.run_program(
                "curl", "-sS", flag, "--cacert", self.certificate, "-w", " %{http_version} %{http_code}",
                f"https://localhost:{server.port}/",
            )  # fmt: skip
            self.assertEqual(answer, f"by HTTP/{version} {version} 200")
        self.assertEqual(server.stop(), 0)
