"""Uploaded files by the reactor (``--media``), and the warning that static files have not been collected."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.edge.media import MediaFiles
from tests.process import ServerTestCase
from tests.raw import Raw

FILES = {
    "photo.png": b"\x89PNG", "page.html": b"<script>", "image.svg": b"<svg/>", "notes.txt": b"text",
    "style.css": b"a{}",
    "code.js": b"alert()", "data.xml": b"<a/>", "page.xhtml": b"<html/>", "unknown.zzz": b"?", "no-suffix": b"?",
    "film.mp4": b"...", "paper.pdf": b"%PDF", "a b\u00e9.txt": b"name", "sub/deep.txt": b"0123456789",
    ".hidden": b"secret",
    "sub/.git/config": b"secret",
}  # fmt: skip


def write(folder: Path) -> None:
    """Write the files, and some links."""
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder.parent / "outside.txt").write_text("secret")
    (folder.parent / f"{folder.name}-other").mkdir()
    (folder.parent / f"{folder.name}-other" / "a.txt").write_text("secret")
    (folder / "out").symlink_to(folder.parent / "outside.txt")
    (folder / "up").symlink_to(folder.parent)
    (folder / "to-hidden").symlink_to(folder / ".hidden")
    (folder / "to-text").symlink_to(folder / "notes.txt")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")


class MediaFilesTests(SynchronousTestCase):
    """Which names are found."""

    def test_find(self) -> None:
        """Files inside the folder, and nothing else."""
        folder = Path(self.mktemp()).resolve() / "media"
        folder.mkdir(parents=True)
        write(folder)
        media = MediaFiles(str(folder), "/media/")

        def read(name: str) -> bytes | None:
            with contextlib.suppress(OSError, ValueError):
                public = media._name("/media/" + name)
                file = None if public is None else media.open(public)
                if file is not None:
                    try:
                        return file.read(100)
                    finally:
                        file.close()
            return None

        for name in ("sub/deep.txt", "a b\u00e9.txt", "notes.txt"):
            self.assertEqual(read(name), FILES[name])
        self.assertEqual(read("to-text"), FILES["notes.txt"])
        for name in (
            "", "/", ".", "..", "../outside.txt", "sub/../notes.txt", "sub/../../outside.txt", "/etc/passwd",
            "//etc/passwd", "sub", "sub/", "missing", ".hidden", "sub/.git/config", "to-hidden", "out",
            "up/outside.txt", "loop", "pipe",
            "notes.txt/", "notes.txt/x", "notes.txt\x00", "..\\outside.txt", "a" * 5000, "\udcff",
            "sub//deep.txt",
            f"../{folder.name}-other/a.txt", f"up/{folder.name}-other/a.txt",
        ):  # fmt: skip
            self.assertIsNone(read(name), name)

    def test_links_that_change(self) -> None:
        """However fast a link changes between a file inside and one outside, only the one inside is read."""
        folder = Path(self.mktemp()).resolve() / "media"
        folder.mkdir(parents=True)
        write(folder)
        media, link, running = MediaFiles(str(folder), "/media/"), folder / "link", True
        os.symlink(folder / "notes.txt", link)

        def change() -> None:
            while running:
                for target in (folder.parent / "outside.txt", folder / "notes.txt"):
                    os.symlink(target, folder / "new")
                    os.replace(folder / "new", link)

        thread = threading.Thread(target=change)
        thread.start()
        try:
            found = set()
            for _ in range(2000):
                file = media.open("link")
                if file is not None:
                    found.add(file.read(100))
                    file.close()
        finally:
            running = False
            thread.join()
        self.assertEqual(found, {FILES["notes.txt"]})


class ServedTests(ServerTestCase):
    """With a server."""

    files = {
        "urls.py": """
            from django.http import HttpResponse
            from django.urls import re_path
            urlpatterns = [re_path("", lambda request: HttpResponse("Django"))]
        """
    }
    extra_settings = """
        MEDIA_URL = "/media/"
        MEDIA_ROOT = BASE_DIR / "media"
        STATIC_ROOT = BASE_DIR / "collected"
    """

    def setUp(self) -> None:
        """Write the files."""
        super().setUp()
        (self.folder / "media").mkdir()
        write(self.folder / "media")

    def test_files(self) -> None:
        """Types, ranges, conditions, HEAD; what a browser would run is for download."""
        server = self.start("--media")
        shown = {"photo.png": "image/png", "notes.txt": "text/plain; charset=utf-8", "film.mp4": "video/mp4",
                 "paper.pdf": "application/pdf"}  # fmt: skip
        for name, kind in shown.items():
            answer = server.get(f"/media/{name}")
            self.assertEqual((answer.status_code, answer.headers["Content-Type"]), (200, kind))
            self.assertEqual(answer.content, FILES[name])
            self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")
            self.assertNotIn("Content-Disposition", answer.headers)
        names = ("page.html", "image.svg", "style.css", "code.js", "data.xml", "page.xhtml", "unknown.zzz", "no-suffix")
        for name in names:
            answer = server.get(f"/media/{name}")
            self.assertEqual((answer.status_code, answer.content), (200, FILES[name]))
            self.assertEqual(answer.headers["Content-Disposition"], "attachment", name)
            self.assertEqual(answer.headers["X-Content-Type-Options"], "nosniff")
        answer = server.get("/media/sub/deep.txt", headers={"Range": "bytes=2-4"})
        self.assertEqual((answer.status_code, answer.content), (206, b"234"))
        again = server.get("/media/sub/deep.txt", headers={"If-None-Match": answer.headers["ETag"]})
        self.assertEqual((again.status_code, again.content), (304, b""))
        with Raw(server.port) as raw:
            self.assertEqual(raw.request("/media/notes.txt", method="HEAD").get("content-length"), "4")
            self.assertEqual(raw.request("/media/a%20b%C3%A9.txt").body, b"name")
            self.assertEqual(raw.request("/media/notes.txt", method="POST", body=b"x").status, 405)
            for path in (
                "/media/../settings.py", "/media/%2e%2e/settings.py", "/media/..%2fsettings.py",
                "/media/%2e%2e%2fsettings.py",
                "/media//etc/passwd", "/media/.hidden", "/media/%2ehidden", "/media/out", "/media/up/settings.py",
                "/media/notes.txt%00", "/media/", "/media/sub", "/media/..%5csettings.py", "/media/pipe",
            ):  # fmt: skip
                self.assertEqual(raw.request(path).status, 404, path)
            (self.folder / "media" / "new.txt").write_text("new")
            self.assertEqual(raw.request("/media/new.txt").body, b"new", "looked up when it is asked for")
            (self.folder / "media" / "new.txt").unlink()
            self.assertEqual(raw.request("/media/new.txt").status, 404)

    def test_off_by_default(self) -> None:
        """Without the option these paths are Django's."""
        self.assertEqual(self.start().get("/media/notes.txt").text, "Django")

    def test_settings_are_needed(self) -> None:
        """Without MEDIA_URL there is nothing to serve: one sentence."""
        with open(self.folder / "settings.py", "a") as stream:
            stream.write("MEDIA_URL = ''\n")
        server = self.run_process(self.twistd("--settings", "settings", "--media"))
        self.assertEqual(server.wait(), 1)
        self.assertIn("--media needs the settings MEDIA_ROOT, a folder, and MEDIA_URL", server.output)
        self.assertNotIn("Traceback", server.output)

    def test_collectstatic_is_missing(self) -> None:
        """A check, and a line at the start, say what to do; not under DEBUG, nor when it has been done."""
        self.assertIn("channelserver.W001", self.manage_all("check"))
        self.assertIn("run collectstatic", self.manage_all("check"))
        self.start().wait_for("is empty; run collectstatic")
        (self.folder / "collected").mkdir()
        self.assertIn("run collectstatic", self.manage_all("check"))
        (self.folder / "collected" / "a.txt").write_text("a")
        self.assertNotIn("W001", self.manage_all("check"))
        for line, wanted in (
            ("STATIC_ROOT = None", True),
            ("STATIC_URL = 'https://static.example/'", False),
            ("STATIC_URL = '/static/'", True),
            ("CHANNELSERVER = {'static': False}", False),
            ("CHANNELSERVER = {}; DEBUG = True", False),
        ):
            with open(self.folder / "settings.py", "a") as stream:
                stream.write(line + "\n")
            self.assertEqual("W001" in self.manage_all("check"), wanted, line)

    def manage_all(self, *arguments: str) -> str:
        """Run a management command; return all it printed, warnings too."""
        return self.manage(*arguments, "--fail-level", "ERROR", stderr=True)
