"""Monitoring libraries report of a site on this server what they report of it on gunicorn and uvicorn."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import requests

from tests.process import TIMEOUT, Server, ServerTestCase, project
from tests.sites import needs

#: Makes two visitors, each with a session, and prints the sessions' keys.
VISITORS = """
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
for name in ("alice", "bob"):
    user = User.objects.create_user(name)
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    print("visitor", name, session.session_key)
"""

#: The arguments of each server, and what it says when it listens.
SERVERS = {
    "ours": (["--port", "0", "--threads", "1", "--log-format", "text"], "listening on"),
    "gunicorn": (["-m", "gunicorn", "--bind", "127.0.0.1:0", "wsgi:application"], "Listening at:"),
    "uvicorn": (["-m", "uvicorn", "--port", "0", "asgi:application"], "running on"),
}

#: Path and visitor of each request; the form's field comes after a colon.
PLAIN = [
    "ok/ alice", "boom/?n=1 -", "named/ bob", "boom/?n=2 -", "boom/?n=3 alice", "absent/ -", "missing/ alice",
    "refused/ bob", "form/:carol -", "group/ alice", "group/ bob", "page/7/ -", "file/ alice", "boom/?n=4 bob",
    "memory-file/ -", "stream/ bob", "bad-stream/?n=1 -", "ok/ -",
]  # fmt: skip
ASYNCHRONOUS = [
    "async/ok/ alice", "async/boom/?n=1 -", "async/boom/?n=2 bob", "async/absent/ -", "async/refused/ alice",
    "async/form/:carol -", "async/group/ alice", "async/group/ bob", "async/page/7/ -", "async/file/ alice",
    "async/stream/ bob", "async/bad-stream/?n=1 -", "async/ok/ -",
]  # fmt: skip

#: How many requests that are, with the two of visitors who meet.
REQUESTS = len(PLAIN) + len(ASYNCHRONOUS) + 2

#: Names of classes in reports, and those that other servers have in their places.
NAMES = {
    "channelserver.handler:AsgiHandler": "django.core.handlers.wsgi:WSGIHandler",
    "channelserver.workers.request.AsgiRequest": "django.core.handlers.wsgi.WSGIRequest",
    "channelserver.workers.async_views.AsyncRequest": "django.core.handlers.asgi.ASGIRequest",
}

Report = dict[str, Any]


class MonitoringTestCase(ServerTestCase):
    """Runs the same requests on three servers and keeps what the library has reported."""

    files = project("monitoring")
    monitor: ClassVar[str]
    #: Command before that of the server, found beside the running Python.
    launcher: ClassVar[tuple[str, ...]] = ()
    #: Variables of the environment.
    variables: ClassVar[dict[str, str]] = {}
    #: The server with which asynchronous views are compared.
    asynchronous_like: ClassVar[str] = "uvicorn"

    def setUp(self) -> None:
        super().setUp()
        self.manage("migrate", "--verbosity", "0")
        lines = self.manage("shell", "--verbosity", "0", "-c", VISITORS).splitlines()
        self.keys = {name: key for _, name, key in (line.split() for line in lines if line.startswith("visitor "))}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of all processes. Where the library needs no launcher, management commands have it, too."""
        monitor = {} if self.launcher else {"MONITOR": self.monitor, "REPORTS": str(self.folder / "commands.reports")}
        return super().environment | {"DJANGO_SETTINGS_MODULE": "settings"} | monitor

    def command(self, *arguments: str) -> list[str]:
        """Return a command line under the library's launcher."""
        program, *options = self.launcher or ("",)
        launcher = [str(Path(sys.executable).with_name(program)), *options] if program else []
        return [*launcher, sys.executable, *arguments]

    def begin(self, name: str) -> Server:
        """Start one of the servers with a database of its own."""
        command, _ = SERVERS[name]
        if name == "ours":
            command = self.twistd(*command)[1:]
        shutil.copy(self.folder / "db.sqlite3", self.folder / f"{name}.sqlite3")
        return self.run_process(
            self.command(*command), MONITOR=self.monitor, REPORTS=str(self.folder / f"{name}.reports"),
            DATABASE=f"{name}.sqlite3", **self.variables,
        )  # fmt: skip

    def begin_all(self, *names: str) -> dict[str, Server]:
        """Start servers, and wait until they listen."""
        servers = {name: self.begin(name) for name in names}
        for name, server in servers.items():
            server.port = int(server.wait_for(SERVERS[name][1] + r" http://127\.0\.0\.1:(\d+)")[1])
        return servers

    def ask(self, server: Server, line: str) -> str:
        """Send a request; return the status, or how it broke off."""
        path, _, visitor = line.partition(" ")
        path, _, name = path.partition(":")
        cookies = {"sessionid": self.keys[visitor]} if visitor in self.keys else {}
        try:
            answer = requests.request(
                "POST" if name else "GET", server.url("/" + path), data={"name": name} if name else None,
                cookies=cookies, timeout=TIMEOUT,
            )  # fmt: skip
        except requests.RequestException:
            return f"{path} 500"  # broken off; servers without streams for it know before they answer
        return f"{path} {answer.status_code}"

    def asked(self, server: Server, plain: bool) -> list[str]:
        """Send all requests of a kind; return their statuses."""
        statuses = [self.ask(server, line) for line in (PLAIN if plain else ASYNCHRONOUS)]
        if not plain:
            with ThreadPoolExecutor(2) as pool:
                statuses += pool.map(lambda name: self.ask(server, f"async/named/ {name}"), ("alice", "bob"))
        return statuses

    def reports(self, name: str, plain: bool) -> list[str]:
        """Return a server's reports of requests of a kind, sorted; Django's names of handlers and requests for ours."""
        path = self.folder / f"{name}.reports"
        lines = path.read_text().splitlines() if path.exists() else []
        for ours, django in NAMES.items():
            lines = [line.replace(ours, django) for line in lines]
        # At its start, our server looks for migrations that are not applied. That belongs to no request.
        lines = [line for line in lines if '"kind": "trace", "name": "sqlite.query"' not in line]
        return sorted(line for line in lines if ("async" not in line.lower()) == plain)

    def check(self) -> list[Report]:
        """Send the requests to the servers, compare the answers and the reports; return what ours has reported."""
        others = {True: "gunicorn", False: self.asynchronous_like}
        servers = self.begin_all("ours", *sorted(set(others.values())))
        statuses = {
            (name, plain): self.asked(servers[name], plain)
            for plain, other in others.items()
            for name in ("ours", other)
        }
        for server in servers.values():
            server.stop()
        for plain, other in others.items():
            self.assertEqual(statuses["ours", plain], statuses[other, plain])
            ours, theirs = self.reports("ours", plain), self.reports(other, plain)
            self.assertEqual(ours, theirs, difference(ours, theirs))
        return [json.loads(line) for plain in others for line in self.reports("ours", plain)]

    def check_visitors(self, found: set[tuple[str, str | None]], knows_users: bool) -> None:
        """Check that each error is the right visitor's.

        :param found: messages of errors and names of visitors.
        :param knows_users: the library reads ``request.user`` by itself.
        """
        plain = {("boom 1", None), ("boom 2", None), ("named alice", "alice"), ("named bob", "bob")}
        users = {("boom 3", "alice"), ("boom 4", "bob")} if knows_users else {("boom 3", None), ("boom 4", None)}
        self.assertLessEqual(plain | users, {(error, visitor or None) for error, visitor in found})
        self.assertNotIn(("named alice", "bob"), found)
        self.assertNotIn(("named bob", "alice"), found)


