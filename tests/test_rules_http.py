"""The rules about HTTP: Django's views and responses, bodies, failures, the protocol, headers (rules 18 to 22)."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import requests

from tests.lab import LabTestCase, RawClient
from tests.process import TIMEOUT, project, wait_until

SETTINGS = """
    SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    MIDDLEWARE = [*MIDDLEWARE, "middleware.plain", "middleware.Catching"]
    DATABASES["default"]["ATOMIC_REQUESTS"] = True
"""


class HTTPTestCase(LabTestCase):
    files = project("rules_http")
    extra_settings = SETTINGS
    # What hangs would hang until the test fails.
    arguments = ("--threads", "4", "--http-timeout", "600", "--ping-interval", "0")

    def answer(self, channel: str, *contents: dict[str, Any]) -> None:
        """Have a view send messages to a reply channel."""
        self.assertEqual(self.server.post("/answer", json={"channel": channel, "contents": contents}).text, "answered")


class DjangoTests(HTTPTestCase):
    """Rule 18: everything that Django has."""

    # -- routes --------------------------------------------------------------------------------------------------------

    def test_rule_18_no_route(self) -> None:
        """A request which no route matches goes to Django's views, others go to their consumers."""
        self.assertEqual(self.server.get("/simple").text, "simple")
        response = self.server.get("/by-hand")
        self.assertEqual((response.status_code, response.text), (203, "by hand"))
        self.assertEqual((response.headers["X-Own"], response.headers.get("X-Plain")), ("yes", None))
        self.assertEqual(self.server.get("/in-parts").text, "one two three")
        self.assertEqual(self.server.get("/nowhere").status_code, 404)

    # -- middleware and views ------------------------------------------------------------------------------------------

    def test_rule_18_middleware(self) -> None:
        """Middleware sees each request, may answer it, alters responses, and catches exceptions of views."""
        self.assertEqual(self.server.get("/simple").headers["X-Plain"], "yes")
        self.assertEqual(self.server.get("/short-cut").text, "short cut")
        self.assertEqual(self.server.get("/fail?catch").status_code, 418)
        self.assertEqual(self.server.get("/fail_async?catch").status_code, 418)

    def test_rule_18_session_and_cookies(self) -> None:
        """Cookies go both ways, several of them; so do sessions."""
        with requests.Session() as browser:
            for number in ("1", "2", "3"):
                self.assertEqual(browser.get(self.server.url("/count_session"), timeout=TIMEOUT).text, number)
            browser.get(self.server.url("/simple"), timeout=TIMEOUT)
            cookies = browser.get(self.server.url("/echo"), timeout=TIMEOUT).json()["cookies"]
        self.assertEqual((cookies["first"], cookies["second"]), ("1", "2"))

    def test_rule_18_asynchronous_view(self) -> None:
        """An asynchronous view runs in an event loop."""
        response = self.server.get("/asynchronous?a=1&a=2")
        self.assertEqual(response.json(), {"results": ["0", "1", "2"], "method": "GET", "query": ["1", "2"]})

    def test_rule_18_request(self) -> None:
        """A view sees path, query, form, headers and addresses."""
        seen = self.server.post(
            "/echo?q=%C3%A4&q=2",
            data={"field": ["a b", "\u00e4"]},
            headers={"X-Own": "value", "Content-Language": "de"},
        ).json()
        self.assertEqual(seen["method"], "POST")
        self.assertEqual(seen["path"], "/echo")
        self.assertEqual(seen["get"], {"q": ["\u00e4", "2"]})
        self.assertEqual(seen["post"], {"field": ["a b", "\u00e4"]})
        self.assertEqual(seen["scheme"], "http")
        meta = seen["meta"]
        self.assertEqual((meta["HTTP_X_OWN"], meta["HTTP_CONTENT_LANGUAGE"]), ("value", "de"))
        self.assertEqual((meta["REMOTE_ADDR"], meta["SERVER_NAME"]), ("127.0.0.1", "127.0.0.1"))
        self.assertEqual((meta["SERVER_PORT"], meta["SERVER_PROTOCOL"]), (str(self.server.port), "HTTP/1.1"))

    # -- requests' bodies ----------------------------------------------------------------------------------------------

    def test_rule_18_upload(self) -> None:
        """Files of a small request are in memory, of a large one in temporary files; its fields are there, too."""
        for kind, data in (
            ("InMemoryUploadedFile", b"small file"),
            ("TemporaryUploadedFile", os.urandom(4_000_000)),
        ):
            files = {"file": ("name.bin", data), "same": ("same.bin", data)}
            answer = self.server.post("/upload", files=files, data={"field": "value"}).json()
            self.assertEqual(answer["post"], {"field": "value"})
            seen = [kind, len(data), hashlib.sha256(data).hexdigest()]
            self.assertEqual(answer["files"], {"file": seen, "same": seen})

    def test_rule_18_upload_handlers(self) -> None:
        """A view may set ``request.upload_handlers``; they get the file in chunks."""
        data = os.urandom(300_000)
        answer = self.server.post("/upload?handler=1", files={"file": ("f.bin", data)}).json()
        self.assertEqual(answer["files"]["file"][1:], [len(data), hashlib.sha256(data).hexdigest()])
        chunks = self.diary("chunk")
        self.assertGreater(len(chunks), 1)
        self.assertEqual(sum(entry["size"] for entry in chunks), len(data))
        (complete,) = self.diary("complete")
        self.assertEqual((complete["size"], complete["name"]), (len(data), "f.bin"))

    # -- responses -----------------------------------------------------------------------------------------------------

    def test_rule_18_streaming(self) -> None:
        """The parts of a streaming response, from a plain or an asynchronous iterator, reach the client as they come:
        each is there while the iterator waits for something that the client does afterwards.
        """
        for view in ("streaming", "streaming_async", "async_streaming_async"):
            with RawClient(self.server) as client:
                client.request(f"/{view}?name={view}")
                head = client.head()
                self.assertEqual((head.status, head.fields["transfer-encoding"]), (200, "chunked"))
                for number in range(3):
                    self.assertEqual(client.chunk(), f"part {number}".encode())
                    self.assertEqual(self.diary("through gate", gate=f"{view}.{number}"), [])
                    self.open_gate(f"{view}.{number}")
                self.assertEqual(client.chunk(), b"")
                # The connection can be used again.
                client.request("/simple")
                self.assertEqual(client.head().status, 200)
            self.wait_for_note("closed", name=view)

    def test_rule_18_streaming_with_length(self) -> None:
        """A streaming response which knows its length is sent with it, not in chunks."""
        response = self.server.get("/measured")
        self.assertEqual(response.content, b"0123456789" * 10)
        self.assertEqual(response.headers["Content-Length"], "100")
        self.assertNotIn("Transfer-Encoding", response.headers)

    def test_rule_18_large_response(self) -> None:
        """A large response arrives whole."""
        self.assertEqual(self.server.get("/large").content, b"y" * 5_000_000)

    def test_rule_18_file_response(self) -> None:
        """A ``FileResponse`` arrives whole, with length and name; its file is closed."""
        for size in (0, 1, 1000, 3_000_001):
            response = self.server.get("/file", params={"size": size})
            self.assertEqual(response.content, bytes(range(256)) * (size // 256) + bytes(size % 256))
            self.assertEqual(response.headers["Content-Length"], str(size))
            self.assertIn(f'filename="file-{size}.bin"', response.headers["Content-Disposition"])
        self.assertEqual(self.server.get("/noting_file").content, b"from memory")
        self.wait_for_note("file closed")

    def test_rule_18_response_later(self) -> None:
        """A view that raises ``ResponseLater`` is not answered until somebody answers for it; the view is free."""
        for view in ("later", "later_async"):
            with RawClient(self.server) as client:
                noted = len(self.diary("later"))
                client.request(f"/{view}")
                reply = self.wait_for_note("later", noted + 1)[-1]["reply"]
                self.assertTrue(client.silent())
                self.answer(reply, {"status": 201, "headers": [["X-Late", "yes"]], "content": "better late"})
                head = client.head()
                self.assertEqual((view, head.status, head.fields["x-late"]), (view, 201, "yes"))
                self.assertEqual(client.read(int(head.fields["content-length"])), b"better late")
        self.assertNoTraceback()

    def test_rule_18_response_later_in_parts(self) -> None:
        """The late answer may come in parts, at different times."""
        with RawClient(self.server) as client:
            client.request("/later")
            (entry,) = self.wait_for_note("later")
            self.answer(entry["reply"], {"status": 200, "content": "one", "more_content": True})
            self.assertEqual((client.head().status, client.chunk()), (200, b"one"))
            self.answer(entry["reply"], {"content": "two", "more_content": True})
            self.assertEqual(client.chunk(), b"two")
            self.answer(entry["reply"], {"content": "three"})
            self.assertEqual([client.chunk(), client.chunk()], [b"three", b""])

    # -- transactions --------------------------------------------------------------------------------------------------

    def count(self, name: str) -> int:
        """Return the number of rows of a name."""
        return int(self.server.get("/count", params={"name": name}).text)

    def test_rule_18_atomic_requests(self) -> None:
        """Under ``ATOMIC_REQUESTS`` a view's rows stay if it answers, and go if it raises."""
        self.assertEqual(self.server.get("/insert?name=stays&how=answer").text, "inserted")
        self.assertEqual(self.server.get("/insert?name=goes&how=fail").status_code, 500)
        self.assertEqual({entry["yes"] for entry in self.diary("atomic")}, {True})
        self.assertEqual((self.count("stays"), self.count("goes")), (1, 0))

    def test_rule_18_atomic_requests_and_response_later(self) -> None:
        """``ResponseLater`` is no failure, so the rows stay."""
        with RawClient(self.server) as client:
            client.request("/insert?name=later&how=later")
            (entry,) = self.wait_for_note("later")
            self.answer(entry["reply"], {"status": 204})
            self.assertEqual(client.head().status, 204)
        self.assertEqual(self.count("later"), 1)


class AsynchronousMiddlewareTests(HTTPTestCase):
    """Rule 18 with middleware of all kinds in one chain."""

    extra_settings = (
        SETTINGS
        + """
    MIDDLEWARE = ["middleware.plain", "middleware.asynchronous", "middleware.both", "middleware.Catching"]
    DATABASES["default"]["ATOMIC_REQUESTS"] = False
    """
    )

    def test_rule_18_mixed_middleware(self) -> None:
        """Synchronous, asynchronous and either kind of middleware go together, with views of both kinds."""
        for path in ("/simple", "/asynchronous", "/file?size=70000", "/nowhere"):
            headers = self.server.get(path).headers
            self.assertEqual([headers.get(name) for name in ("X-Plain", "X-Asynchronous", "X-Both")], ["yes"] * 3)
        self.assertEqual(self.server.get("/fail?catch").status_code, 418)
        self.assertEqual((self.server.get("/fail").status_code, self.server.get("/fail_async").status_code), (500, 500))

    def test_rule_18_mixed_middleware_and_streams(self) -> None:
        """Streams come part by part through such a chain as well."""
        for view in ("streaming", "streaming_async"):
            with RawClient(self.server) as client:
                client.request(f"/{view}?name=mixed-{view}")
                self.assertEqual(client.head().status, 200)
                for number in range(3):
                    self.assertEqual(client.chunk(), f"part {number}".encode())
                    self.open_gate(f"mixed-{view}.{number}")
                self.assertEqual(client.chunk(), b"")

    def test_rule_18_mixed_middleware_and_response_later(self) -> None:
        """``ResponseLater`` passes through such a chain."""
        with RawClient(self.server) as client:
            client.request("/later")
            (entry,) = self.wait_for_note("later")
            self.assertTrue(client.silent())
            self.answer(entry["reply"], {"status": 204})
            self.assertEqual(client.head().status, 204)


class BodyTests(HTTPTestCase):
    """Rule 19: where a request's body is, and how large it may be."""

    arguments = (*HTTPTestCase.arguments, "--max-body-bytes", "90000000")
    extra_settings = (
        SETTINGS
        + """
    DATA_UPLOAD_MAX_MEMORY_SIZE = 200_000
    """
    )

    def test_rule_19_up_to_64_kib_in_the_message(self) -> None:
        """A body up to 64 KiB travels in the message, a larger one in a file beside it."""
        for size in (0, 1, 65536, 65537, 1_000_000):
            body = os.urandom(size)
            self.assertEqual(self.server.post("/raw", data=body).text, "read")
            entry = self.diary("raw")[-1]
            inside = size <= 65536
            self.assertEqual((size, entry["inside"], entry["file"]), (size, size if inside else 0, not inside))
            self.assertEqual((entry["size"], entry["digest"]), (size, hashlib.sha256(body).hexdigest()))

    def test_rule_19_chunked(self) -> None:
        """So it is with a body in chunks, whose length nobody knows beforehand."""
        for size in (100, 65536, 65537, 150_000):
            body = os.urandom(size)

            def parts(body: bytes = body) -> Any:
                for start in range(0, len(body), 10_000):
                    yield body[start : start + 10_000]

            self.assertEqual(self.server.post("/raw", data=parts()).text, "read")
            entry = self.diary("raw")[-1]
            self.assertEqual((entry["file"], entry["digest"]), (size > 65536, hashlib.sha256(body).hexdigest()))
            self.assertEqual(self.server.post("/body", data=parts()).text, hashlib.sha256(body).hexdigest())

    def test_rule_19_never_copied_whole(self) -> None:
        """A large body costs no memory to speak of: it is spooled, and streamed to the view."""
        status = f"/proc/{self.server.process.pid}/status"
        if not os.path.exists(status):
            self.skipTest("only Linux tells how much memory a process has used")

        def peak() -> int:
            """Return the largest memory the process has used, in bytes."""
            with open(status) as stream:
                return next(int(line.split()[1]) * 1024 for line in stream if line.startswith("VmHWM"))

        size = 80_000_000
        block = os.urandom(1_000_000)
        self.server.post("/read", data=block)
        before = peak()
        digest = hashlib.sha256()
        for _ in range(size // len(block)):
            digest.update(block)
        response = self.server.post("/read", data=(block for _ in range(size // len(block))))
        self.assertEqual(response.text, f"{size} {digest.hexdigest()}")
        self.assertLess(peak() - before, size // 4)

    def test_rule_19_too_large(self) -> None:
        """A body over ``max_body_bytes`` is answered 413, before the client has sent it if it has told its length."""
        limit = 90_000_000
        with RawClient(self.server) as client:
            client.request("/read", "POST", content_length=str(limit + 1))
            self.assertEqual(client.head().status, 413)
        with RawClient(self.server) as client:
            client.request("/read", "POST", content_length=str(limit + 1), expect="100-continue")
            self.assertEqual(client.head().status, 413)
        server = self.start("--max-body-bytes", "100000")
        with RawClient(server) as client:
            client.request("/read", "POST", transfer_encoding="chunked")
            for _ in range(10):
                client.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            client.send(b"1\r\nx\r\n")
            self.assertEqual(client.head().status, 413)
        for size, status in ((100_000, 200), (100_001, 413)):
            with RawClient(server) as client:
                client.request("/read", "POST", b"x" * size)
                self.assertEqual((size, client.head().status), (size, status))
        self.assertEqual({entry["path"] for entry in self.diary("request")}, {"/read"})
        self.assertEqual(len(self.diary("request", path="/read")), 1)

    def test_rule_19_django_s_own_limit(self) -> None:
        """``DATA_UPLOAD_MAX_MEMORY_SIZE`` holds for what a view takes into memory, but not for files and streams."""
        small, large = b"x" * 200_000, b"x" * 200_001
        self.assertEqual(self.server.post("/body", data=small).status_code, 200)
        self.assertEqual(self.server.post("/body", data=large).status_code, 400)
        self.assertEqual(self.server.post("/body", data=iter([large])).status_code, 400)
        self.assertEqual(self.server.post("/upload", data={"field": "x" * 199_000}).status_code, 200)
        self.assertEqual(self.server.post("/upload", data={"field": "x" * 200_001}).status_code, 400)
        self.assertEqual(self.server.post("/upload", files={"file": large}).status_code, 200)
        self.assertEqual(self.server.post("/read", data=large).status_code, 200)


class FailureTests(HTTPTestCase):
    """Rule 20: consumers that fail, clients that leave, clients that do not read."""

    arguments = ("--threads", "2", "--http-timeout", "600", "--ping-interval", "0")

    def test_rule_20_raised(self) -> None:
        """A consumer or a view that raised before answering is answered 500 at once, with a traceback in the log."""
        for path, what in (
            ("/failing-consumer", "the http.request consumer failed"),
            ("/fail", "the view failed"),
            ("/fail_async", "the asynchronous view failed"),
        ):
            self.assertEqual((path, self.server.get(path).status_code), (path, 500))
            self.assertLogged(f"ValueError: {what}$")
        self.assertLogged("Traceback", 3)

    def test_rule_20_client_left_during_the_body(self) -> None:
        """When the client has left, the response's iterator is closed, the worker is free, and the application hears of
        it.
        """
        for view in ("endless", "endless_async"):
            for number in range(3):  # more than there are workers
                name = f"{view}.left.{number}"
                with RawClient(self.server) as client:
                    client.request(f"/{view}?name={name}")
                    self.assertEqual(client.head().status, 200)
                    client.chunk()
                self.wait_for_note("closed", name=name)
                self.wait_for_note("gone", number + 1, path=f"/{view}")
                self.assertLess(len(self.diary("part", name=name)), 10_000)
        self.assertEqual(self.server.get("/simple").text, "simple")
        self.assertNoTraceback()

    def test_rule_20_client_left_before_the_answer(self) -> None:
        """So it is while the view still thinks; what it answers then is dropped."""
        with RawClient(self.server) as client:
            client.request("/gate?name=left")
            self.wait_for_note("at gate", gate="left")
        (entry,) = self.wait_for_note("gone", path="/gate")
        self.assertRegex(entry["reply"], r"^http\.response\.")
        self.open_gate("left")
        self.wait_for_note("answered", name="left")
        self.assertNoTraceback()

    def test_rule_20_client_left_while_nobody_answers(self) -> None:
        """And when the answer is left to somebody else: then the reply channel tells who has gone."""
        with RawClient(self.server) as client:
            client.request("/later")
            (later,) = self.wait_for_note("later")
        self.wait_for_note("gone", path="/later", reply=later["reply"])

    def test_rule_20_answered_clients_are_not_gone(self) -> None:
        """After a complete answer there is no ``http.disconnect``; complete it is with the last byte of its length."""
        with RawClient(self.server) as client:
            client.request("/simple?complete")
            head = client.head()
            client.read(int(head.fields["content-length"]))
        with RawClient(self.server) as client:
            client.request("/measured?name=measured")
            self.assertEqual(client.head().fields["content-length"], "100")
            client.read(100)
        self.wait_for_note("at gate", gate="measured")
        self.assertLogged("HTTP GET /measured")
        self.open_gate("measured")
        self.wait_for_note("closed", name="measured")
        self.assertNotIn("broken off", self.log())
        self.assertEqual(self.diary("gone", path="/simple"), [])
        self.assertEqual(self.diary("gone", path="/measured"), [])

    def test_rule_20_slow_client(self) -> None:
        """While a client does not read, the worker waits for it, and goes on when it reads again; nothing is lost."""
        with RawClient(self.server, receive_buffer=65536) as client:
            client.request("/endless?name=slow")
            self.assertEqual(client.head().status, 200)
            produced = -1

            def stands_still() -> bool:
                nonlocal produced
                before, produced = produced, len(self.diary("part", name="slow"))
                self.server.get("/simple")
                return produced == before

            wait_until(stands_still, "a worker that waits")
            self.assertLess(produced, 500)
            for _ in range(produced + 50):
                self.assertEqual(client.chunk(), b"x" * 100_000)
            self.assertGreater(len(self.diary("part", name="slow")), produced)
        self.wait_for_note("closed", name="slow")


class TimeoutTests(HTTPTestCase):
    """Rule 20 with a short ``http_timeout``, and other timeouts that do not end before a failing test does."""

    arguments = (
        *("--threads", "2", "--http-timeout", "2", "--header-timeout", "600", "--keep-alive", "600"),
        *("--ping-interval", "0"),
    )  # fmt: skip

    def test_rule_20_view_too_slow(self) -> None:
        """Nothing sent within ``http_timeout``: 503, and the late answer is dropped."""
        with RawClient(self.server) as client:
            client.request("/gate?name=slow")
            self.assertEqual(client.head().status, 503)
            self.open_gate("slow")
            self.wait_for_note("answered", name="slow")
            self.assertNotIn(b"through the gate", client.rest())
        self.assertNotRegex(self.log(), " (ERROR|CRITICAL) ")

    def test_rule_20_consumer_ended_without_answer(self) -> None:
        """So it is if the consumer has ended, and left the answer to somebody else, or to nobody."""
        for path, what in (("/silent-consumer", "silent"), ("/later", "later")):
            with RawClient(self.server) as client:
                client.request(path)
                (entry,) = self.wait_for_note(what)
                self.assertEqual((path, client.head().status), (path, 503))
                self.answer(entry["reply"], {"status": 200, "content": "too late"})
                self.assertNotIn(b"too late", client.rest())

    def test_rule_20_slow_client_is_given_up(self) -> None:
        """A client that does not read for ``http_timeout`` is given up: worker and iterator are free."""
        with RawClient(self.server, receive_buffer=65536) as client:
            client.request("/endless?name=stuck")
            self.assertEqual(client.head().status, 200)
            self.wait_for_note("closed", name="stuck")
        self.assertLess(len(self.diary("part", name="stuck")), 500)
        self.assertEqual(self.server.get("/simple").text, "simple")

    def test_rule_20_slow_stream(self) -> None:
        """A response that has begun may take its time."""
        with RawClient(self.server) as client, RawClient(self.server) as other:
            client.request("/streaming?name=taking-time")
            self.assertEqual((client.head().status, client.chunk()), (200, b"part 0"))
            # Another request, begun later, is timed out while this one goes on.
            other.request("/silent-consumer")
            self.assertEqual(other.head().status, 503)
            for number in range(3):
                self.open_gate(f"taking-time.{number}")
            self.assertEqual([client.chunk() for _ in range(3)], [b"part 1", b"part 2", b""])


class ProtocolTests(HTTPTestCase):
    """Rules 21 and 22: HTTP/1.1 as browsers and proxies speak it."""

    def exchange(self, data: bytes) -> bytes:
        """Send bytes, and return all that comes until the server closes."""
        with RawClient(self.server) as client:
            client.send(data)
            return client.rest()

    def test_rule_21_head(self) -> None:
        """HEAD is answered as GET would be, without a body, and the connection stays in step."""
        with RawClient(self.server) as client:
            for path, length in (("/simple", "6"), ("/measured", "100"), ("/file?size=70000", "70000")):
                client.request(path, "HEAD")
                head = client.head()
                self.assertEqual((path, head.status, head.fields["content-length"]), (path, 200, length))
            client.request("/simple")
            self.assertEqual(client.head().status, 200)
            self.assertEqual(client.read(6), b"simple")

    def test_rule_21_expect_continue(self) -> None:
        """A client that waits for 100 is told to go on."""
        with RawClient(self.server) as client:
            client.request("/body", "POST", expect="100-continue", content_length="4")
            self.assertEqual(client.head().status, 100)
            client.send(b"body")
            head = client.head()
            self.assertEqual(head.status, 200)
            self.assertEqual(client.read(64).decode(), hashlib.sha256(b"body").hexdigest())

    def test_rule_21_keep_alive(self) -> None:
        """A connection serves one request after the other, unless the client wants it closed."""
        with RawClient(self.server) as client:
            for _ in range(5):
                client.request("/simple")
                self.assertEqual(client.head().status, 200)
                self.assertEqual(client.read(6), b"simple")
            client.request("/simple", connection="close")
            self.assertEqual(client.head().fields["connection"], "close")
            self.assertEqual(client.rest(), b"simple")

    def test_rule_21_http_1_0(self) -> None:
        """An HTTP/1.0 client gets no chunks, and the end of the connection as the end of the body."""
        answer = self.exchange(b"GET /in-parts HTTP/1.0\r\n\r\n")
        self.assertNotIn(b"chunked", answer)
        self.assertTrue(answer.endswith(b"\r\n\r\none two three"), answer)

    def test_rule_21_pipelining(self) -> None:
        """Requests sent in one go are answered in their order, however long each takes."""
        with RawClient(self.server) as client:
            for path in ("/gate?name=pipelined", "/simple", "/in-parts"):
                client.request(path)
            self.wait_for_note("at gate", gate="pipelined")
            self.assertTrue(client.silent())
            self.open_gate("pipelined")
            for text in (b"through the gate", b"simple"):
                self.assertEqual(client.head().status, 200)
                self.assertEqual(client.read(len(text)), text)
            self.assertEqual(client.head().status, 200)
            self.assertEqual([client.chunk() for _ in range(4)], [b"one ", b"two ", b"three", b""])

    def test_rule_21_date(self) -> None:
        """Every answer has a date, the server's own, too."""
        for data in (b"GET /simple HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", b"nonsense\r\n\r\n"):
            self.assertRegex(self.exchange(data), rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n")

    def test_rule_21_bad_heads(self) -> None:
        """A bad request head is answered 400, the connection is closed, and Django never sees it."""
        good = b"GET /bad HTTP/1.1\r\nHost: localhost\r\n"
        for head in (
            b"GET /bad\r\n\r\n",
            b"GET  /bad HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /bad HTTP/1.1\nHost: localhost\n\n",
            b"GET /bad HTTP/1.1\r\n\r\n",
            b"GET /bad#part HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET bad HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"get /bad HTTP/1.1\r\nHost: localhost\r\n\r\n",
            good + b"Host: localhost\r\n\r\n",
            good + b"Name : value\r\n\r\n",
            good + b"Name: value\r\n folded\r\n\r\n",
            good + b"No colon\r\n\r\n",
            good + b"Name: va\x00lue\r\n\r\n",
            good + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
            good + b"Content-Length: +1\r\n\r\n",
            good + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            good + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
            good + b"Transfer-Encoding: xchunked\r\n\r\n",
        ):
            answer = self.exchange(head + good + b"\r\n")
            self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), (head, answer))
            self.assertEqual(answer.count(b"HTTP/1.1 "), 1, (head, answer))
        self.assertEqual(self.server.get("/simple").status_code, 200)
        self.assertEqual(self.diary("request", path="/bad"), [])

    def test_rule_21_bad_chunks(self) -> None:
        """So is a body in malformed chunks."""
        head = b"POST /bad HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        for body in (
            b"x\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"-1\r\n\r\n",
            b"3\nabc\r\n0\r\n\r\n",
            b"0x3\r\nabc\r\n0\r\n\r\n",
        ):
            answer = self.exchange(head + body)
            self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), (body, answer))
        self.assertEqual(self.diary("request", path="/bad"), [])

    def test_rule_22_repeated_headers(self) -> None:
        """Repeated headers are joined with a comma for a view, cookies with a semicolon; a consumer sees them as they
        came.
        """
        fields = b"X-List: one\r\nCookie: a=1\r\nX-List: two\r\nCookie: b=2; c=3\r\nAccept: text/html\r\n"
        with RawClient(self.server) as client:
            client.send(b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + fields + b"\r\n")
            self.assertEqual(client.head().status, 200)
            seen = json.loads(client.rest())
        self.assertEqual(seen["meta"]["HTTP_X_LIST"], "one, two")
        self.assertEqual(seen["meta"]["HTTP_COOKIE"], "a=1; b=2; c=3")
        self.assertEqual(seen["cookies"], {"a": "1", "b": "2", "c": "3"})
        with RawClient(self.server) as client:
            client.send(b"GET /raw HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + fields + b"\r\n")
            client.rest()
        (entry,) = self.diary("raw")
        self.assertEqual(
            [pair for pair in entry["headers"] if pair[0] in ("x-list", "cookie")],
            [["x-list", "one"], ["cookie", "a=1"], ["x-list", "two"], ["cookie", "b=2; c=3"]],
        )

    def test_rule_22_underscores(self) -> None:
        """A header with ``_`` in its name could pass for another one, so neither view nor consumer sees it."""
        fields = b"X_Forged: yes\r\nX-Honest: yes\r\nContent_Length: 5\r\n"
        for path in (b"/echo", b"/raw"):
            with RawClient(self.server) as client:
                client.send(
                    b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + fields + b"\r\n"
                )
                self.assertEqual(client.head().status, 200)
                body = client.rest()
            if path == b"/echo":
                self.assertIn(b"HTTP_X_HONEST", body)
                self.assertNotIn(b"FORGED", body)
                self.assertNotIn(b"CONTENT_LENGTH", body)
        names = {name for name, _ in self.diary("raw")[-1]["headers"]}
        self.assertIn("x-honest", names)
        self.assertNotIn("x_forged", names)
