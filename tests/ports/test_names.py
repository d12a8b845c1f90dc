"""A project that stores reply channel names in a column of 37 characters, on PostgreSQL, which refuses longer ones."""

from __future__ import annotations

from tests.ports import PortTestCase
from tests.ports.postgresql import PostgreSQL, missing
from tests.process import TIMEOUT, wait_until


class NamesTests(PortTestCase):
    """Reply channels in a table."""

    projects = ("port_names",)
    skip = missing() or None

    def setUp(self) -> None:
        """Start PostgreSQL."""
        database = PostgreSQL()
        self.addCleanup(database.remove)
        self.extra_settings = f"""
            DATABASES["default"] = {{
                "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "test",
                "HOST": {str(database.folder)!r},
            }}
        """
        super().setUp()

    def test_names(self) -> None:
        """Each terminal in a place hears what one there says; a closed one leaves the table."""
        for server in self.servers():
            with server.connect("/kitchen/") as first, server.connect("/kitchen/") as second:
                with server.connect("/garden/") as third:
                    first.send("tea")
                    third.send("rain")
                    found = [socket.recv(TIMEOUT) for socket in (first, second, third)]
                    self.assertEqual(found, ["tea", "tea", "rain"])
                    self.assertEqual(server.get("/count/").text, "3")
            wait_until(lambda: server.get("/count/").text == "0", "no terminal in the table")  # noqa: B023
            self.assertNotIn("Traceback", server.output)
