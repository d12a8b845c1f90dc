"""The command ``channelserver``, and what ``twistd channelserver`` makes of twistd's own part."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from channelserver import __version__
from channelserver.start.parser import WRONG
from tests import preloaded
from tests.process import TIMEOUT, Server, ServerTestCase, environment, free_port, wait_until

URLS = """
    import os
    from django.http import HttpResponse
    from django.urls import path
    urlpatterns = [path("", lambda request: HttpResponse(str(os.getpid())))]
"""

ROUTING = """
    from channelserver import Group

    def connect(message):
        Group("chat").add(message.reply_channel)

    channel_routing = {"websocket.connect": connect}
"""


class CommandTestCase(ServerTestCase):
    """A project whose ``manage.py`` names its settings."""

    files = {"urls.py": URLS, "routing.py": ROUTING, "settings_of/wsgi.py": "application = None.__class__\n"}

    def done(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """Run the command to its end; return its exit code, and what it has printed."""
        server = self.run_process(self.command(*arguments), **variables)
        return server.wait(), server.output

    def serve(self, *arguments: str, **variables: str) -> Server:
        """Start ``channelserver serve`` on a free port, and wait until it listens."""
        usual = ("--port", "0", "--log-format", "text")
        return self.run_process(self.command("serve", *usual, *arguments), **variables).wait_until_up()


class CommandTests(CommandTestCase):
    """``channelserver COMMAND``."""

    def test_serve(self) -> None:
        """In the foreground, with the settings of ``manage.py``; no file but the local socket appears, and it goes."""
        before = set(os.listdir(self.folder))
        server = self.serve()
        self.assertEqual(int(server.get().text), server.process.pid)
        self.assertEqual(set(os.listdir(self.folder)) - before, {"channelserver.sock"})
        self.assertEqual(server.stop(), 0)
        self.assertEqual(set(os.listdir(self.folder)) - before, set())

    def test_signals(self) -> None:
        """Ctrl-C stops it gracefully, too."""
        server = self.serve()
        with server.connect("/") as socket:
            server.process.send_signal(signal.SIGINT)
            wait_until(lambda: socket.protocol.close_code, "the close frame")
            self.assertEqual(socket.protocol.close_code, 1012)
        self.assertEqual(server.wait(), 0)

    def test_what_the_project_prints(self) -> None:
        """It stays as printed."""
        self.write({"urls.py": URLS + "    print('printed by the project')\n"})
        server = self.serve()
        server.get()
        self.assertEqual(server.stop(), 0)
        self.assertIn("printed by the project", server.lines)

    def test_several_processes(self) -> None:
        """``--processes`` works as it does under twistd, and a Unix socket, too."""
        server = self.serve("--processes", "2", "--unix-socket", "site.sock")
        wait_until(lambda: len({server.get().text for _ in range(5)}) == 2, "answers of both")
        self.assertEqual(server.stop(), 0)
        self.assertFalse((self.folder / "site.sock").exists())

    def test_send_and_work(self) -> None:
        """Beside the server, in a project that does not have them as management commands."""
        settings = (self.folder / "settings.py").read_text().replace('    "channelserver",\n', "")
        self.write({"settings.py": settings})
        self.assertNotIn('"channelserver",', settings)
        server = self.serve("--threads", "0", "--health-figures", "127.0.0.1")
        server.wait_for(r" WARNING .*no worker threads \(--threads 0\).*: start channelserver work, or leave")
        worker = self.run_process(self.command("work", "--threads", "2"))
        with server.connect("/") as socket:
            code, output = self.done("send", "--group", "chat", '{"text": "hello"}', "-v", "2")
            self.assertEqual((code, output), (0, "sent to group 'chat'"))
            self.assertEqual(socket.recv(TIMEOUT), "hello")
        self.assertEqual(worker.stop(), 0, worker.output)
        self.assertEqual(server.stop(), 0)
        code, output = self.done("send", "-s", "settings", "x", "{}")
        self.assertEqual(code, 1)
        self.assertIn("no server of this project answers", output)
        self.assertEqual(self.done("send", "x", "{")[0], 2)
        self.assertEqual(self.done("send", "x")[0], 2)

    def test_version_and_help(self) -> None:
        """``version``, ``--version`` and the helps of all commands, anywhere."""
        for argument in ("version", "--version", "-V"):
            code, output = self.done(argument)
            self.assertEqual(code, 0)
            self.assertIn(f"channelserver {__version__} (Django ", output)
        code, overview = self.done()
        self.assertEqual(code, 0)
        self.assertEqual(overview, self.done("--help")[1])
        for name in ("serve", "demo", "check", "send", "work"):
            self.assertRegex(overview, rf"(?m)^  {name} ")
            for arguments in ((name, "--help"), (name, "-h"), ("help", name)):
                code, output = self.done(*arguments)
                self.assertEqual(code, 0, output)
                self.assertIn(f"channelserver {name}", output)

    def test_hints(self) -> None:
        """A hint that is a question ends with its mark, and the next sentence begins behind it."""
        for arguments, hint in (
            (("serv",), "did you mean serve? See channelserver --help"),
            (("serve", "--prot", "5"), "did you mean --port? See channelserver serve --help"),
            (("serve", "8000"), "did you mean --port 8000? See channelserver serve --help"),
            (("nonsense",), "help; see channelserver --help"),
        ):
            code, output = self.done(*arguments)
            self.assertEqual(code, 2, output)
            self.assertTrue(output.endswith(hint), output)

    def test_as_a_module(self) -> None:
        """``python -m channelserver`` is the same."""
        done = subprocess.run(
            [sys.executable, "-m", "channelserver", "version"],
            cwd=self.folder, env=environment(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.assertIn(__version__, done.stdout)

    def test_closed_output(self) -> None:
        """A command whose standard output is closed ends as ever."""
        done = subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "channelserver", "version"],
            cwd=self.folder, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stderr), (0, ""))


class SettingsTests(CommandTestCase):
    """Where the settings are."""

    def test_manage_py(self) -> None:
        """An assignment counts as well; the environment and ``--settings`` come first; other folders are named."""
        self.write({"other.py": "from settings import *\nCHANNELSERVER = {'layer': 'nosuch'}\n"})
        self.assertEqual(self.done("check", "--no-static")[1].count("nosuch"), 0)
        self.write({"manage.py": "import os\nos.environ['DJANGO_SETTINGS_MODULE'] = 'other'\n"})
        for arguments, variables in (((), {}), (("--settings", "other"), {"DJANGO_SETTINGS_MODULE": "settings"})):
            self.assertIn("'nosuch'", self.done("check", *arguments, **variables)[1])
        self.assertNotIn("'nosuch'", self.done("check", DJANGO_SETTINGS_MODULE="settings")[1])
        self.assertNotIn("'nosuch'", self.done("check", "--settings", "settings")[1])

    def test_nothing_names_them(self) -> None:
        """The sentence says where ``manage.py`` is, if it is near."""
        self.write({"manage.py": "import os, settings\n"})
        code, output = self.done("serve")
        self.assertEqual(code, 1)
        self.assertRegex(output, r"manage\.py names none; use --settings")
        (self.folder / "manage.py").unlink()
        self.assertRegex(self.done("serve")[1], r"there is no manage\.py in \S+ that names one; use --settings")
        self.write({"site/manage.py": ""})
        self.assertIn("run this in site", self.done("serve")[1])

    def test_demo_is_a_project_of_its_own(self) -> None:
        """With it, another project is an error, not ignored."""
        for option in ("--settings", "--app", "--pythonpath"):
            for arguments in (("demo", option, "x"), ("serve", "--demo", option, "x")):
                code, output = self.done(*arguments)
                self.assertEqual(code, 1)
                self.assertRegex(output, rf"channelserver: the demo .* leave {option} out")


class EnvironmentTests(CommandTestCase):
    """Variables ``CHANNELSERVER_…``, and what other servers call the options."""

    def test_variables(self) -> None:
        """The server and ``manage.py send`` read the same variables; the log names a misspelt one."""
        variables = {"CHANNELSERVER_LOCAL_SOCKET": str(self.folder / "other.sock"), "CHANNELSERVER_PROT": "80"}
        server = self.run_process(
            self.command("serve"), **variables, CHANNELSERVER_SETTINGS="settings", CHANNELSERVER_PORT="0",
            CHANNELSERVER_LOG_FORMAT="text", DJANGO_SETTINGS_MODULE="nosuch",
        ).wait_until_up()  # fmt: skip
        server.wait_for("CHANNELSERVER_PROT sets no option; did you mean CHANNELSERVER_PORT?")
        with server.connect("/") as socket:
            for command in (self.command("send"), [sys.executable, "manage.py", "send"]):
                sender = self.run_process([*command, "--group", "chat", '{"text": "hello"}'], **variables)
                self.assertEqual(sender.wait(), 0, sender.output)
                self.assertEqual(socket.recv(TIMEOUT), "hello")
        self.assertEqual(server.stop(), 0)

    def test_words_of_other_servers(self) -> None:
        """They are understood, and the log says what they are called here."""
        command = self.command(
            "serve", "settings_of.wsgi:application", "--host", "127.0.0.1:0", "--workers", "1", "--log-format", "text",
            "--forwarded-allow-ips", "127.0.0.1,unix", "--settings", "settings",
        )  # fmt: skip
        server = self.run_process(command).wait_until_up()
        for line in ("--host is taken as --bind", "--workers is taken as --processes", "--port 0",
                     "settings_of.wsgi:application is taken as --app settings_of.wsgi:application"):  # fmt: skip
            server.wait_for(line)
        self.assertEqual(server.stop(), 0)


HOOKS = """
    import os, threading
    from django.db import connection
    from channelserver.signals import process_started, server_started, server_stopping

    def note(what):
        def receive(sender, **arguments):
            connection.ensure_connection()
            del arguments["signal"]
            main = threading.current_thread() is threading.main_thread()
            os.write(1, f"hook: {what} {sorted(arguments.items())} {main}\\n".encode())  # whole, beside other processes
            if what == "stopping":
                raise ValueError("a hook")
        return receive

    hooks = [note("process"), note("server"), note("stopping")]
    process_started.connect(hooks[0])
    server_started.connect(hooks[1])
    server_stopping.connect(hooks[2])
    channel_routing = {}
