"""HTTP answers: from reply messages to bytes, through a connection whose network is not there."""

from __future__ import annotations

import email.utils
import threading
import time
import uuid
from typing import Any

from channelserver.layers.base import EVENTS, FAILED
from channelserver.server.http import exchange
from channelserver.server.http.exchange import SHORT_VALUE
from channelserver.server.http.flow import WINDOW, Flow
from tests.fakes import Client, Response, StrictTestCase, get, request
from tests.process import TIMEOUT, wait_until


class AnswerTestCase(StrictTestCase):
    """A server and a client with one request under way."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.make_server()

    def ask(self, data: bytes | None = None) -> tuple[Client, str]:
        """Send a request; return the client and the reply channel."""
        client = self.server.connect()
        return client, client.request(data or get())["reply_channel"]

    def answer(self, data: bytes | None = None, **content: Any) -> Response:
        """Send a request and one reply; return the response, after which the connection must be usable."""
        client, channel = self.ask(data)
        self.server.reply(channel, **content)
        return client.response((data or get()).split(b" ")[0].decode())

    def raw(self, data: bytes | None = None, *replies: dict[str, Any]) -> bytes:
        """Send a request and replies; return all bytes of the response."""
        client, channel = self.ask(data)
        for content in replies:
            self.server.reply(channel, **content)
        return client.received


class EventStreamTests(AnswerTestCase):
    """Event streams: who is a member, and until when."""

    def reply_as_member(self, client: Client, channel: str, leave: bool = False) -> dict[str, int]:
        """Join a group and reply with an event stream, as the response of a view does; return the members by group.

        :param leave: the client leaves in between.
        """
        self.server.layer.group_add("news", channel)
        if leave:
            client.leave()
        self.server.layer.dispatch(channel, {"status": 200, "content": b"", "more_content": True, EVENTS: None})
        self.server.turn()
        return self.server.layer.groups.counts()

    def test_member(self) -> None:
        """A stream is a member until its client leaves."""
        client, channel = self.ask()
        self.assertEqual(self.reply_as_member(client, channel), {"news": 1})
        client.leave()
        self.assertEqual(self.server.layer.groups.counts(), {})

    def test_no_stream(self) -> None:
        """An answer without a body is none, and neither is one that cannot be sent."""
        for data, fields in (
            (request("HEAD", "/"), {}),
            (get(), {"status": 204}),
            (get(), {"headers": [[b"a b", b""]]}),
        ):
            _, channel = self.ask(data)
            self.server.layer.group_add("news", channel)
            self.server.layer.dispatch(channel, {"status": 200, "more_content": True, EVENTS: None, **fields})
            self.server.turn()
            self.assertEqual(self.server.layer.groups.counts(), {}, fields)
        self.expect_logged("malformed header")

    def test_message_before_the_head(self) -> None:
        """A group's message that comes before the head is nothing to the request; one with a status answers it."""
        client, channel = self.ask()
        self.server.layer.group_add("news", channel)
        for content in ({"text": "x"}, {"event": "e", "data": "x"}, {"close": True}):
            self.server.layer.send_group("news", content)
            self.server.turn()
        self.assertEqual(client.received, b"")
        self.assertEqual(self.reply_as_member(client, channel), {"news": 1})
        self.server.layer.send_group("news", {"event": "e", "data": "y"})
        self.server.turn()
        self.assertTrue(client.received.endswith(b"event: e\ndata: y\n\n\r\n"), client.received)
        other, channel = self.ask()
        self.server.layer.group_add("others", channel)
        self.server.layer.send_group("others", {"status": 200, "content": b"from the group"})
        self.server.turn()
        self.assertEqual(other.response().body, b"from the group")

    def test_gone_before(self) -> None:
        """A client that leaves while its view returns leaves no membership behind."""
        client, channel = self.ask()
        self.assertEqual(self.reply_as_member(client, channel, leave=True), {})


