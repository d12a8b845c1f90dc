"""The project in ``tests/legacy_project``, written for Channels 1: its own tests pass, and it runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.process import TIMEOUT, ServerTestCase

PROJECT = Path(__file__).parent / "legacy_project"


class LegacyProjectTests(ServerTestCase):
    """A copy of the project, as running it leaves files."""

    timeout = 400

    def setUp(self) -> None:
        super().setUp()
        (self.folder / "settings.py").unlink()
        shutil.copytree(PROJECT, self.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))

    def run_its_tests(self, database: str) -> None:
        """Run ``manage.py test``, with its database in memory or in a file; every test of the project must be run."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "manage.py", "test", "--noinput"],
            cwd=self.folder, env={**self.environment, "LEGACY_TEST_DATABASE": database}, capture_output=True,
            text=True, timeout=300,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        written = sum(
            len(re.findall(r"^    def test_", file.read_text(), re.MULTILINE)) for file in PROJECT.rglob("test_*.py")
        )
        ran = re.search(r"^Ran (\d+) tests in .*\n\nOK$", done.stderr, re.MULTILINE)
        self.assertEqual(ran and int(ran[1]), written, done.stderr)
        self.assertGreaterEqual(written, 16)

    def test_its_tests_pass_with_a_database_in_memory(self) -> None:
        self.run_its_tests("")

    def test_its_tests_pass_with_a_database_in_a_file(self) -> None:
        self.run_its_tests(str(self.folder / "test.sqlite3"))

    def test_the_settings_have_one_line_more(self) -> None:
        lines = [
            line
            for file in PROJECT.rglob("*.py")
            for line in file.read_text().splitlines()
            if re.search(r"\bchannelserver\b", line) and not line.startswith('"""')
        ]
        self.assertEqual(lines, ["import channelserver.compat  # noqa: F401"])

    def test_runserver(self) -> None:
        self.manage("migrate", "--verbosity", "0")
        server = self.runserver()
        self.assertEqual(server.get("/ping/").text, "pong")
        self.assertIn("new WebSocket", server.get("/static/board/board.js").text)
        with server.connect("/board/lobby/") as socket:
            self.assertEqual(json.loads(socket.recv(TIMEOUT)), {"notes": [], "you": ""})
            socket.send('{"text": "hello"}')
            self.assertEqual(json.loads(socket.recv(TIMEOUT)), {"note": "hello", "author": "", "number": 1})
        self.assertEqual(server.get("/notes/").text, "hello")

    def test_twistd(self) -> None:
        self.manage("migrate", "--verbosity", "0")
        server = self.run_process(
            self.twistd("--settings", "legacy.settings", "--port", "0", "--log-format", "text")
        ).wait_until_up()
        with server.connect("/streams/") as socket:
            self.assertEqual(json.loads(socket.recv(TIMEOUT)), {"stream": "count", "payload": {"count": 0}})
            socket.send('{"stream": "shout", "payload": {"text": "hey"}}')
            self.assertEqual(json.loads(socket.recv(TIMEOUT)), {"stream": "shout", "payload": {"text": "HEY"}})