def difference(ours: list[str], theirs: list[str]) -> str:
    """Return the reports that only one of two servers has."""
    one, two = Counter(ours), Counter(theirs)
    return "\n".join(["only ours:", *(one - two).elements(), "only theirs:", *(two - one).elements()])


@needs("sentry_sdk", "gunicorn", "uvicorn")
class SentryTests(MonitoringTestCase):
    """Sentry."""

    monitor = "sentry"

    def test_reports(self) -> None:
        """Transactions and errors, with their views and visitors."""
        reports = self.check()
        errors = [report for report in reports if report["kind"] == "error"]
        self.assertEqual(len(reports) - len(errors), REQUESTS)
        self.check_visitors({(report["error"], report["user"]) for report in errors}, knows_users=True)

    def test_consumers(self) -> None:
        """Errors of consumers, by way of the log."""
        server = self.begin_all("ours")["ours"]
        for path, error in (("/sockets/", "consumed hello"), ("/async-sockets/", "consumed by a coroutine hello")):
            with server.connect(path) as socket:
                socket.send("hello")
                server.wait_for(f"ValueError: {error}")
        server.stop()
        reports = [json.loads(line) for line in (self.folder / "ours.reports").read_text().splitlines()]
        found = [(report["kind"], report["error"], report["user"]) for report in reports]
        self.assertEqual(found, [("error", "consumed hello", None), ("error", "consumed by a coroutine hello", None)])


