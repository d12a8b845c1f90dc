"""HTTP/2: requests beside each other on one connection, flow control, and clients that ask too much."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import struct
import subprocess
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.common.bucket import Bucket
from channelserver.server.http.http1 import MAX_FIELDS, BadRequest
from channelserver.server.http2 import frames
from channelserver.server.http2.frames import FrameReader, Violation, goaway
from channelserver.server.http2.head import Malformed, check_trailers, read_head
from tests import examples
from tests.certificates import client_context, write_pair
from tests.http2_client import INITIAL_WINDOW, HTTP2Client
from tests.process import TIMEOUT, Server, ServerTestCase, project, wait_until

PROTOCOL_ERROR, INTERNAL_ERROR, CANCEL, ENHANCE_YOUR_CALM = 1, 2, 8, 11


class HTTP2TestCase(ServerTestCase):
    """Tests on a server with a certificate."""

    files = project("http2")

    def setUp(self) -> None:
        """Write the project and the certificate."""
        super().setUp()
        self.certificate, self.key = write_pair(self.folder)

    def start_tls(self, *arguments: str) -> Server:
        """Start a server that speaks HTTP/2."""
        return self.start("--tls-cert", self.certificate, "--tls-key", self.key, *arguments)

    def client(self, server: Server, settings: dict[int, int] | None = None) -> HTTP2Client:
        """Open a connection."""
        client = HTTP2Client(server, self.certificate, settings)
        self.addCleanup(client.close)
        return client

    def touch(self, name: str) -> None:
        """Make the file for which a view waits."""
        (self.folder / name).touch()

    def wait_file(self, name: str) -> None:
        """Wait for a file made by a view."""
        wait_until((self.folder / name).exists, name)

    def memory(self, server: Server, what: str = "VmHWM") -> int:
        """The most memory the server has used, in KiB."""
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.partition(what + ":")[2].split()[0])


class RequestTests(HTTP2TestCase):
    """What requests and answers look like."""

    files = project("http2", "http2_dump")

    def test_messages(self) -> None:
        """The same ``http.request`` message as from HTTP/1.1, but for the version."""
        server = self.start_tls()
        client = self.client(server)
        extra = [("cookie", "a=1"), ("x-more", "1"), ("cookie", "b=2"), ("x-more", "2"), ("x_under", "no")]
        answer = client.get("/dump/%C3%A4%2F?q=%20+", extra=extra)
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["x-twice"], "a")
        self.assertNotIn("connection", answer.headers)
        self.assertIn("date", answer.headers)
        self.assertEqual(int(answer.headers["content-length"]), len(answer.body))
        message = json.loads(answer.body)
        self.assertEqual(message["http_version"], "2")
        self.assertEqual(message["method"], "GET")
        self.assertEqual(message["scheme"], "https")
        self.assertEqual(message["path"], "/dump/ä/")
        self.assertEqual(message["query_string"], "q=%20+")
        self.assertEqual(message["client"][0], "127.0.0.1")
        self.assertEqual(message["server"], ["127.0.0.1", server.port])
        self.assertEqual(
            message["headers"],
            [["host", client.authority], ["cookie", "a=1"], ["x-more", "1"], ["cookie", "b=2"], ["x-more", "2"]],
        )
        number = client.send("/dump", "POST", [("content-length", "5")], ended=False)
        client.upload(number, b"hello")
        self.assertEqual(json.loads(client.finish(number).body)["body"], "hello")
        number = client.send("/dump", "POST", ended=False)
        client.upload(number, b"x" * 100_000)
        message = json.loads(client.finish(number).body)
        self.assertEqual(message["body"], 100_000)
        self.assertEqual(message["headers"][-1], ["content-length", "100000"])

    def test_real_clients(self) -> None:
        """httpx, and curl where it can."""
        server = self.start_tls()
        with httpx.Client(http2=True, verify=client_context(self.certificate), timeout=TIMEOUT) as client:
            for _ in range(3):
                answer = client.get(server.url("/hello"))
                self.assertEqual((answer.http_version, answer.text), ("HTTP/2", "hello HTTP/2 https"))
            answer = client.post(server.url("/form"), data={"a": "b"})
            self.assertEqual(answer.json(), {"post": {"a": "b"}, "length": "3"})
            self.assertEqual(client.get(server.url("/nothing")).status_code, 404)
        curl = shutil.which("curl")
        if curl and "HTTP2" in subprocess.run([curl, "--version"], capture_output=True, text=True).stdout:
            done = subprocess.run(
                [curl, "-s", "--http2", "--cacert", self.certificate, "-T", "-", server.url("/digest")],
                input=b"z" * 1_000_000, capture_output=True, timeout=TIMEOUT,
            )  # fmt: skip
            self.assertEqual(json.loads(done.stdout)["size"], 1_000_000)

    def test_answers_without_a_body(self) -> None:
        """HEAD, 204, an empty body, CONNECT, an unknown expectation; 100-continue is asked for."""
        client = self.client(self.start_tls())
        head = client.get("/hello", "HEAD")
        self.assertEqual((head.status, bytes(head.body)), (200, b""))
        self.assertEqual(head.headers["content-length"], str(len("hello HTTP/2 https")))
        empty = client.get("/empty")
        self.assertEqual((empty.status, bytes(empty.body)), (204, b""))
        self.assertNotIn("content-length", empty.headers)
        self.assertEqual(client.get("/blob?size=0").headers["content-length"], "0")
        self.assertEqual(client.get("/hello", "CONNECT").status, 501)
        self.assertEqual(client.get("/hello", extra=[("expect", "miracles")]).status, 417)
        self.assertEqual(client.get("/hello", extra=[(f"x-{number}", "") for number in range(200)]).status, 431)
        number = client.send("/digest", "POST", [("expect", "100-continue")], ended=False)
        client.wait(lambda: client.answers[number].informational)
        client.upload(number, b"12345")
        self.assertEqual(json.loads(client.finish(number).body)["size"], 5)

    def test_malformed_requests(self) -> None:
        """Each costs its stream, and leaves the others alone (RFC 9113 section 8.1.1)."""
        client = self.client(self.start_tls())
        good = client.fields("GET", "/hello")
        for fields in (
            [*good, ("Upper", "case")],
            [*good, ("connection", "close")],
            [*good, ("transfer-encoding", "chunked")],
            [*good, ("te", "gzip")],
            [*good, ("host", "other.example")],
            [*good, ("x", "a\nb")],
            [*good, (":path", "/late")],
            [(":path", "/twice"), *good],
            good[1:],
            [*good, ("content-type", "a"), ("content-type", "b")],
        ):
            answer = client.finish(client.send_fields(fields))
            self.assertEqual((answer.status, answer.reset), (0, PROTOCOL_ERROR), fields)
        self.assertEqual(client.get("/hello").status, 200)
        number = client.send("/digest", "POST", ended=False)
        client.upload(number, b"x", ended=False)
        client.state.send_headers(number, [("content-length", "1")], end_stream=True)  # as trailers
        client.flush()
        self.assertEqual(client.finish(number).reset, PROTOCOL_ERROR)
        self.assertEqual(client.get("/hello").status, 200)


class StreamTests(HTTP2TestCase):
    """Many streams, large bodies, slow clients."""

    def test_sixteen_at_once(self) -> None:
        """16 requests on one connection run at the same time: none would end without all the others. More wait."""
        client = self.client(self.start_tls("--threads", "40"))
        numbers = [client.send("/meet") for _ in range(48)]
        self.assertEqual({bytes(client.finish(number).body) for number in numbers}, {b"met"})

    def test_large_bodies(self) -> None:
        """50 MB up and down, in little memory, also for a client that does not take its answer for a while."""
        server = self.start_tls()
        client = self.client(server)
        client.get("/hello")
        before = self.memory(server)
        body = bytes(range(256)) * (50_000_000 // 256)
        number = client.send("/digest", "POST", ended=False)
        client.upload(number, body)
        report = json.loads(client.finish(number).body)
        self.assertEqual(report, {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()})

        client.takes = False
        size = 50 * 1024 * 1024
        number = client.send(f"/big?size={size}")
        answer = client.answers[number]
        client.wait(lambda: client.state.inbound_flow_control_window == 0)
        self.assertEqual(client.get("/empty").status, 204)  # others are not in the way
        self.assertLess(self.memory(server) - before, 30_000)
        client.takes = True
        client.state.increment_flow_control_window(1_000_000)
        client.state.increment_flow_control_window(1_000_000, number)
        client.flush()
        client.wait(lambda: answer.over)
        self.assertEqual(bytes(answer.body), b"".join(b"%08d" % part * 8192 for part in range(size // 65536)))
        self.assertLess(self.memory(server) - before, 30_000)

    def test_a_tiny_window(self) -> None:
        """An answer goes out byte by byte if the client wants it so."""
        client = self.client(self.start_tls(), {INITIAL_WINDOW: 1})
        self.assertEqual(bytes(client.get("/hello").body), b"hello HTTP/2 https")

    def test_parts_as_they_come(self) -> None:
        """A part of a streamed answer does not wait for the next."""
        client = self.client(self.start_tls())
        number = client.send("/parts")
        client.wait(lambda: bytes(client.answers[number].body) == b"one")
        self.touch("go-on")
        self.assertEqual(bytes(client.finish(number).body), b"onetwo")

    def test_a_reset_frees_the_worker(self) -> None:
        """The only worker streams without end, until the client resets the stream; then ``http.disconnect``."""
        client = self.client(self.start_tls("--threads", "1"))
        number = client.send("/endless")
        client.wait(lambda: client.answers[number].body)
        client.state.reset_stream(number, CANCEL)
        client.flush()
        self.assertEqual(client.get("/hello").status, 200)
        self.wait_file("closed")
        wait_until(lambda: (self.folder / "gone.txt").exists() and (self.folder / "gone.txt").read_text(), "gone")

    def test_limits_of_a_body(self) -> None:
        """413, told or found out; a body of the wrong length; one that does not come."""
        client = self.client(self.start_tls("--max-body-bytes", "100000", "--body-timeout", "4"))
        number = client.send("/digest", "POST", [("content-length", "100001")], ended=False)
        answer = client.finish(number)
        self.assertEqual((answer.status, answer.ended), (413, True))
        number = client.send("/digest", "POST", ended=False)
        client.upload(number, b"x" * 100_001, ended=False)
        self.assertEqual(client.finish(number).status, 413)
        self.assertEqual(client.finish(client.send("/digest", "POST", ended=False)).status, 408)
        number = client.send("/digest", "POST", ended=False)
        client.upload(number, b"x" * 100_000)
        self.assertEqual(json.loads(client.finish(number).body)["size"], 100_000)
        number = client.send("/digest", "POST", [("content-length", "2")], ended=False)
        client.state._get_stream_by_id(number)._expected_content_length = None
        client.upload(number, b"x")
        self.assertEqual(client.wait_goaway(), PROTOCOL_ERROR)

    def test_timeouts(self) -> None:
        """No answer: 503. A client that does not take it: reset, the worker is free."""
        client = self.client(self.start_tls("--http-timeout", "3", "--threads", "2"))
        self.assertEqual(client.get("/never").status, 503)
        client.takes = False
        number = client.send("/endless")
        # By the connection, or by the thread that waits for room: whoever is first.
        self.assertIn(client.finish(number).reset, (CANCEL, INTERNAL_ERROR))
        self.wait_file("closed")
        wait_until(lambda: client.get("/empty").status == 204)


class LimitTests(HTTP2TestCase):
    """Clients that ask too much are cut off; the server goes on."""

    def test_floods(self) -> None:
        """Rapid reset, pings, settings, empty data, endless header blocks, header bombs: GOAWAY, each time."""
        server = self.start_tls()

        def rapid_reset(client: HTTP2Client) -> None:
            for _ in range(1200):
                number = client.state.get_next_available_stream_id()
                client.state.send_headers(number, client.fields("GET", "/hello"), end_stream=True)
                client.state.reset_stream(number, CANCEL)

        def pings(client: HTTP2Client) -> None:
            for _ in range(5000):
                client.state.ping(b"12345678")

        def settings(client: HTTP2Client) -> None:
            client.flush()
            client.socket.sendall(b"\0\0\0\4\0\0\0\0\0" * 5000)

        def empty_data(client: HTTP2Client) -> None:
            number = client.send("/digest", "POST", ended=False)
            for _ in range(5000):
                client.state.send_data(number, b"")

        def block(client: HTTP2Client) -> None:
            client.socket.sendall(b"\0\0\0\1\0\0\0\0\1" + b"\0\x10\0\x09\0\0\0\0\1" + b"\x40\1a\0" * 1024)
            client.socket.sendall((b"\0\x10\0\x09\0\0\0\0\1" + b"\x40\1a\0" * 1024) * 20)

        def bomb(client: HTTP2Client) -> None:
            client.send("/hello", extra=[("x-long", "y" * 4000)])
            client.send("/hello", extra=[("x-long", "y" * 4000)] * 20)

        for attack in (rapid_reset, pings, settings, empty_data, block, bomb):
            client = self.client(server)
            try:
                attack(client)
                client.flush()
            except OSError:
                pass  # cut off while we were sending
            self.assertEqual(client.wait_goaway(), ENHANCE_YOUR_CALM, attack.__name__)
        self.assertEqual(self.client(server).get("/hello").status, 200)
        self.assertNotIn("Traceback", server.output)

    def test_other_violations(self) -> None:
        """More streams than allowed, frames that are too long, no HTTP/2 at all."""
        server = self.start_tls("--threads", "1")
        client = self.client(server)
        client.wait(lambda: client.state.remote_settings.max_concurrent_streams == 100)
        client.state.remote_settings.update({3: 1000})  # type: ignore[dict-item]
        client.state.remote_settings.acknowledge()
        for _ in range(101):
            client.send("/held")
        self.assertIsNotNone(client.wait_goaway())
        self.touch("go-on")
        client = self.client(server)
        client.socket.sendall(b"\xff\xff\xff\0\0\0\0\0\1")
        self.assertEqual(client.wait_goaway(), 6)
        client = self.client(server)
        self.assertEqual(client.get("/hello").status, 200)

    def test_slow_and_idle_clients(self) -> None:
        """Half a frame, half a head, no request at all: each has its time."""
        server = self.start_tls("--header-timeout", "4", "--body-timeout", "4", "--keep-alive", "4")
        clients = []
        for rest in (b"", b"\0\0\x08\6\0\0\0\0\0abc", b"\0\0\x08\1\4\0\0\0\1abc", b"\0\0\0\1\1\0\0\0\1"):
            client = self.client(server)
            client.read()  # its settings; what this client acknowledges must not come after half a frame
            client.socket.sendall(rest)
            clients.append(client)
        clients.append(self.client(server))
        self.assertEqual(clients[-1].get("/hello").status, 200)
        for client in clients:
            self.assertEqual(client.wait_goaway(), 0)


class EndTests(HTTP2TestCase):
    """How connections end."""

    def test_drain(self) -> None:
        """SIGTERM: GOAWAY, what runs is finished, new streams are refused, exit code 0."""
        server = self.start_tls()
        client, idle = self.client(server), self.client(server)
        idle.get("/hello")
        number = client.send("/held")
        self.wait_file("running")
        server.process.send_signal(signal.SIGTERM)
        client.wait(lambda: client.goaway is not None)
        self.assertEqual(client.goaway, 0)
        self.assertEqual(idle.wait_goaway(), 0)
        self.assertEqual(client.finish(client.send("/hello")).reset, 7)
        self.touch("go-on")
        answer = client.finish(number)
        self.assertEqual((answer.status, bytes(answer.body)), (200, b"finished"))
        client.wait_goaway()
        self.assertEqual(server.wait(), 0)

    def test_a_client_that_says_good_bye(self) -> None:
        """A client's GOAWAY is about new streams: it still gets its answers (RFC 9113 section 6.8)."""
        client = self.client(self.start_tls())
        number = client.send("/held")
        self.wait_file("running")
        client.socket.sendall(goaway(0, 0))
        self.touch("go-on")
        self.assertEqual(bytes(client.finish(number).body), b"finished")
        self.assertEqual(client.wait_goaway(), 0)

    def test_a_lost_connection(self) -> None:
        """Every stream's request learns that its client has gone."""
        client = self.client(self.start_tls("--threads", "4"))
        for _ in range(3):
            client.send("/parts")
        client.wait(lambda: all(answer.body for answer in client.answers.values()))
        client.close()
        gone = self.folder / "gone.txt"
        wait_until(lambda: gone.exists() and len(gone.read_text().splitlines()) == 3, "three http.disconnect")
        self.touch("go-on")


