"""A framework on top of bindings, written for Channels 1.0."""

from __future__ import annotations

import json
from typing import Any

from tests.ports import PortTestCase
from tests.process import TIMEOUT


class FrameworkTests(PortTestCase):
    """Its metaclass, receivers, actions and groups."""

    projects = ("port_framework",)

    def test_resource(self) -> None:
        """A client subscribes to actions, and makes changes; it hears of those of others."""
        for server in self.servers():
            with server.connect("/") as socket, server.connect("/") as other:

                def ask(where: Any, action: str, **payload: Any) -> Any:
                    frame = {"stream": "notes", "payload": {"action": action, "request_id": 7, **payload}}
                    where.send(json.dumps(frame))
                    return json.loads(where.recv(TIMEOUT))["payload"]

                for action in ("create", "update", "delete"):
                    self.assertEqual(ask(socket, "subscribe", data={"action": action})["response_status"], 200)
                pk = int(server.get("/add/tea/").text)
                server.get(f"/star/{pk}/")
                self.assertEqual(ask(other, "list")["data"], ["tea"])
                self.assertEqual(ask(other, "create", data={"name": "milk", "stars": 1})["response_status"], 201)
                server.get(f"/remove/{pk}/")
                found = [json.loads(socket.recv(TIMEOUT))["payload"] for _ in range(4)]
                self.assertEqual(
                    [(payload["action"], payload["data"]) for payload in found],
                    [
                        ("create", {"name": "tea", "stars": 0}),
                        ("update", {"name": "tea", "stars": 1}),
                        ("create", {"name": "milk", "stars": 1}),
                        ("delete", {"name": "tea", "stars": 1}),
                    ],
                )
                self.assertEqual({payload["model"] for payload in found}, {"app.note"})
                server.get(f"/remove/{found[2]['pk']}/")
            self.assertIn("resource app.bindings.NoteBinding", server.output)
            self.assertNotIn("Traceback", server.output)
