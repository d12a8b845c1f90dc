"""A project that ran under gunicorn, and the same words for ``channelserver serve``."""

from __future__ import annotations

import signal
import sys

import requests

from tests.process import TIMEOUT, ServerTestCase, free_port, wait_until
from tests.sites import needs

VIEWS = """
    from django.http import HttpResponse
    from django.urls import path

    def page(request):
        return HttpResponse(f"{request.scheme} {request.META['REMOTE_ADDR']} {request.get_host()}")

    urlpatterns = [path("", page)]
"""


@needs("gunicorn")
class GunicornTests(ServerTestCase):
    """The walk-through of the documentation."""

    files = {"urls.py": VIEWS, "mysite/wsgi.py": """
        import os
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
        from django.core.wsgi import get_wsgi_application
        application = get_wsgi_application()
    """}  # fmt: skip

    def test_same_command_line(self) -> None:
        """What stood behind ``gunicorn`` stands behind ``channelserver serve``; the page is the same."""
        pages = []
        for program in ([sys.executable, "-m", "gunicorn"], self.command("serve")):
            port = free_port()
            words = ["mysite.wsgi:application", "--bind", f"127.0.0.1:{port}", "--workers", "2"]
            words += ["--forwarded-allow-ips", "127.0.0.1", "--access-logfile", "-", "--graceful-timeout", "10"]
            server = self.run_process([*program, *words])
            server.port = port
            wait_until(lambda server=server: _answers(server.url()), "an answer")
            fields = {"X-Forwarded-Proto": "https", "Host": "localhost"}
            pages.append(server.get(headers=fields).text)
            self.assertEqual(server.stop(signal.SIGTERM), 0)
        self.assertEqual(pages, ["https 127.0.0.1 localhost"] * 2)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=TIMEOUT).ok
    except requests.ConnectionError:
        return False
