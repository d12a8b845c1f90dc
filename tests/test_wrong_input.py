"""Whatever is wrong on the command line or in the settings: one sentence that names it and the cure, never a traceback.

Most tests run the command to its end. A family of mistakes is one test, whose commands run side by side.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from channelserver.channel import Channel, Group
from channelserver.layers import InMemoryChannelLayer
from channelserver.server.common.options import OPTIONS
from channelserver.start.foreign_flags import NOT_NEEDED
from channelserver.start.parser import Options
from tests.docs import ROOT
from tests.process import ServerTestCase, wait_until


@dataclass
class Case:
    """A mistake.

    ``words``: regular expressions which the sentence must match. ``settings``: appended to good settings. ``code``: the
    exit code; None: any but 0.
    """

    words: tuple[str, ...]
    settings: str = ""
    arguments: tuple[str, ...] = ()
    code: int | None = None


def in_settings(settings: str, *words: str) -> Case:
    """A mistake in the settings."""
    return Case(words, settings)


def flags(arguments: str, *words: str) -> Case:
    """A mistake on the command line."""
    return Case(words, arguments=tuple(arguments.split(" ")))


LAYER = "CHANNEL_LAYERS['default']"
IN_LAYER = re.escape(LAYER)

#: Wrong layers and routings.
LAYERS = (
    in_settings(f"{LAYER}['ROUTING'] = 'routing.nothing'", IN_LAYER, "'routing.nothing'", "[Ww]rite"),
    in_settings(f"{LAYER}['ROUTING'] = 'nosuch.routing'", IN_LAYER, "'nosuch.routing'", "[Ww]rite"),
    in_settings(
        f"{LAYER}['ROUTING'] = 'broken.routing'",
        IN_LAYER,
        "'broken.routing'",
        "ZeroDivisionError",
    ),
    in_settings(f"{LAYER}['ROUTING'] = 5", IN_LAYER, "not 5", "must be a dict"),
    in_settings(f"{LAYER}['ROUTING'] = ['consumers.ws']", IN_LAYER, "'consumers.ws'", r"route\(\)"),
    in_settings(
        f"{LAYER}['ROUTING'] = {{'websocket.receive': 'consumers.nothing'}}",
        IN_LAYER,
        "'consumers.nothing'",
        r"websocket\.receive",
        "[Ww]rite",
    ),
    in_settings(
        f"{LAYER}['ROUTING'] = {{'websocket.receive': 'consumers.number'}}",
        IN_LAYER,
        "'consumers.number'",
        "not callable",
        "name a function",
    ),
    in_settings(f"{LAYER}['ROUTING'] = {{'notes': 5}}", IN_LAYER, "notes", "is 5", "not callable"),
    in_settings(f"del {LAYER}['ROUTING']", IN_LAYER, "has no ROUTING", "set it to"),
    in_settings(
        "CHANNEL_LAYERS = {'default': {'BACKEND': 'nosuch.core.Layer'}}", r"\['BACKEND'\]", "'nosuch.core.Layer'"
    ),
    in_settings(f"{LAYER}['BACKEND'] = 'nosuch.Layer'", r"\['BACKEND'\]", "'nosuch.Layer'", r"channelserver\.layers\."),
    in_settings(
        f"{LAYER}['BACKEND'] = 'datetime.date'", r"\['BACKEND'\]", "'datetime.date'", r"channelserver\.layers\."
    ),
    in_settings(f"del {LAYER}['BACKEND']", IN_LAYER, "has no BACKEND", "set it to"),
    in_settings(f"{LAYER}['CONFIG'] = {{'capcity': 5}}", r"\['CONFIG'\]", "'capcity'", r"\bcapacity\b"),
    in_settings(f"{LAYER}['CONFIG'] = {{'capacity': 'many'}}", r"\['CONFIG'\]", "capacity must be", "'many'"),
    in_settings(f"{LAYER}['CONFIG'] = 5", r"\['CONFIG'\]", "must be a dict", "not 5"),
    in_settings("CHANNEL_LAYERS = 5", "CHANNEL_LAYERS must be a dict", "not 5"),
    in_settings("CHANNEL_LAYERS['default'] = 5", IN_LAYER, "must be a dict", "not 5"),
    in_settings("CHANNEL_LAYERS['other'] = CHANNEL_LAYERS.pop('default')", IN_LAYER, "not set", "'other'"),
)

#: Wrong options in the settings.
OPTIONS_IN_SETTINGS = (
    in_settings("CHANNELSERVER = {'ping_intervall': 5}", r"CHANNELSERVER\['ping_intervall'\]", "mean 'ping_interval'"),
    in_settings("CHANNELSERVER = {'--port': 5}", r"CHANNELSERVER\['--port'\]", "unknown"),
    in_settings("CHANNELSERVER = {'ping_interval': 'many'}", r"\['ping_interval'\]", "a number of seconds", "'many'"),
    in_settings("CHANNELSERVER = {'static': 'no'}", r"\['static'\]", "True or False", "'no'"),
    in_settings("CHANNELSERVER = {'allowed_origin': 'a.example'}", r"\['allowed_origin'\]", "a list", "'a.example'"),
    in_settings("CHANNELSERVER = {'drain_timeout': -1}", r"\['drain_timeout'\]", "from 0", "-1"),
    in_settings("CHANNELSERVER = {'settings': 'x'}", r"CHANNELSERVER\['settings'\]", "--settings"),
    in_settings("CHANNELSERVER = 5", "CHANNELSERVER must be a dict", "not 5"),
)

#: Wrong flags.
FLAGS = (
    flags("--prot 5", "--prot", r"mean --port\?", "--help"),
    flags("--no-statics", "--no-statics", r"mean --no-static\?", "--help"),
    flags("--nonsense", "--nonsense", "--help"),
    flags("--port", "--port", "requires argument", "--help"),
    flags("stray", "'stray'", "options start with --", "--help"),
    flags("--check stray", "'stray'", "options start with --"),
    flags("--port many", "--port", "a whole number", "'many'"),
    flags("--port 0.5", "--port", "a whole number", "'0.5'"),
    flags("--port 65536", "--port", "from 0 to 65535", "'65536'"),
    flags("--threads -1", "--threads", "from 0 to", "'-1'"),
    flags("--max-body-bytes 1XB", "--max-body-bytes", "a whole number of bytes", "10MB", "'1XB'"),
    flags("--http-timeout soon", "--http-timeout", "a number of seconds", "'soon'"),
    flags("--http-timeout nan", "--http-timeout", "a number of seconds", "'nan'"),
    flags("--http-timeout inf", "--http-timeout", "a number of seconds", "'inf'"),
    flags("--log-format xml", "--log-format", "one of text, json", "'xml'"),
    flags("--layer nosuch", "'nosuch'", "not set", "'default'"),
    flags("--access-log nosuch/site.log", "--access-log", "'nosuch/site.log'", "[Nn]o such file or directory"),
    flags("--access-log .", "--access-log", r"'\.'", "[Ii]s a directory"),
    flags("--pythonpath nosuch", "--pythonpath", "'nosuch'", "is not a folder"),
    flags("--allowed-origin https://a.example/", "--allowed-origin", "without a path", "'https://a.example/'"),
    flags("--ws-protocol graphql/ws", "--ws-protocol", "no spaces, commas or slashes", "'graphql/ws'"),
    flags("--health-path up", "--health-path", "begins with a slash", "'up'"),
)

#: What only the command ``channelserver`` is told.
WORDS = (
    flags("-n", "-n", "leave it out"),
    flags("--pidfile x", "--pidfile", "twistd"),
    flags("-D", "-D", "twistd channelserver makes a daemon"),
    flags("-k gevent", "-k", "leave it out"),
    flags("-w 4", "-w", "--processes"),
    flags("--factory", "--factory", "--app"),
    flags("--timeout 30", "--timeout", "--http-timeout"),
    flags("8000", "'8000'", "--port 8000"),
    flags("0.0.0.0:8000", "'0.0.0.0:8000'", r"--bind 0\.0\.0\.0:8000"),
    flags("mysite.settings", "'mysite.settings'", "--settings mysite.settings"),
    flags("nosuch.wsgi:application", "'nosuch.wsgi:application'", r"for example mysite\.wsgi"),
    flags("--keep-alive 5x", "--keep-alive", "500ms, 5s, 2m", "'5x'"),
    flags("--workers many", "--processes", "a whole number", "'many'"),
    flags("--access-format xml", "--access-format", "short, full, combined"),
    flags("--log-level loud", "--log-level", "debug, info, warning", "'loud'"),
    flags("--demo", "the demo", "leave --settings out"),
    flags("--processes 2 --threads 0", "--processes", "worker threads"),
)

#: Listeners that cannot be opened.
LISTENERS = (
    flags("--endpoint bogus:1", "--endpoint", "'bogus:1'", "'bogus'"),
    flags(
        "--endpoint systemd:domain=INET:index=0",
        "--endpoint",
        "has passed no sockets",
        "start the socket's",
    ),
    flags("--endpoint tcp", "--endpoint", "'tcp'", "port"),
    flags("--endpoint tcp:many", "--endpoint", "'tcp:many'", "'many'"),
    flags("--fd 99", "--fd", "99", "no open socket"),
    flags("--fd 0", "--fd", "0", "no open socket"),
    flags("--fd x", "--fd", "'x'", "a whole number"),
    flags("--unix-socket nosuch/site.sock", "nosuch/site.sock", "no such file or directory; choose another address"),
    flags("--bind 300.1.1.1", r"300\.1\.1\.1", "cannot listen"),
)

#: What a command prints that has begun to serve.
SERVES = re.compile("listening on http|server at http")

#: What a sentence for users does not contain.
INTERNALS = re.compile(r"__init__|_parse|\bself\b|positional argument|object has no attribute|\[Errno|b'")


class ForeignFlagTests(SynchronousTestCase):
    """Flags of other servers."""

    def test_documented(self) -> None:
        """Each one in the tables of the documentation is understood, or the error names the cure."""
        page = (ROOT / "docs/gunicorn.rst").read_text()
        found = {name for line in page.split("\n") for name in re.findall(r"``(--?\w[\w-]*)", line[:34])}
        self.assertGreater(len(found), 50)
        for name in sorted(found):
            self.patch(sys, "__stderr__", output := StringIO())
            try:
                Options().parseOptions([name, "1"])
            except SystemExit:
                pass  # a switch takes no value
            text = output.getvalue()
            self.assertNotRegex(text, "not recognized|unique prefix", name)
            if name in NOT_NEEDED:
                self.assertIn(NOT_NEEDED[name], text)


class WrongInputTestCase(ServerTestCase):
    """A project with a few mistakes to choose from."""

    files = {
        "consumers.py": "def ws(message): pass\nnumber = 5\n",
        "broken.py": "routing = 1 / 0\n",
    }

    def setUp(self) -> None:
        """Begin without complaints."""
        super().setUp()
        self.wrong: list[str] = []

    def assert_no_complaints(self) -> None:
        """Fail if any case went wrong."""
        if self.wrong:
            self.fail(f"{len(self.wrong)} times something went wrong\n\n" + "\n\n".join(self.wrong))

    def with_settings(self, text: str) -> str:
        """Write good settings with `text` appended; return the module's name."""
        number = len(list(self.folder.glob("wrong_*.py")))
        name = f"wrong_{number}"
        good = (self.folder / "settings.py").read_text()
        (self.folder / f"{name}.py").write_text(f"{good}\n{textwrap.dedent(text)}\n")
        return name

    def run_to_end(self, command: list[str], **environment: str) -> tuple[int, str]:
        """Run a command that should end by itself; return its exit code and what it has printed."""
        server = self.run_process(command, **environment)
        return server.wait(), server.output

    def run_all(self, commands: list[tuple[list[str], dict[str, str]]]) -> list[tuple[int | None, str]]:
        """Run many commands; return their exit codes, None for one that has begun to serve, and what they have printed.

        :param commands: each with variables for its environment.
        """

        def run(command: list[str], variables: dict[str, str]) -> tuple[int | None, str]:
            server = self.run_process(command, **variables)
            wait_until(lambda: server.process.poll() is not None or SERVES.search(server.output), "the end")
            return (None if SERVES.search(server.output) else server.wait()), server.output

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return list(threads.map(run, *zip(*commands, strict=True)))

    def problems(self, code: int | None, output: str, case: Case, log_lines: bool = False) -> list[str]:
        """Return what is wrong with how a command has ended.

        :param log_lines: twistd's own log may have begun.
        """
        lines = [line for line in output.splitlines() if line.strip()]
        found = []
        if code is None:
            found.append("it started all the same")
        elif code == 0 or (case.code is not None and code != case.code):
            found.append(f"the exit code is {code}")
        if "Traceback" in output:
            found.append("there is a traceback")
        sentences = [line for line in lines if line.startswith("channelserver: ")]
        if len(sentences) != 1 or (len(lines) != 1 and not log_lines):
            found.append("it is not one sentence")
        for sentence in sentences[:1]:
            found += [f"it does not match {word!r}" for word in case.words if not re.search(word, sentence)]
            found += [f"it speaks of {internal!r}" for internal in INTERNALS.findall(sentence)]
        return [f"{', '.join(found)}:\n{output}"] if found else []

    def start_of(self, *arguments: str) -> list[str]:
        """Return the command line of ``twistd channelserver``; subclasses have others."""
        return self.twistd(*arguments)

    def assert_refused(self, *cases: Case, log_lines: bool = False) -> None:
        """Assert that the command ends with the right sentence in each case."""
        commands: list[tuple[list[str], dict[str, str]]] = []
        for case in cases:
            name = self.with_settings(case.settings) if case.settings else "settings"
            own = ["--settings", name, "--port", "0", "--local-socket", "", *case.arguments]
            commands.append((self.start_of(*own), {}))
        for case, (code, output) in zip(cases, self.run_all(commands), strict=True):
            for problem in self.problems(code, output, case, log_lines):
                self.wrong.append(f"{case.settings} {' '.join(case.arguments)}: {problem}")


