"""``ChannelLiveServerTestCase`` with a browser: a project's own test opens a page of the example site."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from browser_tests.case import PATIENCE, ROOT, chromium_options
from tests.process import environment

#: What somebody writes who tests a site on this server with Playwright.
TESTS = """
    import threading

    from channelserver.test import ChannelLiveServerTestCase
    from django.conf import settings
    from django.contrib.auth import get_user_model
    from django.test import Client, override_settings
    from playwright.sync_api import expect, sync_playwright
    from rooms.models import ChatMessage, Room

    PLAIN_NAMES = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}

    @override_settings(STORAGES={**settings.STORAGES, "staticfiles": PLAIN_NAMES})
    class BrowserTests(ChannelLiveServerTestCase):
        host = "localhost"

        def test_two_people(self):
            Room.objects.create(name="Kitchen", slug="kitchen")
            cookies = []
            for name in ("anna", "bert"):
                client = Client()
                client.force_login(get_user_model().objects.create_user(name))
                cookies.append(client.cookies["sessionid"].value)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(**OPTIONS)
                pages = []
                for cookie in cookies:
                    context = browser.new_context()
                    context.add_cookies([{"name": "sessionid", "value": cookie, "url": self.live_server_url}])
                    page = context.new_page()
                    page.goto(self.live_server_url + "/room/kitchen/")
                    expect(page.locator("html")).to_have_attribute("data-connection", "live", timeout=PATIENCE)
                    pages.append(page)
                pages[0].get_by_label("Your line").fill("Is the kettle on?")
                pages[0].get_by_label("Your line").press("Enter")
                for page in pages:
                    expect(page.locator(".line .text")).to_have_text(["Is the kettle on?"], timeout=PATIENCE)
                browser.close()
            self.assertEqual(ChatMessage.objects.get().text, "Is the kettle on?")
            self.assertEqual([thread.name for thread in threading.enumerate() if "claimer" in thread.name], [])
"""


class LiveServerTests(SynchronousTestCase):
    """The test runs in a copy of the example, in a process of its own, with SQLite in memory."""

    def test_with_playwright(self) -> None:
        """Two browsers talk through the live server; the test sees in the database what they said."""
        folder = Path(self.mktemp()).resolve()
        shutil.copytree(ROOT / "examples" / "chat", folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
        head = f"OPTIONS = {chromium_options()!r}\nPATIENCE = {PATIENCE * 1000}\n"
        (folder / "rooms" / "tests.py").write_text(head + textwrap.dedent(TESTS))
        # Playwright's synchronous interface has an event loop in this thread; Django asks for the second word then.
        variables = environment(CHATSITE_DATA=str(folder / "data"), DJANGO_ALLOW_ASYNC_UNSAFE="true")
        (folder / "data").mkdir()
        done = subprocess.run(
            [sys.executable, "manage.py", "test"],
            cwd=folder, env=variables, capture_output=True, text=True, timeout=4 * PATIENCE,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("Ran 1 test", done.stderr)
