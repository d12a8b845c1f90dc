"""A site of django-ninja with asynchronous endpoints on the real server."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.process import TIMEOUT, SharedServerTestCase, project
from tests.sites import needs


@needs("ninja")
class NinjaTests(SharedServerTestCase):
    """Endpoints that are coroutines, with one worker thread."""

    files = project("ninja_site")
    arguments = ("--threads", "1")
    migrate = True
    extra_settings = """
        INSTALLED_APPS += ["ninja"]
        MIDDLEWARE += [
            "django.middleware.common.CommonMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ]
        TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
    """

    def test_resource(self) -> None:
        """Create, read, update and delete by the asynchronous ORM."""
        made = self.server.post("/api/groups", json={"name": "r-one"})
        self.assertEqual((made.status_code, made.json()["name"]), (201, "r-one"))
        path = f"/api/groups/{made.json()['id']}"
        self.assertEqual(self.server.get(path).json(), made.json())
        changed = requests.put(self.server.url(path), json={"name": "r-two"}, timeout=TIMEOUT)
        self.assertEqual(changed.json(), {**made.json(), "name": "r-two"})
        self.assertEqual(self.server.get("/api/groups?starts=r-").json(), [changed.json()])
        self.assertEqual(self.server.post("/api/groups", json={"title": "no name"}).status_code, 422)
        gone = requests.delete(self.server.url(path), timeout=TIMEOUT)
        self.assertEqual((gone.status_code, gone.content), (204, b""))
        self.assertEqual(self.server.get(path).status_code, 404)

    def test_many_at_once(self) -> None:
        """Twenty clients make groups at a time; each is there once."""
        names = [f"m-{number:02}" for number in range(20)]
        with ThreadPoolExecutor(20) as pool:
            made = list(pool.map(lambda name: self.server.post("/api/groups", json={"name": name}).json(), names))
        self.assertEqual([one["name"] for one in made], names)
        self.assertEqual(self.server.get("/api/groups?starts=m-").json(), made)

    def test_waiting_together(self) -> None:
        """Twenty requests wait for one another, on one event loop."""
        with ThreadPoolExecutor(20) as pool:
            met = list(pool.map(lambda _: self.server.get("/api/meet").json(), range(20)))
        self.assertEqual(met, [{"met": True}] * 20)

    def test_kinds(self) -> None:
        """Plain operations run in a worker thread, coroutines on the loop; authentication may be a coroutine."""
        self.assertTrue(self.server.get("/api/plain").json()["thread"].startswith("worker-"))
        self.assertEqual(self.server.get("/api/me").status_code, 401)
        known = self.server.get("/api/me", headers={"Authorization": "Bearer secret"})
        self.assertEqual(known.json(), {"name": "alice"})

    def test_upload(self) -> None:
        """A coroutine reads an uploaded file of 5 MB."""
        data = bytes(range(256)) * 20_000
        answer = self.server.post("/api/upload", files={"file": ("a.bin", data)})
        expected = {"name": "a.bin", "sha256": hashlib.sha256(data).hexdigest(), "thread": "event-loop"}
        self.assertEqual(answer.json(), expected)

    def test_stream(self) -> None:
        """An endpoint streams."""
        self.assertEqual(self.server.get("/api/stream").text, "0\n1\n2\n")

    def test_documentation(self) -> None:
        """The page of the API and its schema."""
        self.assertIn("Groups", self.server.get("/api/docs").text)
        self.assertIn("/api/groups/{number}", self.server.get("/api/openapi.json").json()["paths"])