class TwistdTests(WrongInputTestCase):
    """``twistd channelserver``."""

    def test_flags(self) -> None:
        """Unknown flags, wrong values, stray arguments, files that cannot be written."""
        self.assert_refused(*FLAGS)
        self.assert_no_complaints()

    def test_listeners(self) -> None:
        """Endpoints, sockets and addresses that cannot be listened on."""
        self.assert_refused(*LISTENERS, log_lines=True)
        self.assert_no_complaints()

    def test_layers(self) -> None:
        """Mistakes in ``CHANNEL_LAYERS``: routing, consumers, backend, parameters."""
        self.assert_refused(*LAYERS)
        self.assert_no_complaints()

    def test_options_in_the_settings(self) -> None:
        """Unknown keys and wrong values in ``CHANNELSERVER``."""
        self.assert_refused(*OPTIONS_IN_SETTINGS)
        self.assert_no_complaints()

    def test_local_socket(self) -> None:
        """Its folder is not there."""
        self.assert_refused(
            flags("--local-socket nosuch/site.sock", "nosuch/site.sock' does not exist", "--local-socket")
        )
        self.assert_no_complaints()

    def test_settings_module(self) -> None:
        """Settings that are not there, do not import, or are not even Python."""
        mistakes = {
            "from nosuchmodule import x": ("'wrong_0'", "'nosuchmodule'", r"wrong_0\.py, line \d+"),
            "TIMES = 1 / 0": ("'wrong_1'", "ZeroDivisionError", r"wrong_1\.py, line \d+"),
            "TIMES = (": ("'wrong_2'", "SyntaxError", r"wrong_2\.py, line \d+"),
            "INSTALLED_APPS = ['nosuchapp']": ("'wrong_3'", "'nosuchapp'"),
            "MIDDLEWARE = ['nosuch.Middleware']": ("MIDDLEWARE", "'nosuch'"),
        }
        self.assert_refused(*(in_settings(text, *words) for text, words in mistakes.items()))
        self.assert_refused(flags("--settings nosuch", "'nosuch'", "--settings", "--pythonpath"))
        self.assert_refused(
            flags("--settings mysite/settings.py", "'mysite/settings.py'", r"for example mysite\.settings")
        )
        self.write({"empty/__init__.py": ""})
        self.assert_refused(flags("--settings empty", "'empty' holds no settings", r"--settings empty\.settings"))
        self.assert_refused(flags("--settings nosuch.settings", "'nosuch.settings'", "--settings", "--pythonpath"))
        self.assert_no_complaints()

    def test_no_settings_at_all(self) -> None:
        """Neither flag, environment nor ``manage.py`` say where they are, or the environment says something wrong."""
        (self.folder / "manage.py").unlink()
        case = Case(("--settings", "DJANGO_SETTINGS_MODULE"))
        self.wrong += self.problems(*self.run_to_end(self.twistd()), case)
        case = Case(("'nosuch.settings'", "--settings"))
        done = self.run_to_end(self.twistd(), DJANGO_SETTINGS_MODULE="nosuch.settings")
        self.wrong += self.problems(*done, case)
        # As opentelemetry-instrument does if it does not find the project.
        command = self.twistd("--settings", "settings")
        command[2] = f"from django.conf import settings; settings.configure(); {command[2]}"
        case = Case(("'settings'", "opentelemetry-instrument", "DJANGO_SETTINGS_MODULE", "PYTHONPATH"))
        self.wrong += self.problems(*self.run_to_end(command), case)
        self.assert_no_complaints()

    def test_port_in_use(self) -> None:
        """In the foreground, and as a daemon, where the terminal belongs to a process that is about to leave."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = str(other.getsockname()[1])
            arguments = ("--settings", "settings", "--port", port)
            case = Case((rf"\b{port}\b", r"127\.0\.0\.1", "address already in use", "--port"))
            self.wrong += self.problems(*self.run_to_end(self.twistd(*arguments)), case, log_lines=True)
            code, output = self.run_to_end(self.twistd(*arguments, options=["--pidfile=site.pid"]))
            self.assertNotEqual(code, 0)
            self.assertNotIn("Traceback", output)
            self.assertRegex(output, rf"cannot listen on port {port} of 127\.0\.0\.1: address already in use")
        self.assertFalse((self.folder / "site.pid").exists())
        self.assertRegex((self.folder / "twistd.log").read_text(), r"^[^\n]*cannot listen on port \d+[^\n]*\n$")
        self.assert_no_complaints()

    def test_privileged_port(self) -> None:
        """The error for a port below 1024 names the permission that is missing."""
        if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 1:
            raise SkipTest("here everybody may listen on any port")
        command = self.twistd("--settings", "settings", "--port", "1")
        # PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE: also root may not, once this has become another program.
        drop = f"import ctypes, os; ctypes.CDLL(None).prctl(24, 10); os.execv({command[0]!r}, {command!r})"
        case = Case(("port 1 of .*: permission denied", "CAP_NET_BIND_SERVICE"))
        self.wrong += self.problems(*self.run_to_end([command[0], "-c", drop]), case, log_lines=True)
        self.assert_no_complaints()

    def test_daemon(self) -> None:
        """Mistakes in the settings are told before the command leaves the terminal."""
        name = self.with_settings("CHANNELSERVER = {'prot': 5}")
        command = self.twistd("--settings", name, "--port", "0", options=["--pidfile=site.pid"])
        done = self.run_to_end(command)
        self.wrong += self.problems(*done, Case((r"CHANNELSERVER\['prot'\]", "mean 'port'"), code=1))
        self.assertFalse((self.folder / "site.pid").exists())
        self.assert_no_complaints()

    def test_started_twice(self) -> None:
        """A second server of the same project on the same port is told so, and does not disturb the first one."""
        server = self.start()
        done = self.run_to_end(self.twistd("--settings", "settings", "--port", str(server.port)))
        self.wrong += self.problems(*done, Case(()), log_lines=True)
        self.assert_no_complaints()
        self.assertEqual(server.get("/").status_code, 404)
        sending = "from channelserver import Channel; Channel('notes').send({'text': 'x'})"
        self.manage("shell", "--verbosity", "0", "--command", sending)
        self.assertEqual(server.stop(), 0)


class CommandTests(WrongInputTestCase):
    """``channelserver serve`` and ``channelserver check``."""

    name = "serve"

    def start_of(self, *arguments: str) -> list[str]:
        """The same with ``channelserver``."""
        return self.command(self.name, *arguments)

    def test_wrong_command_lines(self) -> None:
        """More than thirty of them, each to both commands."""
        cases = [*FLAGS, *WORDS, *LISTENERS]
        self.assertGreaterEqual(len(cases), 30)
        self.assert_refused(*cases, log_lines=True)
        self.name = "check"
        opened = ("--unix-socket", "--bind")  # only found out when they are opened
        self.assert_refused(*(case for case in cases if case.arguments[0] not in opened))
        self.assert_no_complaints()


class CheckTests(WrongInputTestCase):
    """``twistd channelserver --check``."""

    def test_good_project(self) -> None:
        """Exit code 0, one line, and nothing was started: the port may even be in use."""
        self.write({"routing.py": "channel_routing = {'websocket.receive': 'consumers.ws'}\n"})
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = str(other.getsockname()[1])
            code, output = self.run_to_end(self.twistd("--check", "--settings", "settings", "--port", port))
        self.assertEqual((code, len(output.splitlines())), (0, 1), output)
        self.assertTrue(output.startswith("channelserver: "), output)

    def test_bad_projects(self) -> None:
        """Exit code 1, and the same sentences as without ``--check``."""
        cases = [*LAYERS, *OPTIONS_IN_SETTINGS, *LISTENERS]
        cases += [case for case in FLAGS if re.search("^--(threads|http|log|layer|access|python)", case.arguments[0])]
        listen = ("--unix-socket", "--bind")  # only found out when they are opened
        self.assert_refused(
            *(
                Case(case.words, case.settings, (*case.arguments, "--check"), code=1)
                for case in cases
                if not (case.arguments and case.arguments[0] in listen)
            )
        )
        self.assert_no_complaints()

    def test_what_django_finds(self) -> None:
        """The project's own mistakes count as well: a URLconf that does not import, a failing system check."""
        cases = {
            "ROOT_URLCONF = 'nosuch'": ("'nosuch'",),
            "TEMPLATES = [{'BACKEND': 'django.template.backends.django.DjangoTemplates', 'APP_DIRS': 1, "
            "'OPTIONS': {'string_if_invalid': 5}}]": ("string_if_invalid",),
        }
        self.assert_refused(*(Case(words, settings, ("--check",), code=1) for settings, words in cases.items()))
        self.assert_no_complaints()