class WholeAnswerTests(AnswerTestCase):
    """Answers in one part."""

    def test_simple(self) -> None:
        """Status, headers and body arrive; the server adds length and date, and nothing else."""
        before = int(time.time())
        response = self.answer(status=200, headers=[[b"Content-Type", b"text/plain"], [b"X-A", b"b"]], content=b"hello")
        self.assertEqual((response.status, response.reason, response.body), (200, "OK", b"hello"))
        date = response.headers.pop(2)
        self.assertEqual(response.headers, [("content-type", "text/plain"), ("x-a", "b"), ("content-length", "5")])
        self.assertEqual(date[0], "date")
        self.assertTrue(date[1].endswith(" GMT"))
        sent = email.utils.parsedate_to_datetime(date[1]).timestamp()
        self.assertTrue(before <= sent <= time.time() + 1)

    def test_one_write(self) -> None:
        """A small answer is given to the network in one piece."""
        client, channel = self.ask()
        writes: list[bytes] = []
        write = client.transport.write
        client.transport.write = lambda data: (writes.append(data), write(data))[1]  # type: ignore[method-assign]
        self.server.reply(channel, status=200, content=b"hello")
        self.assertEqual(len(writes), 1)

    def test_case_of_names(self) -> None:
        """The names of headers keep their case."""
        self.assertIn(b"\r\nX-CamelCase: a\r\n", self.raw(None, {"status": 200, "headers": [[b"X-CamelCase", b"a"]]}))

    def test_known_headers(self) -> None:
        """What is made of a header is remembered if it is short; another value is another header."""
        value = uuid.uuid4().hex.encode()
        before = exchange._read_short_field.cache_info()
        for _ in range(2):
            for size in (SHORT_VALUE, SHORT_VALUE + 1):
                long = value.ljust(size, b"x")
                response = self.answer(status=200, headers=[[b"X-A", long]])
                self.assertEqual(response.header("x-a"), long.decode())
        after = exchange._read_short_field.cache_info()
        self.assertEqual((after.misses - before.misses, after.hits - before.hits), (1, 1))
        self.assertLessEqual(after.maxsize, 1000)

    def test_repeated_headers(self) -> None:
        """Headers may be repeated, as cookies are."""
        response = self.answer(status=200, headers=[[b"Set-Cookie", b"a=1"], [b"Set-Cookie", b"b=2"]])
        self.assertEqual([value for name, value in response.headers if name == "set-cookie"], ["a=1", "b=2"])

    def test_headers_as_text(self) -> None:
        """Names and values may be text, too."""
        response = self.answer(status=200, headers=[["X-A", "b\xe9"]], content="snow ☃")
        self.assertEqual((response.header("x-a"), response.body), ("b\xe9", "snow ☃".encode()))

    def test_tuples_as_headers(self) -> None:
        """Headers may be tuples, which arrive as lists."""
        self.assertEqual(self.answer(status=200, headers=[(b"X-A", b"b")]).header("x-a"), "b")

    def test_empty(self) -> None:
        """An answer without content has an empty body, with its length."""
        for content in ({}, {"content": b""}, {"content": None}, {"headers": None}):
            response = self.answer(status=200, **content)
            self.assertEqual((response.body, response.header("content-length")), (b"", "0"))

    def test_reasons(self) -> None:
        """Known statuses have their phrase, others have some."""
        for status, reason in ((404, "Not Found"), (503, "Service Unavailable"), (299, "Unknown"), (999, "Unknown")):
            response = self.answer(status=status)
            self.assertEqual((response.status, response.reason), (status, reason))

    def test_date_of_the_application(self) -> None:
        """A date of the application's own is kept, alone."""
        self.assertEqual(self.answer(status=200, headers=[[b"date", b"some day"]]).header("date"), "some day")

    def test_other_keys(self) -> None:
        """Keys which mean nothing are ignored, as "status_text" of old applications."""
        self.assertEqual(self.answer(status=200, content=b"x", status_text="FINE", order=7).body, b"x")

    def test_headers_of_the_server(self) -> None:
        """What belongs to the connection is the server's business: such headers of the application are left out."""
        response = self.answer(
            status=200,
            headers=[
                [b"Connection", b"x"], [b"Keep-Alive", b"x"], [b"Transfer-Encoding", b"chunked"], [b"Upgrade", b"x"],
                [b"TE", b"x"], [b"Trailer", b"x"], [b"Proxy-Connection", b"x"], [b"X-A", b"kept"],
            ],
            content=b"x",
        )  # fmt: skip
        self.assertEqual({name for name, _ in response.headers}, {"x-a", "date", "content-length"})


