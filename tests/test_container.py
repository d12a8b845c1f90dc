"""The container file of ``examples/deploy``, its commands run as printed, in a root folder of their own.

The tests need no Docker. A file system over that of the machine stands for the image, a virtual environment of the
machine's Python for the image's, and a namespace of processes for the container's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import requests
from twisted.trial.unittest import SynchronousTestCase
from websockets.sync.client import connect

from tests.packed import missing
from tests.process import FILES, ROOT, TIMEOUT, free_port, wait_until

FILE = ROOT / "examples" / "deploy" / "Containerfile"

#: The Python of the machine that every user may run.
PYTHON = "/usr/bin/python3"

ROUTING = """
from channelserver import Group

def connect(message):
    Group("chat").add(message.reply_channel)

channel_routing = {"websocket.connect": connect}
"""

#: Parts of a checkout that the package is built of.
SOURCES = (
    "channelserver", "examples", "twisted", "setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.rst",
    "CHANGELOG.rst", "LICENSE",
)  # fmt: skip


def instructions() -> Iterator[tuple[str, str]]:
    """Return the instructions of the file with their arguments."""
    for line in FILE.read_text().splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            yield word, rest


class ContainerTests(SynchronousTestCase):
    """Build, run, use and stop."""

    skip = missing() or ("only root may change the root folder" if os.getuid() else None)
    timeout = 900

    def setUp(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="channelserver-test-"))
        self.addCleanup(shutil.rmtree, self.base, ignore_errors=True)
        self.mount("-t", "tmpfs", "tmpfs", str(self.base))
        for name in ("upper", "work", "root", "site"):
            (self.base / name).mkdir()
        self.root = self.base / "root"
        layers = f"lowerdir=/,upperdir={self.base}/upper,workdir={self.base}/work"
        self.mount("-t", "overlay", "overlay", "-o", layers, str(self.root))
        for name in ("dev", "proc"):
            self.mount("--bind", f"/{name}", str(self.root / name))
        self.mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(self.root / "tmp"))
        self.environment = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
        self.environment |= {"PATH": "/image/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"}
        self.folder, self.user = "/", "root"

    def mount(self, *arguments: str) -> None:
        """Mount a file system until the end of the test; skip the test where that is not allowed."""
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            self.skipTest(f"no file system can be mounted: {done.stderr}")
        self.addCleanup(subprocess.run, ["umount", "--lazy", arguments[-1]], check=False)

    def inside(self, *command: str) -> list[str]:
        """Return a command line that runs a command in the image, in its folder, as its user."""
        place = f'cd {self.folder} && exec "$@"'
        return ["chroot", f"--userspec={self.user}", str(self.root), "/bin/sh", "-c", place, "sh", *command]

    def do(self, *command: str) -> str:
        """Run a command in the image; it must succeed. Return its output."""
        done = subprocess.run(
            self.inside(*command), env=self.environment, capture_output=True, text=True, timeout=600, check=False
        )
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout}{done.stderr}")
        return done.stdout

    def build(self) -> dict[str, list[str]]:
        """Do what the file says; return what is for the running container."""
        later = {}
        for word, rest in instructions():
            if word == "FROM":
                self.assertRegex(rest, r"^python:3\.\d+-slim$")
                self.do(PYTHON, "-m", "venv", "/image")
            elif word == "ENV":
                self.environment.update(pair.split("=", 1) for pair in rest.split())
            elif word == "WORKDIR":
                self.folder = rest
                (self.root / rest.lstrip("/")).mkdir(parents=True)
            elif word == "COPY":
                source, target = rest.split()
                self.assertEqual(target, ".")
                source = f"{self.base}/site/{source}"
                subprocess.run(["cp", "-r", source, f"{self.root}{self.folder}/"], check=True)
            elif word == "RUN":
                self.do("/bin/sh", "-c", rest)
            elif word == "USER":
                self.user = rest
            elif word == "EXPOSE":
                self.assertEqual(rest, "8000")
            else:
                self.assertIn(word, ("HEALTHCHECK", "CMD"))
                later[word] = json.loads(rest.removeprefix("CMD "))
        return later

    def test_container(self) -> None:
        """The site serves, as the first process and as another user than root; ``send`` beside it; health; SIGTERM."""
        source = self.root / "source"
        source.mkdir()
        for name in SOURCES:
            subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
        site = self.base / "site"
        for name, text in FILES.items():
            (site / name).write_text(text)
        (site / "routing.py").write_text(ROUTING)
        (site / "requirements.txt").write_text("/source\n")
        with (site / "settings.py").open("a") as settings:
            settings.write('STATIC_ROOT = BASE_DIR / "static"\nINSTALLED_APPS += ["django.contrib.admin"]\n')
        later = self.build()
        port = free_port()
        self.environment |= {"PORT": str(port), "DJANGO_SETTINGS_MODULE": "settings"}
        command = ["unshare", "--pid", "--fork", "--kill-child", *self.inside(*later["CMD"])]
        with open(self.base / "log", "w") as log:
            server = subprocess.Popen(command, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)

        def answers() -> bool:
            self.assertIsNone(server.poll(), (self.base / "log").read_text())
            done = subprocess.run(
                self.inside(*later["HEALTHCHECK"]), env=self.environment, capture_output=True, check=False
            )
            return done.returncode == 0

        wait_until(answers, "the health check")
        style = requests.get(f"http://127.0.0.1:{port}/static/admin/css/base.css", timeout=TIMEOUT)
        self.assertEqual(style.status_code, 200)
        with connect(f"ws://127.0.0.1:{port}/", open_timeout=TIMEOUT) as socket:
            for send in (("channelserver", "send"), ("python", "manage.py", "send")):
                self.do(*send, "--group", "chat", '{"text": "hello"}')
                self.assertEqual(socket.recv(TIMEOUT), "hello")
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        inside = int(children[0])
        status = Path(f"/proc/{inside}/status").read_text()
        self.assertRegex(status, r"NSpid:\t\d+\t1\n")
        self.assertNotRegex(status, r"Uid:\t0\t")
        os.kill(inside, signal.SIGTERM)
        self.assertEqual(server.wait(TIMEOUT), 0)
        log_lines = (self.base / "log").read_text().splitlines()
        self.assertTrue(all(json.loads(line) for line in log_lines))
        self.assertNotIn("Traceback", "".join(log_lines))