class HelpTests(WrongInputTestCase):
    """``twistd channelserver --help``."""

    #: Some defaults that users rely on.
    defaults = {
        "--port": "8000",
        "--bind": "127.0.0.1",
        "--threads": "min(8, 2 x cores + 2)",
        "--layer": "default",
        "--max-message-bytes": "1 MiB",
        "--max-body-bytes": "100 MiB",
        "--send-buffer-bytes": "4 MiB",
        "--header-timeout": "10 seconds",
        "--body-timeout": "60 seconds",
        "--keep-alive": "75 seconds",
        "--http-timeout": "120 seconds",
        "--connect-timeout": "10 seconds",
        "--ping-interval": "20 seconds",
        "--ping-timeout": "30 seconds",
        "--drain-timeout": "30 seconds",
    }

    def test_help(self) -> None:
        """Exit code 0; every option is there, with its default if it has one. No project is needed."""
        code, output = self.run_to_end(self.twistd("--help"))
        self.assertEqual(code, 0, output)
        texts: dict[str, str] = {}
        for line in output.splitlines():
            flag = re.match(r"  (?:-\w, )?(--[\w-]+)(?: |$)", line)
            if flag:
                name = flag[1]
                texts[name] = line[flag.end() :]
            elif texts:
                texts[name] += " " + line
        texts = {name: " ".join(text.split()) for name, text in texts.items()}
        for option in OPTIONS:
            self.assertIn(option.flag, texts)
            self.assertTrue(texts[option.flag], option.flag)
            if option.kind in ("int", "float", "str") and option.default not in (None, "", ()):
                self.assertIn("[default: ", texts[option.flag])
            for variable in option.variables:
                self.assertRegex(texts[option.flag], rf"\[.*\b{variable}\b.*\]")
            if option.short:
                self.assertRegex(output, rf"-{option.short}, {option.flag}\b")
        for flag_name, default in self.defaults.items():
            self.assertIn(f"default: {default}", texts[flag_name])
        groups = "Project Listen HTTPS WebSocket Workers Limits Timeouts Proxy Files Logs Other".split()
        self.assertEqual(re.findall(r"(?m)^(\w+):$", output), groups)
        self.assertLess(output.index("Examples:"), output.index("Project:"))
        self.assertLess(max(map(len, output.splitlines())), 101)

    def test_twistd_lists_the_command(self) -> None:
        """``twistd --help`` knows ``channelserver``."""
        code, output = self.run_to_end([*self.twistd(options=[])[:-1], "--help"])
        self.assertEqual(code, 0, output)
        self.assertRegex(output, r"\n +channelserver +A server for a Django site")