class LengthTests(AnswerTestCase):
    """RFC 9112 section 6: how a client knows where an answer ends."""

    def test_wrong_length(self) -> None:
        """If a whole answer has another length than its header says, the true one is sent, and the error logged."""
        for length in (b"3", b"7"):
            response = self.answer(status=200, headers=[[b"Content-Length", length]], content=b"hello")
            self.assertEqual((response.body, response.header("content-length")), (b"hello", "5"))
            self.expect_logged("Content-Length", "'/'")

    def test_right_length(self) -> None:
        """A right length is sent once."""
        response = self.answer(status=200, headers=[[b"Content-Length", b"5"]], content=b"hello")
        self.assertEqual(response.header("content-length"), "5")

    def test_chunks(self) -> None:
        """Parts without a length before them go out in chunks, each as it comes."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, content=b"one", more_content=True)
        self.assertIn(b"\r\nTransfer-Encoding: chunked\r\n", client.news())
        for content, sent in ((b"two!", b"4\r\ntwo!\r\n"), (b"x" * 20, b"14\r\n" + b"x" * 20 + b"\r\n")):
            self.server.reply(channel, content=content, more_content=True)
            self.assertEqual(client.news(), sent)
        self.server.reply(channel, content=b"", more_content=False)
        self.assertEqual(client.news(), b"0\r\n\r\n")
        response = client.response()
        self.assertEqual((response.body, response.header("content-length")), (b"onetwo!" + b"x" * 20, None))
        client.send(get("/next"))
        self.assertEqual(self.server.message("http.request")["path"], "/next")

    def test_empty_parts(self) -> None:
        """An empty part is no chunk: it would end the body."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, content=b"", more_content=True)
        self.server.reply(channel, content=b"", more_content=True)
        self.server.reply(channel, content=b"x", more_content=True)
        self.server.reply(channel, content=b"y")
        self.assertEqual(client.response().body, b"xy")
        self.assertEqual(client.received.count(b"0\r\n\r\n"), 1)

    def test_parts_without_content(self) -> None:
        """A part may lack its content, or have None; text is sent as UTF-8."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, more_content=True)
        self.server.reply(channel, more_content=True)
        self.server.reply(channel, content=None, more_content=True)
        self.server.reply(channel, content="☃", more_content=True)
        self.server.reply(channel)
        self.assertEqual(client.response().body, "☃".encode())

    def test_parts_with_a_length(self) -> None:
        """With a length before them, parts go out as they are."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, headers=[[b"Content-Length", b"6"]], content=b"abc", more_content=True)
        self.server.reply(channel, content=b"def", more_content=True)
        self.server.reply(channel)
        response = client.response()
        self.assertEqual((response.body, response.header("transfer-encoding")), (b"abcdef", None))
        self.assertFalse(client.transport.over)

    def test_too_few_bytes(self) -> None:
        """If fewer bytes come than the length promised, the connection breaks off, so that the client notices."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, headers=[[b"Content-Length", b"6"]], content=b"abc", more_content=True)
        self.server.reply(channel)
        self.expect_logged("less than its Content-Length")
        self.assertTrue(client.transport.aborted)
        self.assertFalse(client.response().complete)
        self.assertEqual(self.server.messages("http.disconnect"), [])

    def test_too_many_bytes(self) -> None:
        """If more come, they are cut off; the next answer is not disturbed."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, headers=[[b"Content-Length", b"4"]], content=b"abc", more_content=True)
        self.server.reply(channel, content=b"def")
        self.expect_logged("more bytes than its Content-Length")
        self.server.reply(client.request(), status=200, content=b"next")
        self.assertEqual([response.body for response in client.responses()], [b"abcd", b"next"])

    def test_old_client(self) -> None:
        """HTTP/1.0 knows no chunks: parts without a length end with the connection."""
        client, channel = self.ask(get(version="1.0"))
        self.server.reply(channel, status=200, content=b"one", more_content=True)
        self.server.reply(channel, content=b"two")
        self.assertTrue(client.received.endswith(b"\r\n\r\nonetwo"))
        self.assertNotIn(b"chunked", client.received)
        self.assertIn(b"\r\nConnection: close\r\n", client.received)
        self.assertTrue(client.transport.write_ended)

    def test_old_client_that_keeps_alive(self) -> None:
        """Also if it wants to keep the connection; with a length it may."""
        client, channel = self.ask(get("/", "Connection: keep-alive", version="1.0"))
        self.server.reply(channel, status=200, content=b"one", more_content=True)
        self.server.reply(channel)
        self.assertTrue(client.transport.write_ended)
        client, channel = self.ask(get("/", "Connection: keep-alive", version="1.0"))
        self.server.reply(channel, status=200, content=b"one")
        self.assertEqual(client.response().header("connection"), "keep-alive")
        self.assertFalse(client.transport.over)

    def test_status_line_of_an_old_client(self) -> None:
        """RFC 9112 section 2.3: the server tells its own version, whatever the client's is."""
        self.assertTrue(self.raw(get(version="1.0"), {"status": 200}).startswith(b"HTTP/1.1 200 OK\r\n"))

    def test_repeated_length(self) -> None:
        """A length that is given twice is sent once."""
        response = self.answer(status=200, headers=[[b"Content-Length", b"1"], [b"content-length", b"1"]], content=b"x")
        self.assertEqual(response.header("content-length"), "1")


