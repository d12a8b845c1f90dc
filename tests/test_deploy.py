"""Started as systemd starts it, with the files of ``examples/deploy``; and restarted under load."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import unittest
from typing import Any

from tests.process import ROOT, TIMEOUT, Server, ServerTestCase, free_port, wait_until
from tests.raw import Raw, head

DEPLOY = ROOT / "examples" / "deploy"

URLS = """
    import os, time
    from django.http import HttpResponse
    from django.urls import path

    def slow(request):
        time.sleep(0.005)
        return HttpResponse(str(os.getpid()))

    urlpatterns = [path("", slow)]
"""

#: What systemd does between fork and exec: the listening socket is descriptor 3, and the environment says so.
ACTIVATED = """
import os, sys
os.dup2(int(sys.argv.pop(1)), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
code = "from channelserver.start.cli import main; main()"
os.execv(sys.executable, [sys.executable, "-c", code, *sys.argv[1:]])
"""

ACTIVATE = ["systemd-socket-activate", "--setenv=PYTHONPATH"]

ROUTING = """
    from channelserver import Group

    def connect(message):
        Group("chat").add(message.reply_channel)

    channel_routing = {"websocket.connect": connect}
"""

#: Clients at the same time, and answers at least of each process.
CLIENTS, ANSWERS = 8, 300


def unit(name: str) -> configparser.ConfigParser:
    """Read one of the units."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / name)
    return parser


class SystemdTests(ServerTestCase):
    """Socket activation."""

    files = {"urls.py": URLS}

    def arguments(self) -> list[str]:
        """Return the unit's command line, without the program."""
        command = shlex.split(unit("channelserver.service")["Service"]["ExecStart"])
        self.assertEqual(command[0], "/srv/site/.venv/bin/channelserver")
        return command[1:]

    def activate(self, listener: socket.socket) -> Server:
        """Start the server on a listening socket of ours."""
        number = listener.fileno()
        command = [
            sys.executable,
            "-c",
            ACTIVATED,
            str(number),
            *self.arguments(),
            "--access-log",
            "",
            "--log-format",
            "text",
        ]
        server = self.run_process(command, pass_fds=(number,))
        server.wait_for("listening on http://127.0.0.1:")
        return server

    def test_restart_under_load(self) -> None:
        """A thousand requests or so, each on a connection of its own; two restarts meanwhile; all are answered."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.addCleanup(listener.close)
        port = listener.getsockname()[1]
        server = self.activate(listener)
        seen: list[Any] = []
        enough = threading.Event()
        self.addCleanup(enough.set)

        def run() -> None:
            while not enough.is_set():
                try:
                    with Raw(port) as raw:
                        answer = raw.send(head("GET / HTTP/1.1")).answer()
                    seen.append((answer.status, int(answer.body)))
                except Exception as error:
                    seen.append((repr(error), 0))

        threads = [threading.Thread(target=run) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        wanted: list[Any] = []
        for last in (False, False, True):
            wanted.append((200, server.process.pid))
            wait_until(lambda: seen.count(wanted[-1]) >= ANSWERS, f"{ANSWERS} answers of one process")
            if not last:
                self.assertEqual(server.stop(), 0)
                server = self.activate(listener)
        enough.set()
        for thread in threads:
            thread.join()
        self.assertEqual(set(seen), set(wanted))

    def test_a_new_connection_may_still_ask(self) -> None:
        """Accepted, but not yet heard of, when the server stops: its first request is answered, and the last."""
        patience = "from channelserver.server.http import connection\nconnection.FIRST_REQUEST = 5.0\n"
        self.write({"routing.py": patience + "channel_routing = []\n"})
        server = self.start()
        with Raw(server.port) as new, Raw(server.port) as silent, Raw(server.port) as used:
            used.request("/")
            wait_until(lambda: json.loads(used.request("/-/health").body)["connections"] == 3)
            server.process.send_signal(15)
            server.wait_for("connections are open")
            answer = new.send(head("GET / HTTP/1.1")).answer()
            self.assertEqual((answer.status, answer.get("connection")), (200, "close"))
            self.assertTrue(used.is_closed())
            self.assertTrue(silent.is_closed())
        self.assertEqual(server.wait(TIMEOUT), 0)

    def test_units(self) -> None:
        """The two units belong together, and leave the server its time to drain."""
        service, sockets = unit("channelserver.service"), unit("channelserver.socket")
        self.assertEqual(service["Unit"]["Requires"], "channelserver.socket")
        self.assertRegex(sockets["Socket"]["ListenStream"], r"^[0-9.]+:\d+$")
        arguments = self.arguments()
        self.assertEqual(arguments[arguments.index("--endpoint") + 1], "systemd:domain=INET:index=0")
        drain = float(arguments[arguments.index("--drain-timeout") + 1])
        self.assertGreater(float(service["Service"]["TimeoutStopSec"]), drain)

    def site(self) -> dict[str, str]:
        """Make the folder of this test what the unit's folder is; return its files: the units, with its path."""
        programs = self.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        program = programs / "channelserver"
        program.write_text(f"#!{sys.executable}\nfrom channelserver.start.cli import main\nmain()\n")
        program.chmod(0o755)
        return {path.name: path.read_text().replace("/srv/site", str(self.folder)) for path in DEPLOY.glob("*.s*")}

    @unittest.skipUnless(shutil.which("systemd-analyze"), "there is no systemd-analyze")
    def test_systemd_analyze(self) -> None:
        """Systemd accepts the units as printed, and calls the service safe."""
        units = self.site()
        self.write({f"units/{name}": text for name, text in units.items()})
        paths = [str(self.folder / "units" / name) for name in units]
        done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, timeout=TIMEOUT)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        command = ["systemd-analyze", "security", "--offline=true", "--threshold=40", "--no-pager"]
        path = str(self.folder / "units" / "channelserver.service")
        done = subprocess.run([*command, path], capture_output=True, text=True, timeout=TIMEOUT)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    @unittest.skipUnless(shutil.which("systemd-socket-activate"), "there is no systemd-socket-activate")
    def test_socket_activation(self) -> None:
        """The unit's command line, as printed; ``send`` beside it finds the server."""
        self.write({"routing.py": ROUTING})
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(self.site()["channelserver.service"])
        command = shlex.split(parser["Service"]["ExecStart"])
        port = free_port()
        server = self.run_process([*ACTIVATE, "--listen", f"127.0.0.1:{port}", *command])
        server.wait_for("Listening on")
        server.port = port
        self.assertTrue(server.get().text.isdigit())
        with server.connect("/") as client:
            for sender in (command[:1], [sys.executable, "manage.py"]):
                done = self.run_process([*sender, "send", "--group", "chat", '{"text": "hello"}'])
                self.assertEqual(done.wait(), 0, done.output)
                self.assertEqual(client.recv(TIMEOUT), "hello")
        self.assertEqual(server.stop(), 0)

    def test_container(self) -> None:
        """The container's command as printed, with its variables; ``manage.py send`` beside it; the health check."""
        lines = (DEPLOY / "Containerfile").read_text().splitlines()
        command = json.loads(next(line for line in lines if line.startswith("CMD "))[4:])
        check = json.loads(next(line for line in lines if line.startswith("HEALTHCHECK CMD "))[16:])
        variables = dict(word.split("=") for line in lines if line.startswith("ENV ") for word in line.split()[1:])
        variables["CHANNELSERVER_LOCAL_SOCKET"] += str(os.getpid())  # other tests may run on this machine
        self.assertEqual(command[:2], ["channelserver", "serve"])
        self.write({"routing.py": ROUTING})
        port = str(free_port())
        variables["PORT"] = port
        more = {"CHANNELSERVER_LOG_FORMAT": "text"}
        server = self.run_process(self.command(*command[1:]), **variables, **more).wait_until_up()
        with server.connect("/") as client:
            done = self.run_process(
                [sys.executable, "manage.py", "send", "--group", "chat", '{"text": "hello"}'], **variables
            )
            self.assertEqual(done.wait(), 0, done.output)
            self.assertEqual(client.recv(TIMEOUT), "hello")
        check[0] = sys.executable
        wait_until(lambda: self.run_process(check, PORT=port).wait() == 0, "the health check")  # it has little patience
        self.assertEqual(server.stop(), 0)
        self.assertEqual(self.run_process(check, PORT=port).wait(), 1)