class RunserverTests(WrongInputTestCase):
    """``manage.py runserver`` and ``manage.py check``."""

    def assert_refused(self, *cases: Case, log_lines: bool = False) -> None:
        """Assert that a management command ends with a message of a system check, or a ``CommandError``."""
        commands: list[tuple[list[str], dict[str, str]]] = [
            (
                [sys.executable, "manage.py", *case.arguments],
                {"DJANGO_SETTINGS_MODULE": self.with_settings(case.settings)},
            )
            for case in cases
        ]
        for case, (code, output) in zip(cases, self.run_all(commands), strict=True):
            message = re.search(r"(?m)^(\S+ \(channelserver\.E\d+\)|CommandError:) (.+)", output)
            found = [] if code == 1 else [f"the exit code is {code}"]
            found += ["there is a traceback"] if "Traceback" in output else []
            text = message[2] if message else ""
            found += [f"it does not match {word!r}" for word in case.words if not re.search(word, text)]
            if found:
                self.wrong.append(f"{case.settings} {' '.join(case.arguments)}: {', '.join(found)}:\n{output}")

    def test_settings(self) -> None:
        """The system checks of ``runserver`` find what would keep the server from starting."""
        runserver = ("runserver", "--noreload", "0")
        self.assert_refused(*(Case(case.words, case.settings, runserver) for case in (*LAYERS, *OPTIONS_IN_SETTINGS)))
        self.assert_no_complaints()

    def test_check_command(self) -> None:
        """``manage.py check`` finds it, too."""
        cases = (LAYERS[0], OPTIONS_IN_SETTINGS[0])
        self.assert_refused(*(Case(case.words, case.settings, ("check",)) for case in cases))
        self.assert_no_complaints()

    def test_without_system_checks(self) -> None:
        """With ``--skip-checks`` the server itself finds it."""
        runserver = ("runserver", "--noreload", "--skip-checks", "0")
        cases = (LAYERS[0], OPTIONS_IN_SETTINGS[0])
        self.assert_refused(*(Case(case.words, case.settings, runserver) for case in cases))
        self.assert_no_complaints()

    def test_port_in_use(self) -> None:
        """One sentence and an exit code, with and without the autoreloader."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            for option in ("--noreload", "--force-color"):
                server = self.run_process([sys.executable, "manage.py", "runserver", option, f"127.0.0.1:{port}"])
                self.assertNotEqual(server.wait(), 0)
                self.assertRegex(server.output, rf"{port}.*already in use")
                self.assertNotIn("Traceback", server.output)


class NamesAndContentsTests(SynchronousTestCase):
    """What applications get wrong in their calls."""

    def setUp(self) -> None:
        """Have a layer."""
        self.layer = InMemoryChannelLayer()

    def test_invalid_names(self) -> None:
        """``TypeError`` that shows the name and says what is allowed; at the call, not when the message is sent."""
        for name in ("", "a b", "a/b", "caf\xe9", "name\n", "a!b!c", "a!b?c", "x" * 100, "!", "chat:room"):
            with self.subTest(name):
                error = self.assertRaises(TypeError, Channel, name, channel_layer=self.layer)
                self.assertIn(repr(name), str(error))
                self.assertIn("ASCII letters", str(error))
        for name in ("", "a b", "a/b", "caf\xe9", "name\n", "a!b", "a?b", "x" * 100):
            with self.subTest(name):
                error = self.assertRaises(TypeError, Group, name, channel_layer=self.layer)
                self.assertIn(repr(name), str(error))
                self.assertIn("ASCII letters", str(error))
        for kind in (Channel, Group):
            for thing in (None, 5, ["a"]):
                error = self.assertRaises(TypeError, kind, thing, channel_layer=self.layer)
                self.assertIn(repr(thing), str(error))

    def test_invalid_members(self) -> None:
        """So it is with the channel that is to join a group, or to leave it."""
        group = Group("chat", channel_layer=self.layer)
        for join in (group.add, group.discard):
            for name in ("a b", "", None, 5):
                error = self.assertRaises(TypeError, join, name)
                self.assertIn(repr(name), str(error))
        self.assertEqual(self.layer.group_channels("chat"), [])

    def test_messages_that_are_no_dicts(self) -> None:
        """A channel raises ``TypeError``, a group ``ValueError``, as they always did."""
        for thing in ("text", b"bytes", 5, None, ["text"], [("text", "x")]):
            error: Exception = self.assertRaises(TypeError, Channel("a", channel_layer=self.layer).send, thing)
            self.assertIn("only send dicts", str(error))
            error = self.assertRaises(ValueError, Group("a", channel_layer=self.layer).send, thing)
            self.assertIn("only send dicts", str(error))

    def test_invalid_contents(self) -> None:
        """``TypeError`` that names the key at fault, however deep it lies; nothing is sent."""
        loop: dict[str, Any] = {}
        loop["itself"] = loop
        contents: list[tuple[dict[Any, Any], str, str]] = [
            ({"good": 1, "bad": object()}, "['bad']", "object"),
            ({"bad": {1, 2}}, "['bad']", "set"),
            ({"bad": Decimal("1.5")}, "['bad']", "Decimal"),
            ({"outer": {"list": [0, 1, {"bad": object()}]}}, "['outer']['list'][2]['bad']", "object"),
            ({"bad": 2**63}, "['bad']", "64 bits"),
            ({"bad": -(2**63) - 1}, "['bad']", "64 bits"),
            ({5: "x"}, "5", "must be str"),
            ({"outer": {None: "x"}}, "None", "['outer']"),
            (loop, "['itself']", "contains itself"),
        ]
        self.layer.group_add("a", "members")
        for content, key, reason in contents:
            for kind in (Channel, Group):
                error = self.assertRaises(TypeError, kind("a", channel_layer=self.layer).send, content)
                self.assertIn(key, str(error))
                self.assertIn(reason, str(error))
        self.assertEqual(self.layer.receive(["a", "members"]), (None, None))
