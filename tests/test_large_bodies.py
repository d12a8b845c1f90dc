"""Bodies of 200 MB, up and down: what arrives is what was sent, and the server does not keep them in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tests.process import Server, SharedServerTestCase, project, wait_until
from tests.raw import Raw, head

BLOCK = bytes(range(256)) * 256
BLOCKS = 3200
SIZE = len(BLOCK) * BLOCKS  # 200 MiB
ALLOWED = 20 * 1024


def memory(server: Server, field: str = "VmHWM") -> int:
    """Return the server's memory in KiB; VmHWM: the most it has ever had."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(field + ":"))


def digest_of(parts: Iterable[bytes]) -> str:
    """Return the digest of all parts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


class LargeBodyTests(SharedServerTestCase):
    """One server for all; while a body passes, it may have 20 MB more than before."""

    files = project("large_bodies")
    arguments = ("--max-body-bytes", str(300 * 1024 * 1024), "--threads", "3")
    extra_settings = "MIDDLEWARE = []\n"
    timeout = 300

    def setUp(self) -> None:
        """Warm up: what every request needs is there already."""
        super().setUp()
        self.wanted = digest_of(BLOCK for _ in range(BLOCKS))
        for _ in range(3):
            self.server.get("/sent")
            self.server.post("/upload", files={"file": BLOCK})
        Path(f"/proc/{self.server.process.pid}/clear_refs").write_text("5")  # the peak is the present now
        self.before = memory(self.server, "VmRSS")

    def assertFrugal(self) -> None:
        """Check how much memory the server has taken at its peak."""
        grown = memory(self.server) - self.before
        self.assertLess(grown, ALLOWED, f"memory grew by {grown} KiB")

    def test_upload(self) -> None:
        """A body in one piece, read by the view."""
        with Raw(self.server.port) as raw:
            raw.send(head("POST /raw HTTP/1.1", f"Content-Length: {SIZE}"))
            for _ in range(BLOCKS):
                raw.send(BLOCK)
            self.assertEqual(raw.answer().body.decode(), self.wanted)
        self.assertFrugal()

    def test_chunked_upload(self) -> None:
        """The same in chunks."""
        with Raw(self.server.port) as raw:
            raw.send(head("POST /raw HTTP/1.1", "Transfer-Encoding: chunked"))
            for _ in range(BLOCKS):
                raw.send(b"%x\r\n" % len(BLOCK), BLOCK, b"\r\n")
            self.assertEqual(raw.send(b"0\r\n\r\n").answer().body.decode(), self.wanted)
        self.assertFrugal()

    def test_form_upload(self) -> None:
        """A file in a form, by Django's TemporaryFileUploadHandler."""
        begin = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
        end = b"\r\n--xyz--\r\n"
        length = len(begin) + SIZE + len(end)
        with Raw(self.server.port) as raw:
            fields = (f"Content-Length: {length}", "Content-Type: multipart/form-data; boundary=xyz")
            raw.send(head("POST /upload HTTP/1.1", *fields), begin)
            for _ in range(BLOCKS):
                raw.send(BLOCK)
            self.assertEqual(raw.send(end).answer().body.decode(), self.wanted)
        self.assertFrugal()

    def download(self, path: str) -> str:
        """Read an answer block by block; return its digest."""
        answer = self.server.get(path, stream=True)
        self.assertEqual(answer.status_code, 200)
        return digest_of(answer.iter_content(1 << 16))

    def test_file_response(self) -> None:
        """A FileResponse."""
        with open(self.folder / "large.bin", "wb") as stream:
            for _ in range(BLOCKS):
                stream.write(BLOCK)
        self.addCleanup((self.folder / "large.bin").unlink)
        self.assertEqual(self.download("/file"), self.wanted)
        self.assertFrugal()

    def test_streaming_response(self) -> None:
        """A StreamingHttpResponse."""
        self.assertEqual(self.download("/stream"), self.wanted)
        self.assertFrugal()

    def test_a_slow_client_holds_the_stream_back(self) -> None:
        """A view is asked for the next part when there is room for it: not long before the client reads."""
        begins = int(self.server.get("/sent").text)

        def sent() -> int:
            return int(self.server.get("/sent").text) - begins

        with Raw(self.server.port, receive_buffer=64 * 1024) as raw:
            raw.send(head("GET /stream HTTP/1.1"))
            wait_until(sent, "the first part")
            seen = [-1]
            while seen[-10:] != [sent()] * 10:  # until it stands still
                seen.append(sent())
            self.assertLess(seen[-1], 20_000_000)
            self.assertEqual(hashlib.sha256(raw.answer().body).hexdigest(), self.wanted)
        self.assertFrugal()

    def test_headers_of_partial_answers_pass(self) -> None:
        """A view that answers a range is not interfered with."""
        answer = self.server.get("/range", headers={"Range": "bytes=0-3"})
        self.assertEqual((answer.status_code, answer.headers["Content-Range"]), (206, "bytes 0-3/10"))
        self.assertEqual(answer.content, b"part")
