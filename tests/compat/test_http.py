"""HTTP: ``channels.handler`` and ``channels.staticfiles``."""

from __future__ import annotations

import io
import types

from channels import Channel, route
from channels.exceptions import RequestAborted, RequestTimeout, ResponseLater
from channels.handler import AsgiHandler, AsgiRequest, ViewConsumer
from channels.message import Message
from channels.staticfiles import StaticFilesConsumer, StaticFilesHandler
from channels.test import Client, apply_routes
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import path

from tests.compat import ChannelCase, by_own_names_too


def show(request):
    """A view."""
    Channel("seen").send({"path": request.path})
    return HttpResponse(f"{request.method} {request.path} {request.GET.get('a')} {request.POST.get('b')}")


def later(request):
    """A view whose answer somebody else sends."""
    raise request.ResponseLater()


def stream(request):
    """A view that answers in parts."""
    return StreamingHttpResponse(iter([b"one", b"two"]))


URLS = types.ModuleType(__name__ + "_urls")
URLS.urlpatterns = [path("show/", show), path("later/", later), path("stream/", stream)]


class RequestTests(ChannelCase):
    """``AsgiRequest``."""

    def request(self, **content) -> AsgiRequest:
        content = {"reply_channel": "reply", "method": "get", "path": "/a/", **content}
        return AsgiRequest(Message(content, "http.request", self.layer))

    def setUp(self) -> None:
        self.layer = Channel("any").channel_layer.channel_layer

    def test_attributes(self) -> None:
        request = self.request(
            root_path="/mount", path="/mount/a/", query_string=b"a=1&b=%C3%A9", scheme="https",
            headers=[[b"host", b"example.com"], [b"cookie", b"c=1"], [b"x-two", b"1"], [b"x-two", b"2"]],
            client=["1.2.3.4", 567], server=["example.com", 443],
        )  # fmt: skip
        self.assertEqual((request.method, request.path, request.path_info), ("GET", "/mount/a/", "/a/"))
        self.assertEqual((request.script_name, request.scheme), ("/mount", "https"))
        self.assertEqual(request.GET.dict(), {"a": "1", "b": "é"})
        self.assertEqual(request.COOKIES, {"c": "1"})
        meta = request.META
        self.assertEqual((meta["REMOTE_ADDR"], meta["REMOTE_HOST"], meta["REMOTE_PORT"]), ("1.2.3.4", "1.2.3.4", 567))
        self.assertEqual((meta["SERVER_NAME"], meta["SERVER_PORT"]), ("example.com", "443"))
        self.assertEqual((meta["HTTP_X_TWO"], meta["QUERY_STRING"]), ("1, 2", "a=1&b=%C3%A9"))
        self.assertEqual(request.reply_channel.name, "reply")
        self.assertEqual(request.body_receive_timeout, 60)
        self.assertIs(request.ResponseLater, ResponseLater)

    def test_without_the_optional_keys(self) -> None:
        meta = self.request().META
        self.assertEqual((meta["SERVER_NAME"], meta["SERVER_PORT"]), ("unknown", "0"))
        self.assertEqual(self.request(headers={"x-name": b"value"}).META["HTTP_X_NAME"], "value")

    def test_a_form(self) -> None:
        headers = [[b"content-type", b"application/x-www-form-urlencoded"], [b"content-length", b"7"]]
        request = self.request(method="POST", headers=headers, body=b"a=1&b=2")
        self.assertEqual((request.POST.dict(), request.META["CONTENT_LENGTH"]), ({"a": "1", "b": "2"}, "7"))

    def test_a_body_in_parts(self) -> None:
        name = self.layer.new_channel("http.request.body?")
        self.layer.send(name, {"content": b" and", "more_content": True})
        self.layer.send(name, {"content": b" more"})
        self.assertEqual(self.request(body=b"some", body_channel=name).body, b"some and more")

    def test_a_body_that_breaks_off(self) -> None:
        name = self.layer.new_channel("http.request.body?")
        self.layer.send(name, {"closed": True})
        with self.assertRaises(RequestAborted):
            self.request(body_channel=name).body  # noqa: B018
        self.assertTrue(issubclass(RequestTimeout, Exception))


