"""Mangled requests and frames, thousands of them, the same ones each time.

The server answers with 4xx or closes, or a request was still well-formed and gets its 200. It never answers with 5xx
(but for 501 and 505, which say that what was asked for is not spoken here), never hangs, and never logs a traceback.
"""

from __future__ import annotations

import base64
import random
import socket

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.http.http1 import BadRequest, RequestHead, body_reader, parse_head
from channelserver.server.websocket.frames import Close, Event, FrameError, FrameReader
from tests import examples
from tests.process import SharedServerTestCase
from tests.raw import Raw, head

fuzz = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=examples(1000),
    phases=[Phase.generate],  # no shrinking: an example on which the server hangs would be tried for minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)

SEEDS = (
    head("GET /a?b=c HTTP/1.1", "Accept: */*", "Cookie: a=1"),
    head("POST / HTTP/1.1", "Content-Length: 5", "Content-Type: text/plain") + b"hello",
    head("POST / HTTP/1.1", "Transfer-Encoding: chunked") + b"5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n",
    head("PUT http://localhost/x HTTP/1.1", "Expect: 100-continue", "Content-Length: 3") + b"abc",
    head("HEAD / HTTP/1.0", "Connection: keep-alive"),
    head("OPTIONS * HTTP/1.1"),
    head(
        "GET /ws HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: " + base64.b64encode(bytes(16)).decode(),
    ) + b"\x81\x85\x01\x02\x03\x04igoht",
)  # fmt: skip

#: Bytes that mean something to a parser.
SPICE = (
    b"\r\n", b"\r", b"\n", b"\x00", b" ", b"\t", b":", b";", b",", b"%", b"%00", b"%ff", b"\xff", b"\x80", b"\x7f",
    b"/", b"//", b"..", b"?", b"#", b"*", b"@", b"[", b"]", b'"', b"HTTP/1.1", b"HTTP/1.0", b"0", b"-1", b"+", b"0x",
    b"99999999999999999999", b"Host: b\r\n", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n", b"Upgrade: websocket\r\n", b"Expect: x\r\n", b" a\r\n",
    b"X-Forwarded-For: 1.2.3.4\r\n", b"Forwarded: for=_x\r\n", b"A" * 40000, b"A: b\r\n" * 200, b"\r\n" * 20, b"",
)  # fmt: skip

mutation = st.tuples(
    st.integers(0, 400),
    st.sampled_from(("insert", "replace", "delete", "flip", "cut", "repeat")),
    st.one_of(st.sampled_from(SPICE), st.binary(max_size=6)),
)


def mangle(data: bytes, mutations: list[tuple[int, str, bytes]]) -> bytes:
    """Return `data`, changed here and there."""
    for number, kind, spice in mutations:
        place = number % (len(data) + 1)
        if kind == "insert":
            data = data[:place] + spice + data[place:]
        elif kind == "replace":
            data = data[:place] + spice + data[place + max(1, len(spice)) :]
        elif kind == "delete":
            data = data[:place] + data[place + 1 + number % 7 :]
        elif kind == "flip" and place < len(data):
            data = data[:place] + bytes((data[place] ^ (1 << number % 8),)) + data[place + 1 :]
        elif kind == "cut":
            data = data[:place]
        else:
            data = data[:place] + data[max(0, place - 20) : place] + data[place:]
    return data


requests = st.builds(mangle, st.sampled_from(SEEDS), st.lists(mutation, min_size=1, max_size=4))


class ParserTests(SynchronousTestCase):
    """The sans-I/O parts alone: whatever comes in, nothing but their own exceptions comes out."""

    @settings(fuzz, max_examples=examples(2000))
    @given(requests, st.integers(1, 50))
    def test_heads_and_bodies(self, data: bytes, step: int) -> None:
        """A head is read or refused; a body read in pieces is the same as one read at once."""
        start, _, rest = data.partition(b"\r\n\r\n")
        try:
            parsed = parse_head(start)
        except BadRequest as error:
            self.assertIn(error.status, (400, 417, 431, 501, 505))
            return
        self.assertTrue(parsed.path.startswith("/") or parsed.path == "*", parsed.path)
        for name, value in parsed.headers:
            self.assertNotRegex(name + value, rb"[\x00\r\n]")
        again = parse_head(start, known=parsed.section)
        for name in set(RequestHead.__slots__) - {"section"}:
            self.assertEqual(getattr(parsed, name), getattr(again, name))
        whole = self.read(parsed, [rest])
        pieces = self.read(parsed, [rest[index : index + step] for index in range(0, len(rest), step)] or [b""])
        self.assertEqual(whole, pieces)

    def read(self, parsed: object, pieces: list[bytes]) -> tuple[bytes, bytes | None] | None:
        """Read a body; return it and what follows, or None if it was refused."""
        reader = body_reader(parsed)  # type: ignore[arg-type]
        body, rest = b"", None
        try:
            for index, piece in enumerate(pieces):
                parts, rest = reader.feed(piece)
                body += b"".join(parts)
                if rest is not None:
                    return body, rest + b"".join(pieces[index + 1 :])
        except BadRequest:
            return None
        return body, None

    @settings(fuzz, max_examples=examples(2000))
    @given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 30))
    def test_frames(self, payloads: list[bytes], step: int) -> None:
        """Frames are read or refused, at once as in pieces."""
        data = b"".join(payloads)
        self.assertEqual(
            self.read_frames([data]), self.read_frames([data[i : i + step] for i in range(0, len(data), step)])
        )

    def read_frames(self, pieces: list[bytes]) -> tuple[list[Event], int]:
        """Read frames; return the events, and the code of the error or 0."""
        reader, events = FrameReader(1000), []
        for piece in pieces:
            try:
                reader.feed(piece, events)
            except FrameError as error:
                return events, error.code
            if events and isinstance(events[-1], Close):
                break
        return events, 0


