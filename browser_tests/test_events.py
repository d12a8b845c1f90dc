"""``EventSource`` in Chromium, on event streams that the reactor holds."""

from __future__ import annotations

import re
import textwrap

from playwright.sync_api import Page

from browser_tests.case import PATIENCE, BrowserTestCase, ChatSite
from tests.process import FILES

SETTINGS = """
MIDDLEWARE = []
"""

URLS = """
    from django.http import HttpResponse
    from django.urls import path

    from channelserver import EventStream, Group

    PAGE = '''<!doctype html><link rel="icon" href="data:,"><title>events</title><script>
        window.notes = [];
        window.source = new EventSource("/events/");
        source.onmessage = (event) => notes.push(event.data);
        source.addEventListener("news", (event) => notes.push(`${event.lastEventId} ${event.data}`));
    </script>'''

    def page(request):
        return HttpResponse(PAGE)

    def events(request):
        return EventStream(["news"], first=[f"after {request.headers.get('Last-Event-ID')}"], retry=100)

    def send(request):
        Group("news").send({"event": "news", "id": request.GET["id"], "data": request.body.decode()})
        return HttpResponse()

    urlpatterns = [path("", page), path("events/", events), path("send/", send)]
"""

#: What Chromium writes when a stream ends or there is no server.
GONE = re.compile(r"net::ERR_")


class EventSite(ChatSite):
    """A site made of the files above."""

    def __init__(self) -> None:
        super().__init__()
        files = {**FILES, "settings.py": FILES["settings.py"] + SETTINGS, "urls.py": URLS}
        for name, text in files.items():
            (self.folder / name).write_text(textwrap.dedent(text))

    def options(self) -> list[str]:
        return ["--settings", "settings"]


class EventSourceTests(BrowserTestCase):
    """A page that listens."""

    def make_site(self) -> ChatSite:
        return EventSite()

    def send(self, page: Page, number: str, data: str) -> None:
        """Send an event to the group."""
        page.evaluate(
            "([id, body]) => fetch(`/send/?id=${id}`, { method: 'POST', body }).then((answer) => answer.text())",
            [number, data],
        )

    def assertNotes(self, page: Page, *wanted: str) -> None:
        """Wait until the page has noted these events, in this order, and nothing else; forget them."""
        page.wait_for_function("(number) => notes.length >= number", arg=len(wanted), timeout=PATIENCE * 1000)
        self.assertEqual(page.evaluate("notes.splice(0)"), list(wanted))

    def test_comes_back(self) -> None:
        """The server stops, in an orderly way, and is started again: Chromium comes back by itself, after the time that
        ``retry`` says, and tells the last event that it has seen.
        """
        page = self.visitor()
        page.goto(self.site.url)
        self.assertNotes(page, "after None")
        self.send(page, "17", "one\r\ntwo \U0001f600")
        self.assertNotes(page, "17 one\ntwo \U0001f600")
        with self.errors_expected(GONE):
            self.assertEqual(self.site.stop(), 0)
            self.site.start()
            self.assertNotes(page, "after 17")
        self.send(page, "18", "again")
        self.assertNotes(page, "18 again")
        self.assertEqual(page.evaluate("source.readyState"), 1)
        page.evaluate("source.close()")
