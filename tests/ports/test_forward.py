"""A chat whose receive consumer sends each frame on, with its reply channel, to a channel routed by command."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import Any

from tests.ports import PortTestCase
from tests.process import TIMEOUT, Server


class ForwardTests(PortTestCase):
    """Order and sessions on the project's own channel."""

    projects = ("port_forward",)

    @contextmanager
    def chat(self, server: Server, name: str) -> Any:
        """Open a socket as a user; ``say`` sends a command, ``heard`` returns the next message."""
        cookie = server.get(f"/login/{name}/").cookies["sessionid"]
        with server.connect("/chat/stream/", additional_headers={"Cookie": f"sessionid={cookie}"}) as socket:
            yield (
                lambda command, **payload: socket.send(json.dumps({"command": command, **payload})),
                lambda: json.loads(socket.recv(TIMEOUT)),
            )

    def test_chat(self) -> None:
        """Whatever two joins at once do, no room is lost, and lines arrive as they were typed."""
        for server in self.servers():
            with self.chat(server, "jane") as (say, heard), self.chat(server, "tom") as (say_too, heard_too):
                for _ in range(20):
                    for room in range(1, 6):
                        say("join", room=room)
                    say("rooms")
                    self.assertEqual([heard().get("join") for _ in range(5)], [1, 2, 3, 4, 5])
                    self.assertEqual(heard(), {"rooms": [1, 2, 3, 4, 5]})
                    for room in range(1, 6):
                        say("leave", room=room)
                    say("rooms")
                    self.assertEqual([heard().get("leave") for _ in range(5)], [1, 2, 3, 4, 5])
                    self.assertEqual(heard(), {"rooms": []})
                for one, its in ((say, heard), (say_too, heard_too)):
                    one("join", room=1)
                    self.assertEqual(its(), {"join": 1, "title": "Room 1"})
                for number in range(50):
                    say("send", room=1, message=f"line {number}")
                lines = [f"line {number}" for number in range(50)]
                for its in (heard, heard_too):
                    found = [its() for _ in lines]
                    self.assertEqual([line["message"] for line in found], lines)
                    self.assertEqual({line["username"] for line in found}, {"jane"})
                say_too("join", room=6)
                self.assertEqual(heard_too(), {"error": "NO_ACCESS"})
            with server.connect("/chat/stream/") as socket:
                socket.send(json.dumps({"command": "join", "room": 1}))
                self.assertEqual(json.loads(socket.recv(TIMEOUT)), {"error": "NO_ACCESS"})
            self.assertNotIn("Traceback", server.output)
