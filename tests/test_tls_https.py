"""--https at its two ports, before and after the first certificate."""

from __future__ import annotations

import httpx
import requests

from tests.process import TIMEOUT
from tests.test_acme_server import AcmeTestCase

CHALLENGE = "/.well-known/acme-challenge/x"


class PortsTests(AcmeTestCase):
    """The plain port and the HTTPS port of a real server."""

    def plain(self, path: str, host: str = "a.test") -> requests.Response:
        """Ask the plain port, as a client that has come by port 80."""
        return requests.get(
            f"http://127.0.0.1:{self.http_port}{path}", headers={"Host": host}, allow_redirects=False, timeout=TIMEOUT
        )

    def test_before_and_after(self) -> None:
        """Before: 503, a placeholder, no HSTS. After: 308 with path and query, HSTS. Other hosts: 404, always."""
        pebble = self.pebble()
        pebble.stop()
        server = self.serve(pebble, "--hsts", "300")
        server.wait_for("no certificate for a.test")
        before = self.plain("/x?y")
        self.assertEqual((before.status_code, before.headers["Retry-After"]), (503, "60"))
        self.assertIn("HTTPS for a.test is being set up", before.text)
        self.assertIn("self-signed", self.certificate().subject.rfc4514_string())
        self.assertEqual(self.plain(CHALLENGE).status_code, 200)  # by the project
        url = f"https://localhost:{self.https_port}/-/health"
        self.assertNotIn("Strict-Transport-Security", httpx.get(url, verify=False).headers)
        self.assertEqual(server.stop(), 0)
        self.assertNotIn("Traceback", server.output)

        pebble.start()
        fresh = str(self.folder / "fresh")  # the other store says when to try again
        server = self.serve(pebble, "--hsts", "300", "--acme-store", fresh)
        server.wait_for(r"certificate \(the first one\) for a\.test: valid until")
        after = self.plain("/x%2Fz?y=%20")
        self.assertEqual((after.status_code, after.headers["Location"]), (308, "https://a.test/x%2Fz?y=%20"))
        self.assertNotIn("Strict-Transport-Security", after.headers)
        direct = self.plain("/", host=f"a.test:{self.http_port}")
        self.assertEqual(direct.headers["Location"], f"https://a.test:{self.https_port}/")
        page = self.page(pebble)
        self.assertEqual((page.status, page.headers["Strict-Transport-Security"]), (200, "max-age=300"))
        for host in ("evil.example", "b.test", "127.0.0.1"):
            self.assertEqual(self.plain("/", host=host).status_code, 404)
        challenge = self.plain(CHALLENGE)
        self.assertEqual((challenge.status_code, challenge.text), (200, f"http HTTP/1.1 a.test {CHALLENGE}"))
        self.assertEqual(server.stop(), 0)
