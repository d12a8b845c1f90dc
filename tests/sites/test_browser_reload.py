"""A site with django-browser-reload under ``manage.py runserver``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import requests

from tests.process import Server, ServerTestCase, free_port, project, wait_until
from tests.sites import needs


def listen(stack: ExitStack, server: Server) -> Iterator[dict[str, Any]]:
    """Open the event stream that a page under development holds open; yield its messages."""
    answer = stack.enter_context(
        server.get("/__reload__/events/", stream=True, headers={"Accept": "text/event-stream"})
    )
    assert answer.status_code == 200, answer.text
    return (json.loads(line[6:]) for line in answer.iter_lines(chunk_size=1) if line.startswith(b"data: "))


@needs("django_browser_reload")
class BrowserReloadTests(ServerTestCase):
    """Pages that reload when a file changes."""

    files = {**project("browser_reload_site"), "templates/page.html": "<html><body>page one</body></html>\n"}
    extra_settings = """
        DEBUG = True
        INSTALLED_APPS += ["django_browser_reload"]
        MIDDLEWARE += ["django_browser_reload.middleware.BrowserReloadMiddleware"]
        TEMPLATES = [
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "DIRS": [BASE_DIR / "templates"],
                "APP_DIRS": True,
            },
        ]
    """

    def test_reload(self) -> None:
        """Eight open pages hold no thread. They reload when a template changes, and when the server starts anew."""
        command = [sys.executable, "manage.py", "runserver", f"127.0.0.1:{free_port()}"]
        server = self.run_process(command).wait_until_up()
        with ExitStack() as stack:
            pages = [listen(stack, server) for _ in range(8)]
            versions = {next(page)["versionId"] for page in pages}
            self.assertEqual(len(versions), 1)
            page = server.get()
            self.assertIn("page one", page.text)
            self.assertIn("django-browser-reload/reload-listener.js", page.text)
            self.assertEqual(server.get("/static/django-browser-reload/reload-listener.js").status_code, 200)
            template = self.folder / "templates" / "page.html"

            def reloads() -> bool:
                template.write_text("<html><body>page two</body></html>\n")  # again: Django may not have looked before
                return any(next(page)["type"] == "reload" for page in pages)

            wait_until(reloads, "the message to reload")
            self.assertIn("page two", server.get().text)
            (self.folder / "urls.py").write_text((self.folder / "urls.py").read_text() + "\n")
            try:
                for page in pages:
                    list(page)
            except requests.RequestException:
                pass  # the server has ended

        def version() -> Any:
            try:
                with ExitStack() as stack:
                    return next(listen(stack, server))["versionId"]
            except requests.RequestException:
                return None

        wait_until(lambda: version() not in {None, *versions}, "the new server")
