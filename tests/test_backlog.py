"""Clients that come all at once, as they do after a restart."""

from __future__ import annotations

import select
import signal
import socket
import time

from tests.process import TIMEOUT, ServerTestCase


class BacklogTests(ServerTestCase):
    """Connections before the server has looked at them."""

    def test_many_at_once(self) -> None:
        """The kernel takes hundreds of connections while the server does something else, and each is answered."""
        server = self.start()
        server.process.send_signal(signal.SIGSTOP)
        self.addCleanup(server.process.send_signal, signal.SIGCONT)
        clients = [socket.socket() for _ in range(400)]
        waiting = select.poll()
        for client in clients:
            self.addCleanup(client.close)
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", server.port))
            waiting.register(client, select.POLLOUT)
        ends = time.monotonic() + TIMEOUT
        connected: set[int] = set()
        while len(connected) < len(clients) and time.monotonic() < ends:
            for number, _ in waiting.poll(1000):
                connected.add(number)
                waiting.unregister(number)
        self.assertEqual(len(connected), len(clients))
        server.process.send_signal(signal.SIGCONT)
        for client in clients:
            client.settimeout(TIMEOUT)
            client.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        for client in clients:
            self.assertTrue(client.recv(1000).startswith(b"HTTP/1.1 404 "))
