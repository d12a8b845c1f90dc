"""A project for Channels 0.9: a dict for its routing, no acceptance, frames sent back as they are, an ``asgi.py``."""

from __future__ import annotations

import json

from tests.ports import PortTestCase
from tests.process import TIMEOUT, Server


class Style09Tests(PortTestCase):
    """Nothing in it was changed, but that a path is text now."""

    projects = ("port_09",)

    def check(self, server: Server) -> None:
        with server.connect("/tea/") as first, server.connect("/tea/") as second, server.connect("/milk/") as third:
            first.send("echo")
            self.assertEqual(first.recv(TIMEOUT), "echo")
            for number in range(20):
                first.send(str(number))
            third.send("alone")
            for socket in (first, second):
                found = {json.loads(socket.recv(TIMEOUT))["said"] for _ in range(20)}
                self.assertEqual(found, set(map(str, range(20))))
            self.assertEqual(json.loads(third.recv(TIMEOUT)), {"said": "alone"})
        self.assertEqual(server.get("/page/").text, "You asked for /page/")
        self.assertNotIn("Traceback", server.output)

    def test_chat(self) -> None:
        """Rooms by path, a channel of its own in between, a consumer for requests."""
        for server in self.servers():
            self.check(server)

    def test_asgi_module(self) -> None:
        """``asgi.py`` imports ``channels`` before the settings: ``--app`` imports these first, if they are named."""
        self.check(self.start("--app", "asgi:channel_layer"))

    def test_asgi_module_without_settings(self) -> None:
        """If they are not named, the error says what to do; the line it names is enough."""
        command = self.twistd("--app", "asgi:channel_layer", "--port", "0", "--log-format", "text")
        failed = self.run_process(command)
        self.assertNotEqual(failed.wait(), 0)
        self.assertIn("make import channelserver.compat the first line of asgi, or give --settings", failed.output)
        path = self.folder / "asgi.py"
        path.write_text("import channelserver.compat\n" + path.read_text())
        self.check(self.run_process(command).wait_until_up())

    def test_scripts(self) -> None:
        """A script beside the server sends, and makes a layer of the same kind."""
        server = self.start()
        self.write(
            {
                "script.py": """
                    import channelserver.compat
                    import os

                    from channels import Group, channel_layers

                    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
                    import django
                    from django.conf import settings

                    django.setup()
                    layer = channel_layers["default"].channel_layer
                    again = type(layer)(**settings.CHANNEL_LAYERS["default"].get("CONFIG", {}))
                    again.send_group("chat-tea", {"text": "from a script"})
                """
            }
        )
        import sys

        with server.connect("/tea/") as socket:
            socket.send("echo")
            socket.recv(TIMEOUT)
            self.assertEqual(self.run_process([sys.executable, "script.py"]).wait(), 0)
            self.assertEqual(socket.recv(TIMEOUT), "from a script")
