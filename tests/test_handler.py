"""Requests, responses and views as messages: the module ``channelserver.handler``, without a network."""

from __future__ import annotations

import asyncio
import io
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest import mock

from django.core import signals
from django.core.exceptions import RequestDataTooBig, TooManyFieldsSent
from django.core.files.uploadhandler import MemoryFileUploadHandler, TemporaryFileUploadHandler
from django.http import FileResponse, Http404, HttpResponse, RawPostDataException, StreamingHttpResponse
from django.http.multipartparser import MultiPartParserError
from django.test import override_settings
from django.urls import path, reverse, set_script_prefix
from twisted.trial.unittest import SynchronousTestCase

from channelserver.channel import Channel
from channelserver.exceptions import RequestAborted, RequestTimeout, ResponseLater
from channelserver.handler import AsgiHandler, AsgiRequest, ViewConsumer
from channelserver.layers import InMemoryChannelLayer
from channelserver.layers.base import FAILED
from channelserver.message import Message
from channelserver.workers import outbox

REPLY = "http.response.test!1"

MULTIPART = (
    b"--border\r\nContent-Disposition: form-data; name=\"field\"\r\n\r\nvalue\r\n"
    b"--border\r\nContent-Disposition: form-data; name=\"file\"; filename=\"name.txt\"\r\n"
    b"Content-Type: text/plain\r\n\r\nthe file\r\n--border--\r\n"
)  # fmt: skip
MULTIPART_TYPE = b"multipart/form-data; boundary=border"


def message(path: str = "/", layer: Any = None, body_file: Any = None, **content: Any) -> Message:
    """Return an ``http.request`` message."""
    content = {"reply_channel": REPLY, "path": path, "method": "GET", **content}
    made = Message(content, "http.request", layer or InMemoryChannelLayer())
    if body_file is not None:
        made.body_file = body_file
    return made


def request(path: str = "/", **content: Any) -> AsgiRequest:
    """Return the request of a message."""
    return AsgiRequest(message(path, **content))


def post(body: bytes, content_type: bytes = b"application/x-www-form-urlencoded", **content: Any) -> AsgiRequest:
    """Return the request of a message with a body."""
    headers = [[b"content-type", content_type], [b"content-length", b"%d" % len(body)]]
    return request(**{"method": "POST", "headers": headers, "body": body, **content})


