"""Tests of the chat without a server: ``manage.py test``.

``WSClient`` plays a browser: what it sends runs through the routing into the consumers, what they answer it receives.
"""

import json
import uuid
from datetime import timedelta

from django.contrib.auth import get_user_model
from django.test import TestCase, override_settings
from django.utils import timezone

from channelserver.test import ChannelTestCase, WSClient

from . import presence
from .forms import LineForm
from .models import LEASE, ChatMessage, Presence, Room
from .people import initials

# The storage of the settings needs "collectstatic" first.
PLAIN_STATIC_FILES = override_settings(
    STORAGES={"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
)


class Guest(WSClient):
    """A browser of a user, with a page of a room open."""

    def __init__(self, name, room):
        super().__init__()
        self.user, _ = get_user_model().objects.get_or_create(username=name)
        self.force_login(self.user)
        self.path = f"/ws/room/{room}/"

    def connect(self, query=""):
        """Connect; return the welcome and the roster."""
        content = {"query_string": query.encode()}
        self.send_and_consume("websocket.connect", content, path=self.path)
        return self.receive(), self.receive()

    def say(self, text, key=None):
        """Send a line; have it stored."""
        self.send_frame({"type": "line", "key": key or str(uuid.uuid4()), "text": text})
        self.consume("chat-messages", fail_on_none=False)

    def send_frame(self, frame):
        self.send_and_consume("websocket.receive", text=frame, path=self.path)

    def leave(self):
        self.send_and_consume("websocket.disconnect", {"code": 1001}, path=self.path)

    def messages(self, kind):
        """What has come since the last look, of one type."""
        received = []
        while (message := self.receive()) is not None:
            received.append(message)
        return [message for message in received if message["type"] == kind]


class ConversationTests(ChannelTestCase):
    def setUp(self):
        self.kitchen = Room.objects.create(name="Kitchen", slug="kitchen")
        Room.objects.create(name="Garden", slug="garden")

    def test_a_line_reaches_the_room(self):
        ada, ben, cora = Guest("ada", "kitchen"), Guest("ben", "kitchen"), Guest("cora", "garden")
        for guest in (ada, ben, cora):
            guest.connect()
        ada.say("  Good\r\nmorning ")
        for guest in (ada, ben):
            (line,) = guest.messages("line")
            self.assertEqual((line["author"]["name"], line["text"]), ("ada", "Good\nmorning"))
        self.assertEqual(cora.messages("line"), [])
        self.assertEqual(ChatMessage.objects.get().room, self.kitchen)

    def test_a_line_sent_again_is_stored_once(self):
        ada = Guest("ada", "kitchen")
        ada.connect()
        key = str(uuid.uuid4())
        ada.say("once", key)
        ada.say("once", key)
        first, second = ada.messages("line")
        self.assertEqual(first, second)
        self.assertEqual(ChatMessage.objects.count(), 1)

    def test_refused_lines(self):
        ada, ben = Guest("ada", "kitchen"), Guest("ben", "kitchen")
        for guest in (ada, ben):
            guest.connect()
        ada.messages("came")
        for text in ("", " \n ", "x" * 2001, None, 5, ["a"], "\ud800", "\0"):
            with self.subTest(text=text):
                ada.say(text)
                (error,) = ada.messages("error")
                self.assertTrue(error["text"].endswith("."))
                self.assertTrue(error["key"])
        for frame in ([], "text", {}, {"type": "dance"}, {"type": "line"}, {"type": "line", "key": {}, "text": "a"}):
            with self.subTest(frame=frame):
                ada.send_frame(frame)
                self.assertEqual(len(ada.messages("error")), 1)
        self.assertEqual(ben.messages("line") + ben.messages("error"), [])
        self.assertFalse(ChatMessage.objects.exists())

    def test_history(self):
        ada = Guest("ada", "kitchen")
        ada.connect()
        for number in range(3):
            ada.say(f"line {number}")
        seen = ada.messages("line")[0]["id"]
        welcome, _ = Guest("ben", "kitchen").connect(f"after={seen}")
        texts = [line["text"] for line in welcome["lines"]]
        self.assertEqual(texts[-2:], ["line 1", "line 2"])
        self.assertFalse(welcome["skipped"])
        for nonsense in ("after=", "after=x", "after=99999999999999999999", "%ff"):
            Guest("ben", "kitchen").connect(nonsense)

    def test_strangers_are_refused(self):
        for path in ("/ws/room/kitchen/", "/ws/lobby/", "/ws/elsewhere/"):
            with self.subTest(path=path):
                stranger = WSClient()
                stranger.send_and_consume("websocket.connect", path=path, check_accept=False)
                self.assertEqual(stranger.receive(json=False), {"accept": False})

    def test_front_page_hears_of_it(self):
        ben = Guest("ben", "kitchen")
        ben.path = "/ws/lobby/"
        ben.send_and_consume("websocket.connect", path=ben.path)
        self.assertEqual({room["name"] for room in ben.receive()["rooms"]}, {"Kitchen", "Garden"})
        ada = Guest("ada", "kitchen")
        ada.connect()
        ada.say("word " * 100)
        came, said = ben.messages("rooms")
        self.assertEqual((came["rooms"][0]["name"], came["rooms"][0]["people"]), ("Kitchen", 1))
        self.assertEqual(len(said["rooms"][0]["line"]["text"]), 140)


class PresenceTests(ChannelTestCase):
    def setUp(self):
        self.kitchen = Room.objects.create(name="Kitchen", slug="kitchen")

    def names(self):
        return sorted(one["name"] for one in presence.roster(self.kitchen.pk)["people"])

    def test_coming_and_going(self):
        ada, ben, tab = Guest("ada", "kitchen"), Guest("ben", "kitchen"), Guest("ben", "kitchen")
        for guest in (ada, ben, tab):
            guest.connect()
        self.assertEqual(self.names(), ["ada", "ben"])
        self.assertEqual([change["person"]["name"] for change in ada.messages("came")], ["ada", "ben"])
        ben.leave()
        self.assertEqual(ada.messages("went"), [])
        tab.leave()
        self.assertEqual([change["person"]["name"] for change in ada.messages("went")], ["ben"])
        self.assertEqual(self.names(), ["ada"])

    def test_silent_pages_are_not_listed(self):
        ada, ben = Guest("ada", "kitchen"), Guest("ben", "kitchen")
        for guest in (ada, ben):
            guest.connect()
        Presence.objects.update(seen=timezone.now() - LEASE - timedelta(seconds=1))
        ada.send_frame({"type": "here"})
        self.assertEqual(self.names(), ["ada"])

    def test_lost_entries_come_back(self):
        ada, ben = Guest("ada", "kitchen"), Guest("ben", "kitchen")
        for guest in (ada, ben):
            guest.connect()
        presence.forget_everybody()
        ada.send_frame({"type": "here"})
        ben.send_frame({"type": "here"})
        self.assertEqual(self.names(), ["ada", "ben"])


@PLAIN_STATIC_FILES
class PageTests(TestCase):
    password = "copper-kettle-81"

    def sign_up(self, **changes):
        fields = {"username": "ada", "password1": self.password, "password2": self.password, **changes}
        return self.client.post("/signup/?next=/room/kitchen/", fields)

    def test_pages_need_a_log_in(self):
        for path in ("/", "/room/kitchen/", "/room/kitchen/earlier/"):
            self.assertRedirects(self.client.get(path), f"/login/?next={path}")

    def test_sign_up(self):
        self.assertContains(self.client.get("/signup/"), "at least 8 characters")
        self.assertContains(self.sign_up(password1="1234567", password2="1234567"), "This password is too short.")
        self.assertRedirects(self.sign_up(), "/room/kitchen/", fetch_redirect_response=False)
        self.assertRedirects(self.client.get("/signup/"), "/")

    def test_rooms(self):
        self.sign_up()
        self.assertRedirects(self.client.post("/", {"name": " Süße  Ecke! "}), "/room/s%C3%BC%C3%9Fe-ecke/")
        self.assertRedirects(self.client.post("/", {"name": "süße ecke"}), "/room/s%C3%BC%C3%9Fe-ecke/")
        self.assertEqual(Room.objects.get().name, "Süße Ecke!")
        self.assertContains(self.client.post("/", {"name": "!!!"}), "at least one letter or digit")
        self.assertEqual(self.client.get("/room/nowhere/").status_code, 404)

    def test_nothing_said_becomes_markup(self):
        self.sign_up()
        room = Room.objects.create(name="<b>Kitchen</b>", slug="kitchen")
        ChatMessage.objects.create(room=room, text="</script><script>alert(1)</script>")
        page = self.client.get("/room/kitchen/")
        self.assertNotContains(page, "<script>alert")
        self.assertNotContains(page, "<b>Kitchen")
        self.assertContains(page, "alert(1)")
        self.assertIn("default-src 'self'", page.headers["Content-Security-Policy"])

    def test_earlier_lines(self):
        self.sign_up()
        room = Room.objects.create(name="Kitchen", slug="kitchen")
        lines = [ChatMessage.objects.create(room=room, text=str(number)) for number in range(60)]
        answer = self.client.get("/room/kitchen/earlier/", {"before": lines[55].pk}).json()
        self.assertEqual([line["text"] for line in answer["lines"]], [str(number) for number in range(5, 55)])
        self.assertTrue(answer["more"])
        self.assertFalse(self.client.get("/room/kitchen/earlier/", {"before": lines[50].pk}).json()["more"])


class TextTests(TestCase):
    def test_initials(self):
        for name, letters in {"ada": "AD", "grace.hopper": "GH", "x": "X", "_": "?", "Lü": "LÜ"}.items():
            self.assertEqual(initials(name), letters)

    def test_complaints(self):
        form = LineForm({"key": str(uuid.uuid4()), "text": "x" * 2345})
        self.assertEqual(form.complaint(), "A line holds 2000 characters, this one has 2345.")
        self.assertTrue(json.dumps(form.complaint()))
