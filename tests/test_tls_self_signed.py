"""--tls-self-signed: HTTPS for development."""

from __future__ import annotations

import os
import re
import ssl
import sys
from datetime import timedelta
from pathlib import Path

import requests
from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.common.option import OptionError
from channelserver.server.common.options import resolve
from channelserver.server.tls import self_signed
from channelserver.server.tls.self_signed import fingerprint, stored
from tests.process import TIMEOUT, Server, ServerTestCase, free_port, project


class StoredTests(SynchronousTestCase):
    """The certificate that stays the same."""

    def test_the_same_again(self) -> None:
        """For the same names, in a file of this user alone, until it expires soon."""
        folder = os.path.join(self.mktemp(), "state")
        first = stored(["localhost"], folder)
        (path,) = Path(folder).iterdir()
        self.assertEqual((path.stat().st_mode & 0o777, Path(folder).stat().st_mode & 0o777), (0o600, 0o700))
        self.assertEqual(stored(["localhost"], folder), first)
        self.assertNotEqual(stored(["localhost", "a.test"], folder), first)
        path.chmod(0o644)
        second = stored(["localhost"], folder)
        self.assertNotEqual(second, first)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.patch(self_signed, "LEFT", self_signed.VALIDITY + timedelta(hours=1))
        third = stored(["localhost"], folder)
        self.assertNotEqual(third, second)
        path.write_bytes(b"-----BEGIN CERTIFICATE-----")
        self.assertNotEqual(stored(["localhost"], folder), third)

    def test_no_folder(self) -> None:
        """Where nothing can be kept there is a new certificate each time, and a sentence that says why."""
        path = self.mktemp()
        Path(path).write_bytes(b"")
        first, second = stored(["localhost"], path), stored(["localhost"], path)
        self.assertNotEqual(first[1], second[1])
        self.assertRegex(first[2], r"cannot be kept: not a directory$")

    def test_options_that_do_not_go_together(self) -> None:
        """A certificate, or names to get one for."""
        for other in ({"https": ["a.test"]}, {"tls_cert": ["c.pem"]}):
            with self.assertRaises(OptionError) as caught:
                resolve({"tls_self_signed": True, **other}, {})
            self.assertIn("--tls-self-signed is for development", str(caught.exception))


class SelfSignedTests(ServerTestCase):
    """Servers with such a certificate."""

    files = project("tls")
    extra_settings = """
        SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
        ALLOWED_HOSTS = ["localhost", "127.0.0.1", ".site.test"]
    """

    def shown(self, server: Server) -> str:
        """Return the certificate of a new connection, as PEM."""
        return ssl.get_server_certificate(("localhost", server.port), timeout=TIMEOUT)

    def test_serve_and_runserver(self) -> None:
        """The fingerprint is printed; all processes and later starts have the same certificate, runserver too."""
        state = str(self.folder / "state")
        command = self.command(
            "serve", "-s", "settings", "-p", "0", "--tls-self-signed", "--processes", "2", "--hsts", "300"
        )
        server = self.run_process(command, XDG_STATE_HOME=state).wait_until_up()
        server.wait_for("process 2 serves, too")
        printed = re.search(r"SHA-256 fingerprint (([0-9A-F]{2}:){31}[0-9A-F]{2})", server.output)
        assert printed is not None
        first = self.shown(server)
        self.assertEqual(fingerprint(first.encode()), printed[1])
        certificate = x509.load_pem_x509_certificate(first.encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(
            [str(name.value) for name in names], ["localhost", "127.0.0.1", "::1", "site.test", "*.site.test"]
        )
        trusted = self.folder / "trusted.pem"
        trusted.write_text(first)
        for _ in range(6):
            answer = requests.get(f"https://localhost:{server.port}/", verify=str(trusted), timeout=TIMEOUT)
            self.assertEqual(answer.json()["scheme"], "https")
            self.assertNotIn("Strict-Transport-Security", answer.headers)
        self.assertEqual(server.stop(), 0)

        runserver = [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{free_port()}"]
        development = self.run_process([*runserver, "--tls-self-signed"], XDG_STATE_HOME=state).wait_until_up()
        self.assertEqual(development.scheme, "https")
        self.assertIn(printed[1], development.output)
        self.assertEqual(self.shown(development), first)
