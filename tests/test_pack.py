"""One file: what goes in, where it unpacks, what it says."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import requests
from twisted.trial.unittest import SynchronousTestCase
from websockets.sync.client import connect

from channelserver.packing import elf, writes
from channelserver.packing.tree import PRIVATE, needs_setuptools
from tests.packed import NOBODY, SECRETS, in_root, make_root, missing, missing_for_chroot, pack, packed_site, write_site
from tests.process import TIMEOUT, free_port, wait_until

#: What a program may do with modules that are not files any more.
MODULES = """
import importlib.metadata, importlib.resources, inspect, io, json, multiprocessing, os, pkgutil, subprocess, sys
import traceback

import django.contrib.auth
from django.utils import translation
from django.utils.translation import gettext, trans_real
from twisted.plugin import IPlugin, getPlugins
from twisted.python.failure import Failure

home = os.path.dirname(django.__file__)
assert "/.cache/" in home or "/unpacked/" in home
assert "def loads(" in inspect.getsource(json.loads)
assert "class AbstractUser(" in inspect.getsource(django.contrib.auth.get_user_model().__mro__[1])
try:
    json.loads("{")
except ValueError:
    assert "return _default_decoder.decode(s)" in traceback.format_exc()
    assert "return _default_decoder.decode(s)" in Failure().getTraceback()
try:
    importlib.import_module("not_there")
except ImportError:
    assert "return _bootstrap._gcd_import(" in Failure().getTraceback()
assert "class TextIOBase(" in inspect.getsource(io)
assert "def import_module(" in inspect.getsource(importlib)
for module in importlib, importlib.metadata, sys.modules["encodings.utf_8"], sys.modules["warnings"]:
    path = module.__name__.replace(".", "/") + ("/__init__.py" if hasattr(module, "__path__") else ".py")
    assert module.__file__ == os.path.join(os.path.dirname(os.__file__), path), module
assert json.__file__ == os.path.join(os.path.dirname(os.__file__), "json", "__init__.py")
assert {"django", "json", "_ctypes", "chatsite", "typing_extensions"} <= {one.name for one in pkgutil.iter_modules()}
names = {one.name: one.ispkg for one in pkgutil.walk_packages(django.contrib.auth.__path__, "auth.")}
assert names["auth.management"] and not names["auth.models"], names
assert importlib.resources.files("django.contrib.admin").joinpath("templates/admin/base.html").is_file()
assert b"<html" in pkgutil.get_data("django.contrib.admin", "templates/admin/base.html")
assert importlib.metadata.version("django") == django.__version__
assert any(entry.name == "django-admin" for entry in importlib.metadata.entry_points(group="console_scripts"))
for language, word in ("de", "Passwort"), ("pt-br", "Senha"), ("de-at", "Passwort"), ("en", "Password"):
    with translation.override(language):
        assert gettext("Password") == word and translation.check_for_language(language), language
assert not trans_real.check_for_language("xx")
assert "systemd" in {getattr(one, "prefix", "") for one in getPlugins(IPlugin)}
with multiprocessing.get_context("spawn").Pool(1) as pool:
    assert pool.map(os.path.basename, ["a/b"]) == ["b"]
program = "import asyncio, email.message, encodings.idna, json, sqlite3; print(json.loads('7'))"
for flags in [], ["-I"], ["-S"], ["-E"], ["-O"], ["-I", "-S"], ["-X", "pycache_prefix=/nowhere"]:
    done = subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("7\\n", ""), (flags, done)
for module, word in ("django", "collectstatic"), ("pydoc json.loads", "Deserialize"), ("twisted --help", "web"):
    done = subprocess.run([sys.executable, "-m", *module.split()], capture_output=True, text=True)
    assert word in done.stdout, (module, done)
for program in "json.loads('{')", "threading.Thread(target=json.loads, args=['{'], name='the one').start()":
    program = f"import json, threading; {program}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "return _default_decoder.decode(s)" in done.stderr and "sitecustomize" not in done.stderr, done.stderr
    assert "Exception in thread the one:" in done.stderr or "Thread" not in program, done.stderr