class HeadTests(SynchronousTestCase):
    """Request heads, without a network."""

    GOOD = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.example"), (b":path", b"/x?y=%20")]

    def test_good(self) -> None:
        """A plain request, and the asterisk."""
        head = read_head(self.GOOD, True, b"https")
        self.assertEqual((head.method, head.path, head.query_string, head.version), ("GET", "/x", b"y=%20", "2"))
        self.assertEqual((head.headers, head.length), ([[b"host", b"a.example"]], 0))
        fields = [(b":method", b"OPTIONS"), (b":scheme", b"https"), (b":path", b"*"), (b"host", b"a.example")]
        self.assertEqual(read_head(fields, False, b"https").length, None)
        same = [*self.GOOD, (b"host", b"A.example"), (b"te", b"trailers")]
        self.assertEqual(read_head(same, True, b"https").headers, [[b"host", b"a.example"], [b"te", b"trailers"]])
        empty = [*self.GOOD, (b"content-length", b"0")]
        self.assertEqual((read_head(empty, True, b"https").length, read_head(empty, False, b"https").length), (0, 0))
        long = [*self.GOOD, (b"content-length", b"9" * 18)]
        self.assertEqual(read_head(long, False, b"https").length, 10**18 - 1)

    def bad(self, *fields: tuple[bytes, bytes], kind: type[Exception] = Malformed, ended: bool = True) -> None:
        """Assert that a request with these fields instead of the good ones is refused."""
        names = [name for name, _ in fields if name.startswith(b":")]
        kept = [field for field in self.GOOD if field[0] not in names]
        first = [field for field in fields if field[0].startswith(b":")]
        rest = [field for field in fields if not field[0].startswith(b":")]
        with self.assertRaises(kind) as caught:
            read_head([*kept, *first, *rest], ended, b"https")
        self.assertIs(type(caught.exception), kind)

    def test_bad(self) -> None:
        """What breaks RFC 9113 section 8, or would mean another thing to another server."""
        for field in (
            (b":method", b""), (b":method", b"get"), (b":method", b"G T"), (b":scheme", b"http"), (b":path", b""),
            (b":path", b"x"), (b":path", b"*"), (b":path", b"/a b"), (b":path", b"/a#b"), (b":path", b"http://b/"),
            (b":path", b"/\xe4"), (b":path", b"/\x00"), (b":status", b"200"), (b":protocol", b"websocket"),
            (b"host", b"b.example"), (b"Host", b"a.example"), (b"", b"x"), (b"a b", b"x"), (b"x:", b"x"),
            (b"x", b" a"), (b"x", b"a "), (b"x", b"a\r\nb"), (b"x", b"a\x00"), (b"x", b"\x7f"),
            (b"upgrade", b"websocket"), (b"keep-alive", b"1"), (b"proxy-connection", b"close"), (b"te", b"gzip"),
            (b"content-length", b"+1"), (b"content-length", b"1"), (b"transfer-encoding", b"chunked"),
        ):  # fmt: skip
            self.bad(field)
        self.bad((b"content-length", b"1"), (b"content-length", b"1"), ended=False)
        for length in (b"+1", b"", b"-1", b"1 ", b"1_0", b"0x1", b"9" * 19):
            self.bad((b"content-length", length), ended=False)
        self.bad((b"host", b"a.example"), (b"host", b"a.example"))
        for authority in (b"u@a.example", b"a/b", b"a b", b""):
            self.bad((b":authority", authority), kind=BadRequest)
        with self.assertRaises(Malformed):
            read_head([*self.GOOD, (b":path", b"/z")], True, b"https")
        with self.assertRaises(Malformed):
            read_head([(b"x", b"y"), *self.GOOD], True, b"https")

    def test_number_of_fields(self) -> None:
        """As many as are allowed, and not one more; as in HTTP/1.1, the host is one of them."""
        fields = [(b"x", b"y")] * MAX_FIELDS
        self.assertEqual(len(read_head([*self.GOOD, *fields[1:]], True, b"https").headers), MAX_FIELDS)
        self.bad(*fields, kind=BadRequest)
        check_trailers(fields)
        self.assertRaises(Malformed, check_trailers, [*fields, (b"x", b"y")])

    def test_trailers(self) -> None:
        """No pseudo-fields, nothing about framing or routing."""
        check_trailers([(b"checksum", b"1")])
        for field in ((b":path", b"/"), (b"host", b"a"), (b"content-length", b"1"), (b"X", b"y")):
            with self.assertRaises(Malformed):
                check_trailers([field])


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame on stream 1."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + b"\0\0\0\1" + payload


