"""Settings, headers and patterns: the functions that replace Django's have the same results."""

from __future__ import annotations

from functools import partial
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.test import override_settings
from twisted.trial.unittest import SynchronousTestCase

from channelserver.workers.django_fast import is_coroutine_function
from tests.process import SharedServerTestCase, project

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

    files = project("django_fast")
    extra_settings = 'ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]\n'

    def test_replaced(self) -> None:
        """The server uses them."""
        self.assertEqual(
            self.server.get("/where/").json(), [["channelserver.workers.django_fast"] * 4, ["Pattern"] * 3]
        )

    def test_same(self) -> None:
        """The results and the errors are the same."""
        names: dict[str, Any] = {}
        exec(project("django_fast")["examples.py"], names)
        with override_settings(ALLOWED_HOSTS=["127.0.0.1", "localhost", "[::1]"]):
            wanted = names["examples"]()
        found = self.server.get("/examples/").json()
        for there, here in zip(found, wanted, strict=True):
            self.assertEqual(there, here)


class CoroutineTests(SynchronousTestCase):
    """Whether a function is a coroutine function."""

    def test_kinds(self) -> None:
        """It is known of everything that can be a view, also of what cannot be a key."""

        class View:
            __hash__ = None  # type: ignore[assignment]

            def __call__(self, request: Any) -> None: ...

            async def get(self, request: Any) -> None: ...

        marked = markcoroutinefunction(View())
        for _ in range(2):
            for view, wanted in ((View(), False), (marked, True), (View().get, True), (partial(View().get, 1), True)):
                self.assertIs(is_coroutine_function(view), wanted)
                self.assertIs(is_coroutine_function(view), iscoroutinefunction(view))


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