URLS = """
    from django.http import HttpResponse
    from django.urls import re_path
    urlpatterns = [re_path("(?s).*", lambda request: HttpResponse(str(len(request.body))))]
"""

ROUTING = """
    def receive(message):
        message.reply_channel.send({"text": "seen"})
    channel_routing = {"websocket.receive": receive}
"""


class ServerTests(SharedServerTestCase):
    """The whole server over a socket."""

    files = {"urls.py": URLS, "routing.py": ROUTING}
    extra_settings = "ALLOWED_HOSTS = ['*']\nMIDDLEWARE = []\nLOGGING_CONFIG = None\n"
    arguments = (
        "--threads", "2", "--max-message-bytes", "5000", "--header-timeout", "600", "--body-timeout", "600",
        "--keep-alive", "600",
    )  # fmt: skip
    timeout = 300

    def tearDown(self) -> None:
        """The server still serves, has kept nothing, and has logged no traceback."""
        self.assertEqual(self.server.get("/").status_code, 200)
        output = self.server.output
        self.assertNotIn("Traceback", output)
        self.assertNotIn(" ERROR ", output)
        self.assertNotIn(" CRITICAL ", output)

    def exchange(self, data: bytes, pieces: int, ends: bool) -> bytes:
        """Send `data`; return all that comes back until the server closes.

        :param ends: it must close without our closing our side.
        """
        with Raw(self.server.port) as raw:
            raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            step = max(1, len(data) // pieces + 1)
            try:
                for start in range(0, len(data), step):
                    raw.send(data[start : start + step])
                if not ends:
                    raw.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has closed; what it said before that is still there
            return received(raw)

    @fuzz
    @given(st.lists(requests, min_size=1, max_size=3), st.integers(1, 3))
    def test_requests(self, mangled: list[bytes], pieces: int) -> None:
        """Mangled requests on one connection: each is answered, or the connection ends with a refusal."""
        data, ends = with_end(b"".join(mangled))
        answers = self.exchange(data, pieces, ends)
        if ends:
            self.assertRegex(answers, rb"\AHTTP/1\.1 (100|101|200|204|4[0-9][0-9]|501|505) ")
        self.assertNotRegex(answers, rb"HTTP/1\.1 (500|502|503|504) ")

    @fuzz
    @given(st.integers(0, 2**32), st.lists(mutation, max_size=3), st.integers(1, 4))
    def test_frames(self, seed: int, mutations: list[tuple[int, str, bytes]], pieces: int) -> None:
        """Mangled frames after a good handshake: messages and a close frame."""
        source = random.Random(seed)
        frames = mangle(b"".join(random_frame(source) for _ in range(source.randrange(1, 5))), mutations)
        ends = ends_or_waits(frames)
        answers = self.exchange(SEEDS[-1] + frames + (CLOSE if ends else b""), pieces, ends)
        if ends:
            self.assertTrue(answers.startswith(b"HTTP/1.1 101 "), answers)
            frame_of_close = answers.rpartition(b"\x88")[2]
            self.assertEqual(len(frame_of_close), 1 + frame_of_close[0], answers)
            self.assertIn(int.from_bytes(frame_of_close[1:3] or b"\x03\xe8", "big"), CODES, answers)


def received(raw: Raw) -> bytes:
    """Return what has come on a connection when it ends, however it ends."""
    answers = b""
    try:
        while data := raw.socket.recv(65536):
            answers += data
    except ConnectionResetError:
        pass
    return answers


#: A masked close frame with 1000; and the codes with which the server may answer.
CLOSE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"
CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}

LAST = head("GET /last HTTP/1.1", "Connection: close")


def with_end(data: bytes) -> tuple[bytes, bool]:
    """Follow requests as the server should: return them, with a last one if the row of them would go on, and whether
    the server must close by itself: False if it waits for the rest of a request, or speaks WebSocket by now.
    """
    rest = data
    while True:
        while rest[:2] == b"\r\n":
            rest = rest[2:]
        if not rest:
            return data + LAST, True
        start, mark, rest = rest.partition(b"\r\n\r\n")
        if not mark:
            return data, False
        try:
            parsed = parse_head(start)
            if b"websocket" in parsed.tokens(b"upgrade"):
                return data, False
            if parsed.length != 0:
                following = body_reader(parsed).feed(rest)[1]
                if following is None:
                    return data, False
                rest = following
        except BadRequest:
            return data, True
        if not parsed.keep_alive:
            return data, True


def ends_or_waits(frames: bytes) -> bool:
    """Whether the server closes by itself after these frames and a close frame: not in the middle of one."""
    reader, events = FrameReader(5000), []
    try:
        reader.feed(frames, events)
        reader.feed(CLOSE, events)
    except FrameError:
        return True
    return bool(events) and isinstance(events[-1], Close)


def random_frame(source: random.Random) -> bytes:
    """Return a frame that is mostly right."""
    opcode = source.choice((0, 1, 1, 1, 2, 2, 8, 9, 10, 3, 11))
    first = opcode | source.choice((0x80, 0x80, 0x80, 0, 0xC0, 0x90))
    size = source.choice((0, 1, 2, 5, 125, 126, 300, 6000))
    payload = source.choice((b"a" * size, source.randbytes(size), b"\x03\xe8bye", "é".encode() * (size // 2)))
    size = len(payload)
    masked = source.choice((0x80, 0x80, 0x80, 0x80, 0))
    if size < 126:
        length = bytes((masked | size,))
    else:
        length = bytes((masked | 126,)) + size.to_bytes(2, "big")
    return bytes((first,)) + length + (b"\x00\x00\x00\x00" if masked else b"") + payload
