"""Certificates on demand: what the project allows, and the budgets."""

from __future__ import annotations

import ssl
from typing import Any

from twisted.internet import defer, task
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.acme.challenges import Tokens
from channelserver.server.acme.on_demand import NO_SECONDS, REMEMBERED, WAITING, OnDemand
from channelserver.server.acme.served import Served
from channelserver.server.tls.contexts import Contexts
from tests.test_acme_server import AcmeTestCase
from tests.test_acme_service import ServiceTestCase


class DecisionTests(SynchronousTestCase):
    """What becomes of a handshake, without a network."""

    def setUp(self) -> None:
        """Make it; the project's answers are in the test's hands."""
        self.clock = task.Clock()
        self.questions: list[tuple[str, str | None, defer.Deferred[bool]]] = []
        self.orders: list[tuple[str, defer.Deferred[bool]]] = []
        self.contexts = Contexts((b"http/1.1",))
        self.on_demand = OnDemand(self.contexts, self._allow, self._obtain, self.clock)

    def _allow(self, name: str, peer: str | None) -> defer.Deferred[bool]:
        self.questions.append((name, peer, defer.Deferred()))
        return self.questions[-1][2]

    def _obtain(self, name: str) -> defer.Deferred[bool]:
        self.orders.append((name, defer.Deferred()))
        return self.orders[-1][1]

    def ask(self, name: str, peer: str = "192.0.2.1") -> list[bool]:
        """Ask as a handshake does; return where the answer will be."""
        answers: list[Any] = []
        waits = self.on_demand(name, peer)
        assert waits is not None
        waits.addErrback(lambda failure: False).addCallback(answers.append)
        return answers

    def test_yes(self) -> None:
        """All handshakes for the name wait for one question and one order."""
        answers = [self.ask("yes.test") for _ in range(5)]
        self.assertEqual([question[:2] for question in self.questions], [("yes.test", "192.0.2.1")])
        self.questions[0][2].callback(True)
        self.assertEqual([name for name, _ in self.orders], ["yes.test"])
        self.orders[0][1].callback(True)
        self.assertEqual(answers, [[True]] * 5)

    def test_no(self) -> None:
        """A no is remembered for five minutes."""
        answers = self.ask("no.test")
        self.questions[0][2].callback(False)
        self.assertEqual((answers, self.ask("no.test"), self.orders), ([False], [False], []))
        self.assertEqual(len(self.questions), 1)
        self.clock.advance(NO_SECONDS + 1)
        self.ask("no.test")
        self.assertEqual(len(self.questions), 2)

    def test_slow(self) -> None:
        """A question counts as no after 2 s, a handshake waits 10 s; slow questions do not take up all threads."""
        first, second = self.ask("a.test"), self.ask("b.test")
        self.assertEqual(self.ask("c.test"), [False])
        self.clock.advance(2.1)
        self.assertEqual((first, second), ([False], [False]))
        self.assertEqual(self.ask("d.test"), [False])  # both threads are still on it
        self.assertEqual(len(self.flushLoggedErrors()), 0)
        self.questions[0][2].callback(True)
        fourth = self.ask("e.test")
        self.questions[2][2].callback(True)
        self.clock.advance(10)
        self.assertEqual(fourth, [False])
        self.orders[0][1].callback(True)  # late, but there
        self.assertEqual(len(self.orders), 1)

    def test_long_order(self) -> None:
        """While an order takes minutes, handshakes that have given up take no place of others."""
        self.ask("a.test")
        self.questions[0][2].callback(True)
        for _ in range(10):
            for _ in range(WAITING // 4):
                self.ask("a.test")
            self.clock.advance(11)
        answer = self.ask("a.test")
        self.assertEqual(answer, [])
        self.orders[0][1].callback(True)
        self.assertEqual(answer, [True])

    def test_error(self) -> None:
        """A function that raises says no, and the log has the traceback."""
        answers = self.ask("a.test")
        self.questions[0][2].errback(ZeroDivisionError())
        self.assertEqual(answers, [False])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_what_is_no_name(self) -> None:
        """Nobody is asked about what no certificate can be for."""
        for name in ("localhost", "192.0.2.7", "*.test", "a..test", "x" * 300, "a test.org", ""):
            self.assertEqual(self.ask(name), [False])
        self.assertEqual(self.questions, [])

    def test_many_names(self) -> None:
        """One address may cause ten questions, then one in six seconds; what is remembered is bounded."""
        for number in range(1000):
            self.ask(f"n{number}.test")
            if self.questions and not self.questions[-1][2].called:
                self.questions[-1][2].callback(False)
        self.assertEqual(len(self.questions), 10)
        for number in range(20):  # half of an address of IPv6 is the client's to choose
            self.ask(f"v{number}.test", f"2001:db8:1::{number}")
            self.questions[-1][2].called or self.questions[-1][2].callback(False)
        self.assertEqual(len(self.questions), 20)
        for number in range(2 * REMEMBERED):
            self.ask(f"m{number}.test", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
            self.questions[-1][2].callback(False)
        self.assertEqual(len(self.on_demand._refused), REMEMBERED)
        self.assertEqual(len(self.on_demand._buckets), REMEMBERED)
        self.assertEqual(self.on_demand._waiting, {})

    def test_authority(self) -> None:
        """The authority's own handshake for an open challenge is let through."""
        from channelserver.server.acme.challenges import alpn_certificate

        self.contexts.challenge("a.test", *alpn_certificate("a.test", "x"))
        self.assertIsNone(self.on_demand("a.test", "192.0.2.1"))


class BudgetTests(ServiceTestCase):
    """Orders on demand."""

    @defer.inlineCallbacks
    def test_orders_an_hour(self) -> Any:
        """Five orders an hour, one at a time; a certificate that is there costs none, not after a restart either."""
        service = self.service("a.test")
        service.startService()
        yield self.settled(service)
        together = [defer.Deferred.fromCoroutine(service.demand(f"t{number}.test")) for number in range(3)]
        found = yield defer.gatherResults(together)
        self.assertEqual(found, [True, False, False])
        found = []
        for number in range(10):
            found.append((yield defer.Deferred.fromCoroutine(service.demand(f"n{number}.test"))))
        self.assertEqual(found, [True] * 4 + [False] * 6)
        self.assertEqual(self.pebble.count("Added order"), 6)
        restarted = self.service("a.test")
        restarted.startService()
        self.assertFalse((yield defer.Deferred.fromCoroutine(restarted.demand("n8.test"))))
        restarted.stopService()
        self.clock.advance(3601)
        self.assertTrue((yield defer.Deferred.fromCoroutine(service.demand("n9.test"))))
        again = self.service("a.test")
        again.startService()
        self.assertTrue((yield defer.Deferred.fromCoroutine(again.demand("n1.test"))))
        self.assertEqual(self.pebble.count("Added order"), 7)

    @defer.inlineCallbacks
    def test_renewal_is_allowed(self) -> Any:
        """Before a renewal the project is asked again; after a no the certificate is dropped, in all processes."""
        service = self.service("a.test")
        service.startService()
        asked: list[str] = []
        service.allow = lambda name, peer: defer.succeed(asked.append(name) or name == "yes.test")  # type: ignore[func-returns-value]
        sibling = Served(Contexts((b"http/1.1",)), Tokens(), service._served.store, [("a.test",)])
        service.tell = lambda: sibling.apply(service._served.state())
        yield self.settled(service)
        for name in ("yes.test", "no.test"):
            self.assertTrue((yield defer.Deferred.fromCoroutine(service.demand(name))))
            self.assertTrue(sibling.contexts.serves(name))
        self.clock.advance(65 * 86_400)
        yield self.settled(service)
        self.assertEqual(asked, ["yes.test", "no.test"])
        self.assertEqual([each.names for each in service.certificates], [("a.test",), ("yes.test",)])
        for served in (service._served, sibling):
            self.assertEqual(
                [served.contexts.serves(f"{name}.test") for name in ("a", "yes", "no")], [True, True, False]
            )
        self.assertEqual(self.pebble.count("Added order"), 5)


class HandshakeTests(AcmeTestCase):
    """Handshakes at a real server."""

    extra_settings = """
        import settings_names
        ALLOWED_HOSTS = [".test", "127.0.0.1"]
        ACME_ALLOW = "tenants.allow"
    """

    def test_on_demand(self) -> None:
        """The first handshake for an allowed name waits for its certificate; one for another name is refused."""
        pebble = self.pebble()
        server = self.serve(pebble, "--processes", "2")
        server.wait_for(r"certificate \(the first one\) for a\.test")
        self.assertEqual(self.page(pebble, "yes.test").status, 200)
        for _ in range(5):
            self.assertEqual(self.page(pebble, "yes.test").status, 200)
        self.assertRaises(ssl.SSLError, self.certificate, "no.test")
        self.assertEqual(pebble.count("Added order"), 2)
        asked = (self.folder / "asked").read_text().splitlines()
        self.assertIn("yes.test 127.0.0.1", asked)
        self.assertLessEqual(len(asked), 4)