class RequestTests(SynchronousTestCase):
    """The head of a request."""

    def test_least(self) -> None:
        """A path and a method are enough."""
        made = request("/path/")
        self.assertEqual((made.path, made.path_info, made.method, made.scheme), ("/path/", "/path/", "GET", "http"))
        self.assertEqual((made.script_name, made.body, dict(made.GET), dict(made.POST)), ("", b"", {}, {}))
        self.assertEqual((made.COOKIES, dict(made.FILES), made.content_type), ({}, {}, ""))
        for key in ("path", "method"):
            content = {"path": "/", "method": "GET"}
            del content[key]
            self.assertRaises(KeyError, AsgiRequest, Message(content, "http.request", None))

    def test_attributes(self) -> None:
        """It knows its message and its reply channel, and brings ``ResponseLater``."""
        source = message()
        made = AsgiRequest(source)
        self.assertIs(made.message, source)
        self.assertEqual(str(made.reply_channel), REPLY)
        self.assertIs(made.ResponseLater, ResponseLater)
        self.assertEqual(made.body_receive_timeout, 60)
        self.assertIs(made.resolver_match, None)
        self.assertIs(AsgiRequest(Message({"path": "/", "method": "GET"}, "x", None)).reply_channel, None)

    def test_method(self) -> None:
        """The method is in upper case."""
        made = request(method="post")
        self.assertEqual((made.method, made.META["REQUEST_METHOD"]), ("POST", "POST"))

    def test_root_path(self) -> None:
        """A mount point is the script's name, and in front of the path, whether or not a proxy has cut it off."""
        for root, given, script_name, path_info, whole in (
            ("", "/a/b", "", "/a/b", "/a/b"),
            (None, "/a", "", "/a", "/a"),
            ("/app", "/app/a", "/app", "/a", "/app/a"),
            ("/app/", "/app/a", "/app", "/a", "/app/a"),
            ("/app", "/a", "/app", "/a", "/app/a"),
            ("/app", "/apple", "/app", "/apple", "/app/apple"),
            ("/app", "/app", "/app", "", "/app"),
            ("/app", "/app/", "/app", "/", "/app/"),
        ):
            made = request(given, root_path=root)
            seen = (made.script_name, made.path_info, made.path)
            self.assertEqual((root, given, *seen), (root, given, script_name, path_info, whole))
            self.assertEqual((made.META["SCRIPT_NAME"], made.META["PATH_INFO"]), (script_name, path_info))

    def test_addresses(self) -> None:
        """Client and server are in ``META``; where they are unknown, Channels 1's words are."""
        meta = request(client=["10.0.0.1", 1234], server=["10.0.0.2", 80]).META
        self.assertEqual(
            (meta["REMOTE_ADDR"], meta["REMOTE_HOST"], meta["REMOTE_PORT"]), ("10.0.0.1", "10.0.0.1", 1234)
        )
        self.assertEqual((meta["SERVER_NAME"], meta["SERVER_PORT"]), ("10.0.0.2", "80"))
        for content in ({}, {"client": None, "server": None}):
            meta = request(**content).META
            self.assertEqual((meta["REMOTE_ADDR"], "REMOTE_PORT" in meta), ("", False))
            self.assertEqual((meta["SERVER_NAME"], meta["SERVER_PORT"]), ("unknown", "0"))

    def test_meta(self) -> None:
        """The other keys of WSGI."""
        meta = request(query_string=b"a=1", http_version="1.0").META
        self.assertEqual((meta["QUERY_STRING"], meta["SERVER_PROTOCOL"]), ("a=1", "HTTP/1.0"))
        self.assertEqual((meta["wsgi.multithread"], meta["wsgi.multiprocess"]), (True, True))
        self.assertEqual(request().META["SERVER_PROTOCOL"], "HTTP/1.1")

    def test_scheme(self) -> None:
        """The scheme is the message's."""
        self.assertEqual((request(scheme="https").scheme, request(scheme="https").is_secure()), ("https", True))
        self.assertEqual((request(scheme=None).scheme, request().is_secure()), ("http", False))

    def test_headers(self) -> None:
        """Headers are in ``META`` and in ``headers``, those of the content under their own names."""
        headers = [[b"host", b"testserver"], [b"x-own", b"caf\xe9"], [b"content-type", b"text/plain; charset=koi8-r"]]
        made = request(headers=[*headers, [b"content-length", b"0"]])
        self.assertEqual((made.META["HTTP_HOST"], made.META["HTTP_X_OWN"]), ("testserver", "caf\xe9"))
        self.assertEqual((made.META["CONTENT_TYPE"], made.META["CONTENT_LENGTH"]), ("text/plain; charset=koi8-r", "0"))
        self.assertEqual((made.headers["X-Own"], made.headers["content-length"]), ("caf\xe9", "0"))
        self.assertEqual((made.content_type, made.content_params), ("text/plain", {"charset": "koi8-r"}))
        self.assertEqual((made.encoding, made.get_host()), ("koi8-r", "testserver"))
        self.assertEqual(made.build_absolute_uri("/x"), "http://testserver/x")

    def test_headers_as_dict(self) -> None:
        """The form of Channels 0: a dict, its keys text."""
        made = request(headers={"host": b"testserver", "x-own": "value"})
        self.assertEqual((made.META["HTTP_HOST"], made.META["HTTP_X_OWN"]), ("testserver", "value"))

    def test_repeated_headers(self) -> None:
        """Repeated headers are joined by a comma, cookies by a semicolon."""
        pairs = [[b"x-list", b"a"], [b"cookie", b"a=1"], [b"x-list", b"b, c"], [b"cookie", b"b=2"], [b"x-list", b""]]
        made = request(headers=pairs)
        self.assertEqual(made.META["HTTP_X_LIST"], "a, b, c, ")
        self.assertEqual(made.META["HTTP_COOKIE"], "a=1; b=2")
        self.assertEqual(made.COOKIES, {"a": "1", "b": "2"})

    def test_headers_with_underscore(self) -> None:
        """They are dropped, whichever comes first: nobody can pass one header off as another."""
        forged, honest = [b"x_user", b"root"], [b"x-user", b"me"]
        for pairs in ([forged, honest], [honest, forged]):
            self.assertEqual(request(headers=pairs).META["HTTP_X_USER"], "me")
        meta = request(headers=[forged, [b"content_length", b"9"], [b"content_type", b"text/plain"]]).META
        self.assertFalse({"HTTP_X_USER", "CONTENT_LENGTH", "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"} & set(meta))

    def test_header_name_not_ascii(self) -> None:
        """Such a name is an error."""
        self.assertRaises(UnicodeDecodeError, request, headers=[[b"x-\xe9", b"1"]])

    def test_many_header_names(self) -> None:
        """Names are remembered, but clients cannot fill the memory with them."""
        for number in range(1500):
            meta = request(headers=[[b"x-%d" % number, b"value"]]).META
            self.assertEqual(meta[f"HTTP_X_{number}"], "value")
        from channelserver.workers import request as module

        self.assertLessEqual(len(module._meta_names), 1000)
        self.assertIn(b"x-1499", module._meta_names)

    def test_long_header_names(self) -> None:
        """They are not remembered."""
        from channelserver.workers import request as module

        name = b"x-" + b"a" * 31_000
        self.assertEqual(request(headers=[[name, b"1"]]).META["HTTP_X_" + "A" * 31_000], "1")
        self.assertLessEqual(max(map(len, module._meta_names)), module.SHORT_NAME)

    def test_query(self) -> None:
        """The query string's parameters."""
        made = request(query_string=b"a=1&a=2&b=%C3%A4+%20&c")
        self.assertEqual(made.GET.getlist("a"), ["1", "2"])
        self.assertEqual((made.GET["b"], made.GET["c"]), ("\xe4  ", ""))
        self.assertEqual(made.get_full_path(), "/?a=1&a=2&b=%C3%A4+%20&c")
        self.assertEqual(request(query_string="a=1").GET["a"], "1")

    def test_broken_query(self) -> None:
        """What is not UTF-8 breaks nothing."""
        made = request(query_string=b"a=%FF&b=%zz&c=%&&=&d=1")
        self.assertEqual((made.GET["a"], made.GET["b"], made.GET["c"], made.GET["d"]), ("\ufffd", "%zz", "%", "1"))
        made = request(query_string=b"a=\xff\xfe&b=1")
        self.assertEqual(made.GET["b"], "1")
        self.assertEqual(made.META["QUERY_STRING"], "a=\xff\xfe&b=1")
        with override_settings(DATA_UPLOAD_MAX_NUMBER_FIELDS=2):
            made = request(query_string=b"a&b&c")
            self.assertRaises(TooManyFieldsSent, lambda: made.GET)

    def test_path_not_ascii(self) -> None:
        """A path's characters are its own; what a URL cannot hold is quoted again."""
        self.assertEqual(request("/\xe4/\U0001f600").path, "/\xe4/\U0001f600")
        self.assertEqual(request("/\xe4 ?").get_full_path(), "/%C3%A4%20%3F")

    def test_encoding(self) -> None:
        """Setting the encoding decodes parameters anew."""
        made = request(query_string=b"a=%E4")
        self.assertEqual(made.GET["a"], "\ufffd")
        made.encoding = "latin-1"
        self.assertEqual(made.GET["a"], "\xe4")

    def test_broken_cookies(self) -> None:
        """Cookies which make no sense break nothing."""
        made = request(headers=[[b"cookie", b'a=1;;=;b; c=\xff;"=";d="q\\""']])
        self.assertEqual((made.COOKIES["a"], made.COOKIES["c"]), ("1", "\xff"))


