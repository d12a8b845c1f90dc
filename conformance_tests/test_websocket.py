"""All cases of the Autobahn test suite."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

from tests.process import ROOT, ServerTestCase

ECHO = """
    def receive(message):
        kind = "text" if message.content.get("text") is not None else "bytes"
        message.reply_channel.send({kind: message.content[kind]})

    channel_routing = {"websocket.receive": receive}
"""

#: Some messages have 16 MiB, and some cases have many of them under way.
SIZES = ("--max-message-bytes", str(64 << 20), "--send-buffer-bytes", str(64 << 20))

#: How a case may end. The second: the protocol leaves open what should happen.
WELL = {("OK", "OK"), ("INFORMATIONAL", "INFORMATIONAL")}
#: Cases which may also end with "not strict", which is allowed: after a message comes a broken frame at once, and the
#: connection fails before a consumer could answer the message.
NOT_STRICT = {"3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"}


class AutobahnSuite(ServerTestCase):
    """A server that sends back what it gets."""

    files = {"routing.py": ECHO}
    #: Seconds for all cases of a test.
    timeout = 1800

    def run_cases(self, number: int, cases: list[str], *options: str) -> None:
        """Run some cases; fail unless there are so many, and each ends well.

        :param cases: arguments for kosoku.
        :param options: arguments for the server.
        """
        server = self.start("--access-log", "", *SIZES, *options)
        folder = self.folder / "reports"
        command = [sys.executable, "-m", "conformance_tests.drive", "-p", "4", *cases, "-o", str(folder)]
        done = subprocess.run(
            [*command, f"127.0.0.1:{server.port}"], cwd=ROOT, capture_output=True, text=True, timeout=self.timeout - 60
        )
        print(done.stdout, done.stderr)
        self.assertEqual(done.returncode, 0)
        (results,) = json.loads((folder / "index.json").read_text()).values()
        ends = {name: (result["behavior"], result["behaviorClose"]) for name, result in results.items()}
        print(Counter(ends.values()))
        badly = {
            name: end
            for name, end in ends.items()
            if end not in WELL and not (name in NOT_STRICT and end == ("NON-STRICT", "OK"))
        }
        self.assertEqual(badly, {})
        self.assertEqual(len(ends), number)
        self.assertEqual(server.stop(), 0)

    def test_the_protocol(self) -> None:
        """Sections 1 to 11: frames, fragments, UTF-8, close codes, limits."""
        self.run_cases(301, ["-x", "12.*", "-x", "13.*"])

    def test_compression(self) -> None:
        """Sections 12 and 13: messages of all sizes, with all offers; see :mod:`conformance_tests.drive`."""
        self.run_cases(216, ["-i", "12.*", "-i", "13.*"], "--compression")
