"""What the start of a server costs."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.common.collector import LOOKS, OBJECTS, look_as_usual, look_seldom
from channelserver.start import application  # noqa: F401  (a server imports it)
from tests.certificates import write_pair
from tests.process import ROOT, TIMEOUT, Server, ServerTestCase, wait_until

#: A plain site needs none of these, and each takes time and memory.
LATE = {
    "OpenSSL",
    "autobahn",
    "channelserver.layers.conformance",
    "channelserver.layers.redis",
    "channelserver.server.edge.static",
    "channelserver.server.http2",
    "channelserver.session_merge",
    "channelserver.sessions",
    "channelserver.staticfiles",
    "cryptography",
    "django.db.migrations.executor",
    "h2",
    "twisted.internet.endpoints",
    "txredisapi",
    "whitenoise",
}


#: A client and a server in one reactor; each TLS connection begins in one of Twisted's two ways.
ECHO_OVER_TLS = """
import sys
from channelserver.server.common.reactor import install

reactor = install()
print({"OpenSSL", "twisted.protocols.tls", "twisted.internet.ssl"}.isdisjoint(sys.modules))

from twisted.internet import protocol, ssl
from twisted.internet.defer import Deferred, inlineCallbacks


class Server(protocol.Protocol):
    def connectionMade(self):
        if self.factory.start:
            self.transport.startTLS(server)

    def dataReceived(self, data):
        assert self.transport.getPeerCertificate() is None
        self.transport.write(data + b" " + self.factory.answer)


class Client(protocol.Protocol):
    def connectionMade(self):
        if self.factory.start:
            self.transport.startTLS(client, self.factory)
        self.transport.write(self.factory.question)

    def dataReceived(self, data):
        assert self.transport.getPeerCertificate() is not None
        self.transport.loseConnection()
        self.factory.done.callback(data)


def factory(kind, **values):
    made = protocol.Factory.forProtocol(kind) if kind is Server else protocol.ClientFactory.forProtocol(kind)
    made.noisy = False
    vars(made).update(values)
    return made


server = ssl.DefaultOpenSSLContextFactory(sys.argv[2], sys.argv[1])
client = ssl.CertificateOptions(verify=False)


@inlineCallbacks
def run():
    for start in False, True:
        names = (b"startTLS", b"startTLS") if start else (b"listenSSL", b"connectSSL")
        accepting = factory(Server, start=start, answer=names[1])
        calling = factory(Client, start=start, question=names[0], done=Deferred())
        if start:
            port = reactor.listenTCP(0, accepting, interface="127.0.0.1")
            reactor.connectTCP("127.0.0.1", port.getHost().port, calling)
        else:
            port = reactor.listenSSL(0, accepting, server, interface="127.0.0.1")
            reactor.connectSSL("127.0.0.1", port.getHost().port, calling, client)
        print((yield calling.done).decode())
        yield port.stopListening()


def begin():
    run().addErrback(lambda failure: failure.printTraceback()).addBoth(lambda _: reactor.stop())


reactor.callWhenRunning(begin)
reactor.run()
"""


class Pickled(NamedTuple):
    """Something with methods."""

    number: int

    @classmethod
    def make(cls) -> int:
        return 3

    def get(self) -> int:
        return self.number


#: A worker process says what is loaded when it has begun to look for its server, and stops.
WORK = """
import os, signal, sys
from channelserver.signals import worker_process_ready
from channelserver.start.cli import main

def ready(**_):
    print("loaded", *sys.modules)
    os.kill(os.getpid(), signal.SIGTERM)

worker_process_ready.connect(ready)
main(["work", "--settings", "settings"])
"""


#: A project's check, which uses the database, does something wrong.
CHECKS = """
import sys, threading
import django
from django.conf import settings
from django.core import checks
from django.db import connections
from twisted.logger import formatEvent, globalLogBeginner

globalLogBeginner.beginLoggingTo([lambda event: print(formatEvent(event))], redirectStandardIO=False)
settings.DATABASES["default"]["NAME"] = sys.argv[1]
django.setup()
used = []

@checks.register
def query(**_):
    connections["default"].ensure_connection()
    used.append(connections["default"])
    %s

from channelserver.start.check import look_in_background
look_in_background(["known before"])
for thread in threading.enumerate():
    if thread.name == "checks":
        thread.join()