@needs("opentelemetry.instrumentation.django", "opentelemetry.distro", "gunicorn", "uvicorn")
class OpenTelemetryTests(MonitoringTestCase):
    """OpenTelemetry."""

    monitor = "opentelemetry"
    launcher = ("opentelemetry-instrument",)
    variables = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    # Its middleware is synchronous only: asynchronous views run in threads, as under gunicorn.
    asynchronous_like = "gunicorn"

    def test_reports(self) -> None:
        """A span for each request."""
        reports = self.check()
        self.assertEqual(len(reports), REQUESTS)
        found = {(error, report.get("enduser.id")) for report in reports for error in report["errors"]}
        self.check_visitors(found, knows_users=False)


@needs("newrelic", "gunicorn", "uvicorn")
class NewRelicTests(MonitoringTestCase):
    """New Relic."""

    monitor = "newrelic"
    launcher = ("newrelic-admin", "run-program")
    variables = {
        "NEW_RELIC_DEVELOPER_MODE": "true",
        "NEW_RELIC_STARTUP_TIMEOUT": "30",  # else the first requests go unreported
        "NEW_RELIC_APP_NAME": "site",
        "NEW_RELIC_LICENSE_KEY": "0" * 40,
    }

    def test_reports(self) -> None:
        """A transaction for each request, named after its view, and the errors."""
        reports = self.check()
        self.assertEqual(len(reports), REQUESTS)
        found = {(error, report["user"]) for report in reports for error in report["errors"]}
        self.check_visitors(found, knows_users=False)


@needs("ddtrace", "gunicorn", "uvicorn")
class DatadogTests(MonitoringTestCase):
    """Datadog."""

    monitor = "datadog"
    launcher = ("ddtrace-run",)
    variables = {
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        "DD_CRASHTRACKING_ENABLED": "false",
    }

    def test_reports(self) -> None:
        """A trace for each request, and the span of its view."""
        reports = self.check()
        self.assertEqual(len(reports), REQUESTS)
        found = {
            (error, report["tags"].get("django.user.name") or report["tags"].get("usr.id"))
            for report in reports for error in report["errors"]
        }  # fmt: skip
        self.check_visitors(found, knows_users=True)


@needs("elasticapm", "gunicorn", "uvicorn")
class ElasticTests(MonitoringTestCase):
    """Elastic APM."""

    monitor = "elastic"

    def test_reports(self) -> None:
        """Transactions and errors. Of asynchronous views, errors alone, as under uvicorn."""
        errors = [report for report in self.check() if report["kind"] == "error"]
        found = {(report["error"].removeprefix("ValueError: "), report["user"]) for report in errors}
        self.check_visitors(found, knows_users=True)


@needs("easyaudit", "gunicorn", "uvicorn")
class EasyAuditTests(MonitoringTestCase):
    """django-easy-audit."""

    monitor = "easyaudit"

    def test_reports(self) -> None:
        """Who has asked for which page, and who has changed which row."""
        reports = self.check()
        self.assertEqual(len([report for report in reports if report["kind"] == "request"]), REQUESTS)
        for name in ("alice", "bob"):
            for what in (f"made by {name}", f"made by an async view for {name}"):
                self.assertIn({"kind": "change", "what": what, "event": 1, "user": name}, reports)
