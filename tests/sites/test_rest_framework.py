"""A site of Django REST framework on the real server."""

from __future__ import annotations

import hashlib
import json
import re

import requests

from tests.process import TIMEOUT, Server, SharedServerTestCase, project
from tests.sites import needs

MAKE_USER = """
from django.contrib.auth.models import User
User.objects.create_user("alice", password="secret words")
"""


@needs("rest_framework")
class RestFrameworkTests(SharedServerTestCase):
    """The browsable API, JSON, authentication, throttling, uploads and streams."""

    files = project("rest_framework_site")
    extra_settings = """
        INSTALLED_APPS += ["rest_framework", "rest_framework.authtoken", "django.contrib.messages"]
        MIDDLEWARE += [
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
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
        LOGIN_REDIRECT_URL = "/api/"
        REST_FRAMEWORK = {
            "DEFAULT_AUTHENTICATION_CLASSES": [
                "rest_framework.authentication.TokenAuthentication",
                "rest_framework.authentication.SessionAuthentication",
            ],
        }
    """
    migrate = True
    has_user: Server | None = None

    def setUp(self) -> None:
        super().setUp()
        if self.has_user is not self.server:
            self.manage("shell", "--verbosity", "0", "-c", MAKE_USER)
            type(self).has_user = self.server
        answer = self.server.post("/token/", json={"username": "alice", "password": "secret words"})
        self.token = {"Authorization": f"Token {answer.json()['token']}"}

    def test_resource(self) -> None:
        """Groups are made, listed, changed and deleted as JSON, by users."""
        refused = self.server.post("/api/groups/", json={"name": "nobody's"})
        self.assertEqual((refused.status_code, refused.headers["WWW-Authenticate"]), (401, "Token"))
        made = self.server.post("/api/groups/", json={"name": "Zoë's"}, headers=self.token)
        self.assertEqual((made.status_code, made.json()["name"]), (201, "Zoë's"))
        path = f"/api/groups/{made.json()['id']}/"
        self.assertIn(made.json(), self.server.get("/api/groups/").json())
        changed = requests.patch(self.server.url(path), json={"name": "Zoe's"}, headers=self.token, timeout=TIMEOUT)
        self.assertEqual(changed.json()["name"], "Zoe's")
        wrong = self.server.post("/api/groups/", data="{", headers={**self.token, "Content-Type": "application/json"})
        self.assertEqual(wrong.status_code, 400)
        gone = requests.delete(self.server.url(path), headers=self.token, timeout=TIMEOUT)
        self.assertEqual((gone.status_code, gone.content), (204, b""))
        self.assertEqual(self.server.get(path).status_code, 404)
        options = requests.options(self.server.url("/api/groups/"), timeout=TIMEOUT)
        self.assertEqual(options.headers["Allow"], "GET, POST, HEAD, OPTIONS")

    def test_browsable_api(self) -> None:
        """A browser gets pages, logs in by a form, and posts a form with its CSRF token."""
        with requests.Session() as browser:
            browser.headers["Accept"] = "text/html"
            page = browser.get(self.server.url("/auth/login/"), timeout=TIMEOUT)
            found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
            assert found is not None, page.text
            form = {"username": "alice", "password": "secret words", "csrfmiddlewaretoken": found[1]}
            page = browser.post(self.server.url("/auth/login/?next=/api/groups/"), data=form, timeout=TIMEOUT)
            self.assertEqual((page.status_code, page.url), (200, self.server.url("/api/groups/")))
            self.assertIn("alice", page.text)
            found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
            assert found is not None, page.text
            form = {"name": "from a form", "csrfmiddlewaretoken": found[1]}
            page = browser.post(page.url, data=form, timeout=TIMEOUT)
            self.assertEqual(page.status_code, 201)
            self.assertIn("from a form", page.text)
            refused = browser.post(page.url, data={"name": "forged"}, timeout=TIMEOUT)
            self.assertEqual(refused.status_code, 403)

    def test_throttling(self) -> None:
        """The fourth request of an address is too many."""
        answers = [self.server.get("/throttled/") for _ in range(4)]
        self.assertEqual([answer.status_code for answer in answers], [200, 200, 200, 429])
        self.assertEqual(answers[0].json(), {"from": "127.0.0.1"})
        self.assertGreater(int(answers[3].headers["Retry-After"]), 0)

    def test_uploads(self) -> None:
        """Files come whole, in a form and as a bare body, with and without a known length."""
        data = bytes(range(256)) * 20_000  # 5 MB
        digest = hashlib.sha256(data).hexdigest()
        answer = self.server.post("/form-upload/", files={"file": ("é.bin", data)}, data={"title": "largest"})
        self.assertEqual(answer.json(), {"name": "é.bin", "size": len(data), "sha256": digest, "title": "largest"})
        answer = requests.put(self.server.url("/raw-upload/a.bin/"), data=data, timeout=TIMEOUT)
        self.assertEqual((answer.status_code, answer.json()), (201, {"name": "a.bin", "sha256": digest}))
        parts = (data[at : at + 100_000] for at in range(0, len(data), 100_000))
        answer = requests.put(self.server.url("/raw-upload/b.bin/"), data=parts, timeout=TIMEOUT)
        self.assertEqual((answer.status_code, answer.json()), (201, {"name": "b.bin", "sha256": digest}))

    def test_stream(self) -> None:
        """A view of the framework streams for the user of the request."""
        self.assertEqual(self.server.get("/export/?n=3").status_code, 401)
        with self.server.get("/export/?n=5000", headers=self.token, stream=True) as answer:
            lines = [json.loads(line) for line in answer.iter_lines()]
        self.assertEqual(answer.headers["Content-Type"], "application/x-ndjson")
        self.assertEqual(lines, [{"n": number, "for": "alice"} for number in range(5000)])