class BodilessTests(AnswerTestCase):
    """RFC 9110 sections 9.3.2, 15.3.5, 15.4.5: answers that have no body."""

    def test_head(self) -> None:
        """An answer to HEAD has the length that GET would have, and no body."""
        client, channel = self.ask(request("HEAD", "/"))
        self.server.reply(channel, status=200, content=b"hello")
        response = client.response("HEAD")
        self.assertEqual(response.header("content-length"), "5")
        self.assertTrue(client.received.endswith(b"\r\n\r\n"))
        client.send(get("/next"))
        self.assertEqual(self.server.message("http.request")["path"], "/next")

    def test_head_with_a_length(self) -> None:
        """A length of the application's own is kept, for it may have left out the body."""
        response = self.answer(request("HEAD", "/"), status=200, headers=[[b"Content-Length", b"12345"]])
        self.assertEqual(response.header("content-length"), "12345")

    def test_head_in_parts(self) -> None:
        """To HEAD the head is the whole answer: its parts are dropped, and the connection takes the next request."""
        client, channel = self.ask(request("HEAD", "/"))
        self.server.reply(channel, status=200, content=b"one", more_content=True)
        self.assertTrue(client.received.endswith(b"\r\n\r\n"))
        client.send(get("/next"))
        self.server.reply(channel, content=b"two", more_content=True)
        self.server.reply(channel)
        self.server.reply(self.server.message("http.request"), status=200, content=b"x")
        self.assertEqual([response.status for response in client.responses("HEAD")], [200, 200])

    def test_head_in_parts_with_a_length(self) -> None:
        """Parts that do not come, or are too many, are no error for HEAD."""
        for parts in ((), (b"abcdef",)):
            client, channel = self.ask(request("HEAD", "/"))
            headers = [[b"Content-Length", b"4"]]
            self.server.reply(channel, status=200, headers=headers, content=b"", more_content=True)
            for part in parts:
                self.server.reply(channel, content=part, more_content=True)
            self.server.reply(channel)
            self.assertFalse(client.transport.over)
            self.assertEqual(client.response("HEAD").header("content-length"), "4")

    def test_no_content(self) -> None:
        """204 has neither body nor length, whatever the application says."""
        client, channel = self.ask()
        self.server.reply(channel, status=204, headers=[[b"Content-Length", b"5"]], content=b"hello")
        self.assertTrue(client.received.endswith(b"\r\n\r\n"))
        self.assertIsNone(client.response().header("content-length"))
        self.server.reply(client.request(), status=200, content=b"next")
        self.assertEqual([response.body for response in client.responses()], [b"", b"next"])

    def test_not_modified(self) -> None:
        """304 has no body; a length that GET would have may be told."""
        client, channel = self.ask()
        self.server.reply(channel, status=304, headers=[[b"ETag", b'"x"'], [b"Content-Length", b"5"]], content=b"hello")
        self.assertTrue(client.received.endswith(b"\r\n\r\n"))
        self.assertEqual(client.response().header("content-length"), "5")
        self.server.reply(client.request(), status=304)
        self.assertIsNone(client.responses()[1].header("content-length"))
        self.assertFalse(client.transport.over)

    def test_in_parts(self) -> None:
        """Parts of such answers are swallowed."""
        for status in (204, 304):
            client, channel = self.ask()
            self.server.reply(channel, status=status, content=b"one", more_content=True)
            self.server.reply(channel, content=b"two", more_content=True)
            self.server.reply(channel)
            self.assertTrue(client.received.endswith(b"\r\n\r\n"), status)
            self.assertNotIn(b"chunked", client.received)
            self.assertFalse(client.transport.over)


