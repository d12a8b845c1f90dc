"""Projects for Channels 1, in the shapes that were found in public code, on a real server with a real client.

Each is run under ``twistd channelserver`` and under ``manage.py runserver``. Their files are in ``tests/projects``, in
folders that begin with ``port_``; all that was added to them is the first line of their settings.
"""

from __future__ import annotations

from typing import Any

from tests.process import Server, ServerTestCase, project


class PortTestCase(ServerTestCase):
    """A project with Django's usual settings of that time."""

    migrate = True
    #: Folders of ``tests/projects``.
    projects: tuple[str, ...] = ()

    def setUp(self) -> None:
        """Write the project."""
        self.files = {**project("port_base", *self.projects), **self.files}
        super().setUp()

    def servers(self) -> Any:
        """Yield the server, started in both ways, one after the other."""
        for begin in (self.start, self.runserver):
            server: Server = begin()
            yield server
            self.assertEqual(server.stop(), 0)