class BodyTests(SynchronousTestCase):
    """The body of a request, wherever it is."""

    def assertForm(self, made: AsgiRequest) -> None:
        """Assert that this is the multipart form above."""
        self.assertEqual(made.POST.dict(), {"field": "value"})
        file = made.FILES["file"]
        self.assertEqual((file.name, file.content_type, file.read()), ("name.txt", "text/plain", b"the file"))
        made.close()
        self.assertTrue(file.closed)

    def test_in_the_message(self) -> None:
        """A body in the message can be had whole, as a stream, and as lines."""
        self.assertEqual(post(b"one\ntwo").body, b"one\ntwo")
        self.assertEqual(post(b"one\ntwo").readlines(), [b"one\n", b"two"])
        self.assertEqual(list(post(b"one\ntwo")), [b"one\n", b"two"])
        made = post(b"one\ntwo")
        self.assertEqual((made.read(3), made.read(), made.read()), (b"one", b"\ntwo", b""))
        self.assertRaises(RawPostDataException, lambda: made.body)

    def test_in_a_file(self) -> None:
        """So can a body in a file beside the message; nobody has read it before the view does."""
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 100_000)
            file.seek(0)
            made = post(b"", body_file=file)
            self.assertEqual(file.tell(), 0)
            self.assertEqual(made.read(10), b"x" * 10)
            self.assertLess(file.tell(), 100_000)
            self.assertEqual(len(made.read()), 99_990)
        headers = [[b"content-type", MULTIPART_TYPE], [b"content-length", b"%d" % len(MULTIPART)]]
        self.assertForm(request(method="POST", headers=headers, body_file=io.BytesIO(MULTIPART)))

    def test_form(self) -> None:
        """A form's fields, once the body is read and before."""
        made = post(b"a=1&a=2&b=%C3%A4")
        self.assertEqual((made.POST.getlist("a"), made.POST["b"]), (["1", "2"], "\xe4"))
        self.assertEqual(made.body, b"a=1&a=2&b=%C3%A4")
        self.assertEqual(dict(made.FILES), {})
        made.POST = made.POST.copy()
        made.POST["c"] = "3"
        self.assertEqual(made.POST["c"], "3")

    def test_multipart_form(self) -> None:
        """Fields and files."""
        self.assertForm(post(MULTIPART, MULTIPART_TYPE))

    def test_files_first(self) -> None:
        """Asking for the files first, or after the body, makes no difference."""
        made = post(MULTIPART, MULTIPART_TYPE)
        self.assertEqual(made.FILES["file"].name, "name.txt")
        self.assertForm(made)
        made = post(MULTIPART, MULTIPART_TYPE)
        self.assertEqual(made.body, MULTIPART)
        self.assertForm(made)

    def test_other_methods_and_types(self) -> None:
        """Only a POST has a form, and only of the two types of forms."""
        self.assertEqual(dict(post(b"a=1", method="PUT").POST), {})
        made = post(b'{"a": 1}', b"application/json")
        self.assertEqual((dict(made.POST), made.body), ({}, b'{"a": 1}'))

    def test_malformed_multipart_form(self) -> None:
        """A form without a boundary is an error; afterwards it is empty, as in Django."""
        made = post(b"nonsense", b"multipart/form-data")
        self.assertRaises(MultiPartParserError, lambda: made.POST)
        self.assertEqual(dict(made.POST), {})

    def test_upload_handlers(self) -> None:
        """They are those of the settings, and may be replaced before the body is read."""
        made = post(MULTIPART, MULTIPART_TYPE)
        self.assertEqual(
            [type(handler) for handler in made.upload_handlers], [MemoryFileUploadHandler, TemporaryFileUploadHandler]
        )
        made.upload_handlers = [TemporaryFileUploadHandler(made)]
        self.assertEqual(type(made.FILES["file"]).__name__, "TemporaryUploadedFile")
        self.assertRaises(AttributeError, setattr, made, "upload_handlers", [])
        made.close()

    def test_in_chunks(self) -> None:
        """The length of a body that came in chunks is known to form parsers."""
        for content in ({"body": MULTIPART}, {"body_file": io.BytesIO(MULTIPART)}):
            headers = [[b"content-type", MULTIPART_TYPE], [b"transfer-encoding", b"chunked"]]
            made = request(method="POST", headers=headers, **content)
            self.assertEqual(made.META["CONTENT_LENGTH"], str(len(MULTIPART)))
            self.assertForm(made)

    @override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=10)
    def test_too_much_for_memory(self) -> None:
        """``DATA_UPLOAD_MAX_MEMORY_SIZE`` holds for the body and for forms, not for a stream."""
        self.assertEqual(post(b"0123456789").body, b"0123456789")
        self.assertRaises(RequestDataTooBig, lambda: post(b"0123456789a").body)
        self.assertRaises(RequestDataTooBig, lambda: post(b"a=23456789b").POST)
        self.assertEqual(post(b"0123456789a").read(), b"0123456789a")
        chunked = {"method": "POST", "headers": [[b"transfer-encoding", b"chunked"]], "body": b"0123456789a"}
        self.assertRaises(RequestDataTooBig, lambda: request(**chunked).body)
        large_file = MULTIPART.replace(b"value", b"").replace(b"the file", b"x" * 1000)
        self.assertEqual(post(large_file, MULTIPART_TYPE).FILES["file"].size, 1000)
        self.assertRaises(RequestDataTooBig, lambda: post(MULTIPART.replace(b"value", b"x" * 50), MULTIPART_TYPE).POST)