class WrongReplyTests(AnswerTestCase):
    """Replies that cannot be sent as HTTP."""

    def assertFailed(self, *words: str, **content: Any) -> None:
        """Assert that a reply is answered with 500, that the error was logged, and the connection is usable."""
        client, channel = self.ask()
        self.server.reply(channel, **content)
        response = client.response()
        self.assertEqual(response.status, 500, content)
        self.expect_logged("cannot send", *words)
        self.server.reply(client.request(), status=200)
        self.assertEqual(client.responses()[1].status, 200)

    def test_status(self) -> None:
        """A first reply needs a status, and a final one."""
        self.assertFailed("status", content=b"x")
        for status in ("200", 200.0, None, True, 0, 99, 100, 101, 199, 1000, -200):
            self.assertFailed("status", repr(status), status=status)

    def test_header_injection(self) -> None:
        """RFC 9110 section 5.5: a header with a line's end or a null in it is not sent."""
        for name, value in (
            (b"X-A", b"a\r\nSet-Cookie: b"), (b"X-A", b"a\nb"), (b"X-A", b"a\rb"), (b"X-A", b"a\x00b"),
            (b"X-A\r\nX-B", b"a"), (b"X-A: b\r\nX-C", b"d"), (b"", b"a"), (b"X A", b"a"), (b"X-A:", b"a"),
            (b"X-\xe9", b"a"),
        ):  # fmt: skip
            self.assertFailed("header", status=200, headers=[[b"X-Good", b"a"], [name, value]], content=b"x")
            client, channel = self.ask()
            self.server.reply(channel, status=200, headers=[[name, value]])
            self.expect_logged("cannot send")
            self.assertNotIn(b"Set-Cookie", client.received)

    def test_malformed_headers(self) -> None:
        """Headers are pairs of bytes."""
        for headers in (
            [[b"X-A"]],
            [[b"X-A", b"b", b"c"]],
            [b"X-A: b"],
            [7],
            [[b"X-A", 7]],
            [[b"X-A", None]],
            [["X-☃", "a"]],
        ):
            self.assertFailed("header", status=200, headers=headers)

    def test_malformed_length(self) -> None:
        """A length is a number."""
        for value in (b"-1", b"x", b"", b"1, 1", b"1.0"):
            self.assertFailed("header", status=200, headers=[[b"Content-Length", value]], content=b"x")

    def test_content(self) -> None:
        """Content is bytes."""
        for content in (7, [b"x"], {"a": 1}, True):
            self.assertFailed("content", status=200, content=content)

    def test_content_of_a_later_part(self) -> None:
        """If the answer has begun, it is broken off, so that the client notices."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, content=b"one", more_content=True)
        self.server.reply(channel, content=7, more_content=True)
        self.expect_logged("content")
        self.assertTrue(client.transport.aborted)
        self.assertFalse(client.response().complete)

    def test_second_status(self) -> None:
        """A later part with a status is dropped; the answer goes on."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, content=b"one", more_content=True)
        self.server.reply(channel, status=500, content=b"error")
        self.expect_logged("second status", "'/'")
        self.server.reply(channel, content=b"two")
        response = client.response()
        self.assertEqual((response.status, response.body), (200, b"onetwo"))

    def test_after_the_end(self) -> None:
        """What is sent after the last part goes nowhere, least of all into the next answer."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, content=b"one")
        following = client.request()
        self.server.reply(channel, content=b"late", more_content=True)
        self.server.reply(channel, status=200, content=b"late")
        self.server.reply(following, status=200, content=b"next")
        self.assertEqual([response.body for response in client.responses()], [b"one", b"next"])


class FailureTests(AnswerTestCase):
    """Answers of the server's own."""

    def test_consumer_failed(self) -> None:
        """A consumer that failed before it answered: the client gets the status, and keeps its connection."""
        client, channel = self.ask()
        self.server.layer.dispatch(channel, {FAILED: 500})
        self.server.turn()
        response = client.response()
        self.assertEqual((response.status, response.body), (500, b"Internal Server Error\n"))
        self.assertEqual(response.header("content-type"), "text/plain; charset=utf-8")
        self.assertFalse(client.transport.over)

    def test_consumer_failed_later(self) -> None:
        """A consumer that failed in the middle of its answer: the connection breaks off."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, content=b"one", more_content=True)
        self.server.layer.dispatch(channel, {FAILED: 500})
        self.server.turn()
        self.assertTrue(client.transport.aborted)
        self.assertFalse(client.response().complete)

    def test_consumer_failed_after_all(self) -> None:
        """A consumer that failed after its answer changes nothing."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, content=b"one")
        self.server.layer.dispatch(channel, {FAILED: 500})
        self.server.turn()
        self.assertEqual(client.response().body, b"one")
        self.assertFalse(client.transport.over)

    def test_failure_of_head(self) -> None:
        """A failure is answered to HEAD without a body, too."""
        client, channel = self.ask(request("HEAD", "/"))
        self.server.layer.dispatch(channel, {FAILED: 500})
        self.server.turn()
        self.assertTrue(client.received.endswith(b"\r\n\r\n"))


