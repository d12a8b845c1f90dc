"""The walk-through "A chat in five minutes", as its page prints it: from an empty folder to two browsers that talk."""

from __future__ import annotations

import shlex
import subprocess
import sys

import requests
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.docs import ROOT, blocks
from tests.process import TIMEOUT, ServerTestCase, free_port


class FirstChatTests(ServerTestCase):
    """Every command is run, and every file written; the last command is the server."""

    def test_as_printed(self) -> None:
        """The page is there, and what one socket says reaches both."""
        self.folder /= "empty"
        self.folder.mkdir()
        commands: list[list[str]] = []
        for block in blocks(ROOT / "docs" / "first-chat.rst"):
            name, how = block.file
            if name:
                path = self.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(path.read_text() + "\n" + block.text if how else block.text)
            else:
                commands += map(shlex.split, block.text.splitlines())
                for words in commands[-block.text.count("\n") :]:
                    self.carry_out(words)
        self.assertEqual(commands[-1], ["channelserver", "serve"])
        server = self.run_process(self.command("serve", "--port", str(free_port()))).wait_until_up()
        page = requests.get(server.url("/"), timeout=TIMEOUT)
        self.assertIn("<h1>Chat</h1>", page.text)
        url = server.url("/chat/").replace("http", "ws", 1)
        with connect(url, origin=Origin(server.url(""))) as one, connect(url) as other:
            one.send("Is anyone here?")
            self.assertEqual([one.recv(TIMEOUT), other.recv(TIMEOUT)], ["Is anyone here?"] * 2)
        self.assertEqual(server.stop(), 0)

    def carry_out(self, words: list[str]) -> None:
        """Run a command line, but for that of the server."""
        if words[0] == "cd":
            self.folder /= words[1]
        elif words[0] != "channelserver":
            program = [sys.executable, *(["-m", "django"] if words[0] == "django-admin" else [])]
            command = [*program, *words[1:]]
            subprocess.run(command, cwd=self.folder, env=self.environment, check=True, capture_output=True, timeout=60)
