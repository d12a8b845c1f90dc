"""A project of classes, with a demultiplexer, a binding, an origin check, and a suite of its own for Channels 1.1."""

from __future__ import annotations

import json

from tests.ports import PortTestCase
from tests.process import TIMEOUT, Server


class ClassesTests(PortTestCase):
    """Served, and tested."""

    projects = ("port_classes",)

    def test_demultiplexer(self) -> None:
        """Two streams of one socket: a counter in the channel session, a binding with permissions."""
        for server in self.servers():
            cookie = {"Cookie": f"sessionid={server.get('/login/jane/').cookies['sessionid']}"}
            with server.connect("/stream/") as other:
                self.assertEqual(json.loads(other.recv(TIMEOUT))["payload"], {"status": "connected"})
                self.check_streams(server, cookie)
                titles = [json.loads(other.recv(TIMEOUT))["payload"]["data"]["title"] for _ in range(3)]
                self.assertEqual(titles, ["tea", "tea", "left"])  # the last one by the disconnect consumer
            self.check_guarded(server, cookie)
            self.assertNotIn("Traceback", server.output)

    def check_streams(self, server: Server, cookie: dict[str, str]) -> None:
        with server.connect("/stream/", additional_headers=cookie) as socket:

            def say(stream: str, **payload: object) -> None:
                socket.send(json.dumps({"stream": stream, "payload": payload}))

            def heard() -> object:
                return json.loads(socket.recv(TIMEOUT))["payload"]

            self.assertEqual(heard(), {"status": "connected"})
            for number in range(1, 31):
                say("count", add=number)
            self.assertEqual([heard() for _ in range(30)], [{"count": n * (n + 1) // 2} for n in range(1, 31)])
            say("votes", action="create", data={"title": "tea"})
            created = heard()
            assert isinstance(created, dict)
            self.assertEqual((created["action"], created["data"]), ("create", {"title": "tea", "number": 0}))
            say("votes", action="delete", pk=created["pk"])
            say("votes", action="update", pk=created["pk"], data={"number": 2})
            updated = heard()
            assert isinstance(updated, dict)
            self.assertEqual((updated["action"], updated["data"]["number"]), ("update", 2))

    def check_guarded(self, server: Server, cookie: dict[str, str]) -> None:
        origin = {"Origin": f"http://127.0.0.1:{server.port}", **cookie}
        with server.connect("/guarded/", additional_headers=origin) as socket:
            socket.send("bye")
            self.assertEqual(socket.recv(TIMEOUT), "jane: bye")

    def test_own_suite(self) -> None:
        """``manage.py test``, as its authors wrote it."""
        self.assertRegex(self.manage("test", stderr=True), r"Ran 8 tests[^$]*\nOK\n")
