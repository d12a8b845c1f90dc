"""``/-/health``: whether the server is ready, told without a worker thread."""

from __future__ import annotations

import signal

from channelserver.server.http.base import IDLE_BYTES
from tests.process import Server, ServerTestCase, free_port, wait_until
from tests.raw import Raw, head

URLS = """
    import threading
    from django.http import HttpResponse
    from django.urls import path
    gate = threading.Event()
    urlpatterns = [
        path("", lambda request: HttpResponse("here")),
        path("wait", lambda request: HttpResponse(str(gate.wait(600)))),
        path("-/health", lambda request: HttpResponse("the project's own")),
    ]
"""


class HealthTests(ServerTestCase):
    """One server for each test."""

    files = {"urls.py": URLS}
    extra_settings = "CHANNEL_LAYERS['default']['CONFIG'] = {'channel_capacity': {'http.request': 3}}\n"

    def figures_of_two(self, server: Server) -> dict[str, object] | None:
        """Return the figures, once earlier connections have gone, and the thread that took the last one is idle."""
        figures = server.get("/-/health").json()
        return figures if (figures["connections"], figures["busy"]) == (2, 0) else None

    def test_ready(self) -> None:
        """200, with figures for who may see them; HEAD works; it is not in the access log."""
        server = self.start("--threads", "2", "--client-memory", "50000000")
        with Raw(server.port) as raw:
            answer = raw.request("/-/health")
            self.assertEqual((answer.status, answer.get("content-type")), (200, "application/json"))
            self.assertEqual(answer.get("cache-control"), "no-store")
        with server.connect("/"):
            figures = wait_until(lambda: self.figures_of_two(server))
        queues = dict.fromkeys(("http.request", "websocket.connect", "websocket.receive", "websocket.disconnect"), 0)
        self.assertEqual(figures.pop("client_memory"), {"used": 2 * IDLE_BYTES, "limit": 50_000_000, "largest": 0})
        self.assertEqual(
            figures,
            {
                "status": "ready", "connections": 2, "websockets": 1, "threads": 2, "busy": 0, "queues": queues,
                "oldest": 0.0, "held_back": 0, "refused": {}, "lost": {}, "streams": 0, "coroutines": 0,
                "loop_lag": 0.0,
            },
        )  # fmt: skip
        with Raw(server.port) as raw:
            answer = raw.send(head("HEAD /-/health HTTP/1.1")).answer("HEAD")
            self.assertEqual(answer.status, 200)
            self.assertGreater(int(answer.get("content-length") or 0), 20)
            answer = raw.request("/-/health", method="POST", body=b"x")
            self.assertEqual((answer.status, answer.get("allow")), (405, "GET, HEAD"))
            # Any host: those who check come by address.
            self.assertEqual(raw.send(head("GET /-/health HTTP/1.1", host="203.0.113.1:80")).answer().status, 200)
        self.assertNotIn("health", server.output)

    def test_busy_workers_do_not_matter(self) -> None:
        """All workers are on a job: there is an answer all the same; when the queue is full, it is another one."""
        server = self.start("--threads", "1")
        raws = []
        for number in range(4):
            raw = Raw(server.port).send(head("GET /wait HTTP/1.1"))
            self.addCleanup(raw.socket.close)
            raws.append(raw)
            if number == 0:
                wait_until(lambda: server.get("/-/health").json()["busy"] == 1)
            elif number < 3:
                wait_until(lambda n=number: server.get("/-/health").json()["queues"]["http.request"] == n)
                self.assertEqual(server.get("/-/health").status_code, 200)
        wait_until(lambda: server.get("/-/health").status_code == 503)
        self.assertEqual(server.get("/-/health").json()["status"], "overloaded")
        self.assertEqual(server.get("/").status_code, 503)

    def test_draining(self) -> None:
        """While the server stops, it says so to those who still get through."""
        server = self.start()
        with Raw(server.port) as busy, Raw(server.port) as raw:
            busy.send(head("GET /wait HTTP/1.1"))
            raw.send(b"GET /-/health HTTP/1.1\r\n")
            wait_until(lambda: server.get("/-/health").json()["connections"] == 3)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("connections are open")
            answer = raw.send(b"Host: localhost\r\n\r\n").answer()
            self.assertEqual(answer.status, 503)
            self.assertIn(b'{"status": "draining"', answer.body)
            self.assertTrue(raw.is_closed())

    def status_only(self, server: Server, **fields: str) -> bool:
        """Whether a client gets the status alone."""
        answer = server.get("/-/health", headers=fields).json()
        self.assertEqual(answer["status"], "ready")
        return bool(answer.keys() == {"status"})

    def test_figures_are_not_for_everyone(self) -> None:
        """They are for the networks of ``--health-figures``, and for nobody beyond a proxy that is not in them."""
        trusted = ("--trust-proxy", "127.0.0.1", "--health-figures", "10.0.0.0/8")  # beside this machine
        server = self.start(*trusted)
        for fields, status_only in (
            ({}, False),
            ({"X-Forwarded-For": "203.0.113.7"}, True),
            ({"X-Forwarded-For": "10.0.0.1"}, False),
            ({"Forwarded": "for=unknown"}, True),
        ):
            self.assertEqual(self.status_only(server, **fields), status_only, fields)
        path = str(self.folder / "http.sock")
        server = self.start("--unix-socket", path, "--local-socket", "", "--health-figures", "unix")
        self.assertTrue(self.status_only(server, **{"X-Forwarded-For": "127.0.0.1"}), "a proxy that is not trusted")
        with Raw(path) as raw:
            self.assertIn(b"connections", raw.request("/-/health").body)
            self.assertEqual(raw.request("/-/health", "X-Forwarded-For: 127.0.0.1").body, b'{"status": "ready"}\n')

    def test_figures_are_for_nobody_by_default(self) -> None:
        """A proxy on this machine that does not name its clients makes everybody local: without the option there are no
        figures, over TCP and over a Unix socket.
        """
        path, port = str(self.folder / "http.sock"), free_port()
        command = self.twistd("--settings", "settings", "--port", str(port), "--unix-socket", path)
        server = self.run_process(command).wait_until_up()
        self.assertTrue(self.status_only(server))
        self.assertTrue(self.status_only(server, Host=f"127.0.0.1:{port}"))
        with Raw(path) as raw:
            self.assertEqual(raw.request("/-/health").body, b'{"status": "ready"}\n')

    def test_another_path_or_none(self) -> None:
        """The path is an option; empty, it is Django's."""
        server = self.start("--health-path", "/up")
        self.assertEqual(server.get("/up").json()["status"], "ready")
        self.assertEqual(server.get("/-/health").text, "the project's own")
        server = self.start("--health-path", "", "--local-socket", "")
        self.assertEqual(server.get("/-/health").text, "the project's own")
