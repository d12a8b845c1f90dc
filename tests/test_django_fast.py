"""Django's objects answer as they do without the shorter ways to look into them."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

from django.test import override_settings

from tests.process import SharedServerTestCase

#: Run here, by Django alone, and in the server.
EXAMPLES = """
    from django.core.signing import Signer
    from django.http import HttpRequest, HttpResponse
    from django.http.response import ResponseHeaders

    NAMES = ["Plain", "", "X-Y", "Ümlaut", "two\\nlines", "tab\\tbed", b"Bytes", b"\\xff", 5, None, ["list"]]
    VALUES = ["text", "", "ümlaut", "日本", "two\\r\\nlines", "tab\\tbed", "\\x7f", b"bytes", b"\\xff\\n", 5, None, []]

    def result(function, *arguments):
        try:
            return repr(function(*arguments))
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def fields():
        for name in NAMES:
            for value in VALUES:
                headers = ResponseHeaders({"first": "1"})
                yield result(headers.__setitem__, name, value)
                yield repr(headers._store)

    def looked_up():
        headers = ResponseHeaders({"Content-Type": "text/plain", "EMPTY": ""})
        for name in ["content-type", "CONTENT-TYPE", "empty", "missing", *NAMES]:
            yield result(headers.__contains__, name)
            yield result(headers.get, name)
            yield result(headers.get, name, "other")
            yield result(lambda: headers.get(key=name, default="other"))
            yield result(headers.__getitem__, name)
            yield result(headers.setdefault, name, "new")
            yield repr(headers._store)

    def hosts():
        for host in ["localhost", "LOCALHOST:80", "[::1]:80", "a b", "", "x_y", "other.test", "localhost:x"]:
            request = HttpRequest()
            request.META["HTTP_HOST"] = host
            yield result(request.get_host)

    def charsets():
        for kind in ["text/plain", "text/plain; charset=latin-1", 'a/b; Charset="UTF-16"', "a/b; charset="]:
            yield result(HttpResponse("é", content_type=kind).getvalue)

    def separators():
        for separator in [":", "-", "a", "", "::"]:
            yield result(lambda: Signer(sep=separator, key="k").sign("text"))

    def examples():
        return [list(part()) for part in (fields, looked_up, hosts, charsets, separators)]
"""

URLS = """
    from django.conf import settings
    from django.core import signing
    from django.http import JsonResponse, request, response
    from django.urls import path

    import examples

    def where(request_):
        headers = response.ResponseHeaders
        functions = headers.__contains__, headers.get, headers.__setitem__
        patterns = request.host_validation_re, response._charset_from_content_type_re, signing._SEP_UNSAFE
        names = [function.__module__ for function in functions]
        return JsonResponse([names, [type(pattern).__name__ for pattern in patterns]], safe=False)

    urlpatterns = [
        path("examples/", lambda request_: JsonResponse(examples.examples(), safe=False)),
        path("where/", where),
    ]
"""

FOREIGN = """
from functools import wraps
from django.http.response import ResponseHeaders

original = ResponseHeaders.__setitem__

@wraps(original)
def put_in(self, name, value):
    original(self, name, value.replace("secret", "hidden") if isinstance(value, str) else value)

def get(self, name, default=None):
    return "mine"

ResponseHeaders.__setitem__ = put_in
ResponseHeaders.get = get
"""


class ExamplesTests(SharedServerTestCase):
    """A site, and this process, in which nothing is replaced."""

    files = {"examples.py": EXAMPLES, "urls.py": URLS}
    extra_settings = 'ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]\n'

    def test_shorter(self) -> None:
        """The server has the shorter ways."""
        self.assertEqual(
            self.server.get("/where/").json(), [["channelserver.workers.django_fast"] * 3, ["Pattern"] * 3]
        )

    def test_same(self) -> None:
        """They lead to the same results, and to the same errors."""
        names: dict[str, Any] = {}
        exec(dedent(EXAMPLES), names)
        with override_settings(ALLOWED_HOSTS=["127.0.0.1", "localhost", "[::1]"]):
            wanted = names["examples"]()
        found = self.server.get("/examples/").json()
        for there, here in zip(found, wanted, strict=True):
            self.assertEqual(there, here)


class ForeignFieldsTests(SharedServerTestCase):
    """A project with a package that has put functions of its own into the fields of responses."""

    files = {"urls.py": """
    from django.http import HttpResponse
    from django.urls import path

    def look(request):
        response = HttpResponse(headers={"X-Told": "a secret"})
        response.content = str(response.headers.get("X-Told"))
        return response

    urlpatterns = [path("", look)]
    """}  # fmt: skip
    extra_settings = FOREIGN

    def test_kept(self) -> None:
        """They stay."""
        response = self.server.get("/")
        self.assertEqual((response.text, response.headers["X-Told"]), ("mine", "a hidden"))
        self.server.wait_for("on but for response header assignment, response header lookups, whose code")
