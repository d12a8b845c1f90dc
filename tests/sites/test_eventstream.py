"""A site with django-eventstream on the real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import requests

from tests.process import Server, ServerTestCase, project, wait_until
from tests.sites import needs

Events = Iterator[tuple[str, str]]


def subscribe(stack: ExitStack, server: Server, room: str, **headers: str) -> Events:
    """Open an event stream; yield the type and the data of each event."""
    answer = stack.enter_context(server.get(f"/rooms/{room}/events/", stream=True, headers=headers))
    assert answer.headers["Content-Type"] == "text/event-stream", answer.headers

    def events() -> Events:
        kind = "message"
        for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name.startswith("data"):
                yield kind, value
                kind = "message"

    found = events()
    assert next(found)[0] == "stream-open"
    return found


@needs("django_eventstream")
class EventStreamLibraryTests(ServerTestCase):
    """Subscribe, publish, receive."""

    files = project("eventstream_site")
    migrate = True
    extra_settings = 'INSTALLED_APPS += ["django_eventstream"]\n'
    arguments = ("--threads", "1")

    def test_events(self) -> None:
        """Twenty open streams hold no thread; each gets what its room gets, and the next after a pause."""
        server = self.start(*self.arguments)
        with ExitStack() as stack:
            listeners = [subscribe(stack, server, "one") for _ in range(20)]
            other = subscribe(stack, server, "two")
            self.assertEqual(server.get("/plain/").text, "plain")
            for text in ("first", "zweite Ä"):
                self.assertEqual(server.post("/publish/one/", data={"text": text}).text, "published")
                for listener in listeners:
                    kind, data = next(listener)
                    self.assertEqual((kind, json.loads(data)), ("message", {"text": text}))
            server.post("/publish/two/", data={"text": "for two"})
            self.assertEqual(json.loads(next(other)[1]), {"text": "for two"})
        # They have left: their coroutines end.
        wait_until(lambda: server.get("/-/health").json()["coroutines"] == 0, "the end of the streams")

    def test_stop(self) -> None:
        """The server stops beside an open stream."""
        server = self.start(*self.arguments, "--drain-timeout", "1")
        with ExitStack() as stack:
            listener = subscribe(stack, server, "one")
            self.assertEqual(server.stop(), 0)
            try:
                self.assertEqual(list(listener), [])
            except requests.RequestException:
                pass  # broken off, as the client must notice
