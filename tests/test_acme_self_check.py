"""Whether a name leads to this server: each address that it has counts."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.acme.challenges import FOLDER, alpn_certificate
from channelserver.server.acme.self_check import unreachable


class Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


class SelfCheckTests(SynchronousTestCase):
    """This server is 127.0.0.1, another one is ::1 and 127.0.0.2, and nobody is at 127.0.0.3."""

    def setUp(self) -> None:
        """Start both."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host, known = str(self.server.server_address[0]), self.path == FOLDER + "token"
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"answer" if known and host == "127.0.0.1" else b"nothing")

            def log_message(self, *unused: Any) -> None:
                """Nothing is logged."""

        first = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = first.server_address[1]
        try:
            servers = [
                first,
                ThreadingHTTPServer(("127.0.0.2", self.port), Handler),
                Server6(("::1", self.port), Handler),
            ]
        except OSError:
            first.server_close()
            raise SkipTest("there is no IPv6") from None
        for each in servers:
            thread = threading.Thread(target=each.serve_forever, args=(0.01,))
            thread.start()
            self.addCleanup(thread.join)
            self.addCleanup(each.server_close)
            self.addCleanup(each.shutdown)

    def found(self, *addresses: str) -> str:
        """Return what is wrong with a name that has these addresses."""
        entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
        self.patch(socket, "getaddrinfo", self._look_up(socket.getaddrinfo, entries))
        return unreachable("a.test", "token", "answer", [self.port], [], alpn_certificate("a.test", "x")[1])

    def _look_up(self, real: Any, entries: Any) -> Any:
        return lambda host, *more, **named: entries if host == "a.test" else real(host, *more, **named)

    def test_addresses(self) -> None:
        """One that is this server's is enough, unless one of IPv6 is another server's: the authority asks that."""
        self.assertEqual(self.found("127.0.0.1"), "")
        self.assertEqual(self.found("127.0.0.3", "127.0.0.1"), "")  # without IPv6, that address is nobody's from here
        self.assertRegex(self.found("127.0.0.3"), r"^a\.test does not lead to this server \(port \d+ of 127\.0\.0\.3: ")
        self.assertRegex(self.found("127.0.0.2"), r"does not lead to this server \(.* is another server's\)")
        self.assertEqual(self.found("127.0.0.2", "127.0.0.1"), "")  # a router answers for its own address
        self.assertRegex(
            self.found("127.0.0.1", "::1"),
            r"^a\.test leads to another server by IPv6 \(port \d+ of ::1 is another server's\), .*; remove that AAAA",
        )