class BodyChannelTests(SynchronousTestCase):
    """A body that comes through a channel, as the specification of Channels 1 has it."""

    CHANNEL = "http.request.body?abc"

    def body_of(self, *parts: dict[str, Any], **content: Any) -> bytes:
        """Return the body put together from a message and these parts."""
        layer = InMemoryChannelLayer()
        for part in parts:
            layer.send(self.CHANNEL, part)
        made = AsgiRequest(message(layer=layer, body_channel=self.CHANNEL, **content))
        body: bytes = made.body
        made.close()
        return body

    def test_parts(self) -> None:
        """The message's own part comes first; a part without content adds nothing."""
        parts = ({"content": b"two ", "more_content": True}, {"more_content": True}, {"content": b"three"})
        self.assertEqual(self.body_of(*parts, body=b"one "), b"one two three")
        self.assertEqual(self.body_of({"content": b"all"}), b"all")
        self.assertEqual(self.body_of({"content": None, "more_content": False}), b"")

    def test_none(self) -> None:
        """No body channel, no waiting."""
        self.assertEqual(request(body=b"all", body_channel=None).body, b"all")

    def test_large(self) -> None:
        """A large body is put together in a file."""
        part = {"content": b"x" * 50_000, "more_content": True}
        self.assertEqual(self.body_of(part, part, part, {"content": b"end"}), b"x" * 150_000 + b"end")

    def test_closed(self) -> None:
        """The client left."""
        self.assertRaises(RequestAborted, self.body_of, {"content": b"two", "more_content": True}, {"closed": True})

    def test_timeout(self) -> None:
        """The next part does not come in time; parts that come put the end off."""
        now = 0.0
        waiting = [{"content": b"a", "more_content": True}] * 3
        layer = mock.Mock()

        def receive(channels: list[str], block: bool) -> Any:
            nonlocal now
            self.assertEqual((channels, block), ([self.CHANNEL], True))
            now += 5
            return (self.CHANNEL, waiting.pop()) if waiting and now % 50 == 0 else (None, None)

        layer.receive = receive
        with mock.patch("channelserver.workers.request.time.monotonic", lambda: now):
            self.assertRaises(RequestTimeout, request, layer=layer, body_channel=self.CHANNEL)
        self.assertEqual((now, waiting), (210, []))