"""


class HookTests(CommandTestCase):
    """Signals of Django around the server's life."""

    def test_hooks(self) -> None:
        """In one process and in two: each once, with its arguments; an error in one is logged."""
        self.write({"routing.py": HOOKS})
        for processes in (1, 2):
            server = self.serve("--processes", str(processes))
            server.wait_for("hook: server ")
            self.assertEqual(server.stop(), 0)
            found = sorted(re.findall("hook: (.*)", server.output))
            numbers = range(1, processes + 1)
            self.assertEqual(
                found,
                [
                    *(f"process [('number', {number})] True" for number in numbers),
                    f"server [('addresses', ['http://127.0.0.1:{server.port}/'])] False",
                    *(f"stopping [('number', {number})] False" for number in numbers),
                ],
            )
            self.assertIn("ValueError: a hook", server.output)


class ReloadTests(CommandTestCase):
    """``channelserver serve --reload``."""

    def test_reload(self) -> None:
        """A change of the code starts the server again; Ctrl-C ends it."""
        port = free_port()
        arguments = ["serve", "--reload", "--port", str(port), "--log-format", "text"]
        server = self.run_process([sys.executable, "-m", "channelserver", *arguments]).wait_until_up()
        self.assertTrue(server.get().text.isdigit())
        self.write({"urls.py": URLS.replace("str(os.getpid())", "'changed'")})

        def changed() -> bool:
            text = _try(server)
            if text.isdigit():  # the autoreloader notices what changes after its first look, which may be later
                os.utime(self.folder / "urls.py")
            return text == "changed"

        wait_until(changed, "the change")
        os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does
        self.assertEqual(server.wait(), 0)
        self.assertEqual(self.done("serve", "--check", "--reload")[0], 0)

    def test_second_interrupt(self) -> None:
        """A second Ctrl-C, while a view is still at work, ends the server at once and quietly."""
        view = "print('the view has begun', flush=True) or threading.Event().wait()"
        self.write({"urls.py": URLS.replace("str(os.getpid())", view).replace("import os", "import os, threading")})
        port = free_port()
        arguments = ["serve", "--reload", "--port", str(port), "--log-format", "text"]
        # Python warns of the child that Django's reloader leaves, which may take a moment to end.
        command = [sys.executable, "-W", "ignore::ResourceWarning", "-m", "channelserver", *arguments]
        server = self.run_process(command)
        server.wait_for("listening on")
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.wait_for("the view has begun")
            os.killpg(server.process.pid, signal.SIGINT)
            server.wait_for("stopping: ")
            os.killpg(server.process.pid, signal.SIGINT)
            server.wait()
        self.assertNotIn("Traceback", server.output)

    def test_twistd(self) -> None:
        """It is refused where it cannot work."""
        server = self.run_process(self.twistd("--reload"))
        self.assertEqual(server.wait(), 2)
        self.assertIn("--reload needs channelserver serve", server.output)


