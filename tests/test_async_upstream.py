"""Asynchronous views that wait for others: clients, locks and tasks of a module, under one server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.process import ServerTestCase, SharedServerTestCase, project, wait_until

FILES = project("upstream")
#: Django's default seven.
DEFAULT_MIDDLEWARE = """
INSTALLED_APPS += ["django.contrib.messages"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
"""


class UpstreamTests(SharedServerTestCase):
    """A project with a client of ``httpx`` and a lock at module level, and two worker threads."""

    files = FILES
    arguments = ("--threads", "2")

    def ask(self, *paths: str) -> list[str]:
        """Ask for pages, all at once; return their texts."""
        with ThreadPoolExecutor(len(paths)) as pool:
            answers = list(pool.map(self.server.get, paths))
        self.assertEqual({answer.status_code for answer in answers}, {200})
        return [answer.text for answer in answers]

    def test_client_of_a_module(self) -> None:
        """Twenty asynchronous views at once use it, again and again."""
        for _ in range(3):
            found = self.ask(*[f"/ask/?n={n}" for n in range(20)])
            self.assertEqual(found, [f"source {n}, source {n}" for n in range(20)])

    def test_client_in_plain_views(self) -> None:
        """So do plain views, by ``async_to_sync``, as many at once as leave a thread to the other service."""
        for n in range(10):
            paths = [f"/ask-in-thread/?n={n}", *[f"/ask/?n={n}"] * 5]
            self.assertEqual(self.ask(*paths), [f"source {n}, source {n}"] * 6)

    def test_streams(self) -> None:
        """An upstream that the view has opened is read in the generator; a task feeds a stream."""
        self.assertEqual(self.ask(*["/pass-on/", "/fed/"] * 10), ["0 1 2 3 4 "] * 20)

    def test_task_after_the_answer(self) -> None:
        """It goes on when the request is over, and so does the client."""
        self.assertEqual(self.ask("/late/"), ["begun"])
        wait_until(lambda: self.ask("/result/") == ["source late"], "the result")


class HopTests(ServerTestCase):
    """Changes of threads."""

    files = FILES
    extra_settings = DEFAULT_MIDDLEWARE
    migrate = True

    def hops(self, *arguments: str) -> list[str]:
        """Return how often something was handed to a thread during each of some requests."""
        server = self.start(*arguments)
        server.get("/count-hops/")
        found = [server.get("/count-hops/").text for _ in range(3)]
        self.assertEqual(server.stop(), 0)
        return found

    def test_anonymous(self) -> None:
        """An anonymous GET through the default middleware never leaves the event loop; without shortcuts it does."""
        self.assertEqual(self.hops(), ["0", "0", "0"])
        self.assertNotIn("0", self.hops("--no-shortcuts"))