class EncodeResponseTests(SynchronousTestCase):
    """:meth:`AsgiHandler.encode_response` and :meth:`AsgiHandler.chunk_bytes`."""

    class Handler(AsgiHandler):
        chunk_size = 10

    def encode(self, response: Any) -> list[dict[str, Any]]:
        """Return a response's messages, in chunks of ten bytes."""
        return list(self.Handler.encode_response(response))

    def test_chunk_size(self) -> None:
        """As in Channels 1."""
        self.assertEqual(AsgiHandler.chunk_size, 512 * 1024)

    def test_chunk_bytes(self) -> None:
        """Pieces of the given size, with the last one marked; of nothing, one empty piece."""
        for data, chunks in (
            (b"", [(b"", True)]),
            (b"a", [(b"a", True)]),
            (b"0123456789", [(b"0123456789", True)]),
            (b"0123456789a", [(b"0123456789", False), (b"a", True)]),
            (b"0123456789" * 2, [(b"0123456789", False), (b"0123456789", True)]),
        ):
            self.assertEqual(list(self.Handler.chunk_bytes(data)), chunks)

    def test_own_ways_to_keep_headers(self) -> None:
        """A response may say by itself what its headers are, and have a dict for them."""

        class Linking(HttpResponse):
            def items(self) -> Any:
                return [*super().items(), ("Link", "</a>"), ("Link", "</b>")]

        (sent,) = self.encode(Linking("x", content_type="text/plain"))
        wanted = [(b"Content-Type", b"text/plain"), (b"Link", b"</a>"), (b"Link", b"</b>")]
        self.assertEqual(sent["headers"], wanted)
        response = HttpResponse("x")
        response.headers = {"X-Own": "a"}  # type: ignore[assignment]
        self.assertEqual(self.encode(response)[0]["headers"], [(b"X-Own", b"a")])

    def test_plain(self) -> None:
        """One message; names of headers as the application wrote them, everything bytes."""
        response = HttpResponse("caf\xe9", status=418, headers={"X-Own": "caf\xe9", "content-type": "text/plain"})
        response.set_cookie("a", "1")
        response.set_cookie("b", "2", httponly=True)
        (sent,) = self.encode(response)
        self.assertEqual((sent["status"], sent["content"], sent["more_content"]), (418, b"caf\xc3\xa9", False))
        headers = [tuple(pair) for pair in sent["headers"]]
        self.assertIn((b"X-Own", b"caf\xe9"), headers)
        self.assertIn((b"content-type", b"text/plain"), headers)
        cookies = [value for name, value in headers if name == b"Set-Cookie"]
        self.assertEqual(cookies, [b"a=1; Path=/", b"b=2; HttpOnly; Path=/"])

    def test_in_chunks(self) -> None:
        """A large response in several messages; only the first has status and headers."""
        first, second = self.encode(HttpResponse(b"0123456789abc"))
        self.assertEqual((first["content"], first["more_content"]), (b"0123456789", True))
        self.assertEqual(second, {"content": b"abc", "more_content": False})

    def test_empty(self) -> None:
        """An empty response is a message, too."""
        (sent,) = self.encode(HttpResponse(status=204))
        self.assertEqual((sent["status"], sent["content"], sent["more_content"]), (204, b"", False))

    def test_streaming(self) -> None:
        """Each part is a message, large ones several; the last is empty."""
        first, *others = self.encode(StreamingHttpResponse(["caf\xe9", b"", b"0123456789abc"]))
        self.assertEqual((first["status"], first["content"], first["more_content"]), (200, b"caf\xc3\xa9", True))
        self.assertEqual([sent["content"] for sent in others], [b"", b"0123456789", b"abc", b""])
        self.assertEqual([sent["more_content"] for sent in others], [True, True, True, False])
        self.assertTrue(all("status" not in sent for sent in others))

    def test_streaming_nothing(self) -> None:
        """An empty stream still has a status."""
        (sent,) = self.encode(StreamingHttpResponse([]))
        self.assertEqual((sent["status"], sent["content"], sent["more_content"]), (200, b"", False))

    def test_streaming_is_lazy(self) -> None:
        """A part is asked for when the one before has been taken."""
        asked = []

        def body() -> Iterator[bytes]:
            for number in range(3):
                asked.append(number)
                yield b"%d" % number

        messages = self.Handler.encode_response(StreamingHttpResponse(body()))
        for number in range(3):
            self.assertEqual(next(messages)["content"], b"%d" % number)
            self.assertEqual(asked, list(range(number + 1)))

    def test_asynchronous_stream(self) -> None:
        """The parts of an asynchronous stream."""

        async def body() -> AsyncIterator[bytes]:
            for number in range(3):
                await asyncio.sleep(0)
                yield b"%d" % number

        messages = self.encode(StreamingHttpResponse(body()))
        self.assertEqual([sent["content"] for sent in messages], [b"0", b"1", b"2", b""])

    def test_file(self) -> None:
        """A file in chunks, with its length."""
        first, second, last = self.encode(FileResponse(io.BytesIO(b"0123456789abc"), filename="a.txt"))
        headers = dict(map(tuple, first["headers"]))
        self.assertEqual((headers[b"Content-Length"], headers[b"Content-Type"]), (b"13", b"text/plain"))
        self.assertEqual([first["content"], second["content"], last["content"]], [b"0123456789", b"abc", b""])

    def test_malformed_cookie(self) -> None:
        """A cookie that cannot be sent is an error of the view's."""
        response = HttpResponse()
        response.set_cookie("a", "\u20ac")
        self.assertRaises(UnicodeEncodeError, self.encode, response)


