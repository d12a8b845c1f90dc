"""A project whose consumers query the database while they are imported."""

from __future__ import annotations

from tests.ports import PortTestCase


class EmptyDatabaseTests(PortTestCase):
    """Its commands work on an empty database."""

    projects = ("port_forward",)
    migrate = False

    def setUp(self) -> None:
        """Let a module of the routing query at its import."""
        super().setUp()
        path = self.folder / "app" / "consumers.py"
        path.write_text(path.read_text() + "\n\nROOMS = list(Room.objects.all())\n")
        self.line = len(path.read_text().splitlines())

    def test_commands(self) -> None:
        """``makemigrations`` and ``migrate`` warn, with the place; afterwards all is well."""
        for command in (("makemigrations", "--check", "--dry-run"), ("check",), ("migrate",)):
            output = " ".join(self.manage(*command, stderr=True).split())
            self.assertIn("channelserver.W003", output)
            self.assertIn("no such table: app_room", output)
            self.assertIn(f"app/consumers.py, line {self.line} does so", output)
        self.assertIn("no issues", self.manage("check", stderr=True))
        self.assertIn("Ran 0 tests", self.manage("test", stderr=True))
        for server in self.servers():
            with server.connect("/chat/stream/") as socket:
                socket.send("{}")

    def test_other_errors(self) -> None:
        """Another error in a module is an error of the check, which names the place, not the routing's name."""
        path = self.folder / "app" / "consumers.py"
        path.write_text("import nowhere\n")
        with self.assertRaises(AssertionError) as caught:
            self.manage("check")
        text = " ".join(str(caught.exception).split())
        self.assertIn("channelserver.E003", text)
        self.assertIn("No module named 'nowhere'). Correct what", text)
        self.assertIn("app/consumers.py, line 1 does", text)
