"""A site of Wagtail on the real server."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import requests

from tests.process import TIMEOUT, ServerTestCase, project
from tests.sites import needs

MAKE_ADMIN = """
from django.contrib.auth.models import User
User.objects.create_superuser("admin", password="secret words")
"""

#: A text as Wagtail's editor sends it.
BODY = json.dumps(
    {
        "blocks": [
            {
                "key": "a", "type": "unstyled", "depth": 0, "text": "It works.", "entityRanges": [], "data": {},
                "inlineStyleRanges": [{"offset": 3, "length": 5, "style": "BOLD"}],
            },
        ],
        "entityMap": {},
    }
)  # fmt: skip


@needs("wagtail")
class WagtailTests(ServerTestCase):
    """An editor logs in, writes and publishes a page, uploads an image and a document; visitors read."""

    files = {
        **project("wagtail_site"),
        "home/templates/home/home_page.html": """
            {% load wagtailcore_tags %}<h1>{{ page.title }}</h1>{{ page.body|richtext }}
        """,
    }
    migrate = True
    extra_settings = """
        INSTALLED_APPS += [
            "home",
            "wagtail.contrib.redirects",
            "wagtail.embeds",
            "wagtail.sites",
            "wagtail.users",
            "wagtail.snippets",
            "wagtail.documents",
            "wagtail.images",
            "wagtail.search",
            "wagtail.admin",
            "wagtail",
            "modelcluster",
            "taggit",
            "django_filters",
            "django.contrib.messages",
        ]
        MIDDLEWARE += [
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
            "wagtail.contrib.redirects.middleware.RedirectMiddleware",
        ]
        TEMPLATES = [
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ],
                },
            },
        ]
        DATA_UPLOAD_MAX_NUMBER_FIELDS = 10_000
        MEDIA_ROOT = BASE_DIR / "media"
        MEDIA_URL = "/media/"
        WAGTAIL_SITE_NAME = "Test"
        WAGTAILADMIN_BASE_URL = "http://localhost"
        WAGTAILDOCS_SERVE_METHOD = "serve_view"
        STATIC_ROOT = BASE_DIR / "collected"
        PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    """

    def test_site(self) -> None:
        """The whole of an editor's first hour."""
        self.manage("shell", "--verbosity", "0", "-c", MAKE_ADMIN)
        self.manage("collectstatic", "--no-input", "--verbosity", "0")
        self.server = self.start("--media")
        with requests.Session() as browser:
            self.browser = browser
            self.assertTrue(self.open("/admin/").url.endswith("/admin/login/?next=/admin/"))
            page = self.submit("/admin/login/", username="admin", password="secret words", next="/admin/")
            self.assertEqual((page.status_code, page.url), (200, self.server.url("/admin/")))

            page = self.submit(
                "/admin/pages/add/home/homepage/2/", title="News of Zoë", slug="news", body=BODY,
                **{"action-publish": "action-publish"},
            )  # fmt: skip
            self.assertIn("Page &#x27;News of Zoë&#x27; created and published", page.text)
            read = self.server.get("/news/")
            self.assertEqual(read.status_code, 200)
            self.assertIn("<h1>News of Zoë</h1>", read.text)
            self.assertIn("It <b>works</b>.", read.text)
            self.assertEqual(self.server.get("/news").url, self.server.url("/news/"))
            self.assertEqual(self.server.get("/no-news/").status_code, 404)

            picture = image()
            page = self.submit("/admin/images/add/", title="Teal", files={"file": ("teal.png", picture, "image/png")})
            self.assertIn("Image &#x27;Teal&#x27; added", page.text)
            page = self.open("/admin/images/1/")
            smaller = re.search(r"/media/images/teal\.[\w.-]+\.png", page.text)
            assert smaller is not None, page.text
            self.assertEqual(self.server.get(smaller[0]).headers["Content-Type"], "image/png")
            self.assertEqual(self.server.get("/media/original_images/teal.png").content, picture)

            text = "Läuft.\n" * 50_000
            page = self.submit("/admin/documents/add/", title="Text", files={"file": ("text.txt", text.encode())})
            self.assertIn("Document &#x27;Text&#x27; added", page.text)
            answer = self.server.get("/documents/1/text.txt")
            self.assertEqual(answer.headers["Content-Disposition"], 'attachment; filename="text.txt"')
            self.assertEqual(answer.content.decode(), text)

            self.assertEqual(self.open("/admin/pages/2/").status_code, 200)
            style = re.search(r'/static/wagtailadmin/css/core\.css[^"]*', page.text)
            assert style is not None
            self.assertEqual(self.server.get(style[0]).status_code, 200)

    def open(self, path: str, **arguments: Any) -> requests.Response:
        """GET a page in the browser."""
        return self.browser.get(self.server.url(path), timeout=TIMEOUT, **arguments)

    def submit(self, path: str, files: Any = None, **fields: Any) -> requests.Response:
        """Fill in the form of a page and send it."""
        found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.open(path).text)
        assert found is not None
        fields["csrfmiddlewaretoken"] = found[1]
        return self.browser.post(self.server.url(path), data=fields, files=files, timeout=TIMEOUT)


def image() -> bytes:
    """Return a small picture as PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (640, 400), "teal").save(file, "PNG")
    return file.getvalue()
