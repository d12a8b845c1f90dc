"""Clients that close their side after the request and wait for the answer, and clients that leave."""

from __future__ import annotations

import socket

from tests.lab import LabTestCase, RawClient
from tests.process import project


class HalfCloseTests(LabTestCase):
    """Each on one connection."""

    files = project("half_close")
    arguments = ("--threads", "4")

    def half_close(self, data: bytes) -> RawClient:
        """Send bytes and the end of them."""
        client = RawClient(self.server)
        self.addCleanup(client.close)
        client.send(data)
        client.socket.shutdown(socket.SHUT_WR)
        return client

    def get(self, path: str, version: str = "1.1") -> RawClient:
        """Send a request and the end of it."""
        return self.half_close(f"GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())

    def answer(self, client: RawClient) -> bytes:
        """Read an answer, after the interim ones, to the end of the connection."""
        while (head := client.head()).status == 100:
            pass
        self.assertEqual(head.status, 200)
        return client.rest()

    def test_answers(self) -> None:
        """A client that has closed its side gets its answer, long ones, too, and the connection is closed."""
        for version in ("1.1", "1.0"):
            self.assertEqual(self.answer(self.get("/", version)), b"here")
            self.assertEqual(len(self.answer(self.get("/big", version))), 4_000_000)
            self.assertIn(b"urlpatterns", self.answer(self.get("/file", version)))

    def unread(self, data: bytes) -> RawClient:
        """Send bytes, wait until something of the answer has come, and send the end of the bytes."""
        client = RawClient(self.server, receive_buffer=4096)
        self.addCleanup(client.close)
        client.send(data)
        client.socket.recv(1, socket.MSG_PEEK)
        client.socket.shutdown(socket.SHUT_WR)
        self.server.get("/")  # the server has seen that the side is closed
        return client

    def test_the_end_of_an_answer(self) -> None:
        """What the kernel has not taken yet is sent, although the answer is complete for the server."""
        for size in range(120_000, 360_000, 10_000):
            for version in ("1.1", "1.0"):
                client = self.unread(f"GET /big/{size} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
                self.assertEqual(len(self.answer(client)), size, version)

    def test_answers_in_a_row(self) -> None:
        """And further requests that came before, whatever has only begun."""
        request = b"GET /big/50000 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for rest in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello"):
            self.assertEqual(self.unread(request * 12 + rest).rest().count(b"x" * 50_000), 12, rest)

    def test_a_view_that_takes_long(self) -> None:
        """Also one for which a view works a while."""
        for version in ("1.1", "1.0"):
            name = version.replace(".", "")
            client = self.get(f"/hold/{name}", version)
            self.wait_for_note("began", gate=name)
            self.server.get("/")  # the server has seen that the side is closed
            self.open_gate(name)
            self.assertEqual(self.answer(client), name.encode())
            self.assertLogged(rf"GET /hold/{name} 200 ")

    def test_a_stream(self) -> None:
        """And all parts of a stream."""
        client = self.get("/stream/stream", "1.0")
        self.wait_for_note("at gate", gate="stream")
        self.server.get("/")
        self.open_gate("stream")
        self.assertEqual(len(self.answer(client)), 4_000_000)

    def test_a_pipeline(self) -> None:
        """All requests that came before the end are answered, half a one is not."""
        request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        client = self.half_close(request * 20 + b"GET / HT")
        self.assertEqual(client.rest().count(b"here"), 20)

    def test_a_health_check(self) -> None:
        """The reactor's own answers, too."""
        self.assertIn(b'"ready"', self.answer(self.get("/-/health")))

    def test_one_that_leaves(self) -> None:
        """A client that closes its connection altogether is noticed: its view is cancelled."""
        client = RawClient(self.server)
        client.request("/wait/leaver")
        self.wait_for_note("began", gate="leaver")
        client.close()
        self.wait_for_note("cancelled", name="leaver")
        self.assertLogged("GET /wait/leaver 499 ")

    def test_one_that_leaves_later(self) -> None:
        """One that closed its side first, and all of it later."""
        client = self.get("/wait/later")
        self.wait_for_note("began", gate="later")
        self.assertEqual(client.head().status, 100)
        client.close()
        self.wait_for_note("cancelled", name="later")

    def test_an_event_stream(self) -> None:
        """An event stream of a client that has left ends; one of a client that has not goes on."""
        stays = RawClient(self.server)
        self.addCleanup(stays.close)
        stays.request("/events")
        stays.read_until(b"first")
        stays.socket.shutdown(socket.SHUT_WR)
        stays.read_until(b":\n\n")
        leaves = RawClient(self.server)
        leaves.request("/events")
        leaves.read_until(b"first")
        leaves.close()
        self.assertLogged("GET /events 200 .* broken off")
        self.assertFalse(stays.waits(0) and stays.socket.recv(1, socket.MSG_PEEK) == b"")

    def test_half_a_body(self) -> None:
        """Half a request is no request."""
        client = self.half_close(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhello")
        self.assertEqual(client.rest(), b"")
