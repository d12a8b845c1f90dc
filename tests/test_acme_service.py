"""Orders, failures and renewals at a real authority, with the clock in the test's hands."""

from __future__ import annotations

import shutil
import tempfile
import time
from typing import Any
from unittest.mock import patch

from twisted.internet import defer, reactor, task
from twisted.trial.unittest import TestCase
from twisted.web import resource, server

from channelserver.server.acme import service as service_module
from channelserver.server.acme.authority import Authority
from channelserver.server.acme.challenges import FOLDER, HTTP_01, Tokens
from channelserver.server.acme.client import make_agent
from channelserver.server.acme.served import Served
from channelserver.server.acme.service import Certificates
from channelserver.server.acme.store import Store
from channelserver.server.tls.contexts import Contexts
from tests.pebble import MISSING, Pebble
from tests.process import TIMEOUT

DEAD = "dead.test does not lead to this server"


class _Answers(resource.Resource):
    isLeaf = True

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self.tokens = tokens

    def render_GET(self, request: Any) -> bytes:
        return self.tokens.open.get(request.path.decode()[len(FOLDER) :], "?").encode()


class ServiceTestCase(TestCase):
    """An authority, and a service that orders there. It answers http-01 alone."""

    skip = MISSING
    timeout = 2 * TIMEOUT
    rejected = 0
    validity = 90 * 86_400

    def setUp(self) -> None:
        """Start the authority, and what answers it."""
        self.pebble = Pebble(rejected=self.rejected, validity=self.validity)
        self.addCleanup(self.pebble.close)
        self.folder = tempfile.mkdtemp(prefix="channelserver-acme-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.tokens = Tokens()
        port = reactor.listenTCP(self.pebble.http_port, server.Site(_Answers(self.tokens)), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.clock = task.Clock()
        self.clock.rightNow = time.time()
        self.problem = ""  # what the self-check finds
        self.checks = 0
        check = patch.object(service_module, "unreachable", self._unreachable)
        check.start()
        self.addCleanup(check.stop)
        self.renewed: list[str] = []

    def _unreachable(self, *unused: Any) -> str:
        self.checks += 1
        return self.problem

    def service(self, *names: str, rehearsal: Authority | None = None) -> Certificates:
        """Make a service for names, as a start of a server does."""
        store = Store(self.folder, self.pebble.directory)
        served = Served(Contexts((b"http/1.1",)), self.tokens, store, [tuple(name.split("+")) for name in names])
        agent = make_agent(reactor, self.pebble.ca_file)
        authority = Authority(store, agent, reactor, self.clock.seconds, "me@a.test")  # type: ignore[arg-type]
        service = Certificates(served, authority, rehearsal, reactor, self.clock, self.clock.seconds)
        service.kinds = (HTTP_01,)
        service.on_renewed = lambda names, pair: self.renewed.append(pair.serial)
        self.addCleanup(self._close, service, agent)
        return service

    @defer.inlineCallbacks
    def _close(self, service: Certificates, agent: Any) -> Any:
        service.stopService()
        yield agent._pool.closeCachedConnections()

    @defer.inlineCallbacks
    def settled(self, service: Certificates) -> Any:
        """Wait until no order is under way."""
        while any(certificate.working for certificate in service.certificates):
            yield task.deferLater(reactor, 0.01)

    @defer.inlineCallbacks
    def run_for(self, service: Certificates, seconds: float, step: float = 60.0) -> Any:
        """Let time pass."""
        ends = self.clock.seconds() + seconds
        while self.clock.seconds() < ends:
            self.clock.advance(min(step, ends - self.clock.seconds()))
            yield self.settled(service)


class OrderTests(ServiceTestCase):
    """Orders that come to a certificate."""

    rejected = 50

    @defer.inlineCallbacks
    def test_many_with_refused_nonces(self) -> Any:
        """Half of all nonces refused, 20 names: all get a certificate, by one account and 20 orders, 10 a minute."""
        service = self.service(*(f"n{number}.test" for number in range(20)))
        service.startService()
        yield self.settled(service)
        self.assertEqual(service.issued, 10)
        yield self.run_for(service, 120, 10)
        self.assertEqual([each.state for each in service.certificates], ["valid"] * 20)
        self.assertEqual((service.issued, service.failed, self.pebble.accounts), (20, 0, 1))
        self.assertEqual(self.pebble.count("Added order"), 20)
        self.assertEqual(len(set(self.renewed)), 20)


class FailureTests(ServiceTestCase):
    """Orders that fail, and what is kept of it."""

    @defer.inlineCallbacks
    def test_dead_address(self) -> Any:
        """No order before the self-check; restarts do not reset the schedule; once mended it becomes valid."""
        self.problem = DEAD
        self.pebble.point("a.test", "127.0.0.99")
        for _ in range(10):
            service = self.service("a.test")
            service.startService()
            yield self.settled(service)
            self.assertEqual(service.certificates[0].state, "failing")
            service.stopService()
        self.assertEqual((self.checks, self.pebble.count("Added order")), (1, 0))
        service = self.service("a.test")
        service.startService()
        yield self.run_for(service, 3600)
        self.assertEqual(service.certificates[0].state, "failing")
        self.assertIn("http-01 for a.test failed", service.certificates[0].reason)
        self.assertLessEqual(self.pebble.count("Added order"), 6)
        self.problem = ""
        self.pebble.point("a.test", "127.0.0.1")
        yield self.run_for(service, 2400)
        self.assertEqual(service.certificates[0].state, "valid")
        self.assertEqual(service.certificates[0].failures, 0)

    @defer.inlineCallbacks
    def test_unknown_name(self) -> Any:
        """A name that does not resolve is never ordered."""
        self.problem = "a.test does not resolve"
        service = self.service("a.test")
        service.startService()
        yield self.run_for(service, 86_400, 600)
        self.assertEqual(self.pebble.count("Added order"), 0)
        self.assertIn("does not resolve", service.certificates[0].reason)

    @defer.inlineCallbacks
    def test_authority_forgets_the_account(self) -> Any:
        """An account that is gone at the authority is made again."""
        service = self.service("a.test")
        service.startService()
        yield self.settled(service)
        self.pebble.stop()
        self.pebble.start()
        service = self.service("a.test", "b.test")
        service.startService()
        yield self.settled(service)
        self.assertEqual([each.state for each in service.certificates], ["valid", "valid"])

    @defer.inlineCallbacks
    def test_one_broken_name(self) -> Any:
        """A broken name does not keep the others from their certificates."""
        self.pebble.point("b.test", "127.0.0.99")
        service = self.service("a.test", "b.test", "c.test")
        service.startService()
        yield self.settled(service)
        self.assertEqual([each.state for each in service.certificates], ["valid", "failing", "valid"])


class RenewalTests(ServiceTestCase):
    """Certificates of ten minutes."""

    validity = 600

    @defer.inlineCallbacks
    def test_renewal(self) -> Any:
        """Renewed at half of the lifetime, with a new key; the next handshake gets it."""
        service = self.service("a.test")
        service.startService()
        yield self.settled(service)
        first = service.certificates[0].pair
        assert first is not None
        contexts = service._served.contexts
        before = contexts.context_for("a.test")
        self.clock.advance(first.begins + 600 / 2 - 600 / 50 - 1 - self.clock.seconds())
        yield self.settled(service)
        self.assertEqual(len(self.renewed), 1)
        self.clock.advance(600 / 25 + 2)
        yield self.settled(service)
        second = service.certificates[0].pair
        assert second is not None
        self.assertEqual(self.renewed, [first.serial, second.serial])
        self.assertNotEqual(first.key, second.key)
        self.assertIsNot(contexts.context_for("a.test"), before)
        self.assertEqual(self.pebble.count("Added order"), 2)

    @defer.inlineCallbacks
    def test_authority_is_down(self) -> Any:
        """The certificate is served to its end and after; one line an hour; renewed when the authority is back."""
        service = self.service("a.test")
        service.startService()
        yield self.settled(service)
        self.pebble.stop()
        errors: list[str] = []
        with patch.object(service_module._log, "error", lambda *unused, **event: errors.append(event["reason"])):
            yield self.run_for(service, 3 * 3600, 300)
        self.assertEqual(service.certificates[0].state, "expired")
        self.assertGreater(service.failed, 10)
        self.assertLessEqual(len(errors), 4)
        self.assertIn("does not answer", errors[0])
        self.pebble.start()
        for _ in range(100):
            if len(self.renewed) > 1:
                break
            yield self.run_for(service, 600, 600)
        self.assertEqual(service.certificates[0].failures, 0)
        # To this clock, which is hours ahead of the authority's, the new certificate is too old, too: no loop.
        yield self.run_for(service, 50, 1)
        self.assertEqual(len(self.renewed), 2)
