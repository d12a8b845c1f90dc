"""Other processes of the machine send through the running server (rule 16, part 7)."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from unittest import mock

from channelserver import test_runner
from tests import preloaded
from tests.process import TIMEOUT, ServerTestCase, project, wait_until


class LocalSocketTests(ServerTestCase):
    """A management command beside a running server."""

    files = project("local_socket")
    extra_settings = "INSTALLED_APPS.append('app')\n"

    def test_rule_16_another_process_sends(self) -> None:
        """Channel.send, Group.send, add and discard in a management command reach consumers and sockets."""
        server = self.start()
        with server.connect("/") as socket:
            self.manage("send_all")
            received = [socket.recv(TIMEOUT) for _ in range(3)]
        self.assertEqual(received, ["to all", "to more", b"\x00\xff"])
        work = self.folder / "work.txt"
        wait_until(lambda: work.exists() and work.read_text() == "from a command\n")

    def test_no_server(self) -> None:
        """Without a server there is a clear error that names the socket and the cure."""
        with self.assertRaises(AssertionError) as caught:
            self.manage("send_all")
        text = str(caught.exception)
        self.assertIn("NoServerError", text)
        self.assertIn("channelserver.sock", text)
        self.assertIn("channelserver serve", text)

    def test_runners(self) -> None:
        """A process that has imported a test runner sends; one in which it runs has a layer of its own, and says so."""
        self.start()
        loads = "import sys, types, twisted.trial.unittest; sys.modules['_pytest'] = types.ModuleType('_pytest')\n"
        send = "from channelserver import Channel; Channel('work').send({'text': 'sent'})\n"
        self.manage("shell", "-v", "0", "-c", loads + send)
        work = self.folder / "work.txt"
        wait_until(lambda: work.exists() and work.read_text() == "sent\n")
        (self.folder / "check_runners.py").write_text(
            "import logging, unittest\n"
            "import django\n"
            "logging.basicConfig(level='INFO')\n"
            "django.setup()\n"
            "class SendTests(unittest.TestCase):\n"
            f"    def test_send(self):\n        {send.replace('; ', chr(10) + '        ').replace('sent', 'private')}"
        )
        environment = {**self.environment, "DJANGO_SETTINGS_MODULE": "settings"}
        for runner in ("unittest", "twisted.trial"):
            done = subprocess.run(
                [sys.executable, "-m", runner, "check_runners"], cwd=self.folder, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT * 2,
            )  # fmt: skip
            self.assertEqual(done.returncode, 0, done.stdout)
            name = runner.rpartition(".")[2]
            self.assertIn(f"{name} runs in this process: layer 'default' is private", done.stdout)
        self.manage("shell", "-v", "0", "-c", send.replace("sent", "last"))
        wait_until(lambda: work.read_text().endswith("last\n"))
        self.assertNotIn("private", work.read_text())

    def test_pytest(self) -> None:
        """pytest counts while it runs in this very process: its children inherit what it sets in the environment."""
        for loaded, environment, wanted in (
            ({"_pytest": self}, {"PYTEST_VERSION": "9"}, "pytest"),
            ({"_pytest": self}, {"PYTEST_CURRENT_TEST": "a (call)"}, "pytest"),
            ({"_pytest": self}, {}, ""),
            ({}, {"PYTEST_VERSION": "9"}, ""),
        ):
            main = {"__main__": sys.modules[__name__]}
            with (
                mock.patch.dict(sys.modules, {**loaded, **main}),
                mock.patch.dict(os.environ, environment),
                mock.patch.object(test_runner, "mail", object()),  # other tests may have set Django's up
            ):
                for name in ("channelserver.test", *([] if loaded else ["_pytest"])):
                    sys.modules.pop(name, None)
                self.assertEqual(test_runner.started(), wanted)

    def test_only_the_owner(self) -> None:
        """The socket's file is for its owner alone, and gone after the end."""
        server = self.start()
        path = self.folder / "channelserver.sock"
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.assertEqual(server.stop(), 0)
        self.assertFalse(path.exists())

    def test_second_server_is_refused(self) -> None:
        """A second server of the same project says so; with a local socket of its own, or none, it starts."""
        self.start()
        second = self.run_process(self.twistd("--settings", "settings", "--port", "0"))
        self.assertEqual(second.wait(), 1)
        self.assertIn("another server of this project is running", second.output)
        self.assertNotIn("Traceback", second.output)
        self.start("--local-socket", str(self.folder / "other.sock"))
        self.start("--local-socket", "")

    def test_stale_socket_is_replaced(self) -> None:
        """A server killed without a chance to tidy up does not stand in its successor's way."""
        self.start().kill()
        path = self.folder / "channelserver.sock"
        self.assertTrue(path.exists())
        server = self.start()
        with server.connect("/") as socket:
            self.manage("send_all")
            self.assertEqual(socket.recv(TIMEOUT), "to all")

    def test_invalid_sends_are_refused_here(self) -> None:
        """What the layer refuses is refused in the sending process, with the documented exceptions."""
        self.start()
        script = (
            "from channelserver import Channel, Group\n"
            "for call in (lambda: Channel('a b'), lambda: Channel('a').send({'x': object()}),"
            " lambda: Channel('full').send({}) or Channel('full').send({})):\n"
            "    try: call()\n"
            "    except Exception as error: print(type(error).__name__)\n"
        )
        self.assertEqual(
            self.manage("shell", "-v", "0", "-c", script).split(), ["TypeError", "TypeError", "ChannelFull"]
        )

    def setUp(self) -> None:
        """Channels whose name begins with ``full`` hold one message."""
        super().setUp()
        with open(self.folder / "settings.py", "a") as stream:
            stream.write("CHANNEL_LAYERS['default']['CONFIG'] = {'channel_capacity': {'full*': 1}}\n")