print("all well")
"""


class PackedTestCase(SynchronousTestCase):
    """Tests with the packed site."""

    skip = missing() or None
    timeout = 900
    name = "chat"
    page = "/login/"  # which a server that has started answers

    def pack_site(self) -> Path:
        """Return the packed site."""
        return packed_site()

    def setUp(self) -> None:
        self.packed = self.pack_site()
        self.folder = Path(tempfile.mkdtemp(prefix="channelserver-test-"))
        self.addCleanup(self._remove)
        self.site = self.folder / "site"
        self.site.mkdir()
        self.file = self.site / self.name
        shutil.copy(self.packed, self.file)
        self.environment = {"PATH": os.environ["PATH"]}

    def _remove(self) -> None:
        subprocess.run(["chmod", "-R", "u+w", str(self.folder)], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def unpack_once(self) -> None:
        """Let the file unpack into a folder that it shares with other tests, to which the place is nothing either."""
        self.environment["PACKED_DIR"] = str(self.packed.parent / "unpacked")

    def command(self, *arguments: str) -> list[str]:
        return [str(self.file), *arguments]

    def run_file(self, *arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        """Run the file to its end."""
        kwargs.setdefault("env", self.environment)
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=TIMEOUT * 3, check=False, **kwargs
        )

    def output(self, *arguments: str, **kwargs: Any) -> str:
        """Run the file, which must succeed; return its output."""
        done = self.run_file(*arguments, **kwargs)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def serve(self, *arguments: str, page: str | None = "") -> tuple[subprocess.Popen[str], str]:
        """Start the server, and wait until it answers; return its process and its address.

        :param page: which it must answer; None: none, the port is enough; empty: that of the test case.
        """
        port = free_port()
        with open(self.folder / "errors.txt", "w") as errors:
            process = subprocess.Popen(
                self.command("--port", str(port), *arguments), env=self.environment, stdout=subprocess.DEVNULL,
                stderr=errors, text=True,
            )  # fmt: skip
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        address = f"127.0.0.1:{port}"

        def answers() -> bool:
            self.assertIsNone(process.poll(), (self.folder / "errors.txt").read_text())
            try:
                if page is None:
                    socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
                    return True
                return requests.get(f"http://{address}{page or self.page}", timeout=TIMEOUT).status_code == 200
            except (requests.ConnectionError, ConnectionRefusedError):
                return False

        wait_until(answers, "the site")
        return process, address

    def unpacked(self) -> list[Path]:
        """Return the unpacked folders beside the file."""
        return sorted(path for path in (self.site / ".cache").iterdir() if path.name.startswith(f"{self.name}-"))

    def members(self) -> dict[str, tarfile.TarInfo]:
        """Return what is in the archive."""
        return {member.name: member for member in self._archive().getmembers()}

    def _archive(self) -> tarfile.TarFile:
        data = self.packed.read_bytes()
        skip = int(re.search(rb"skip=(\d+)", data)[1])  # type: ignore[index]
        return tarfile.open(fileobj=io.BytesIO(gzip.decompress(data[skip - 1 :])))


class ContentTests(PackedTestCase):
    """What goes in."""

    def setUp(self) -> None:
        super().setUp()
        self.unpack_once()

    def test_developers_files(self) -> None:
        """Nothing of the developer's is in the archive, and the report says so."""
        data = self._archive()
        text = b"".join(data.extractfile(member).read() for member in data if member.isfile())  # type: ignore[union-attr]
        for name, secret in SECRETS.items():
            self.assertNotIn(secret, text, name)
        report = (self.packed.parent / "report").read_text()
        for line in ("left out .*db.sqlite3", r"DATABASES\['default'\]\['NAME'\] → chat-data/db.sqlite3", "glibc 2"):
            self.assertRegex(report, line)
        self.assertIn("MEDIA_ROOT → chat-data/media", report)

    def test_size_and_modes(self) -> None:
        """Everything is read-only, has the same owner and time, and the last entry says that all are there."""
        members = self.members()
        self.assertEqual(list(members)[-1], ".complete")
        for member in members.values():
            self.assertEqual((member.uid, member.mtime, member.mode & 0o022), (0, 0, 0), member.name)
        self.assertFalse([name for name in members if name.endswith((".po", ".sqlite3"))])

    def test_texts(self) -> None:
        """The file says what it is, what is in it, and what makes no sense here."""
        self.assertRegex(self.output("--version"), r"^chat .*\(channelserver .*Django .*glibc 2\.\d+ or later\)")
        self.assertRegex(self.output("--sbom"), r"(?m)^Twisted \d")
        reader, writer = os.pipe()
        os.close(reader)  # as of ./chat --sbom | head
        try:
            done = subprocess.run(
                self.command("--sbom"), env=self.environment, stdout=writer, stderr=subprocess.PIPE, timeout=TIMEOUT * 3
            )
        finally:
            os.close(writer)
        self.assertEqual((done.returncode, done.stderr), (1, b""))
        self.assertIn("CHAT_HOSTS", self.output("--help"))
        for word in ("runserver", "collectstatic", "pack", "makemigrations"):
            done = self.run_file(word)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1))
            self.assertIn(word, done.stderr)
        done = self.run_file("no-such-command")
        self.assertEqual(done.returncode, 1)
        done = self.run_file("--no-such-flag")
        self.assertIn("--no-such-flag", done.stderr)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("[Service]", self.output("install"))
        self.assertIn("changepassword", self.output("help", "--commands"))
        done = self.run_file("check-site")
        self.assertEqual(done.returncode, 1)
        for cure in ("set CHAT_HOSTS to", "run ./chat migrate"):
            self.assertIn(cure, done.stdout)

    def test_modules(self) -> None:
        """Modules and translations that lie in archives are as good as files."""
        self.assertIn("all well", self.output("shell", "-c", MODULES))

    def test_units(self) -> None:
        """The printed units are valid."""
        if shutil.which("systemd-analyze") is None:
            self.skipTest("systemd is not installed")
        self.file = self.file.rename(self.site / "chat 100%")
        service, _, socket = self.output("install").partition("# /etc/systemd/system/chat.socket")
        self.assertIn(f'\nExecStart="{self.site}/chat 100%%" --fd 3 --migrate\n', service)
        (self.folder / "chat.service").write_text(service)
        (self.folder / "chat.socket").write_text(socket)
        done = subprocess.run(
            ["systemd-analyze", "verify", str(self.folder / "chat.service"), str(self.folder / "chat.socket")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))

    def test_twice_the_same(self) -> None:
        """Two packs of the same tree are the same, byte for byte."""
        done = pack(self.packed.parent / "project", self.folder / "chat")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((self.folder / "chat").read_bytes(), self.packed.read_bytes())