# -- views, found through ROOT_URLCONF ---------------------------------------------------------------------------------

events: list[str] = []


def plain(request: Any) -> HttpResponse:
    return HttpResponse(f"{request.method} {request.path} {reverse('plain')}")


async def asynchronous(request: Any) -> HttpResponse:
    await asyncio.sleep(0)
    return HttpResponse("asynchronous")


def fail(request: Any) -> HttpResponse:
    Channel("noted", channel_layer=request.message.channel_layer).send({"from": "a view that fails"})
    raise ValueError("the view failed")


def missing(request: Any) -> HttpResponse:
    raise Http404


def later(request: Any) -> HttpResponse:
    Channel("noted", channel_layer=request.message.channel_layer).send({"from": "a view that answers later"})
    raise request.ResponseLater


def sending(request: Any) -> HttpResponse:
    Channel("noted", channel_layer=request.message.channel_layer).send({"from": "a view"})
    return StreamingHttpResponse(parts())


def parts() -> Iterator[bytes]:
    try:
        events.append("begin")
        yield b"one"
        events.append("between")
        yield b""
        yield b"two"
        events.append("end")
    finally:
        events.append("closed")


def breaking(request: Any) -> StreamingHttpResponse:
    def body() -> Iterator[bytes]:
        yield b"begin"
        raise ValueError("the body failed")

    return StreamingHttpResponse(body())


async def asynchronous_stream(request: Any) -> StreamingHttpResponse:
    async def body() -> AsyncIterator[bytes]:
        try:
            for number in range(3):
                await asyncio.sleep(0)
                yield b"%d" % number
        finally:
            events.append("closed")

    return StreamingHttpResponse(body())


def file(request: Any) -> FileResponse:
    return FileResponse(io.BytesIO(b"x" * 300_000))


uploaded: list[Any] = []


def form(request: Any) -> HttpResponse:
    uploaded.append(request.FILES["file"])
    return HttpResponse(f"{request.POST['field']} {request.FILES['file'].read().decode()}")


def body(request: Any) -> HttpResponse:
    return HttpResponse(request.body)


def many_fields(request: Any) -> HttpResponse:
    return HttpResponse(str(len(request.POST)))