print("connection:", used[0].connection)
"""


class ImportTests(SynchronousTestCase):
    """The modules that are loaded before the options are read."""

    def test_late(self) -> None:
        """What only some sites use is imported when they do."""
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
        for module in ("twistd", "command"):
            code = f"import sys, channelserver.start.{module}, channelserver.start.application; print(*sys.modules)"
            loaded = subprocess.run(
                [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
            ).stdout.split()
            self.assertIn("channelserver.start.application", loaded)
            self.assertEqual(LATE.intersection(loaded), set(), module)

    def test_pickling(self) -> None:
        """The server leaves pickling as Python has it: Twisted pickles class methods in a way that cannot be loaded."""
        self.assertIn("twisted.persisted.styles", sys.modules)
        for method in (Pickled.make, Pickled(3).get):
            data = pickle.dumps(method)
            self.assertNotIn(b"twisted", data)
            self.assertEqual(pickle.loads(data)(), 3)

    def test_tls_of_twisted(self) -> None:
        """Code of the project can use TLS in the reactor as ever, although the reactor was imported without it."""
        done = subprocess.run(
            # Twisted keeps a descriptor in reserve, to the end.
            [
                sys.executable,
                "-W",
                "ignore::ResourceWarning",
                "-c",
                ECHO_OVER_TLS,
                *write_pair(Path(self.mktemp_folder())),
            ],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            cwd=ROOT,
        )
        self.assertEqual((done.stdout, done.stderr), ("True\nlistenSSL connectSSL\nstartTLS startTLS\n", ""))

    def mktemp_folder(self) -> str:
        """Return a new folder."""
        folder = self.mktemp()
        os.makedirs(folder)
        return os.path.abspath(folder)

    def test_checks(self) -> None:
        """The checks in the background, whose modules stay in memory, do without Django's commands."""
        code = """
import sys, threading
import django
django.setup()
from channelserver.start.check import look_in_background
look_in_background([])
for thread in threading.enumerate():
    if thread.name == "checks":
        thread.join()
print(*sys.modules)
"""
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
        loaded = subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
        ).stdout.split()
        self.assertIn("channelserver.start.check", loaded)
        self.assertNotIn("django.core.management.commands.makemigrations", loaded)

    def test_checks_that_fail(self) -> None:
        """What a check of the project does wrong is a sentence beside the others, and its connection is closed."""
        for wrong, words in (
            ("return ['nonsense']", "the system check failed: AttributeError: 'str' object"),
            ("return None", "the system check failed: TypeError: 'NoneType' object"),
            ("sys.exit('not so')", "the system check failed: SystemExit: not so"),
        ):
            done = subprocess.run(
                [sys.executable, "-c", CHECKS % wrong, self.mktemp_folder() + "/db"],
                env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}, cwd=ROOT,
                check=True, capture_output=True, text=True, timeout=TIMEOUT,
            )  # fmt: skip
            lines = done.stdout.splitlines()
            self.assertEqual((lines[0], lines[-1], done.stderr), ("known before", "connection: None", ""))
            self.assertEqual([line[: len(words)] for line in lines[1:-1] if "failed" in line], [words])


class WorkTests(ServerTestCase):
    """What a worker process loads."""

    def test_late(self) -> None:
        """A process that runs consumers for a server of this machine needs no TLS."""
        lines = subprocess.run(
            [sys.executable, "-c", WORK],
            env=self.environment, cwd=self.folder, check=True, capture_output=True, text=True, timeout=TIMEOUT,
        ).stdout.splitlines()  # fmt: skip
        (loaded,) = (line.split() for line in lines if line.startswith("loaded "))
        self.assertIn("channelserver.processes.connectors", loaded)
        of_checks = {"django.db.migrations.executor"}  # Django's checks, which precede each of its commands
        self.assertEqual(LATE.intersection(loaded) - of_checks, set())


class CollectorTests(ServerTestCase):
    """Python's garbage collector looks seldom at what the start makes."""

    files = {
        "urls.py": """
            import gc

            from django.conf import settings
            from django.http import JsonResponse
            from django.urls import path


            def figures(request):
                return JsonResponse([settings.THRESHOLD, gc.get_threshold()], safe=False)


            urlpatterns = [path("", figures)]
        """
    }
    extra_settings = "import gc\nTHRESHOLD = gc.get_threshold()\n"

    def check(self, server: Server) -> None:
        self.assertEqual(server.get("/").json()[0][:2], [OBJECTS, LOOKS])
        wait_until(lambda: tuple(server.get("/").json()[1]) == gc.get_threshold(), "looking as usual")

    def test_twistd(self) -> None:
        """``twistd channelserver``."""
        self.check(self.start())

    def test_serve(self) -> None:
        """``channelserver serve``."""
        usual = ("--settings", "settings", "--port", "0", "--log-format", "text", "--health-figures", "127.0.0.0/8")
        self.check(self.run_process(self.command("serve", *usual)).wait_until_up())

    def test_threshold_of_the_project(self) -> None:
        """What the project sets stays."""
        with open(self.folder / "settings.py", "a") as stream:
            stream.write("gc.set_threshold(5000, 20, 20)\n")
        self.assertEqual(self.start().get("/").json()[1], [5000, 20, 20])


class UsualCollectorTests(SynchronousTestCase):
    """Where the collector looks seldom anyway, or never, nothing changes."""

    def test_nothing(self) -> None:
        """The thresholds are as before."""
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        for before in ((0, 10, 10), (OBJECTS, 10, 10)):
            gc.set_threshold(*before)
            look_seldom()
            self.assertEqual(gc.get_threshold(), before)
            look_as_usual()
            self.assertEqual(gc.get_threshold(), before)