class PlaceTests(PackedTestCase):
    """Where the file unpacks."""

    def test_names_and_ways(self) -> None:
        """Any name of a folder, a link, the path, another working directory, whose modules do not count."""
        odd = self.folder / "it's an odd 'place'"
        odd.mkdir()
        shutil.copy(self.packed, odd / "chat")
        (odd / "json.py").write_text("raise AssertionError('this is not the site')\n")
        link = self.folder / "linked"
        link.symlink_to(odd / "chat")
        for command in ([str(odd / "chat")], [str(link)], ["./chat"], ["chat"]):
            environment = {"PATH": f"{odd}:{os.environ['PATH']}"}
            done = subprocess.run(
                [*command, "check"], cwd=odd, env=environment, capture_output=True, text=True, check=False
            )
            self.assertEqual(done.returncode, 0, f"{command}: {done.stderr}")
        self.assertEqual(len(list((odd / ".cache").iterdir())), 1)
        self.assertTrue((odd / "chat-data").is_dir())

    def test_read_only_folder(self) -> None:
        """A folder that cannot be written to: PACKED_DIR and the variable for the data name others."""
        other: dict[str, Any] = {}
        places = {"PACKED_DIR": self.folder / "cache", "CHAT_DATA": self.folder / "data"}
        for path in places.values():
            path.mkdir()
        if os.getuid() == 0:  # who may write everywhere
            other = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            for path in places.values():
                os.chown(path, NOBODY, NOBODY)
            self.folder.chmod(0o755)
        self.site.chmod(0o555)
        self.addCleanup(self.site.chmod, 0o755)
        self.environment |= {name: str(path) for name, path in places.items()}
        self.output("check", **other)
        self.assertEqual([path.name[:5] for path in places["PACKED_DIR"].iterdir()], ["chat-"])
        self.assertEqual([path.name for path in self.site.iterdir()], ["chat"])
        del self.environment["CHAT_DATA"]
        done = self.run_file("check", **other)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1))
        self.assertIn("CHAT_DATA", done.stderr)

    def test_ten_at_once(self) -> None:
        """Ten first starts at once make one folder."""
        processes = [
            subprocess.Popen(self.command("--version"), env=self.environment, stdout=subprocess.PIPE, text=True)
            for _ in range(10)
        ]
        outputs = {process.communicate()[0] for process in processes}
        self.assertEqual((len(outputs), {process.returncode for process in processes}), (1, {0}))
        self.output("check")
        self.assertEqual([path.name[:5] for path in (self.site / ".cache").iterdir()], ["chat-"])

    def test_killed_while_unpacking(self) -> None:
        """A start that is killed leaves nothing behind that is used, and the next one cleans up."""
        kills = int(os.environ.get("CHANNELSERVER_TEST_KILLS", "3"))
        for seconds in ((number + 0.1) / kills for number in range(kills)):
            process = subprocess.Popen(self.command("check"), env=self.environment, start_new_session=True)
            time.sleep(seconds)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.output("check")
        self.assertEqual([path.name[:5] for path in (self.site / ".cache").iterdir()], ["chat-"])

    def test_half_removed(self) -> None:
        """What is left of a folder whose removal was cut off is not in the way, and is removed."""
        self.output("check")
        (folder,) = self.unpacked()
        (folder / ".complete").unlink()
        shutil.rmtree(folder / "python")
        other = folder.with_name("chat-" + 16 * "b")
        (other / "site").mkdir(parents=True)
        code = "import os; print(os.environ['PACKED_SITE'])"
        self.assertEqual(self.output("shell", "-v", "0", "-c", code), f"{folder}\n")
        self.assertEqual([path.name for path in (self.site / ".cache").iterdir()], [folder.name])

    def test_truncated(self) -> None:
        """Half a file says so, and leaves nothing."""
        data = self.packed.read_bytes()
        for size in (len(data) // 2, len(data) - 10_000):
            self.file.write_bytes(data[:size])
            self.environment["PACKED_DIR"] = str(self.folder / "cache")
            done = self.run_file("check")
            self.assertEqual(done.returncode, 1)
            self.assertEqual(done.stderr, "chat: the file is incomplete or damaged; copy it here once more\n")
            self.assertEqual(list((self.folder / "cache").iterdir()), [])

    def test_altered(self) -> None:
        """A file of which a bit has changed says so, and leaves nothing: tar alone would not notice."""
        data = bytearray(self.packed.read_bytes())
        data[-6] ^= 1  # the checksum stands for all content
        self.file.write_bytes(data)
        self.environment["PACKED_DIR"] = str(self.folder / "cache")
        done = self.run_file("check")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr, "chat: the file is incomplete or damaged; copy it here once more\n")
        self.assertEqual(list((self.folder / "cache").iterdir()), [])

    def test_places(self) -> None:
        """PACKED_DIR may stand in ``chat.env``, or be relative; CACHE_DIRECTORY may name several, XDG's is absolute.

        A folder that the file makes is nobody else's to write to.
        """
        env = self.site / "chat.env"
        cache = str(self.folder / "cache")
        code = "import os; print(os.environ['PACKED_SITE'])"
        for text, variables in (
            (f'CHAT_DEBUG=1\nexport PACKED_DIR="{cache}"\r\n', {}),
            (f"PACKED_DIR='{cache}'", {"CACHE_DIRECTORY": "/nowhere"}),
            ("PACKED_DIR=/nowhere\n", {"PACKED_DIR": "cache"}),
            ("", {"CACHE_DIRECTORY": f"{cache}:{self.folder}/other"}),
            ("", {"XDG_CACHE_HOME": "relative", "CACHE_DIRECTORY": cache}),
        ):
            env.write_bytes(text.encode())
            done = subprocess.run(
                [*self.command("shell", "-v", "0", "-c", code)], env=self.environment | variables, cwd=self.folder,
                capture_output=True, text=True, check=True, umask=0,
            )  # fmt: skip
            self.assertRegex(done.stdout.strip(), f"^{re.escape(cache)}/chat-[0-9a-f]{{16}}$", (text, variables))
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["cache", "site"])
        self.assertEqual(stat.S_IMODE((self.folder / "cache").stat().st_mode), 0o755)

    def test_strangers_folder(self) -> None:
        """A folder of the right name that belongs to another user is not used."""
        if os.getuid() != 0:
            self.skipTest("only root can make files of others")
        self.output("check")
        (good,) = self.unpacked()
        stranger = self.folder / "strange" / good.name
        stranger.mkdir(parents=True)
        (stranger / ".complete").touch()
        os.chown(stranger, 12345, 12345)
        self.environment["PACKED_DIR"] = str(self.folder / "strange")
        self.output("check")  # it would fail in the stranger's empty folder
        shutil.rmtree(self.site / ".cache")
        self.output("check")
        self.assertTrue((stranger / ".complete").exists())  # perhaps somebody else's site runs there

    def mount(self, place: Path, options: str) -> None:
        """Mount a file system in memory; skip the test where that is not allowed."""
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=False)
        if done.returncode:
            self.skipTest("no file system can be mounted")
        self.addCleanup(subprocess.run, ["umount", str(place)], check=False)

    def test_full_disk(self) -> None:
        """A full disk is a sentence."""
        small = self.folder / "small"
        small.mkdir()
        self.mount(small, "size=5m")
        script = self.file.read_bytes().replace(
            b'"${cache%%:*}" "$beside/.cache" "${XDG_CACHE_HOME:-}" "${home:+$home/.cache}" /var/tmp /tmp',
            b'""',
        )
        self.file.write_bytes(re.sub(rb"skip=(\d+)", b"skip=%d" % self._skip(script), script))
        self.environment["PACKED_DIR"] = str(small)
        done = self.run_file("check")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no space left", done.stderr)
        self.assertEqual(list(small.iterdir()), [])

    @staticmethod
    def _skip(data: bytes) -> int:
        return data.index(b"\nexit 1\n") + len(b"\nexit 1\n") + 1

    def test_no_exec(self) -> None:
        """A place from which programs must not run is passed over."""
        place = self.folder / "noexec"
        place.mkdir()
        self.mount(place, "noexec,size=300m")
        self.environment["PACKED_DIR"] = str(place)
        self.output("check")
        self.assertEqual(list(place.iterdir()), [])
        self.assertEqual(len(self.unpacked()), 1)

    def test_versions(self) -> None:
        """A new version lets the old one run to its end; the third removes the first when nobody runs it."""
        process, address = self.serve("--migrate")
        (first,) = self.unpacked()
        for letter in "bc":
            other = self.site / ".cache" / f"chat-{letter * 16}"
            shutil.copytree(first, other)
            time_of = 1_000_000_000 + ord(letter)
            os.utime(other, (time_of, time_of))
        renamed = self.site / ".cache" / ("chat-" + "d" * 16)
        shutil.copytree(first, renamed)
        data = self.packed.read_bytes().replace(first.name.removeprefix("chat-").encode(), b"d" * 16)
        draft = self.site / "draft"
        draft.write_bytes(data)
        draft.chmod(0o755)
        os.replace(draft, self.file)
        self.output("check")
        found = {path.name for path in self.unpacked()}
        self.assertEqual(found, {first.name, "chat-" + "d" * 16})  # nobody runs b and c, and they are older
        self.assertEqual(requests.get(f"http://{address}/login/", timeout=TIMEOUT).status_code, 200)
        process.terminate()
        self.assertEqual(process.wait(TIMEOUT), 0)

    def test_data_outlives_the_folder(self) -> None:
        """What the site has written is beside the file, and stays; nothing is written below the unpacked folder."""
        self.output("migrate", "-v", "0")
        (folder,) = self.unpacked()
        before = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
        process, _ = self.serve()
        process.terminate()
        self.assertEqual(process.wait(TIMEOUT), 0)
        self.output("check")
        self.assertEqual({path: path.lstat().st_mtime_ns for path in folder.rglob("*")}, before)
        key = (self.site / "chat-data" / "secret_key").read_bytes()
        self.assertEqual(stat.S_IMODE((self.site / "chat-data" / "secret_key").stat().st_mode), 0o600)
        shutil.rmtree(folder)
        self.output("migrate", "--check")
        self.assertEqual((self.site / "chat-data" / "secret_key").read_bytes(), key)

    def test_environment_file(self) -> None:
        """``chat.env`` is read; a wrong line is named; the environment comes first."""
        self.unpack_once()
        env = self.site / "chat.env"
        env.write_text('# a comment\nCHAT_HOSTS="example.org"\nexport CHAT_DEBUG=1\n')
        code = "from django.conf import settings; print(settings.ALLOWED_HOSTS[-1], settings.DEBUG)"
        self.assertIn("example.org True", self.output("shell", "-c", code))
        self.environment["CHAT_DEBUG"] = "0"
        self.assertIn("example.org False", self.output("shell", "-c", code))
        env.write_text("nonsense\n")
        done = self.run_file("check")
        self.assertEqual(done.returncode, 1)
        self.assertIn("line 1", done.stderr)
        env.write_bytes(b"\xef\xbb\xbfCHAT_HOSTS=example.org\r\n")  # as Windows writes it
        self.assertIn("example.org False", self.output("shell", "-c", code))
        env.write_bytes("CHAT_HOSTS=caf\xe9.example.org\n".encode("latin-1"))
        self.assertIn("chat.env cannot be read (it is not in UTF-8)", self.run_file("check").stderr)
        env.unlink()
        env.mkdir()
        done = self.run_file("check")
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1))
        self.assertIn("chat.env cannot be read (Is a directory)", done.stderr)

    def test_unpack(self) -> None:
        """``unpack`` makes a folder that runs by itself."""
        self.output("unpack", str(self.folder / "there"))
        (self.folder / "wrong").mkdir()
        (self.folder / "wrong" / "django.py").write_text("raise AssertionError('this is not the site')\n")
        done = subprocess.run(
            [str(self.folder / "there" / "bin" / "chat"), "check"],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(self.folder / "wrong")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.run_file("unpack", str(self.folder / "there")).returncode, 1)