class SendCommandTests(ServerTestCase):
    """``manage.py send``."""

    files = project("local_socket")
    extra_settings = "CHANNEL_LAYERS['default']['CONFIG'] = {'channel_capacity': {'full': 1}}\n"

    def send(self, *arguments: str, stdin: str = "") -> tuple[int, str]:
        """Run the command; return its exit code and what it prints."""
        command = [sys.executable, "manage.py", "send", *arguments]
        if not stdin:
            done = preloaded.run(command, self.folder, self.environment, TIMEOUT * 2)
            return done.returncode, done.stdout + done.stderr
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, input=stdin, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT * 2,
        )  # fmt: skip
        return done.returncode, done.stdout

    def test_send(self) -> None:
        """A message goes to a channel, or to a group, from the command line or from stdin."""
        server = self.start()
        with server.connect("/") as websocket:
            self.assertEqual(self.send("--group", "all", '{"text": "to all"}'), (0, ""))
            self.assertEqual(websocket.recv(TIMEOUT), "to all")
            self.assertEqual(self.send("all", "-", "--group", stdin='{"text": "snow \u2603"}'), (0, ""))
            self.assertEqual(websocket.recv(TIMEOUT), "snow \u2603")
        self.assertEqual(self.send("work", '{"text": "work"}', "-v", "2"), (0, "sent to channel 'work'\n"))
        work = self.folder / "work.txt"
        wait_until(lambda: work.exists() and work.read_text() == "work\n")
        self.assertEqual(self.send("full", "{}"), (0, ""))
        code, output = self.send("full", "{}")
        self.assertEqual(code, 3)
        self.assertIn("channel 'full' is full", output)

    def test_wrong(self) -> None:
        """What makes no sense is refused in one sentence, with exit code 2; without a server, with 1."""
        for arguments, words in (
            (("work", "hello"), "the message is not JSON"),
            (("work", "[1]"), "must be a JSON object"),
            (("wo rk", "{}"), "invalid channel name 'wo rk'"),
            (("--group", "a!b", "{}"), "invalid group name 'a!b'"),
            (("work", '{"number": 99999999999999999999}'), "does not fit into 64 bits"),
            (("work", "{}", "--layer", "other"), "--layer 'other' is not in CHANNEL_LAYERS; there is default"),
            (("work",), "required: JSON"),
        ):
            code, output = self.send(*arguments)
            self.assertEqual(code, 2, output)
            self.assertIn(words, output)
            self.assertNotIn("Traceback", output)
        code, output = self.send("work", "{}")
        self.assertEqual(code, 1, output)
        self.assertIn("no server of this project answers on", output)
        self.assertNotIn("Traceback", output)


class SecondLayerTests(ServerTestCase):
    """A layer in memory that no process serves."""

    files = {
        "urls.py": """
            from django.http import HttpResponse
            from django.urls import path

            from channelserver import Channel, Group

            def send(request):
                Channel("work", "second").send({})
                Group("all", "second").add("a!b")
                return HttpResponse("sent")

            urlpatterns = [path("", send)]
        """,
    }
    extra_settings = "CHANNEL_LAYERS['second'] = {**CHANNEL_LAYERS['default'], 'ROUTING': []}\n"

    def test_warning(self) -> None:
        """Its first use logs one warning, in whichever process."""
        for arguments in ((), ("--processes", "2")):
            server = self.start(*arguments)
            for _ in range(8):
                self.assertEqual(server.get("/").text, "sent")
            server.wait_for("nobody serves channel layer 'second'")
            self.assertLessEqual(server.output.count("nobody serves"), len(arguments) or 1)
            self.assertEqual(server.stop(), 0)
