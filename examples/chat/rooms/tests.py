"""Tests of the real-time side: consumers run here in the test's own thread and transaction, without a server."""

import uuid
from datetime import timedelta
from unittest import skipUnless

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import TestCase, override_settings
from django.utils import timezone

from channelserver import Channel
from channelserver.exceptions import DenyConnection
from channelserver.test import ChannelTestCase, WSClient

from .models import ChatMessage, Room
from .pulse import event


class RoomTests(ChannelTestCase):
    def setUp(self):
        super().setUp()
        self.room = Room.objects.create(name="Kitchen", slug="kitchen")
        self.path = "/ws/room/kitchen/"

    def enter(self, name):
        """Return a client in the room, which has received what everybody gets at first."""
        client = WSClient(ordered=True)
        client.force_login(get_user_model().objects.create_user(name))
        client.send_and_consume("websocket.connect", path=self.path)
        return client

    def received(self, client, kind):
        """Return what a client has received of a kind."""
        frames = iter(client.receive, None)
        return [frame for frame in frames if frame["type"] == kind]

    def test_strangers_are_not_let_in(self):
        client = WSClient()
        with self.assertRaises(DenyConnection):
            client.send_and_consume("websocket.connect", path=self.path)

    def test_a_line_is_stored_and_shown_to_the_room(self):
        anna, bert = self.enter("anna"), self.enter("bert")
        line = {"type": "line", "text": "Is the kettle on?", "key": str(uuid.uuid4())}
        anna.send_and_consume("websocket.receive", text=line, path=self.path)
        anna.consume("chat-messages")
        for client in (anna, bert):
            self.assertEqual([shown["text"] for shown in self.received(client, "line")], ["Is the kettle on?"])
        self.assertEqual(
            ChatMessage.objects.values_list("author__username", "text").get(), ("anna", "Is the kettle on?")
        )

    def test_a_line_that_was_sent_twice_is_stored_once(self):
        anna = self.enter("anna")
        line = {"type": "line", "text": "Hello?", "key": str(uuid.uuid4())}
        for _ in range(2):
            anna.send_and_consume("websocket.receive", text=line, path=self.path)
            anna.consume("chat-messages")
        self.assertEqual(ChatMessage.objects.count(), 1)
        self.assertEqual(len(self.received(anna, "line")), 2)

    def test_an_empty_line_is_refused(self):
        anna = self.enter("anna")
        anna.send_and_consume("websocket.receive", text={"type": "line", "text": " "}, path=self.path)
        self.assertEqual(len(self.received(anna, "error")), 1)
        self.assertNotSent("chat-messages")

    def test_history(self):
        for text in ("one", "two"):
            Channel("chat-messages").send({"room": self.room.pk, "author": None, "text": text}, immediately=True)
            WSClient().consume("chat-messages")
        (welcome,) = self.received(self.enter("anna"), "welcome")
        self.assertEqual([line["text"] for line in welcome["lines"]], ["one", "two"])

    def test_who_is_there(self):
        anna, bert = self.enter("anna"), self.enter("bert")
        self.assertEqual([frame["count"] for frame in self.received(anna, "came")], [1, 2])
        bert.send_and_consume("websocket.disconnect", {"code": 1000}, path=self.path)
        (left,) = self.received(anna, "went")
        self.assertEqual((left["person"]["name"], left["count"]), ("bert", 1))

    @skipUnless(apps.is_installed("channelserver.jobs"), 'pip install "channelserver[jobs]"')
    def test_digest(self):
        """Rooms in which people have talked get one line, however often the job runs."""
        from channelserver.jobs import run_jobs

        from . import tasks

        now = timezone.now()
        end = now.replace(minute=now.minute // tasks.MINUTES * tasks.MINUTES, second=0, microsecond=0)
        anna = get_user_model().objects.create_user("anna")
        Room.objects.create(name="Garden", slug="garden")
        for minutes in (1, 2, tasks.MINUTES + 1):
            self.room.lines.create(author=anna, text="tea", at=end - timedelta(minutes=minutes))
        for _ in range(2):
            tasks.digest.enqueue()
            run_jobs()
            WSClient().consume("chat-messages")
        digest = ChatMessage.objects.get(author=None)
        self.assertEqual((digest.room, digest.text), (self.room, "The last 10 minutes: 2 messages by 1 person."))


# The site's own storage needs collectstatic.
@override_settings(STORAGES={"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}})
class PageTests(TestCase):
    """The pages, with Django's own test client."""

    def enter(self, name):
        return self.client.post("/enter/", {"name": name, "next": "/server/"})

    def open(self, name):
        """Open a room, return where it is."""
        return self.client.post("/", {"name": name}).url

    def test_a_name_is_enough(self):
        self.assertRedirects(self.client.get("/"), "/enter/?next=/")
        self.assertRedirects(self.enter("\u2068Anna  Bell\u2069"), "/server/")
        self.assertEqual(get_user_model().objects.get().username, "Anna Bell")
        self.assertFalse(get_user_model().objects.get().has_usable_password())

    def test_names_that_are_refused(self):
        get_user_model().objects.create_user("anna")
        for name in ("", "Anna", "an\u202ena", "\u200d", "x" * 41, "a\0b"):
            form = self.enter(name).context["form"]
            self.assertEqual(len(form.errors["name"]), 1, name)

    def test_rooms_of_different_names_are_different(self):
        self.enter("anna")
        names = ["C", "C++", "C#", "c", "C-", "Tea time", "tea-time", "Café", "Cafe", "\U0001f600", "\U0001f601", "...",
                 "حديقة", "x" * 60, "x" * 59 + "y"]  # fmt: skip
        places = [self.open(name) for name in names]
        self.assertEqual(len(set(places)), len(names))
        self.assertEqual([self.open(f" {name} ") for name in names], places)
        groups = {room.group_name for room in Room.objects.all()}
        self.assertEqual(len(groups), len(names))
        for name, place in zip(names, places, strict=True):
            self.assertContains(self.client.get(place), f"<bdi>{name}</bdi></h1>")

    def test_welcome(self):
        for _ in range(2):
            call_command("welcome")
        self.assertEqual(Room.objects.get().lines.count(), 3)

    def test_what_the_server_is_doing(self):
        self.enter("anna")
        self.assertContains(self.client.get("/server/"), "/server/events/")
        events = self.client.get("/server/events/")
        self.assertEqual((events.groups, events.first), (["pulse"], [event()]))