def later_middleware(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def middleware(request: Any) -> Any:
        events.append("request")
        response = get_response(request)
        events.append(f"response {response.status_code}")
        response["X-Middleware"] = "yes"
        return response

    return middleware


VIEWS: list[Any] = [
    *(plain, asynchronous, fail, missing, later, sending, breaking, asynchronous_stream, file, form, body),
    many_fields,
]
urlpatterns = [path(f"{view.__name__}/", view, name=view.__name__) for view in VIEWS]


class Closed:
    """Counts how often Django's requests begin and end."""

    def __init__(self, case: SynchronousTestCase) -> None:
        self.started: list[Any] = []
        self.finished = 0
        signals.request_started.connect(self.on_started)
        signals.request_finished.connect(self.on_finished)
        case.addCleanup(signals.request_started.disconnect, self.on_started)
        case.addCleanup(signals.request_finished.disconnect, self.on_finished)

    def on_started(self, sender: Any, **arguments: Any) -> None:
        self.started.append((sender, arguments.get("message")))

    def on_finished(self, sender: Any, **arguments: Any) -> None:
        self.finished += 1


class ViewTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        overridden = override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.later_middleware"])
        overridden.enable()
        self.addCleanup(overridden.disable)
        self.addCleanup(set_script_prefix, "/")
        events.clear()
        self.layer = InMemoryChannelLayer()
        self.signals = Closed(self)
        # Django tells of each 404 and 500.
        logger = logging.getLogger("django.request")
        self.addCleanup(setattr, logger, "disabled", logger.disabled)
        logger.disabled = True

    def sent(self, channel: str = REPLY) -> list[dict[str, Any]]:
        """Return what was sent to a channel."""
        messages = []
        name = self.layer.non_local_name(channel)
        while (content := self.layer.receive([name])[1]) is not None:
            messages.append(content)
        return messages


class HandlerTests(ViewTestCase):
    """Calling a handler with a message."""

    def handle(self, path: str, **content: Any) -> list[dict[str, Any]]:
        """Return the messages of a response."""
        return list(AsgiHandler()(message(path, self.layer, **content)))

    def test_plain(self) -> None:
        """A view's response, through the middleware; nothing is sent anywhere."""
        (sent,) = self.handle("/plain/")
        self.assertEqual((sent["status"], sent["content"]), (200, b"GET /plain/ /plain/"))
        self.assertIn([b"X-Middleware", b"yes"], list(map(list, sent["headers"])))
        self.assertEqual(events, ["request", "response 200"])
        self.assertEqual(self.sent(), [])

    def test_asynchronous_view(self) -> None:
        """So is that of an asynchronous view."""
        self.assertEqual(self.handle("/asynchronous/")[0]["content"], b"asynchronous")

    def test_signals(self) -> None:
        """``request_started`` has the message; ``request_finished`` is sent when the response has been taken."""
        source = message("/sending/", self.layer)
        messages = AsgiHandler()(source)
        self.assertEqual(next(messages)["content"], b"one")
        self.assertEqual((self.signals.started, self.signals.finished), ([(AsgiHandler, source)], 0))
        self.assertEqual([sent["content"] for sent in messages], [b"", b"two", b""])
        self.assertEqual(self.signals.finished, 1)

    def test_response_not_taken(self) -> None:
        """A response of which not all is wanted is closed all the same."""
        messages: Any = AsgiHandler()(message("/sending/", self.layer))
        next(messages)
        messages.close()
        self.assertEqual((events[-1], self.signals.finished), ("closed", 1))

    def test_root_path(self) -> None:
        """Below a mount point URLs are made with it."""
        (sent,) = self.handle("/app/plain/", root_path="/app")
        self.assertEqual(sent["content"], b"GET /app/plain/ /app/plain/")
        (sent,) = self.handle("/plain/")
        self.assertEqual(sent["content"], b"GET /plain/ /plain/")

    def test_errors_of_the_view(self) -> None:
        """404 and 500 are Django's pages."""
        self.assertEqual([sent["status"] for sent in self.handle("/nowhere/")], [404])
        self.assertEqual([sent["status"] for sent in self.handle("/missing/")], [404])
        self.assertEqual([sent["status"] for sent in self.handle("/fail/")], [500])

    def test_header_not_ascii(self) -> None:
        """A header's name that is not ASCII: 400."""
        with self.assertLogs("channelserver.handler", "WARNING"):
            (sent,) = self.handle("/plain/", headers=[[b"x-\xe9", b"1"]])
        self.assertEqual(sent["status"], 400)

    def test_body_timeout(self) -> None:
        """A body that does not come in time: 408."""
        with mock.patch("channelserver.workers.request._collect_body", side_effect=RequestTimeout):
            (sent,) = self.handle("/plain/", body_channel="http.request.body?x")
        self.assertEqual((sent["status"], events), (408, []))

    def test_body_aborted(self) -> None:
        """A client that left before its body was complete: no response."""
        self.layer.send("http.request.body?x", {"closed": True})
        self.assertEqual(self.handle("/plain/", body_channel="http.request.body?x"), [])
        self.assertEqual(events, [])

    def test_response_later(self) -> None:
        """``ResponseLater``: no response, but the request ends."""
        self.assertEqual(self.handle("/later/"), [])
        self.assertEqual(self.signals.finished, 1)

    @override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=10)
    def test_body_too_big(self) -> None:
        """More than ``DATA_UPLOAD_MAX_MEMORY_SIZE``: 400."""
        headers = [[b"content-length", b"11"]]
        (sent,) = self.handle("/body/", method="POST", headers=headers, body=b"0123456789a")
        self.assertEqual(sent["status"], 400)

    @override_settings(DATA_UPLOAD_MAX_NUMBER_FIELDS=2)
    def test_too_many_fields(self) -> None:
        """More than ``DATA_UPLOAD_MAX_NUMBER_FIELDS``: 400."""
        headers = [[b"content-type", b"application/x-www-form-urlencoded"], [b"content-length", b"5"]]
        (sent,) = self.handle("/many_fields/", method="POST", headers=headers, body=b"a&b&c")
        self.assertEqual(sent["status"], 400)

    def test_form(self) -> None:
        """A form with a file."""
        headers = [[b"content-type", MULTIPART_TYPE], [b"content-length", b"%d" % len(MULTIPART)]]
        (sent,) = self.handle("/form/", method="POST", headers=headers, body=MULTIPART)
        self.assertEqual(sent["content"], b"value the file")

    def test_uploaded_files_are_closed(self) -> None:
        """At the end of the response the files of the request are closed."""
        headers = [[b"content-type", MULTIPART_TYPE], [b"content-length", b"%d" % len(MULTIPART)]]
        self.handle("/form/", method="POST", headers=headers, body=MULTIPART)
        self.assertTrue(uploaded.pop().closed)

    def test_middleware_is_loaded_once(self) -> None:
        """A handler serves any number of requests with the same middleware."""
        handler = AsgiHandler()
        with override_settings(MIDDLEWARE=["no.such.middleware"]):
            for _ in range(3):
                self.assertEqual(next(handler(message("/plain/", self.layer)))["status"], 200)
        self.assertEqual(len(events), 6)