class AccessTests(AnswerTestCase):
    """What the access log gets."""

    def test_line(self) -> None:
        """One line, at the end, with the number of bytes of the body and the seconds it took."""
        _, channel = self.ask(get("/a?b=c"))
        self.server.pass_time(1.5)
        self.server.reply(channel, status=200, content=b"one", more_content=True)
        self.assertEqual(self.server.access, [])
        self.server.pass_time(0.5)
        self.server.reply(channel, content=b"four")
        self.assertEqual(self.server.access, ["HTTP GET /a?b=c 200 7 [2.000 s, 192.0.2.7:50123]"])

    def test_client_left(self) -> None:
        """An answer that was not complete says so."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, content=b"one", more_content=True)
        client.leave()
        self.assertEqual(self.server.access, ["HTTP GET / 200 3 [0.000 s, 192.0.2.7:50123] broken off"])

    def test_broken_cookie(self) -> None:
        """A cookie that cannot be sent does not stand in the log."""
        self.answer(status=200, headers=[[b"Set-Cookie", b"sessionid=hunter2\r\nx: y"]])
        self.assertNotIn("hunter2", self.expect_logged("malformed header", "Set-Cookie"))

    def test_broken_log(self) -> None:
        """A log that cannot be written costs no answer."""
        self.server.site.access_log._write = lambda line: 1 / 0
        self.assertEqual(self.answer(status=200, content=b"x").body, b"x")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.expect_logged("access log")


class ClientGoneTests(AnswerTestCase):
    """Clients that leave before their answer."""

    def test_told_once(self) -> None:
        """The application is told, once; what it sends then goes nowhere."""
        client, channel = self.ask(get("/a?b"))
        client.leave()
        self.assertEqual(self.server.messages("http.disconnect"), [{"reply_channel": channel, "path": "/a"}])
        self.server.reply(channel, status=200, content=b"late")
        self.assertEqual(client.received + client.transport.too_late, b"")

    def test_in_the_middle(self) -> None:
        """Also if the answer has begun."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, content=b"one", more_content=True)
        client.leave()
        self.assertEqual(len(self.server.messages("http.disconnect")), 1)
        self.server.reply(channel, content=b"two")
        self.assertEqual(client.transport.too_late, b"")

    def test_not_after_the_answer(self) -> None:
        """Not if the answer was complete, or no request was under way."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, content=b"one")
        client.leave()
        self.server.connect().leave()
        other = self.server.connect()
        other.send(b"GET / HT")
        other.leave()
        self.assertEqual(self.server.messages("http.disconnect"), [])

    def test_full_channel(self) -> None:
        """If there is no room for the message, it is given up, and nothing else happens."""
        for _ in range(1000):
            self.server.layer.send("http.disconnect", {})
        client, _ = self.ask()
        client.leave()
        self.assertEqual(len(self.server.messages("http.disconnect")), 1000)

    def test_name_is_forgotten(self) -> None:
        """The reply channel is in the table of connections only while the request is under way."""
        client, channel = self.ask()
        self.assertIn(channel, self.server.site.replies)
        self.server.reply(channel, status=200)
        self.assertNotIn(channel, self.server.site.replies)
        channel = client.request()["reply_channel"]
        client.leave()
        self.assertNotIn(channel, self.server.site.replies)
        self.assertEqual(len(self.server.site.replies), 0)


class FlowTests(AnswerTestCase):
    """Back-pressure: how fast a streaming thread may send."""

    def window(self, channel: str) -> int:
        """Return how many bytes the sending thread may send without waiting."""
        flow = self.server.site.replies._connections[channel].flow
        assert isinstance(flow, Flow)
        return WINDOW - flow._under_way

    def send(self, channel: str, size: int) -> bool:
        """Send a part as a view does, without waiting for room."""
        return self.server.layer.dispatch_waiting(channel, {"content": b"x" * size, "more_content": True}, 0.0)

    def test_bytes_under_way(self) -> None:
        """A sender may go on as long as less than a window is under way; a fast client makes room at once."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, more_content=True)
        client.transport.slow = True
        sent = 0
        while self.send(channel, 60_000):
            self.server.turn()
            sent += 60_000
            self.assertLess(sent, 1_000_000, "nobody stops the sender")
        self.assertGreaterEqual(sent, WINDOW)
        self.assertFalse(self.send(channel, 1))
        client.transport.client_reads()
        self.server.turn()
        self.assertEqual(self.window(channel), WINDOW)
        self.assertTrue(self.send(channel, 1))

    def test_fast_client(self) -> None:
        """For a client that reads, a sender never waits."""
        _, channel = self.ask()
        self.server.reply(channel, status=200, more_content=True)
        for _ in range(30):
            self.assertTrue(self.send(channel, 60_000))
            self.server.turn()
            self.assertEqual(self.window(channel), WINDOW)

    def test_answers_without_a_body(self) -> None:
        """To HEAD, or past the length it promised, a sender does not wait for ever for what is not sent."""
        for data, status, headers in (
            (request("HEAD", "/"), 200, []), (get(), 304, []), (get(), 200, [[b"Content-Length", b"10"]]),
        ):  # fmt: skip
            _, channel = self.ask(data)
            self.server.reply(channel, status=status, headers=headers, more_content=True)
            self.send(channel, 60_000)
            self.server.turn()
            self.assertFalse(self.send(channel, 60_000))
        del self.logged[:]

    def test_client_gone(self) -> None:
        """A sender that waits is told when the client leaves."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, more_content=True)
        self.assertTrue(self.send(channel, WINDOW))
        client.leave()
        self.assertFalse(self.send(channel, 1))

    def test_part_in_hand(self) -> None:
        """The part with which a thread waits counts as kept for the client: who has the largest goes first."""
        client, channel = self.ask()
        self.server.reply(channel, status=200, more_content=True)
        self.assertTrue(self.send(channel, WINDOW))
        content = {"content": bytes(5_000_000), "more_content": True}
        sender = threading.Thread(target=self.server.layer.dispatch_waiting, args=(channel, content, TIMEOUT))
        sender.start()
        connection = client.transport.protocol
        wait_until(lambda: connection.kept() > 5_000_000)
        client.leave()
        sender.join(TIMEOUT)
        self.assertFalse(sender.is_alive())

    def test_window_of_a_flow(self) -> None:
        """A flow lets a sender begin a part while less than a window is under way, and nobody after its end."""
        flow = Flow()
        self.assertTrue(flow.send(WINDOW - 1, 0.0))
        self.assertTrue(flow.send(10 * WINDOW, 0.0))
        self.assertFalse(flow.send(1, 0.0))
        flow.sent(10 * WINDOW)
        self.assertTrue(flow.send(1, 0.0))
        flow.sent(1)
        flow.close()
        self.assertFalse(flow.send(1, 0.0))


class MessageTests(StrictTestCase):
    """The message of a request."""

    def test_all_keys(self) -> None:
        """It has all keys of the format, with the right types."""
        server = self.make_server(root_path="/app/")
        client = server.connect()
        message = client.request(request("POST", "/a%20b?c=%64", "X-A: 1", "x-a: 2", "Cookie: d", body=b"body"))
        channel = message.pop("reply_channel")
        self.assertRegex(channel, r"^http\.response\.[^!]+!.+$")
        self.assertEqual(
            message,
            {
                "http_version": "1.1", "method": "POST", "path": "/a b", "query_string": b"c=%64", "root_path": "/app",
                "headers": [
                    [b"host", b"testserver"], [b"x-a", b"1"], [b"x-a", b"2"], [b"cookie", b"d"],
                    [b"content-length", b"4"],
                ],
                "body": b"body", "body_channel": None, "client": ["192.0.2.7", 50123], "server": ["192.0.2.1", 8000],
                "scheme": "http",
            },
        )  # fmt: skip

    def test_can_be_sent_on(self) -> None:
        """It can be sent through any layer again."""
        server = self.make_server()
        message = server.connect().request()
        server.layer.send("copy", message)
        self.assertEqual(server.message("copy"), message)

    def test_each_has_its_own_addresses(self) -> None:
        """What an application does with the addresses in a message alters no later message of the connection."""
        server = self.make_server()
        client = server.connect()
        for _ in range(2):
            message = client.request()
            self.assertEqual((message["client"], message["server"]), (["192.0.2.7", 50123], ["192.0.2.1", 8000]))
            message["client"].clear()
            message["server"].clear()
            server.reply(message, status=200)

    def test_names_with_underscores(self) -> None:
        """Headers with an underscore in their name, which could pass for another, do not arrive."""
        message = self.make_server().connect().request(get("/", "X_Forwarded_For: evil", "X-Good: a"))
        self.assertEqual([name for name, _ in message["headers"]], [b"host", b"x-good"])

    def test_names_differ(self) -> None:
        """Each request has its own reply channel, also on the same connection."""
        server = self.make_server()
        client = server.connect()
        names = set()
        for _ in range(5):
            message = client.request()
            names.add(message["reply_channel"])
            server.reply(message, status=200)
        self.assertEqual(len(names), 5)