class ChrootTests(PackedTestCase):
    """On a machine that has busybox and glibc, and nothing else."""

    skip = missing_for_chroot() or None

    def setUp(self) -> None:
        super().setUp()
        self.root = self.folder / "root"
        self.root.mkdir()
        self.site = make_root(self.root)
        self.file = self.site / "chat"
        shutil.copy(self.packed, self.file)
        self.environment = dict(os.environ)

    def command(self, *arguments: str) -> list[str]:
        return in_root(self.root, "/bin/sh", "-c", 'cd /srv/site && exec ./chat "$@"', "sh", *arguments)

    def test_site(self) -> None:
        """Migrate, sign up, chat, upload, static files, two processes of which one is killed, and stop."""
        self.output("migrate", "-v", "0")
        self.environment["DJANGO_SUPERUSER_PASSWORD"] = "x"
        code = (
            "from django.contrib.auth import get_user_model as m; "
            "m().objects.create_superuser('root', password='secret-of-root')"
        )
        self.output("shell", "-c", code)
        process, address = self.serve("--processes", "2")
        origin = f"http://{address}"
        guests = [self.sign_up(origin, name) for name in ("ann", "ben")]
        room = f"ws://{address}/ws/room/{self.room(guests[0], origin)}/"
        cookies = ["; ".join(f"{key}={value}" for key, value in guest.cookies.items()) for guest in guests]
        with ExitStack() as stack:
            sockets = [
                stack.enter_context(
                    connect(room, additional_headers={"Cookie": cookie}, origin=origin, open_timeout=TIMEOUT)
                )
                for cookie in cookies
            ]
            sockets[0].send(json.dumps({"type": "line", "text": "tea is ready", "key": str(uuid.uuid4())}))
            for one in sockets:
                wait_until(lambda: "tea is ready" in one.recv(TIMEOUT), "the message")  # noqa: B023
        page = guests[0].get(f"{origin}/login/", timeout=TIMEOUT)
        for path in set(re.findall(r'"(/static/[^"]+)"', page.text)):
            self.assertEqual(requests.get(origin + path, timeout=TIMEOUT).status_code, 200, path)
        self.upload(origin)
        self.assertEqual((self.site / "chat-data" / "media" / "note.txt").read_text(), "a note")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        self.assertEqual(len(children), 1)
        os.kill(int(children[0]), signal.SIGKILL)

        def replaced() -> bool:
            now = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            return bool(now) and now != children

        wait_until(replaced, "another second process")
        self.assertEqual(requests.get(f"{origin}/login/", timeout=TIMEOUT).status_code, 200)
        process.terminate()
        self.assertEqual(process.wait(TIMEOUT), 0)
        found = subprocess.run(
            ["find", str(self.root), "-path", "*/.cache", "-prune", "-o", "-name", "python*", "-print"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        self.assertEqual(found, "")

    def sign_up(self, origin: str, name: str) -> requests.Session:
        session = requests.Session()
        session.get(f"{origin}/signup/", timeout=TIMEOUT)
        fields = {
            "username": name, "password1": f"long-{name}-word", "password2": f"long-{name}-word",
            "csrfmiddlewaretoken": session.cookies["csrftoken"],
        }  # fmt: skip
        answer = session.post(f"{origin}/signup/", data=fields, headers={"Referer": origin}, timeout=TIMEOUT)
        self.assertEqual(answer.status_code, 200)
        self.assertIn("sessionid", session.cookies)
        return session

    def room(self, session: requests.Session, origin: str) -> str:
        """Make a room; return its name in URLs."""
        fields = {"name": "Kitchen", "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        answer = session.post(f"{origin}/", data=fields, headers={"Referer": origin}, timeout=TIMEOUT)
        self.assertEqual(answer.status_code, 200)
        return answer.url.rstrip("/").rpartition("/")[2]

    def upload(self, origin: str) -> None:
        session = requests.Session()
        session.get(f"{origin}/login/", timeout=TIMEOUT)
        fields = {
            "username": "root", "password": "secret-of-root", "csrfmiddlewaretoken": session.cookies["csrftoken"],
        }  # fmt: skip
        session.post(f"{origin}/login/", data=fields, headers={"Referer": origin}, timeout=TIMEOUT)
        fields = {"csrfmiddlewaretoken": session.cookies["csrftoken"]}
        answer = session.post(
            f"{origin}/admin/uploads/upload/add/", data=fields, files={"file": ("note.txt", "a note")},
            headers={"Referer": origin}, timeout=TIMEOUT,
        )  # fmt: skip
        self.assertEqual(answer.status_code, 200)

    def test_no_glibc(self) -> None:
        """Without glibc, one sentence."""
        root = self.folder / "musl"
        root.mkdir()
        site = make_root(root, libc=False)
        shutil.copy(self.packed, site / "chat")
        done = subprocess.run(
            in_root(root, "/bin/sh", "/srv/site/chat", "check"), capture_output=True, text=True, check=False
        )
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1))
        self.assertIn("no glibc", done.stderr)

    def test_old_glibc(self) -> None:
        """With an older glibc, one sentence with both versions."""
        libc = self.root / "lib" / "x86_64-linux-gnu" / "libc.so.6"
        data = libc.read_bytes()
        version = re.search(rb"GLIBC_2\.(3\d)\0", data)
        assert version is not None
        for number in range(30, 40):  # names of versions that this library no longer has
            data = data.replace(b"GLIBC_2.%d\0" % number, b"GLIBC_2.x%d"[: len(b"GLIBC_2.%d\0" % number)])
        libc.write_bytes(data)
        libm = self.root / "lib" / "x86_64-linux-gnu" / "libm.so.6"
        libm.write_bytes(libm.read_bytes())
        done = self.run_file("check")
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
        self.assertRegex(done.stderr, r"needs glibc 2\.\d+ or later, this machine has")


class RefusalTests(SynchronousTestCase):
    """What cannot be packed, and how it says so. Nothing is packed here."""

    skip = missing() or None

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="channelserver-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def refused(self, project: Path, output: str = "site", *arguments: str) -> str:
        done = pack(project, self.folder / output, *arguments)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertNotIn("Traceback", done.stderr)
        self.assertFalse((self.folder / output).is_file())
        return done.stderr

    def test_no_project(self) -> None:
        """A folder without a project."""
        empty = self.folder / "empty"
        empty.mkdir()
        self.assertIn("No settings module given", self.refused(empty))

    def test_settings_that_write(self) -> None:
        """Settings that write into the project's folder."""
        write_site(self.folder / "project")
        with open(self.folder / "project" / "chatsite" / "settings.py", "a") as stream:
            stream.write('\n(BASE_DIR / "written.txt").write_text("")\n')
        error = self.refused(self.folder / "project")
        self.assertIn("written.txt", error)
        self.assertIn("data_folder", error)

    def test_wrong_options(self) -> None:
        """Names that a file cannot have, and another interpreter that does not fit."""
        write_site(self.folder / "project")
        done = pack(self.folder / "project", self.folder / "project" / "chatsite")
        self.assertIn("is a folder", done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertIn("cannot be called", self.refused(self.folder / "project", "my site"))
        self.assertIn("/nowhere", self.refused(self.folder / "project", "site", "--python", "/nowhere"))


class PartsTests(SynchronousTestCase):
    """Parts of packing by themselves."""

    def test_elf(self) -> None:
        """The loader and the version of glibc are read from the headers; damage is an error."""
        if missing():
            self.skipTest(missing())
        found = elf.needs(Path("/bin/sh").resolve())
        self.assertEqual(found.loader, "/lib64/ld-linux-x86-64.so.2")
        self.assertGreaterEqual(found.glibc, (2, 2))
        damaged = Path(self.mktemp())
        damaged.write_bytes(Path("/bin/sh").read_bytes()[:100])
        self.assertRaises(ValueError, elf.needs, damaged)
        damaged.write_bytes(b"#!/bin/sh\n")
        self.assertFalse(elf.is_elf(damaged))

    def test_moved_settings(self) -> None:
        """Every setting that names a place in the project moves; others stay."""
        project = Path("/srv/project")

        class Settings:
            DATABASES = {
                "a": {"ENGINE": "django.db.backends.sqlite3", "NAME": project / "db.sqlite3"},
                "b": {"ENGINE": "django.db.backends.sqlite3", "NAME": "relative.db"},
                "c": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
                "d": {"ENGINE": "django.db.backends.postgresql", "NAME": "site"},
            }
            MEDIA_ROOT = str(project / "media")
            CACHES = {"default": {"LOCATION": "unique-snowflake"}, "files": {"LOCATION": str(project / "cache")}}
            LOGGING = {"handlers": {"file": {"filename": str(project / "logs" / "site.log")}, "console": {}}}
            SESSION_FILE_PATH = "/var/lib/sessions"
            CHANNELSERVER = {"local_socket": str(project / "s.sock"), "threads": 3}

        self.assertEqual(
            writes.moved(Settings, project),
            [
                (["DATABASES", "a", "NAME"], "db.sqlite3"),
                (["DATABASES", "b", "NAME"], "relative.db"),
                (["MEDIA_ROOT"], "media"),
                (["CACHES", "files", "LOCATION"], "cache"),
                (["LOGGING", "handlers", "file", "filename"], "logs/site.log"),
                (["CHANNELSERVER", "local_socket"], "s.sock"),
            ],
        )

    def test_setuptools(self) -> None:
        """setuptools goes in if a package needs it to run; that another needs it to be developed is no reason."""
        before = needs_setuptools()
        for line, needed in (('setuptools>=70; extra == "dev"', before), ("Setuptools >=70", True)):
            metadata = Path(self.mktemp()).absolute() / "old-1.dist-info" / "METADATA"
            metadata.parent.mkdir(parents=True)
            metadata.write_text(f"Metadata-Version: 2.1\nName: old\nVersion: 1\nRequires-Dist: {line}\n")
            self.patch(sys, "path", [*sys.path, str(metadata.parent.parent)])
            self.assertEqual(needs_setuptools(), needed)

    def test_private_files(self) -> None:
        """The list of what is the developer's has what it must have."""
        self.assertTrue({"*.sqlite3", ".env", ".git", "*.pem", "*.key", "local_settings.py"} <= set(PRIVATE))
