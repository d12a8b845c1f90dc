"""HTTP connections: requests one after the other, bodies, time-outs, errors. The network is not there."""

from __future__ import annotations

import gc
import tempfile
from typing import Any

from twisted.internet import interfaces
from twisted.internet.address import IPv6Address, UNIXAddress
from zope.interface import directlyProvides

from channelserver.server.http.base import LINGER
from channelserver.server.http.body import BODY_IN_MEMORY, BODY_IN_MESSAGE
from channelserver.server.http.connection import BODY_READ, READ, READ_AHEAD, HTTPFactory
from channelserver.server.http.http1 import MAX_HEAD_BYTES, FieldSection
from channelserver.server.http.reader import KEPT_BYTES, KEPT_FIELDS
from tests.fakes import Client, FakeServer, Files, StrictTestCase, get, request

MEGABYTE = 1024 * 1024


def chunked(path: str, *chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return a POST request with a body in chunks."""
    head = request("POST", path, "Transfer-Encoding: chunked")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk) + end


class ConnectionTestCase(StrictTestCase):
    """A server and clients."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.make_server()

    def serve(self, **options: Any) -> FakeServer:
        """Replace the server by one with other options."""
        self.server = self.make_server(**options)
        return self.server

    def connect(self, **addresses: Any) -> Client:
        """Open a connection."""
        return self.server.connect(**addresses)

    def assertRefused(self, data: bytes, status: int, *words: bytes) -> Client:
        """Assert that a request is answered with an error and the connection closed, without the application."""
        client = self.connect()
        client.send(data)
        response = client.responses(data.split(b" ")[0].decode("latin-1"))[-1]
        self.assertEqual(response.status, status, data[:100])
        for word in words:
            self.assertIn(word, response.body)
        self.assertEqual(response.header("connection"), "close")
        self.assertTrue(client.transport.write_ended)
        self.assertIsNone(self.server.take("http.request"))
        self.assertEqual(self.server.messages("http.disconnect"), [])
        return client


class KeepAliveTests(ConnectionTestCase):
    """RFC 9112 section 9.3: what becomes of the connection after an answer."""

    def assertEndsWith(self, kept: bool, data: bytes, **content: Any) -> None:
        """Assert whether the connection is kept after a request and its answer, and that the client is told."""
        client = self.connect()
        self.server.reply(client.request(data), **{"status": 200, "content": b"x", **content})
        self.assertEqual(client.transport.write_ended, not kept)
        self.assertEqual(client.response().header("connection") == "close", not kept)
        if kept:
            self.server.reply(client.request(), status=200)
            self.assertEqual(len(client.responses()), 2)

    def test_kept(self) -> None:
        """A connection is kept; several requests are answered on it."""
        self.assertEndsWith(True, get())
        self.assertEndsWith(True, get("/", "Connection: keep-alive", version="1.0"))

    def test_closed_for_the_client(self) -> None:
        """It is closed if the client wants it, or speaks HTTP/1.0."""
        self.assertEndsWith(False, get("/", "Connection: close"))
        self.assertEndsWith(False, get(version="1.0"))

    def test_closed_for_the_application(self) -> None:
        """It is closed if the application's answer says so."""
        self.assertEndsWith(False, get(), headers=[[b"Connection", b"Close"]])

    def test_no_more_is_read(self) -> None:
        """What a client sends after the last answer is thrown away."""
        client = self.connect()
        message = client.request(get("/", "Connection: close") + get("/second"))
        self.server.reply(message, status=200)
        client.send(get("/third"))
        self.assertIsNone(self.server.take("http.request"))
        self.assertEqual(len(client.responses()), 1)
        self.assertTrue(client.transport.reading)

    def test_half_closed(self) -> None:
        """Only the server's side is closed, so that the client reads the answer to its end; then the client closes."""
        client = self.connect()
        self.server.reply(client.request(get(version="1.0")), status=200, content=b"x")
        self.assertTrue(client.transport.write_ended)
        self.assertFalse(client.transport.lost)
        client.leave()
        self.assertEqual(self.server.site.connections, set())

    def test_linger(self) -> None:
        """A client that does not close its side is left after a while."""
        client = self.connect()
        self.server.reply(client.request(get(version="1.0")), status=200, content=b"x")
        self.server.pass_time(LINGER - 0.5)
        self.assertFalse(client.transport.lost)
        self.server.pass_time(10)
        self.assertTrue(client.transport.lost)
        self.assertEqual(self.server.site.connections, set())

    def test_transport_without_half_close(self) -> None:
        """Where there is no half of a connection to close, the whole is closed."""
        client = self.connect()
        directlyProvides(client.transport, interfaces.ITransport)
        client.transport._providing = None
        self.patch(interfaces.IHalfCloseableDescriptor, "providedBy", lambda thing: False)
        self.server.reply(client.request(get(version="1.0")), status=200, content=b"x")
        self.assertEqual(client.response().body, b"x")
        self.assertTrue(client.transport.lost)
        self.assertFalse(client.transport.write_ended)


class PipelineTests(ConnectionTestCase):
    """RFC 9112 section 9.3.2: requests that do not wait for answers."""

    def test_in_order(self) -> None:
        """Requests are given to the application one by one, and answered in their order."""
        client = self.connect()
        client.send(get("/1") + get("/2") + request("POST", "/3", body=b"body") + get("/4"))
        for number in range(1, 5):
            message = self.server.message("http.request")
            self.assertEqual(message["path"], f"/{number}")
            self.assertIsNone(self.server.take("http.request"))
            self.server.reply(message, status=200, content=b"%d" % number)
        self.assertEqual([response.body for response in client.responses()], [b"1", b"2", b"3", b"4"])

    def test_consumer_that_changes_headers(self) -> None:
        """What a consumer does to the headers of its message is nothing to the next request, which has the same."""
        client = self.connect()
        for _ in range(3):
            message = client.request(get("/", "X-A: b"))
            self.assertEqual(message["headers"], [[b"host", b"testserver"], [b"x-a", b"b"]])
            message["headers"][1][1] = b"c"
            message["headers"].append([b"x-d", b"e"])
            self.server.reply(message, status=200)

    def test_same_request_again(self) -> None:
        """A request that is the same as the one before is answered the same, whatever became of that one."""
        client = self.connect()
        for data in (get("/a?b", "X-A: b"), get("/", "X-A: b"), get("/a?b", "X-A: c")):
            seen = []
            for lead in (b"", b"", b"", b"\r\n", b"\r\n\r\n", b"\r\n", b"", b"\r\n\r\n\r\n", b""):
                if lead:
                    client.send(lead)
                message = client.request(data)
                headers = [pair.copy() for pair in message["headers"]]
                seen.append((message["path"], message["query_string"], headers, message["client"]))
                message["headers"].clear()
                self.server.reply(message, status=200, content=b"x")
            self.assertEqual(seen, [seen[0]] * len(seen))
            self.assertEqual(seen[0][2][1][0], b"x-a")
        for _ in range(3):
            client.send(get("/1", "X-A: c") * 2)
            for _ in range(2):
                message = self.server.message("http.request")
                self.assertEqual(message["path"], "/1")
                self.server.reply(message, status=200)

    def test_same_request_again_in_pieces(self) -> None:
        """The same with a body, or in several pieces."""
        client = self.connect()
        for data in (get("/"), request("POST", "/", body=b"body"), chunked("/", b"body")):
            for size in (len(data), len(data), len(data), 7, len(data), len(data) - 1, len(data)):
                client.send(data[:size])
                for place in range(size, len(data)):
                    client.send(data[place : place + 1])
                message = self.server.message("http.request")
                self.assertEqual((message["path"], message["body"]), ("/", b"" if data == get("/") else b"body"))
                self.server.reply(message, status=200)

    def test_memory(self) -> None:
        """A connection between two requests keeps the fields of the last one, unless they are large; a socket none."""

        def kept() -> list[bytes]:
            sections = [thing for thing in gc.get_objects() if type(thing) is FieldSection]
            return [section.fields[b"x-memory"] for section in sections if b"x-memory" in section.fields]

        client = self.connect()
        large, many = "l" * KEPT_BYTES, ["X-A: b"] * KEPT_FIELDS
        for value, others, wanted in (("a", [], [b"a"]), (large, [], []), ("b", [], [b"b"]), ("c", many, [])):
            self.server.reply(client.request(get("/", "X-Memory: " + value, *others)), status=200)
            self.assertEqual(kept(), wanted)
        upgrade = "Upgrade: websocket", "Connection: upgrade", "Sec-WebSocket-Version: 13", "X-Memory: d"
        client.send(get("/", *upgrade, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="))
        self.server.reply(self.server.message("websocket.connect"), accept=True)
        self.assertEqual(kept(), [])

    def test_byte_by_byte(self) -> None:
        """However a request comes, it is the same."""
        data = request("POST", "/a", "X-A: b", body=b"hello") + chunked("/b", b"wor", b"ld") + get("/c")
        client = self.connect()
        seen = []
        for byte in data:
            client.send(bytes([byte]))
            for message in self.server.messages("http.request"):
                seen.append((message["path"], message["body"]))
                self.server.reply(message, status=200)
        self.assertEqual(seen, [("/a", b"hello"), ("/b", b"world"), ("/c", b"")])

    def test_long_row(self) -> None:
        """A long row of requests, all answered at once, is no deep recursion."""
        static = Files({"status": 200, "content": b"x"})
        client = self.serve(static=static).connect()
        client.send(get("/a") * 2000)
        self.assertEqual(len(client.responses()), 2000)
        self.assertEqual(static.answered, 2000)

    def test_error_comes_in_its_turn(self) -> None:
        """A bad request behind a good one is refused after the good one's answer."""
        client = self.connect()
        message = client.request(get("/1") + b"nonsense\r\n\r\n")
        self.assertEqual(client.received, b"")
        self.server.reply(message, status=200, content=b"1")
        self.assertEqual([response.status for response in client.responses()], [200, 400])
        self.assertTrue(client.transport.write_ended)

    def test_read_ahead(self) -> None:
        """While a request is being answered, only so much of the following is read; nothing of it is lost."""
        client = self.connect()
        message = client.request()
        client.send(get("/2")[:-2])
        client.send(b"X: " + b"y" * 1000 + b"\r\n\r\n")
        self.assertTrue(client.transport.reading)
        rest = get("/3", "X: " + "z" * 30_000) * 6
        client.send(rest)
        self.assertFalse(client.transport.reading)
        self.assertLessEqual(len(self.server_buffer(client)), READ_AHEAD + 65536)
        paths = []
        while message is not None:
            self.server.reply(message, status=200)
            message = next(iter(self.server.messages("http.request")), None)  # type: ignore[assignment]
            if message:
                paths.append(message["path"])
        self.assertEqual(paths, ["/2"] + ["/3"] * 6)
        self.assertTrue(client.transport.reading)

    def server_buffer(self, client: Client) -> bytes:
        """Return what the server has read and not worked on."""
        return client.protocol._reader.buffer

    def test_client_that_reads_nothing(self) -> None:
        """A client that sends requests and reads no answers gets no more of them until it reads."""
        client = self.connect()
        client.transport.slow = True
        client.send(get("/") * 50)
        answered = 0
        while (delivery := self.server.take("http.request")) is not None:
            self.server.reply(delivery.content, status=200, content=b"x" * 20_000)
            answered += 1
            self.assertLess(answered, 10, "the answers pile up")
        client.transport.client_reads()
        self.server.turn()
        self.assertIsNotNone(self.server.take("http.request"))

    def test_client_that_reads_slowly(self) -> None:
        """All requests of a client that reads slowly are answered, in order."""
        client = self.connect()
        client.transport.slow = True
        client.send(b"".join(get(f"/{number}") for number in range(30)))
        for _ in range(100):
            for message in self.server.messages("http.request"):
                self.server.reply(message, status=200, content=message["path"].encode() * 10_000)
            client.transport.client_reads()
            self.server.turn()
        bodies = [response.body[:4].split(b"/")[1] for response in client.responses()]
        self.assertEqual(bodies, [b"%d" % number for number in range(30)])


class HeadTests(ConnectionTestCase):
    """Request heads."""

    def test_empty_lines_before(self) -> None:
        """RFC 9112 section 2.2: empty lines before a request are skipped."""
        client = self.connect()
        client.send(b"\r\n\r\n")
        client.send(b"\r")
        client.send(b"\n")
        self.assertEqual(client.request(b"\r\n" + get("/a"))["path"], "/a")

    def test_bad_ones(self) -> None:
        """RFC 9112 section 3: what is malformed is answered with 400 and never reaches the application."""
        for data in (
            b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
            b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", get("/", "X : y"),
            get("/", "Host: b"), get("/a b"), request("POST", "/", "Content-Length: x"),
            request("POST", "/", "Content-Length: 1", "Transfer-Encoding: chunked"),
        ):  # fmt: skip
            self.assertRefused(data, 400)

    def test_other_statuses(self) -> None:
        """Refusals have the status that tells why."""
        self.assertRefused(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505)
        self.assertRefused(request("CONNECT", "a:443"), 501)
        self.assertRefused(get("/", "Expect: tea"), 417)
        self.assertRefused(get("/", *["X: y"] * 200), 431)

    def test_too_long(self) -> None:
        """A head that is too long is answered with 431, a request line with 414, before their ends if need be."""
        self.assertRefused(get("/", "X: " + "y" * MAX_HEAD_BYTES), 431)
        self.assertRefused(b"GET /" + b"a" * (MAX_HEAD_BYTES + 10), 414)

    def test_longest(self) -> None:
        """A head of the largest size is read, also byte by byte."""
        line = "X: " + "y" * (MAX_HEAD_BYTES - len(get("/", "X: ")) + 4)
        data = get("/", line)
        self.assertEqual(len(data), MAX_HEAD_BYTES + 4)
        self.connect().request(data)
        client = self.connect()
        client.send(data[:-10])
        for byte in data[-10:]:
            client.send(bytes([byte]))
        self.assertIsNotNone(self.server.take("http.request"))

    def test_error_is_in_the_access_log(self) -> None:
        """A request that cannot be read is logged as such."""
        self.assertRefused(b"nonsense\r\n\r\n", 400)
        self.assertEqual(len(self.server.access), 1)
        self.assertTrue(self.server.access[0].startswith("HTTP - - 400 "), self.server.access)

    def test_refused_body_is_logged_with_its_path(self) -> None:
        """One whose body is refused is logged with its method and path."""
        self.serve(max_body_bytes=10)
        self.assertRefused(request("POST", "/upload", body=b"x" * 11), 413)
        self.assertTrue(self.server.access[0].startswith("HTTP POST /upload 413 "), self.server.access)


class BodyTests(ConnectionTestCase):
    """Request bodies."""

    def take(self, data: bytes) -> Any:
        """Send a request; return its delivery."""
        client = self.connect()
        client.send(data)
        delivery = self.server.take("http.request")
        assert delivery is not None
        if delivery.attachment is not None:
            self.addCleanup(delivery.attachment.close)
        return delivery

    def test_in_the_message(self) -> None:
        """A body of up to 64 KiB travels in the message."""
        for size in (1, 1000, BODY_IN_MESSAGE):
            body = bytes(range(256)) * (size // 256 + 1)
            for data in (
                request("POST", "/", body=body[:size]),
                chunked("/", body[: size // 2], body[size // 2 : size]),
            ):
                delivery = self.take(data)
                self.assertEqual(delivery.content["body"], body[:size])
                self.assertIsNone(delivery.attachment)

    def test_in_a_file(self) -> None:
        """A larger one lies in a file beside the message, to be read from its beginning."""
        for size in (BODY_IN_MESSAGE + 1, 3 * MEGABYTE):
            body = bytes(range(251)) * (size // 251 + 1)
            for data in (request("POST", "/", body=body[:size]), chunked("/", body[:1000], body[1000:size])):
                delivery = self.take(data)
                self.assertEqual(delivery.content["body"], b"")
                self.assertEqual(delivery.attachment.read(), body[:size])

    def test_in_pieces(self) -> None:
        """However it comes, the body is whole."""
        body = bytes(range(256)) * 400
        data = request("POST", "/", body=body)
        client = self.connect()
        for start in range(0, len(data), 1009):
            self.assertIsNone(self.server.take("http.request"))
            client.send(data[start : start + 1009])
        delivery = self.server.take("http.request")
        assert delivery is not None
        with delivery.attachment:
            self.assertEqual(delivery.attachment.read(), body)

    def test_read_size(self) -> None:
        """While many bytes of a body are to come, more is read at a time; but not of what follows it."""
        client = self.connect()
        client.send(request("POST", "/", f"Content-Length: {MEGABYTE}"))
        sizes = []
        for _ in range(8):
            client.send(b"x" * (MEGABYTE // 8))
            sizes.append(client.transport.bufferSize)
        self.assertEqual(sizes, [BODY_READ] * 6 + [MEGABYTE // 8, READ])
        client = self.connect()
        client.send(chunked("/", b"x" * 200_000, end=b""))
        self.assertEqual(client.transport.bufferSize, READ)
        client = self.connect()
        client.send(request("POST", "/", f"Content-Length: {MEGABYTE}") + b"x" * 200_000)
        self.server.reactor.advance(1000)
        self.assertEqual(client.responses("POST")[-1].status, 408)
        self.assertEqual(client.transport.bufferSize, READ)

    def test_empty(self) -> None:
        """A body of no bytes is none."""
        for data in (request("POST", "/", "Content-Length: 0"), chunked("/")):
            self.assertEqual(self.take(data).content["body"], b"")

    def test_body_of_a_get(self) -> None:
        """Any method may have a body; what follows it is the next request."""
        client = self.connect()
        message = client.request(request("GET", "/", body=b"GET /evil HTTP/1.1\r\n\r\n") + get("/next"))
        self.assertEqual(message["body"], b"GET /evil HTTP/1.1\r\n\r\n")
        self.server.reply(message, status=200)
        self.assertEqual(self.server.message("http.request")["path"], "/next")

    def test_too_large(self) -> None:
        """A body over the limit is answered with 413: at once if its length is known, else when it is over."""
        self.serve(max_body_bytes=1000)
        self.assertEqual(self.take(request("POST", "/", body=b"x" * 1000)).content["body"], b"x" * 1000)
        self.assertRefused(request("POST", "/", "Content-Length: 1001"), 413, b"1000 bytes")
        self.assertEqual(self.take(chunked("/", b"x" * 600, b"x" * 400)).content["body"], b"x" * 1000)
        self.assertRefused(chunked("/", b"x" * 600, b"x" * 401), 413)
        client = self.connect()
        client.send(chunked("/", b"x" * 600, end=b"f00\r\n" + b"x" * 300))
        self.assertEqual(client.received, b"")
        client.send(b"x" * 101)
        self.assertEqual(client.response().status, 413)

    def test_no_bodies_at_all(self) -> None:
        """A limit of 0 allows requests without a body."""
        self.serve(max_body_bytes=0)
        self.take(get())
        self.assertRefused(request("POST", "/", body=b"x"), 413)

    def test_client_that_goes_on_sending(self) -> None:
        """The rest of a refused body is read and thrown away, so that the client gets to read the answer."""
        self.serve(max_body_bytes=1000)
        client = self.connect()
        client.send(request("POST", "/", "Content-Length: 100000"))
        for _ in range(100):
            client.send(b"x" * 1000)
        self.assertTrue(client.transport.reading)
        self.assertEqual(client.response().status, 413)

    def test_malformed_chunks(self) -> None:
        """A malformed body is answered with 400."""
        for data in (
            chunked("/", end=b"x\r\n"),
            chunked("/", b"hello", end=b"5\nhello"),
            chunked("/", end=b"0\r\nX : y\r\n\r\n"),
        ):
            self.assertRefused(data, 400)

    def test_client_leaves(self) -> None:
        """If the client leaves in the middle, the application hears nothing, and the file is closed."""
        client = self.connect()
        client.send(request("POST", "/", f"Content-Length: {BODY_IN_MEMORY + 1}") + b"x" * 200_000)
        file = client.protocol._reader.body._file
        client.leave()
        self.assertTrue(file.closed)
        self.assertIsNone(self.server.take("http.request"))
        self.assertEqual(self.server.messages("http.disconnect"), [])

    def test_files_are_closed(self) -> None:
        """The file of a request that no consumer gets is closed: no room, or a static file's path."""
        files: list[Any] = []
        spooled = tempfile.TemporaryFile

        def watched(*args: Any, **kwargs: Any) -> Any:
            files.append(spooled(*args, **kwargs))
            return files[-1]

        self.patch(tempfile, "TemporaryFile", watched)
        data = request("POST", "/", body=b"x" * (BODY_IN_MEMORY + 1))
        self.serve(capacity=1)
        self.server.layer.send("http.request", {})
        self.connect().send(data)
        self.assertEqual([file.closed for file in files], [True], "no room")

        self.serve(static=Files({"status": 405})).connect().send(data)
        closed = [file.closed for file in files]
        for file in files:
            file.close()
        self.assertEqual(closed, [True, True], "static")


class ContinueTests(ConnectionTestCase):
    """RFC 9110 section 10.1.1: clients that wait before they send a body."""

    def test_told_to_go_on(self) -> None:
        """The client is told to go on; then its request is like any other."""
        client = self.connect()
        client.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 5"))
        self.assertEqual(client.received, b"HTTP/1.1 100 Continue\r\n\r\n")
        message = client.request(b"hello")
        self.assertEqual(message["body"], b"hello")
        self.server.reply(message, status=200, content=b"x")
        self.assertEqual(client.response().body, b"x")

    def test_chunks(self) -> None:
        """So it is with chunks."""
        client = self.connect()
        client.send(request("POST", "/", "Expect: 100-continue", "Transfer-Encoding: chunked"))
        self.assertEqual(client.received, b"HTTP/1.1 100 Continue\r\n\r\n")
        self.assertEqual(client.request(b"5\r\nhello\r\n0\r\n\r\n")["body"], b"hello")

    def test_not_needed(self) -> None:
        """A client that has begun to send, has no body, or speaks HTTP/1.0, is told nothing."""
        for data in (
            request("POST", "/", "Expect: 100-continue", body=b"hello"), request("POST", "/", "Expect: 100-continue"),
            request("POST", "/", "Expect: 100-continue", body=b"hello", version="1.0"),
        ):  # fmt: skip
            client = self.connect()
            client.request(data)
            self.assertEqual(client.received, b"")
        client = self.connect()
        client.send(request("POST", "/", "Expect: 100-continue", "Content-Length: 5", version="1.0"))
        self.assertEqual(client.received, b"")

    def test_too_large(self) -> None:
        """A client whose body would be refused is told so instead, before it sends it."""
        self.serve(max_body_bytes=10)
        client = self.assertRefused(request("POST", "/", "Expect: 100-continue", "Content-Length: 11"), 413)
        self.assertNotIn(b"100 Continue", client.received)


class FullTests(ConnectionTestCase):
    """A server that has too much to do."""

    def test_no_room(self) -> None:
        """A request for which the channel has no room is answered with 503; the connection is kept."""
        self.serve(capacity=1)
        first, second = self.connect(), self.connect()
        first.send(get("/1"))
        second.send(get("/2"))
        self.assertEqual(second.response().status, 503)
        self.assertEqual(first.received, b"")
        self.server.reply(self.server.message("http.request"), status=200)
        self.server.reply(second.request(), status=200)
        self.assertEqual([response.status for response in second.responses()], [503, 200])
        self.assertEqual(self.server.messages("http.disconnect"), [])


class TimeoutTests(ConnectionTestCase):
    """Clients and applications that take too long. No connection has a timer of its own."""

    def until_over(self, client: Client, limit: float) -> float:
        """Let time pass until the server ends the connection; return how many seconds that took."""
        begun = self.server.reactor.seconds()
        while not client.transport.over:
            self.server.pass_time(0.25)
            self.assertLess(self.server.reactor.seconds() - begun, limit, "it never ends")
        return self.server.reactor.seconds() - begun

    def assertTime(self, seconds: float, expected: float) -> None:
        """Assert that something came in time: not before, and not more than a second after."""
        self.assertGreaterEqual(seconds, expected)
        self.assertLessEqual(seconds, expected + 1.0)

    def test_one_timer_for_all(self) -> None:
        """A hundred connections have one timer."""
        for _ in range(100):
            self.connect()
        self.assertEqual(len(self.server.reactor.getDelayedCalls()), 1)

    def test_nothing_comes(self) -> None:
        """A connection on which nothing comes is closed without a word."""
        client = self.connect()
        self.assertTime(self.until_over(client, 100), 10)
        self.assertEqual(client.received, b"")

    def test_head(self) -> None:
        """A head that is not whole in time is answered with 408, though its bytes come one by one."""
        client = self.connect()
        self.server.pass_time(5)
        client.send(b"G")
        for byte in b"ET / HTTP":
            self.server.pass_time(1)
            self.assertEqual(client.received, b"")
            client.send(bytes([byte]))
        self.server.pass_time(2)
        self.assertEqual(client.response().status, 408)
        self.assertTrue(client.transport.write_ended)

    def test_head_after_an_answer(self) -> None:
        """The same holds for the next request of a connection: its time runs from its first byte."""
        client = self.connect()
        self.server.reply(client.request(), status=200)
        self.server.pass_time(60)
        client.send(b"GET /")
        self.assertTime(self.until_over(client, 100), 10)
        self.assertEqual(client.responses()[1].status, 408)

    def test_empty_lines_win_no_time(self) -> None:
        """Empty lines before a request do not put the time off."""
        client = self.connect()
        for _ in range(15):
            for piece in (b"\r", b"\n"):
                client.send(piece)
                self.server.pass_time(0.75)
        self.assertTrue(client.transport.over)

    def test_body(self) -> None:
        """Between two parts of a body there may be a minute, then it is answered with 408."""
        client = self.serve(min_body_rate=0).connect()
        client.send(request("POST", "/", "Content-Length: 100") + b"x")
        for _ in range(3):
            self.server.pass_time(55)
            client.send(b"x")
        self.assertFalse(client.transport.over)
        self.assertTime(self.until_over(client, 200), 60)
        self.assertEqual(client.response().status, 408)
        self.assertIsNone(self.server.take("http.request"))

    def test_answer(self) -> None:
        """An application that does not answer in time: 503, the connection is closed, late answers are dropped."""
        client = self.connect()
        message = client.request()
        self.assertTime(self.until_over(client, 300), 120)
        self.assertEqual(client.response().status, 503)
        self.server.reply(message, status=200, content=b"late")
        self.assertEqual(client.response().status, 503)
        self.assertEqual(client.transport.too_late, b"")
        self.assertEqual(self.server.messages("http.disconnect"), [])

    def test_time_runs_from_the_whole_request(self) -> None:
        """The time for an answer begins when the request is complete."""
        client = self.serve(min_body_rate=0).connect()
        client.send(request("POST", "/", "Content-Length: 2"))
        self.server.pass_time(50)
        client.send(b"x")
        self.server.pass_time(50)
        client.send(b"x")
        self.assertTime(self.until_over(client, 300), 120)

    def test_each_request_has_its_own_time(self) -> None:
        """The second request of a connection has the whole time again."""
        client = self.connect()
        message = client.request()
        self.server.pass_time(100)
        self.server.reply(message, status=200)
        self.server.pass_time(50)
        client.request()
        self.assertTime(self.until_over(client, 300), 120)

    def test_long_stream(self) -> None:
        """An answer that has begun is not cut off, however long it takes, nor are those of others afterwards."""
        client = self.connect()
        message = client.request()
        self.server.pass_time(100)
        self.server.reply(message, status=200, content=b"begin", more_content=True)
        for _ in range(5):
            self.server.pass_time(100)
            self.server.reply(message, content=b".", more_content=True)
        self.server.pass_time(500)
        self.server.reply(message, content=b"end")
        self.assertEqual(client.response().body, b"begin.....end")
        self.assertFalse(client.transport.over)
        other = self.connect()
        other.request()
        self.assertTime(self.until_over(other, 300), 120)

    def test_idle(self) -> None:
        """Between two requests a client may take its time, then the connection is closed without a word."""
        client = self.connect()
        self.server.reply(client.request(), status=200)
        self.assertTime(self.until_over(client, 300), 75)
        self.assertEqual(len(client.responses()), 1)

    def test_short_times(self) -> None:
        """Times that are shorter than that for a head hold, too."""
        self.serve(http_timeout=2)
        client = self.connect()
        client.request()
        self.assertTime(self.until_over(client, 300), 2)
        self.serve(keep_alive=3)
        client = self.connect()
        self.server.reply(client.request(), status=200)
        self.assertTime(self.until_over(client, 300), 3)
        self.serve(body_timeout=1)
        client = self.connect()
        client.send(request("POST", "/", "Content-Length: 2"))
        self.assertTime(self.until_over(client, 300), 1)

    def test_slow_reader_of_a_whole_answer(self) -> None:
        """A client that reads a large answer slowly gets all of it, also if it is the connection's last one."""
        for data in (get(), get(version="1.0"), get("/", "Connection: close")):
            client = self.connect()
            client.transport.slow = True
            self.server.reply(client.request(data), status=200, content=b"x" * MEGABYTE)
            self.server.pass_time(90)
            self.assertFalse(client.transport.aborted, data)
            for _ in range(20):  # it comes in pieces
                client.transport.client_reads()
                self.server.turn()
            self.assertEqual(len(client.response().body), MEGABYTE, data)

    def test_client_that_does_not_read(self) -> None:
        """A client that reads nothing at all is given up after the time for an answer."""
        for data in (get(), get("/", "Connection: close")):
            client = self.connect()
            client.transport.slow = True
            self.server.reply(client.request(data), status=200, content=b"x" * MEGABYTE)
            self.assertTime(self.until_over(client, 300), 120)
            self.assertTrue(client.transport.aborted)

    def test_stream_that_nobody_reads(self) -> None:
        """So is one that does not read on in the middle of a stream; the application is told."""
        client = self.connect()
        message = client.request()
        client.transport.slow = True
        self.server.reply(message, status=200, content=b"x" * 100_000, more_content=True)
        self.assertTime(self.until_over(client, 300), 120)
        self.assertTrue(client.transport.aborted)
        self.assertEqual(len(self.server.messages("http.disconnect")), 1)

    def test_slow_reader_of_a_stream(self) -> None:
        """A client that reads each part in time gets them all."""
        client = self.connect()
        message = client.request()
        client.transport.slow = True
        self.server.reply(message, status=200, content=b"x" * 100_000, more_content=True)
        for _ in range(4):
            self.server.pass_time(100)
            client.transport.client_reads()
            self.server.reply(message, content=b"x" * 100_000, more_content=True)
        client.transport.slow = False
        self.server.reply(message, content=b"")
        client.transport.client_reads()
        self.server.turn()
        self.assertEqual(len(client.response().body), 500_000)

    def test_stream_needs_no_timer(self) -> None:
        """An answer that goes on for ever, as an event stream does, wakes nobody up while its client reads."""
        client = self.connect()
        self.server.reply(message := client.request(), status=200, content=b"begin", more_content=True)
        self.server.pass_time(500)
        self.assertEqual(self.server.reactor.getDelayedCalls(), [])
        client.transport.slow = True  # and yet one who does not read is given up
        self.server.reply(message, content=b"x" * 100_000, more_content=True)
        self.assertTime(self.until_over(client, 300), 120)

    def test_closed_connections_are_forgotten(self) -> None:
        """The timer keeps nothing of connections that are gone."""
        for _ in range(20):
            client = self.connect()
            self.server.reply(client.request(), status=200)
            client.leave()
        self.server.pass_time(30)
        self.assertEqual(self.server.reactor.getDelayedCalls(), [])


class AddressTests(ConnectionTestCase):
    """What the message says of client and server."""

    def test_addresses(self) -> None:
        """Addresses of both families are told as host and port."""
        peer, host = IPv6Address("TCP", "2001:db8::7", 50123), IPv6Address("TCP", "2001:db8::1", 80)
        message = self.connect(peer=peer, host=host).request()
        self.assertEqual((message["client"], message["server"]), (["2001:db8::7", 50123], ["2001:db8::1", 80]))

    def test_ipv4_at_a_listener_of_ipv6(self) -> None:
        """Its clients have addresses of IPv4, as on every other listener."""
        peer = IPv6Address("TCP", "::ffff:192.0.2.7", 50123)
        message = self.connect(peer=peer, host=IPv6Address("TCP", "::ffff:192.0.2.1", 80)).request()
        self.assertEqual((message["client"], message["server"]), (["192.0.2.7", 50123], ["192.0.2.1", 80]))
        self.assertEqual(HTTPFactory(self.server.site).buildProtocol(peer).peer, "192.0.2.7")

    def test_unix_socket(self) -> None:
        """On a Unix socket there are none."""
        message = self.connect(peer=UNIXAddress(b""), host=UNIXAddress(b"/run/x")).request()
        self.assertEqual((message["client"], message["server"]), (None, None))

    def test_scheme(self) -> None:
        """Over TLS the scheme is https."""
        client = Client.__new__(Client)
        self.patch(interfaces.ISSLTransport, "providedBy", lambda thing: True)
        client.__init__(self.server)  # type: ignore[misc]
        self.assertEqual(client.request()["scheme"], "https")

    def test_no_delay(self) -> None:
        """Small answers are sent at once."""
        self.assertTrue(self.connect().transport.no_delay)


class DrainTests(ConnectionTestCase):
    """A server that is about to stop."""

    def drain(self) -> None:
        """Begin to stop, as the service does."""
        self.server.site.draining = True
        for connection in list(self.server.site.connections):
            connection.drain()
        self.server.turn()

    def test_idle(self) -> None:
        """Idle connections are closed: at once after a request, and before the first one after a moment for it."""
        fresh, used = self.connect(), self.connect()
        self.server.reply(used.request(), status=200)
        self.drain()
        self.assertTrue(used.transport.over)
        self.assertFalse(fresh.transport.over)
        self.server.pass_time(2)
        self.assertTrue(fresh.transport.over)

    def test_under_way(self) -> None:
        """A request under way is answered, and its connection closed then; the client is told."""
        client = self.connect()
        message = client.request()
        self.drain()
        self.assertFalse(client.transport.over)
        self.server.reply(message, status=200, content=b"x")
        response = client.response()
        self.assertEqual((response.body, response.header("connection")), (b"x", "close"))
        self.assertTrue(client.transport.write_ended)

    def test_stream_under_way(self) -> None:
        """A stream under way is sent to its end, and its connection closed then."""
        client = self.connect()
        message = client.request()
        self.server.reply(message, status=200, content=b"one", more_content=True)
        self.drain()
        self.server.reply(message, content=b"two")
        self.assertEqual(client.response().body, b"onetwo")
        self.assertTrue(client.transport.write_ended)

    def test_half_a_request(self) -> None:
        """A request that has come in part is read, answered and closed."""
        for data in (get(), request("POST", "/", body=b"hello")):
            self.serve()
            client = self.connect()
            client.send(data[:-3])
            self.drain()
            self.assertFalse(client.transport.over)
            self.server.reply(client.request(data[-3:]), status=200, content=b"x")
            self.assertEqual(client.response().header("connection"), "close")
            self.assertTrue(client.transport.write_ended)

    def test_pipelined_requests(self) -> None:
        """Requests behind the one under way are not begun."""
        client = self.connect()
        message = client.request(get("/1") + get("/2"))
        self.drain()
        self.server.reply(message, status=200)
        self.assertIsNone(self.server.take("http.request"))
        self.assertTrue(client.transport.write_ended)

    def test_unread(self) -> None:
        """A client has time to read the answer that was complete before, also where other processes take over."""
        for patient in (False, True):
            self.serve().site.patient = patient
            client = self.connect()
            client.transport.slow = True
            self.server.reply(client.request(), status=200, content=b"x" * 100_000)
            self.drain()
            self.server.pass_time(LINGER + 2)
            client.transport.slow = False
            client.transport.client_reads()
            self.server.turn()
            self.assertEqual(len(client.response().body), 100_000)
            self.assertTrue(client.transport.write_ended)
            self.assertFalse(client.transport.aborted)

    def test_empty(self) -> None:
        """Whoever waits for the last connection to end is told."""
        told: list[int] = []
        clients = [self.connect() for _ in range(2)]
        self.server.site.when_empty = lambda: told.append(1)
        clients[0].leave()
        self.assertEqual(told, [])
        clients[1].leave()
        self.assertEqual(told, [1])


class FactoryTests(ConnectionTestCase):
    """The factory of connections."""

    def test_each_its_own(self) -> None:
        """Each connection has a protocol of its own, which knows its factory."""
        factory = HTTPFactory(self.server.site)
        first, second = factory.buildProtocol(None), factory.buildProtocol(None)
        self.assertIsNot(first, second)
        self.assertIs(first.factory, factory)

    def test_small(self) -> None:
        """A connection has no dict: there may be ten thousand of them."""
        self.assertRaises(AttributeError, setattr, HTTPFactory(self.server.site).buildProtocol(None), "note", 1)

    def test_lost_at_any_time(self) -> None:
        """A connection may be lost in any state, without an error and without a trace."""
        large = request("POST", "/", "Content-Length: 100000") + b"x" * 70_000
        for data in (
            b"",
            b"GET",
            get(),
            get() * 3,
            large,
            b"nonsense\r\n\r\n",
            get(version="1.0"),
            chunked("/", b"x")[:-5],
        ):
            client = self.connect()
            client.send(data)
            client.leave()
            self.server.messages("http.request")
            self.server.messages("http.disconnect")
            self.assertEqual(self.server.site.connections, set())
            self.assertEqual(len(self.server.site.replies), 0)
            self.server.pass_time(0.5)