class ViewConsumerTests(ViewTestCase):
    """The consumer of ``http.request``."""

    def consume(self, path: str, **content: Any) -> None:
        """Consume a message, as a worker does."""
        with outbox.Outbox(lambda *_: self.fail("nothing should wait")) as collected:
            ViewConsumer()(message(path, self.layer, **content))
        collected.flush()

    def test_plain(self) -> None:
        """The response is one message to the reply channel."""
        self.consume("/plain/")
        (sent,) = self.sent()
        self.assertEqual((sent["status"], sent["content"]), (200, b"GET /plain/ /plain/"))
        self.assertFalse(sent.get("more_content"))
        self.assertEqual(self.signals.finished, 1)

    def test_outside_a_worker(self) -> None:
        """It works without an outbox as well."""
        ViewConsumer()(message("/plain/", self.layer))
        self.assertEqual([sent["status"] for sent in self.sent()], [200])

    def test_stream(self) -> None:
        """A stream's parts are messages, without the empty ones; the iterator is closed at the end."""
        for view in ("sending", "asynchronous_stream"):
            events.clear()
            self.consume(f"/{view}/")
            first, *others, last = self.sent()
            self.assertEqual((first["status"], first["more_content"]), (200, True))
            self.assertEqual(last, {"content": b"", "more_content": False})
            expected = b"onetwo" if view == "sending" else b"012"
            self.assertEqual(b"".join(sent["content"] for sent in others), expected)
            self.assertTrue(all(sent["content"] and sent["more_content"] for sent in others))
            self.assertIn("closed", events)

    def test_view_sends_before_the_body(self) -> None:
        """What the view held back is sent when it has returned, and before its body begins."""
        dispatched: list[str] = []
        dispatch = self.layer.dispatch

        def noting(channel: str, content: dict[str, Any]) -> None:
            dispatched.append(channel)
            events.append(f"sent to {channel}")
            dispatch(channel, content)

        self.layer.dispatch = noting  # type: ignore[method-assign]
        self.consume("/sending/")
        self.assertEqual(dispatched[0], "noted")
        self.assertLess(events.index("sent to noted"), events.index("begin"))

    def test_view_fails(self) -> None:
        """What a view held back that failed is dropped; Django's page is sent."""
        self.consume("/fail/")
        self.assertEqual([sent["status"] for sent in self.sent()], [500])
        self.assertEqual(self.sent("noted"), [])

    def test_response_later(self) -> None:
        """``ResponseLater`` is no failure: what the view held back is sent, but no response."""
        self.consume("/later/")
        self.assertEqual(self.sent(), [])
        self.assertEqual(self.sent("noted"), [{"from": "a view that answers later"}])

    def test_body_breaks_off(self) -> None:
        """A body that fails half-way is logged, and the client is told."""
        with self.assertLogs("channelserver.handler", "ERROR") as logged:
            self.consume("/breaking/")
        self.assertIn("ValueError: the body failed", logged.output[0])
        first, part, last = self.sent()
        self.assertEqual((first["status"], part["content"], last), (200, b"begin", {FAILED: 500}))

    def test_client_gone(self) -> None:
        """When nobody takes the parts any more, the iterator is closed, and no more of it is read."""
        for view, closed in (("sending", ["begin", "closed"]), ("asynchronous_stream", ["closed"])):
            events.clear()
            with mock.patch.object(self.layer, "dispatch_waiting", return_value=False) as waiting:
                self.consume(f"/{view}/")
            self.assertEqual(waiting.call_count, 1)
            self.assertEqual(events[2:], closed)
            self.sent()

    def test_timeout(self) -> None:
        """The parts wait for the client as long as the consumer was told."""
        with mock.patch.object(self.layer, "dispatch_waiting", return_value=True) as waiting:
            ViewConsumer(timeout=7)(message("/sending/", self.layer))
        self.assertEqual({call.args[2] for call in waiting.call_args_list}, {7})

    def test_file(self) -> None:
        """A file is sent in blocks."""
        self.consume("/file/")
        _, *blocks, _ = self.sent()
        self.assertEqual(b"".join(sent["content"] for sent in blocks), b"x" * 300_000)
        self.assertEqual({len(sent["content"]) for sent in blocks[:-1]}, {ViewConsumer.block_size})

    def test_own_handler(self) -> None:
        """A handler of the application's own."""

        class Handler(AsgiHandler):
            def get_response(self, request: Any) -> HttpResponse:
                return HttpResponse("own")

        ViewConsumer(Handler())(message("/nowhere/", self.layer))
        self.assertEqual([sent["content"] for sent in self.sent()], [b"own"])