def _try(server: Server) -> str:
    try:
        return server.get().text
    except OSError:
        return ""


class DemoTests(CommandTestCase):
    """``channelserver demo``."""

    def test_demo(self) -> None:
        """It serves the chat site, and removes its data at the end."""
        server = self.run_process(self.command("demo", "--port", "0", "--log-format", "text")).wait_until_up()
        page = server.get().text
        for text in ("Enter as guest", "are deleted when the server stops"):
            self.assertIn(text, page)
        self.assertEqual(server.stop(), 0)

    def test_first_line(self) -> None:
        """It says what it does before the imports that take long; in the format of all lines."""
        code = (
            "import sys; from channelserver.start import cli\n"
            "def first(*words, **options):\n"
            "    print(*words, 'django' in sys.modules, **options)\n"
            "    sys.exit()\n"
            "cli.print = first\n"
            "cli.main(sys.argv[1:])\n"
        )
        text = "the chat site is being set up, which takes a few seconds"
        for arguments in (["demo"], ["serve", "--demo", "--log-format", "json"]):
            done = self.run_process([sys.executable, "-c", code, *arguments])
            self.assertEqual(done.wait(), 0, done.output)
            line, _, imported = done.output.strip().rpartition(" ")
            self.assertEqual((json.loads(line)["message"], imported), (text, "False"))
        for arguments in (
            ["--settings", "x"],
            ["--port", "many"],
            ["--log-level", "warning", "--demo-data", "settings.py"],
        ):
            done = self.run_process([sys.executable, "-c", code, "demo", *arguments])
            self.assertEqual(done.wait(), 1)
            self.assertNotIn(text, done.output)
            self.assertNotIn("Traceback", done.output)