class FrameTests(SynchronousTestCase):
    """Frames, without a network."""

    def reader(self) -> FrameReader:
        """Return a reader that has seen the preface."""
        reader = FrameReader(0.0)
        list(reader.feed(frames.PREFACE, 0.0))
        return reader

    @settings(deadline=None, derandomize=True, max_examples=examples(200), suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.tuples(st.sampled_from([0, 3, 6]), st.binary(max_size=20)), max_size=5), st.data())
    def test_any_cut(self, wanted: list[tuple[int, bytes]], data: Any) -> None:
        """The frames are the same however the bytes are cut."""
        stream = frames.PREFACE + b"".join(frame(kind, 0, payload) for kind, payload in wanted)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
        reader, found = FrameReader(0.0), []
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            found.extend(reader.feed(stream[start:end], 0.0))
        self.assertEqual(found[0], (frames.BEGINNING, frames.PREFACE))
        self.assertEqual(found[1:], [(kind, frame(kind, 0, payload)) for kind, payload in wanted])
        self.assertEqual(reader.unfinished, "")

    def cut_off(self, data: bytes, code: int, reader: FrameReader | None = None) -> None:
        """Assert that these bytes end the connection."""
        with self.assertRaises(Violation) as caught:
            list((reader or self.reader()).feed(data, 0.0))
        self.assertEqual(caught.exception.code, code)

    def test_violations(self) -> None:
        """No preface; frames and header blocks that are too long, before they have come."""
        self.cut_off(b"GET / HTTP/1.1\r\n", frames.PROTOCOL_ERROR, FrameReader(0.0))
        self.cut_off(b"\0\x40\1\0\0\0\0\0\1", frames.FRAME_SIZE_ERROR)
        self.cut_off(
            frame(1, 0, b"x" * 16384) + frame(9, 0, b"x" * 16384) + frame(9, 0, b"x"), frames.ENHANCE_YOUR_CALM
        )

    def test_blocks_are_not_interrupted(self) -> None:
        """RFC 9113 section 4.3: between the frames of a block of header fields there are no others."""
        for kind in (*range(9), 0x55):
            self.cut_off(frame(1, 1, b"x") + frame(kind, 0, b"\0\0\0\1"), frames.PROTOCOL_ERROR)
            list(self.reader().feed(frame(1, 1, b"x") + frame(9, 4, b"x") + frame(kind, 0, b"\0\0\0\1"), 0.0))

    def test_weights(self) -> None:
        """What is cheap to send is limited, what is paid for is not."""
        for cheap in (
            *(frame(6), frame(4), frame(2), frame(8), frame(0x10), frame(0), frame(0, 8, b"\x28" + b"0" * 40)),
            *(frame(0, 0, b"x" * 63), frame(0, 8, b"\x29" + bytes(103))),
        ):
            self.cut_off(cheap * (frames.CHATTER_BURST + 1), frames.ENHANCE_YOUR_CALM)
        self.cut_off(frame(3) * (frames.RESET_BURST + 1), frames.ENHANCE_YOUR_CALM)
        reader = self.reader()
        for _ in range(10_000):  # a download: two updates for each 16 KiB
            reader.sent(16384)
            list(reader.feed(frame(8) * 2, 0.0))
        # An upload; what is padded counts without that.
        list(reader.feed(frame(0, 0, b"x" * 64) * 10_000, 0.0))
        list(reader.feed(frame(0, 8, b"\x28" + b"\xff" * 103) * 10_000, 0.0))
        for _ in range(10_000):  # an upload, and requests
            list(reader.feed(frame(0, 0, b"x" * 64) + frame(1, 5), 0.0))
        for second in range(100):
            list(reader.feed(frame(6) * 100 + frame(3) * 30, float(second)))

    def test_unfinished(self) -> None:
        """What has been begun is known."""
        reader = FrameReader(0.0)
        self.assertEqual(reader.unfinished, "head")
        list(reader.feed(frames.PREFACE, 0.0))
        self.assertEqual(reader.unfinished, "")
        for part, state in ((b"\0", "frame"), (b"\0\1\0", "frame"), (b"\0" * 6, ""), (frame(1), "head")):
            list(reader.feed(part, 0.0))
            self.assertEqual(reader.unfinished, state)
        list(reader.feed(frame(9, 4), 0.0))
        self.assertEqual(reader.unfinished, "")

    def test_bucket(self) -> None:
        """It fills with time, and no higher than its brim."""
        bucket = Bucket(2, 1.0, 0.0)
        self.assertEqual([bucket.take(0.0) for _ in range(3)], [True, True, False])
        self.assertEqual([bucket.take(1.5), bucket.take(1.5)], [True, False])
        bucket.give(100)
        self.assertEqual([bucket.take(1.5) for _ in range(3)], [True, True, False])