class EncodeTests(ChannelCase):
    """``AsgiHandler.encode_response`` and ``chunk_bytes``."""

    def test_a_response(self) -> None:
        response = HttpResponse("hey", status=201, content_type="text/plain")
        response.set_cookie("a", "b")
        (message,) = AsgiHandler.encode_response(response)
        self.assertEqual((message["status"], message["content"], message["more_content"]), (201, b"hey", False))
        headers = [tuple(header) for header in message["headers"]]
        self.assertIn((b"Content-Type", b"text/plain"), headers)
        self.assertIn((b"Set-Cookie", b"a=b; Path=/"), headers)

    def test_large_and_empty_contents(self) -> None:
        self.assertEqual(AsgiHandler.chunk_size, 512 * 1024)
        parts = list(AsgiHandler.encode_response(HttpResponse(b"x" * (AsgiHandler.chunk_size + 1))))
        self.assertEqual([(len(part["content"]), part["more_content"]) for part in parts], [(524288, True), (1, False)])
        self.assertNotIn("status", parts[1])
        self.assertEqual(list(AsgiHandler.chunk_bytes(b"")), [(b"", True)])

    def test_streams(self) -> None:
        for response in (StreamingHttpResponse(iter([b"one", b"two"])), FileResponse(io.BytesIO(b"onetwo"))):
            parts = list(AsgiHandler.encode_response(response))
            self.assertEqual(b"".join(part["content"] for part in parts), b"onetwo")
            self.assertEqual([part["more_content"] for part in parts], [True] * (len(parts) - 1) + [False])
            self.assertEqual((parts[0]["status"], parts[-1]["content"]), (200, b""))
        (part,) = AsgiHandler.encode_response(StreamingHttpResponse(iter([])))
        self.assertEqual((part["status"], part["more_content"]), (200, False))


@override_settings(ROOT_URLCONF=URLS, STATIC_URL="/static/")
class ViewTests(ChannelCase):
    """``AsgiHandler`` and ``ViewConsumer``."""

    def answer(self, consumer, **content) -> list:
        client = Client()
        with apply_routes([route("http.request", consumer)]):
            client.send_and_consume("http.request", {"method": "GET", "headers": [[b"host", b"localhost"]], **content})
        return list(iter(client.receive, None))

    def test_a_view(self) -> None:
        (answer,) = self.answer(ViewConsumer(), path="/show/", query_string=b"a=1")
        self.assertEqual((answer["status"], answer["content"]), (200, b"GET /show/ 1 None"))
        self.assertEqual(self.get_next_message("seen")["path"], "/show/")

    def test_the_handler_by_itself(self) -> None:
        message = Message({"method": "GET", "path": "/show/", "reply_channel": "a"}, "http.request", None)
        (answer,) = AsgiHandler()(message)
        self.assertEqual((answer["status"], answer["content"]), (200, b"GET /show/ None None"))

    def test_a_stream(self) -> None:
        answers = self.answer(ViewConsumer(), path="/stream/")
        self.assertEqual(b"".join(answer.get("content", b"") for answer in answers), b"onetwo")
        self.assertEqual([answer.get("more_content", False) for answer in answers][-1], False)

    def test_no_view(self) -> None:
        self.assertEqual(self.answer(ViewConsumer(), path="/nothing/")[0]["status"], 404)

    def test_an_answer_that_somebody_else_sends(self) -> None:
        self.assertEqual(self.answer(ViewConsumer(), path="/later/"), [])

    @override_settings(INSTALLED_APPS=["django.contrib.staticfiles", "django.contrib.admin"], DEBUG=True)
    def test_static_files(self) -> None:
        for consumer in (StaticFilesConsumer(), ViewConsumer(StaticFilesHandler())):
            answers = self.answer(consumer, path="/static/admin/css/base.css")
            self.assertEqual(answers[0]["status"], 200)
            self.assertIn(b"DJANGO Admin", b"".join(answer.get("content", b"") for answer in answers))
            self.assertEqual(self.answer(consumer, path="/static/nothing.css")[0]["status"], 404)
            self.assertEqual(self.answer(consumer, path="/show/")[0]["status"], 200)


by_own_names_too(globals())
