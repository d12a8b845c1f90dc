"""Certificates are exchanged while clients connect without a pause."""

from __future__ import annotations

import signal
import ssl
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import requests

from tests.certificates import certificate_pem, client_context, key_pem, make_key
from tests.http2_client import HTTP2Client
from tests.process import TIMEOUT, wait_until
from tests.test_tls import TLSTestCase

#: How often the certificate is exchanged, and how many connections are made between two of these times.
EXCHANGES, BETWEEN = 8, 20

_AGAIN = "certificate read again"


class ExchangeTests(TLSTestCase):
    """No handshake fails, and no open connection notices."""

    def test_no_handshake_fails(self) -> None:
        """HTTP/1.1, HTTP/2 and WebSockets connect while SIGHUP brings one certificate after the other."""
        pairs = [(key_pem(make_key(n)), certificate_pem(make_key(n), f"test {n}")) for n in range(EXCHANGES + 1)]
        bundle = self.folder / "all.pem"
        bundle.write_bytes(b"".join(certificate for _, certificate in pairs))
        Path(self.key).write_bytes(pairs[0][0])
        Path(self.certificate).write_bytes(pairs[0][1])
        server = self.start_tls("--access-log", "")
        trust = str(bundle)

        def http1() -> None:
            answer = requests.get(f"https://localhost:{server.port}/", verify=trust, timeout=TIMEOUT)
            self.assertEqual(answer.json()["version"], "HTTP/1.1")

        def http2() -> None:
            with closing(HTTP2Client(server, trust)) as client:
                self.assertEqual(client.get("/").status, 200)

        def websocket() -> None:
            with server.connect("/", ssl=client_context(trust), server_hostname="localhost") as web_socket:
                self.assertEqual(web_socket.recv(TIMEOUT), "wss")

        done, failures, made = threading.Event(), list[Exception](), [0, 0, 0]

        def connect(number: int, client: Callable[[], None]) -> None:
            while not done.is_set():
                try:
                    client()
                except Exception as error:
                    failures.append(error)
                made[number] += 1

        idle = HTTP2Client(server, trust)
        with closing(idle), server.connect("/", ssl=client_context(trust), server_hostname="localhost") as open_one:
            threads = [threading.Thread(target=connect, args=each) for each in enumerate((http1, http2, websocket))]
            for thread in threads:
                thread.start()
            try:
                for number, (key, certificate) in enumerate(pairs[1:], 1):
                    before = sum(made)
                    wait_until(lambda before=before: sum(made) >= before + BETWEEN, "connections")
                    Path(self.key).write_bytes(key)
                    Path(self.certificate).write_bytes(certificate)
                    server.process.send_signal(signal.SIGHUP)
                    wait_until(lambda number=number: server.output.count(_AGAIN) == number, "the new certificate")
                    shown = ssl.get_server_certificate(("localhost", server.port), timeout=TIMEOUT)
                    self.assertEqual(shown.strip(), certificate.decode().strip())
            finally:
                done.set()
                for thread in threads:
                    thread.join(TIMEOUT)
            self.assertEqual(failures, [])
            self.assertTrue(all(made), made)
            open_one.send("still here")
            self.assertEqual([open_one.recv(TIMEOUT), open_one.recv(TIMEOUT)], ["wss", "still here"])
            self.assertEqual(idle.get("/").status, 200)
        self.assertEqual(server.stop(), 0)
        self.assertNotIn("Traceback", server.output)