class TwistdTests(CommandTestCase):
    """What twistd itself does is mended."""

    def twist(self, *arguments: str) -> Server:
        """Run ``twistd`` with any command line."""
        return self.run_process([sys.executable, "-c", preloaded.TWISTD, *arguments])

    def test_no_pid_file_in_the_foreground(self) -> None:
        """``-n`` writes one only if it is asked for."""
        usual = ("channelserver", "--port", "0", "--log-format", "text")
        server = self.twist("-n", *usual).wait_until_up()
        self.assertFalse((self.folder / "twistd.pid").exists())
        server.stop()
        server = self.twist("-n", "--pidfile=site.pid", *usual).wait_until_up()
        self.assertEqual((self.folder / "site.pid").read_text(), str(server.process.pid))
        server.stop()

    def test_twist(self) -> None:
        """Twisted's other runner is refused with a sentence."""
        server = self.run_process([sys.executable, "-m", "twisted", "channelserver", "--port", "0"])
        self.assertEqual(server.wait(), WRONG)
        self.assertEqual(
            server.output,
            "channelserver: twist cannot run it; write twistd -n channelserver, or channelserver serve; see twistd "
            "channelserver --help",
        )

    def daemon(self) -> Server:
        """Start a daemon; it ends with the test."""
        server = self.twist("channelserver", "--port", "0")
        self.assertEqual(server.wait(), 0, server.output)
        pid = int((self.folder / "twistd.pid").read_text())
        self.addCleanup(wait_until, lambda: not Path(f"/proc/{pid}/cmdline").exists())
        self.addCleanup(_kill, pid)
        return server

    def test_daemon(self) -> None:
        """It says where it listens before it leaves the terminal, whose descriptors it closes."""
        server = self.daemon()
        self.assertTrue(server.has_ended)  # whoever reads its output comes to an end
        match = re.search(r"^channelserver: process (\d+), http://127\.0\.0\.1:(\d+)/$", server.output, re.MULTILINE)
        assert match is not None, server.output
        self.assertEqual(match[1], (self.folder / "twistd.pid").read_text())
        server.port = int(match[2])
        self.assertEqual(server.get().text, match[1])
        self.assertNotIn("running", self.done("check")[1])  # beside it
        other = self.twist("channelserver", "--port", "0")
        self.assertNotEqual(other.wait(), 0)
        self.assertRegex(other.output, "[Aa]nother .*server .*is running")

    def test_stale_pid_file(self) -> None:
        """One of a process that runs something else, that began later, or is this one; or an empty one."""
        stranger = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()  # channelserver", ""], stdin=subprocess.PIPE
        )
        self.addCleanup(stranger.wait)
        self.addCleanup(lambda: stranger.stdin and stranger.stdin.close())
        path = self.folder / "twistd.pid"
        for text, age in (("1", 0), (str(os.getpid()), 0), (str(stranger.pid), 1000), ("", 0), ("999999999", 0)):
            with self.subTest(text):
                path.write_text(text)
                os.utime(path, (path.stat().st_mtime - age,) * 2)
                self.daemon()
                self.doCleanups()
                self.setUp()
                path = self.folder / "twistd.pid"

    def test_flags_in_the_wrong_place(self) -> None:
        """One sentence says where they belong."""
        for arguments, words in (
            (("channelserver", "-n"), "-n is twistd's own option and comes before channelserver: twistd -n"),
            (("channelserver", "--nodaemon"), "--nodaemon is twistd's own option"),
            (("channelserver", "--pidfile=x"), "--pidfile is twistd's own option"),
            (("-n", "--port", "80", "channelserver"), "--port is an option of channelserver and comes after it"),
            (("-n", "--no-static", "channelserver"), "--no-static is an option of channelserver and comes after it"),
        ):
            server = self.twist(*arguments)
            self.assertEqual(server.wait(), 2, arguments)
            self.assertRegex(server.output, rf"\Achannelserver: {re.escape(words)}")
            self.assertEqual(len(server.lines), 1, server.output)
        server = self.twist("-n", "channelserver", "-h")
        self.assertEqual(server.wait(), 0)
        self.assertIn("--ping-interval", server.output)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass


def settings(**values: Any) -> str:
    """Return lines of settings."""
    return "".join(f"{name} = {value!r}\n" for name, value in values.items())


#: What a project needs so that nothing is wrong with it.
GOOD = "NOWHERE = 'redis://127.0.0.1:1/0'\n"
GOOD += "STATIC_ROOT = BASE_DIR / 'static'\nSECRET_KEY = 'abcdefghijklmnopqrstuvwxyz0123456789' * 2\n"

SESSIONS = "from channelserver.sessions import channel_session\n@channel_session\ndef c(message): pass\n"

#: Projects that would fail in production: lines appended to the settings, what `check` says, further files.
BROKEN: dict[str, tuple[str, str, dict[str, str]]] = {
    "debug": (settings(DEBUG=True), r"DEBUG is on.*set DEBUG = False", {}),
    "no hosts": (settings(ALLOWED_HOSTS=[]), r"ALLOWED_HOSTS is empty.*set it to", {}),
    "no key": (settings(SECRET_KEY=""), r"SECRET_KEY is empty.*set it to", {}),
    "key of startproject": (settings(SECRET_KEY="django-insecure-" + "x" * 50), r"startproject made; set it", {}),
    "weak key": (settings(SECRET_KEY="abc"), r"SECRET_KEY is too easy to guess; set it", {}),
    "no URLconf": ("del ROOT_URLCONF\n", r"ROOT_URLCONF is not set.*set it to", {}),
    "URLconf that does not import": (settings(ROOT_URLCONF="nosuch.urls"), r"nosuch", {}),
    "static files not collected": ("STATIC_ROOT = BASE_DIR / 'nosuch'\n", r"static files.*run collectstatic", {}),
    "no folder for static files": ("STATIC_ROOT = None\n", r"static files.*STATIC_ROOT.*run collectstatic", {}),
    "unapplied migrations": (
        "DATABASES['default']['NAME'] = BASE_DIR / 'new.sqlite3'\n",
        r"migrations of .*sessions are not applied to the database 'default'; run python manage\.py migrate$",
        {},
    ),
    "database that cannot be opened": (
        "DATABASES['default']['NAME'] = BASE_DIR / 'nosuch' / 'db'\n",
        r"the database 'default' cannot be used: .*unable to open.*check DATABASES",
        {},
    ),
    "no application for sessions": (
        "INSTALLED_APPS.remove('django.contrib.sessions')\n",
        r"sessioned\.c uses sessions.*INSTALLED_APPS",
        {"sessioned.py": SESSIONS, "routing.py": "channel_routing = {'websocket.receive': 'sessioned.c'}\n"},
    ),
    "sessions in cookies": (
        settings(SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies"),
        r"sessioned\.c uses sessions.*set CHANNEL_SESSION_ENGINE",
        {"sessioned.py": SESSIONS, "routing.py": "channel_routing = {'websocket.receive': 'sessioned.c'}\n"},
    ),
    "no table for sessions": (
        "",
        r"sessioned\.c uses sessions.*'django_session' is missing; run",
        {
            "sessioned.py": SESSIONS,
            "routing.py": "channel_routing = {'websocket.receive': 'sessioned.c'}\n",
            "drop.py": "from django.db import connection\nconnection.cursor().execute('DROP TABLE django_session')\n",
        },
    ),
    "Redis that does not answer": (
        "CHANNEL_LAYERS['default'].update(BACKEND='asgi_redis.RedisChannelLayer', CONFIG={'hosts': [NOWHERE]})",
        r"the channel layer 'default' cannot be used: .*start Redis",
        {},
    ),
    "misspelt channel": (
        "",
        r"'websocket\.connects', where the server sends nothing; did you mean 'websocket\.connect'\?",
        {"routing.py": "def c(message): pass\nchannel_routing = {'websocket.connects': c, 'http': c}\n"},
    ),
    "path without a slash": (
        "",
        r"path='ws/\(\?P<room>\[a-z\]\+\)/\$' matches nothing.*begin with a slash; write '\^/ws/\(",
        {
            "routing.py": "from channelserver import route\nfrom consumers import c\nchannel_routing = ["
            "route('websocket.receive', c, path=r'ws/(?P<room>[a-z]+)/$'), route('own', c, path='^x')]\n",
            "consumers.py": "def c(message, room): pass\n",
        },
    ),
    "routing that does not import": ("CHANNEL_LAYERS['default']['ROUTING'] = 'nosuch.routing'\n", r"nosuch", {}),
    "middleware that does not import": ("MIDDLEWARE.append('nosuch.Middleware')\n", r"MIDDLEWARE.*nosuch", {}),
    "failing check of Django": ("X_FRAME_OPTIONS = 'x'\nCACHES = {}\n", r"must define a 'default' cache", {}),
}


class CheckTests(CommandTestCase):
    """``channelserver check``."""

    migrate = True
    extra_settings = GOOD

    def setUp(self) -> None:
        super().setUp()
        self.write({"static/site.css": "", "routing.py": "channel_routing = {}\n"})

    def test_good_project(self) -> None:
        """Exit code 0 and one line; a running server is not disturbed, and nothing is left."""
        server = self.serve()
        before = set(os.listdir(self.folder))
        code, output = self.done("check")
        self.assertEqual(
            (code, output), (0, "channelserver: options, settings, routing, database and layer are in order")
        )
        self.assertEqual(set(os.listdir(self.folder)), before)
        code, output = self.done("check", "--port", str(server.port))
        self.assertEqual(code, 0, output)
        self.assertEqual(self.done("send", "--group", "chat", "{}")[0], 0)
        self.assertEqual(server.stop(), 0)

    def test_broken_projects(self) -> None:
        """``check`` finds each, and tells it in one sentence with the cure; ``serve`` ends or warns with the same."""
        good = (self.folder / "settings.py").read_text()
        wrong = []
        for name, (text, sentence, files) in BROKEN.items():
            self.write({"routing.py": "channel_routing = {}\n", **files})
            if "drop.py" in files:
                self.manage("shell", "--verbosity", "0", "--command", "import drop")
            (self.folder / "settings.py").write_text(good + text)
            code, output = self.done("check")
            lines = output.splitlines()
            found = [line for line in lines if re.search(sentence, line)]
            if code != 1 or len(found) != 1 or len(lines) != 1 or not lines[0].startswith("channelserver: "):
                wrong.append(f"check, {name}: exit code {code}:\n{output}")
            if "Redis" in name:
                continue  # the layer itself says so, and tries again
            server = self.run_process(self.command("serve", "--port", "0", "--log-format", "text"))
            try:
                server.wait_for(sentence)
            except AssertionError as error:
                wrong.append(f"serve, {name}: {error}")
            server.stop()
            told = [line for line in server.lines if re.search(r" (WARNING|ERROR) |^channelserver: ", line)]
            if len(told) != 1 or "Traceback" in server.output:
                wrong.append(f"serve, {name}: it is not one sentence:\n{server.output}")
        self.assertEqual(wrong, [], "\n\n".join(wrong))
