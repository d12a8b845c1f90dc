"""One file of a site that knows nothing of this server, from an environment with large libraries.

A project as ``startproject`` writes it, with psycopg, Pillow and lxml, an editable installation and a ``.pth`` file.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path

import requests

from tests.packed import NOBODY, in_root, make_root, missing, missing_for_chroot, packed_once
from tests.process import TIMEOUT, wait_until
from tests.test_pack import PackedTestCase

#: What a site of today has beside Django, with shared libraries of its own.
LIBRARIES = ("psycopg", "PIL", "lxml")

COMMAND = """\
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Greets."

    def handle(self, **options):
        self.stdout.write("hello from an editable package")
"""


def missing_libraries() -> str:
    """Return which libraries are not installed, empty if all are."""
    gone = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(gone)}" if gone else ""


def write_environment(folder: Path) -> Path:
    """Make a virtual environment with the packages of this one, by a ``.pth`` file; return its interpreter."""
    venv.create(folder / "venv", with_pip=False)
    packages = next((folder / "venv" / "lib").glob("python3*")) / "site-packages"
    (packages / "shared.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("-packages")))
    source = folder / "greeter" / "src"
    command = source / "greeter" / "management" / "commands"
    command.mkdir(parents=True)
    for path in (source / "greeter", command.parent, command):
        (path / "__init__.py").touch()
    (command / "greet.py").write_text(COMMAND)
    (source / "greeter" / "late.py").write_text('TEXT = "imported late"\n')
    (source / "greeter.egg-info").mkdir()
    (source / "greeter.egg-info" / "top_level.txt").write_text("greeter\n")
    (packages / "__editable__.greeter-1.pth").write_text(f"{source}\n")
    return folder / "venv" / "bin" / "python"


def write_plain_site(base: Path) -> tuple[Path, Path]:
    """Write the project and its environment; return its folder and the interpreter."""
    python = write_environment(base)
    project = base / "project"
    project.mkdir()
    subprocess.run([sys.executable, "-m", "django", "startproject", "plain", str(project)], check=True)
    with open(project / "plain" / "settings.py", "a") as settings:
        settings.write('\nINSTALLED_APPS += ["greeter"]\nSTATIC_ROOT = BASE_DIR / "collected"\n')
    urls = project / "plain" / "urls.py"
    urls.write_text(urls.read_text().replace("urlpatterns = [", "urlpatterns = [\n    path('late/', late),"))
    with open(urls) as stream:
        text = stream.read()
    urls.write_text(
        "from django.http import HttpResponse\n\n\ndef late(request):\n    from greeter.late import TEXT\n\n"
        f"    return HttpResponse(TEXT)\n\n\n{text}"
    )
    return project, python


class PlainTestCase(PackedTestCase):
    """Tests with the packed plain site."""

    skip = missing() or missing_libraries() or None
    name = "plain"
    page = "/admin/login/"

    def pack_site(self) -> Path:
        return packed_once("plain", write_plain_site)


class PlainTests(PlainTestCase):
    """On this machine."""

    def test_cleaning_of_old_files(self) -> None:
        """systemd's cleaner of old files leaves the folder of a running site alone."""
        if shutil.which("systemd-tmpfiles") is None:
            self.skipTest("systemd is not installed")
        process, address = self.serve("--migrate")
        (folder,) = self.unpacked()
        everything = [*folder.rglob("*"), folder]
        old = 1_000_000_000
        for path in everything:
            os.utime(path, (old, old), follow_symlinks=False)
        rule = self.folder / "rule.conf"
        rule.write_text(f"d {folder.parent} - - - mM:10s\n")
        done = subprocess.run(["systemd-tmpfiles", "--clean", str(rule)], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual([path for path in everything if not path.exists()], [])
        self.assertEqual(requests.get(f"http://{address}/late/", timeout=TIMEOUT).text, "imported late")
        process.terminate()
        self.assertEqual(process.wait(TIMEOUT), 0)
        subprocess.run(["systemd-tmpfiles", "--clean", str(rule)], check=False)
        self.assertFalse(folder.exists())  # so the rule was one that cleans
        self.output("check")  # and a start unpacks anew

    def test_late_import_beside_a_new_version(self) -> None:
        """A server goes on, with modules that it imports late, while newer versions clean up."""
        process, address = self.serve("--migrate")
        (first,) = self.unpacked()
        data = self.file.read_bytes()
        for letter in "ab":
            folder = first.with_name("plain-" + 16 * letter)
            shutil.copytree(first, folder)
            time = first.stat().st_mtime + ord(letter)
            os.utime(folder, (time, time))
            self.replace_file(data.replace(first.name.removeprefix("plain-").encode(), 16 * letter.encode()))
            self.output("check")
            self.assertIn(first, self.unpacked())
        self.assertEqual(requests.get(f"http://{address}/late/", timeout=TIMEOUT).text, "imported late")
        process.terminate()
        self.assertEqual(process.wait(TIMEOUT), 0)
        self.output("check")
        self.assertEqual([path.name for path in self.unpacked()], ["plain-" + 16 * letter for letter in "ab"])

    def replace_file(self, data: bytes) -> None:
        """Put another version in place of the file, as ``mv`` does."""
        draft = self.site / "draft"
        draft.write_bytes(data)
        draft.chmod(0o755)
        os.replace(draft, self.file)

    def test_signals(self) -> None:
        """SIGHUP does not end the server, SIGINT ends it with 0, a second SIGTERM at once."""
        self.unpack_once()
        process, address = self.serve("--migrate")
        process.send_signal(signal.SIGHUP)
        self.assertEqual(requests.get(f"http://{address}/late/", timeout=TIMEOUT).status_code, 200)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(TIMEOUT), 0)
        process, _ = self.serve()
        process.terminate()
        process.terminate()
        self.assertIn(process.wait(TIMEOUT), (0, -signal.SIGTERM))

    def test_work_and_send(self) -> None:
        """``work`` and ``send`` find the server by the socket in the data folder."""
        self.unpack_once()
        _, address = self.serve("--migrate", "--threads", "0", page=None)
        wait_until((self.site / "plain-data" / "channelserver.sock").is_socket, "the local socket")
        worker = subprocess.Popen(
            self.command("work"), env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.addCleanup(worker.wait)
        self.addCleanup(worker.kill)
        self.assertEqual(requests.get(f"http://{address}/late/", timeout=TIMEOUT).text, "imported late")
        self.output("send", "notes", "{}")
        self.output("send", "--group", "all", "{}")
        worker.terminate()
        self.assertEqual(worker.wait(TIMEOUT), 0)

    def test_commands(self) -> None:
        """Commands of an application are listed, and run."""
        self.unpack_once()
        self.assertIn("greet", self.output("help", "--commands"))
        self.assertIn("hello from an editable package", self.output("greet"))


class PlainChrootTests(PlainTestCase):
    """On a machine that has busybox and glibc, and nothing else."""

    skip = missing_for_chroot() or missing_libraries() or None

    def setUp(self) -> None:
        super().setUp()
        self.root = self.folder / "root"
        self.root.mkdir()
        self.site = make_root(self.root)
        self.file = self.site / "plain"
        shutil.copy(self.packed, self.file)
        self.environment = dict(os.environ)

    def command(self, *arguments: str) -> list[str]:
        return in_root(self.root, "/bin/sh", "-c", 'cd /srv/site && exec ./plain "$@"', "sh", *arguments)

    def test_site(self) -> None:
        """Libraries with C code work; the admin can be used, its static files are there; it stops."""
        code = (
            "import io, PIL.Image, lxml.etree, psycopg; image = io.BytesIO(); "
            "PIL.Image.new('RGB', (8, 8)).save(image, 'JPEG'); "
            "print(len(image.getvalue()) > 100, lxml.etree.fromstring('<a><b/></a>')[0].tag, psycopg.pq.version() > 0)"
        )
        self.assertIn("True b True", self.output("shell", "-c", code))
        self.output("migrate", "-v", "0")
        code = "from django.contrib.auth.models import User; User.objects.create_superuser('root', password='word')"
        self.output("shell", "-c", code)
        self.assertEqual((self.site / "plain-data" / "db.sqlite3").stat().st_uid, NOBODY)
        process, address = self.serve("--processes", "2")
        session = requests.Session()
        page = session.get(f"http://{address}/admin/login/", timeout=TIMEOUT)
        for path in set(re.findall(r'"(/?static/[^"]+)"', page.text)):
            found = requests.get(f"http://{address}/{path.lstrip('/')}", timeout=TIMEOUT)
            self.assertEqual(found.status_code, 200, path)
        fields = {"username": "root", "password": "word", "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        answer = session.post(f"http://{address}/admin/login/?next=/admin/", data=fields, timeout=TIMEOUT)
        self.assertEqual((answer.status_code, answer.url), (200, f"http://{address}/admin/"))
        process.terminate()
        self.assertEqual(process.wait(TIMEOUT), 0)
