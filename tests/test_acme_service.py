"""Orders, failures and renewals at a real authority, with the clock in the test's hands."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any
from unittest.mock import patch

import josepy
from twisted.internet import defer, reactor, task
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web import resource, server
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from channelserver.server.acme import order as order_module
from channelserver.server.acme import service as service_module
from channelserver.server.acme.authority import Authority
from channelserver.server.acme.challenges import FOLDER, HTTP_01, Tokens
from channelserver.server.acme.client import Answer, _read, make_agent
from channelserver.server.acme.served import Served
from channelserver.server.acme.service import Certificates
from channelserver.server.acme.sharing import Sharing
from channelserver.server.acme.store import Store, StoreError
from channelserver.server.tls.contexts import Contexts
from tests.certificates import certificate_pem, make_key
from tests.pebble import MISSING, Pebble
from tests.process import TIMEOUT

DEAD = "dead.test does not lead to this server"


class _Answers(resource.Resource):
    isLeaf = True

    def __init__(self, case: ServiceTestCase) -> None:
        super().__init__()
        self.case = case

    def render_GET(self, request: Any) -> Any:
        if not self.case.answering:
            return server.NOT_DONE_YET
        return self.case.tokens.open.get(request.path.decode()[len(FOLDER) :], "?").encode()


class FakeAgent:
    """Adds to a directory what this authority lacks: renewal windows (RFC 9773) and profiles; notes what is ordered."""

    def __init__(self, agent: Any, case: ServiceTestCase) -> None:
        self._agent = agent
        self._case = case

    def request(self, method: bytes, url: bytes, headers: Any = None, body: Any = None) -> Any:
        case = self._case
        for part, answer in case.instead.items():
            if part in url.decode():
                return defer.succeed(_Made(*answer))
        if url.endswith(b"/dir") and case.additions:
            return self._agent.request(method, url, headers, body).addCallback(_read).addCallback(self._add)
        if url.startswith(b"https://ari.test/"):
            case.asked.append(url.decode().rpartition("/")[2])
            return defer.succeed(_Made(200, case.window, {"Retry-After": "21600"}))
        if url.endswith(b"/order-plz"):
            content = json.loads(josepy.b64decode(json.loads(body._data)["payload"]))
            case.ordered.append(content)
            if case.refuse(content):
                problem = {"type": "urn:ietf:params:acme:error:malformed", "detail": "replaces is not welcome"}
                return defer.succeed(_Made(400, problem))
        return self._agent.request(method, url, headers, body)

    def _add(self, answer: Answer) -> _Made:
        directory = answer.json()
        directory["meta"] = {**directory.get("meta", {}), **self._case.additions.get("meta", {})}
        directory.update({key: value for key, value in self._case.additions.items() if key != "meta"})
        return _Made(200, directory)


class _Made:
    """An answer."""

    def __init__(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self.code = code
        self.headers = Headers({name: [value] for name, value in (headers or {}).items()})
        self._content = content if isinstance(content, bytes) else json.dumps(content).encode()

    def deliverBody(self, protocol: Any) -> None:
        protocol.dataReceived(self._content)
        protocol.connectionLost(Failure(ResponseDone()))


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
        self.answering = True  # or requests for challenges wait
        port = reactor.listenTCP(self.pebble.http_port, server.Site(_Answers(self)), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.clock = task.Clock()
        self.clock.rightNow = time.time()
        self.problem = ""  # what the self-check finds
        self.checks = 0
        check = patch.object(service_module, "unreachable", self._unreachable)
        check.start()
        self.addCleanup(check.stop)
        self.renewed: list[str] = []
        #: What the fake adds: to the directory, as window; whether it refuses an order; and what it was asked.
        self.additions: dict[str, Any] = {}
        self.window: Any = {}
        self.refuse = lambda content: False
        #: Answers in place of the authority's, by a part of the URL: status, content, headers.
        self.instead: dict[str, tuple[Any, ...]] = {}
        self.asked: list[str] = []
        self.ordered: list[dict[str, Any]] = []

    def _unreachable(self, *unused: Any) -> str:
        self.checks += 1
        return self.problem

    def authority(self, pebble: Pebble, folder: str = "", **options: Any) -> Authority:
        """Make what orders at an authority."""
        agent: Any = make_agent(reactor, pebble.ca_file)
        self.addCleanup(agent._pool.closeCachedConnections)
        agent = FakeAgent(agent, self)
        store = Store(folder or self.folder, pebble.directory)
        return Authority(store, agent, reactor, self.clock.seconds, "me@a.test", **options)  # type: ignore[arg-type]

    def service(
        self, *names: str, rehearsal: Authority | None = None, folder: str = "", vault: Any = None, **options: Any
    ) -> Certificates:
        """Make a service for names, as a start of a server does."""
        authority = self.authority(self.pebble, folder, **options)
        store = Store(folder or self.folder, self.pebble.directory)
        sharing = None if vault is None else Sharing(vault, store, "ca", self.clock)
        served = Served(Contexts((b"http/1.1",)), self.tokens, store, [tuple(name.split("+")) for name in names])
        service = Certificates(served, authority, rehearsal, reactor, self.clock, self.clock.seconds, sharing=sharing)
        service.kinds = (HTTP_01,)
        service.on_renewed = lambda names, pair: self.renewed.append(pair.serial)
        self.addCleanup(service.stopService)
        return service

    @defer.inlineCallbacks
    def settled(self, service: Certificates) -> Any:
        """Wait until no order is under way."""
        while any(certificate.working or certificate.asking for certificate in service.certificates):
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
    def test_two_servers_with_one_folder(self) -> Any:
        """Of two servers that share a folder one orders, and both serve."""
        services = [self.service("a.test") for _ in range(2)]
        for service in services:
            service.startService()
        for service in services:
            yield self.settled(service)
        yield self.run_for(services[0], 3, 1)
        yield self.settled(services[1])
        self.assertEqual([service.certificates[0].state for service in services], ["valid", "valid"])
        self.assertEqual(self.pebble.count("Added order"), 1)

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
    def test_stop_is_no_failure(self) -> Any:
        """A server that is stopped in the midst of an order has not failed: the next one goes on at once."""
        service = self.service("a.test")
        service.startService()
        self.assertTrue(service.certificates[0].working)
        service.stopService()
        yield self.settled(service)
        self.assertEqual((service.failed, service.certificates[0].failures), (0, 0))
        again = self.service("a.test")
        again.startService()
        yield self.settled(again)
        self.assertEqual(again.certificates[0].state, "valid")

    @defer.inlineCallbacks
    def test_disk_is_full(self) -> Any:
        """A certificate that cannot be stored is served, and nothing is ordered without a place for its key."""
        service = self.service("a.test", "b.test")
        full = StoreError("the disk is full")

        def save(*unused: Any) -> None:
            raise full

        with patch.object(service._served.store, "save", save):
            service.startService()
            yield self.settled(service)
        self.assertEqual([each.state for each in service.certificates], ["valid", "valid"])
        self.assertTrue(service._served.contexts.valid("a.test"))
        service = self.service("c.test")
        with patch.object(Store, "_write", save):
            service.startService()
            yield self.run_for(service, 60)
        self.assertEqual(self.pebble.count("Added order"), 2)
        self.assertEqual(service.certificates[0].state, "failing")
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    @defer.inlineCallbacks
    def test_one_broken_name(self) -> Any:
        """A broken name does not keep the others from their certificates."""
        self.pebble.point("b.test", "127.0.0.99")
        service = self.service("a.test", "b.test", "c.test")
        service.startService()
        yield self.settled(service)
        self.assertEqual([each.state for each in service.certificates], ["valid", "failing", "valid"])


class WrongAnswersTests(ServiceTestCase):
    """An authority that does not do as ACME says: a failure with a sentence, never an error of the server's own."""

    @defer.inlineCallbacks
    def test_wrong_answers(self) -> Any:
        """At each step: no JSON, too much, redirects, other types, strangers' names, certificates that do not fit."""
        challenge = {"type": "http-01", "token": "../x", "url": "https://ca.test/1"}
        name = {"identifier": {"value": "a.test"}}
        key = make_key(1)
        other = certificate_pem(key, hosts=("a.test",))
        for part, pattern, *answer in (
            ("/dir", "not JSON", 200, b"<html>"),
            ("/dir", "not JSON", 200, b'{"newNonce": "https'),
            ("/dir", "not JSON", 200, [1]),
            ("/dir", "has no new", 200, {"newNonce": 7}),
            ("/dir", "redirects .* to https://x", 302, b"", {"Location": "https://x"}),
            ("/order-plz", "not JSON", 201, b"[" * 100_000),
            ("/order-plz", "more than 1048576 bytes", 201, b"x" * 2_000_000),
            ("/order-plz", "not as ACME has them", 201, {"status": "pending"}),
            ("/order-plz", "not as ACME has them", 201, {"status": "pending", "authorizations": 7}),
            ("/order-plz", "1000 authorizations", 201, {"status": "pending", "authorizations": ["https://x"] * 1000}),
            ("/order-plz", "status 403: a b", 403, {"detail": "a\nb" + "c" * 9999, "subproblems": 7}),
            ("/order-plz", "status 403: .* does not say", 403, b"[" * 100_000),
            ("/authZ/", "not as ACME has them", 200, {"status": "pending"}),
            ("/authZ/", "authorization for other", 200, {"status": "pending", "identifier": {"value": "other.test"}}),
            ("/authZ/", "not as ACME has them", 200, {"status": "pending", **name, "challenges": [7]}),
            ("/authZ/", "the token ../x", 200, {"status": "pending", **name, "challenges": [challenge]}),
            ("/authZ/", "offers no challenge", 200, {"status": "pending", **name, "challenges": []}),
            ("/authZ/", "an authorization is expired", 200, {"status": "expired", **name}),
            ("/certZ/", "not in PEM form", 200, b"garbage"),
            ("/certZ/", "does not belong", 200, other),
        ):  # fmt: skip
            self.instead = {part: tuple(answer)}
            service = self.service("a.test")
            service.startService()
            yield self.settled(service)
            certificate = service.certificates[0]
            self.assertEqual(certificate.state, "failing", pattern)
            self.assertRegex(certificate.reason, pattern)
            self.assertLess(len(certificate.reason), 1000)
            self.assertNotIn("\n", certificate.reason)
            self.assertEqual(self.tokens.open, {})
            service.stopService()
            shutil.rmtree(Path(self.folder, "certificates"))
        self.instead = {}
        service = self.service("a.test")
        service.startService()
        yield self.settled(service)
        self.assertEqual(service.certificates[0].state, "valid")

    @defer.inlineCallbacks
    def test_limits(self) -> Any:
        """The authority wants to be left alone: exactly so long, by seconds or a date, but no more than 8 days."""
        problem = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many"}
        date = formatdate(self.clock.seconds() + 7200, usegmt=True)
        for status, value, pause in (
            (429, "3600", 3600), (429, date, 7200), (503, "600", 600), (429, "999999999", 8 * 86_400), (429, "1", 60),
            (429, "Fri, 31 Dec 9999 23:59:59 GMT", 8 * 86_400), (429, "soon", 60), (429, "-5", 60), (500, "", 60),
        ):  # fmt: skip
            self.instead = {"/order-plz": (status, problem, {"Retry-After": value})}
            service = self.service("a.test")
            service.startService()
            yield self.settled(service)
            self.assertLess(abs(service.certificates[0].due()[0] - self.clock.seconds() - pause), 1.5, value)
            service.stopService()
            shutil.rmtree(Path(self.folder, "certificates"))

    @defer.inlineCallbacks
    def test_order_that_is_never_finished(self) -> Any:
        """It is asked for as long as patience lasts, then again at the next try: no second order is made."""
        self.instead = {"/finalize-order/": (200, {"status": "processing"}), "/my-order/": (503, b"")}
        service = self.service("a.test")
        service.startService()
        yield self.settled(service)
        order = service.certificates[0].order
        self.assertTrue(order)
        self.instead = {"/my-order/": (200, {"status": "processing"})}
        with patch.object(order_module, "PATIENCE", 0.1):
            self.clock.advance(61)
            yield self.settled(service)
        self.assertIn("not finished", service.certificates[0].reason)
        self.assertEqual((service.certificates[0].order, self.pebble.count("Added order")), (order, 1))
        self.instead = {}
        yield self.run_for(service, 300)
        self.assertEqual(service.certificates[0].state, "valid")
        self.assertEqual(self.pebble.count("Added order"), 1)

    @defer.inlineCallbacks
    def test_staging_is_down(self) -> Any:
        """A rehearsal that cannot be made does not keep the server from its certificate."""
        staging = Pebble(http_port=self.pebble.http_port)
        self.addCleanup(staging.close)
        self.problem = DEAD
        service = self.service("a.test", rehearsal=self.authority(staging))
        service.startService()
        yield self.settled(service)
        self.problem = ""
        staging.stop()
        yield self.run_for(service, 120)
        self.assertEqual(service.certificates[0].state, "valid")

    @defer.inlineCallbacks
    def test_account_with_a_broken_key(self) -> Any:
        """Its key is lost, so another account is made."""
        service = self.service("a.test")
        service.startService()
        yield self.settled(service)
        (key,) = Path(self.folder).glob("acme/*/users/*/*.key")
        key.write_bytes(b"garbage")
        service = self.service("b.test")
        service.startService()
        yield self.settled(service)
        self.assertEqual(service.certificates[0].state, "valid")
        self.assertEqual(self.pebble.accounts, 2)


class RenewedInTime(ServiceTestCase):
    """Renewed at a part of the lifetime ± 1/50, with another serial number and key; the next handshake gets it."""

    part: float

    @defer.inlineCallbacks
    def check_renewal(self) -> Any:
        """Let the time pass in which a certificate is renewed."""
        service = self.service("a.test")
        service.startService()
        yield self.settled(service)
        first = service.certificates[0].pair
        assert first is not None
        lifetime = first.ends - first.begins
        contexts = service._served.contexts
        before = contexts.context_for("a.test")
        self.clock.advance(first.begins + lifetime * (self.part - 1 / 50) - 1 - self.clock.seconds())
        yield self.settled(service)
        self.assertEqual((len(self.renewed), service.certificates[0].state), (1, "valid"))
        yield self.run_for(service, lifetime / 25 + 2, lifetime / 180)
        second = service.certificates[0].pair
        assert second is not None
        self.assertEqual(self.renewed, [first.serial, second.serial])
        self.assertNotEqual(first.key, second.key)
        self.assertIsNot(contexts.context_for("a.test"), before)
        self.assertEqual(self.pebble.count("Added order"), 2)


class LongLivedTests(RenewedInTime):
    """Certificates of 90 days."""

    part = 2 / 3

    def test_renewal(self) -> Any:
        """At 2/3 of the lifetime."""
        return self.check_renewal()


class RenewalTests(RenewedInTime):
    """Certificates of ten minutes."""

    part = 1 / 2
    validity = 600

    def test_renewal(self) -> Any:
        """At half of the lifetime."""
        return self.check_renewal()

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


class RenewalInfoTests(ServiceTestCase):
    """The authority says when to renew (RFC 9773)."""

    def offer(self, begins: float, ends: float) -> None:
        """Have the authority offer a window; in seconds from now."""
        now = self.clock.seconds()
        texts = [f"{datetime.fromtimestamp(now + each, UTC):%Y-%m-%dT%H:%M:%SZ}" for each in (begins, ends)]
        self.additions = {"renewalInfo": "https://ari.test/info"}
        self.window = {"suggestedWindow": dict(zip(("start", "end"), texts, strict=True))}

    @defer.inlineCallbacks
    def test_past_window(self) -> Any:
        """A window in the past renews once, and not in a loop though the new certificate is offered the same one."""
        self.offer(-7200, -3600)
        service = self.service("a.test")
        service.startService()
        yield self.settled(service)
        first = service.certificates[0].pair
        assert first is not None
        self.assertEqual(self.asked, [first.serial])
        yield self.run_for(service, 8 * 86_400, 21_600)
        self.assertEqual(len(self.renewed), 1)
        yield self.run_for(service, 1.5 * 86_400, 3600)  # 9 days, 1/10 of the lifetime, have passed
        self.assertEqual(len(self.renewed), 2)
        self.assertEqual([order.get("replaces") for order in self.ordered], [None, first.serial])
        yield self.run_for(service, 8 * 86_400, 21_600)
        self.assertEqual(len(self.renewed), 2)
        self.assertEqual(set(self.asked), set(self.renewed))
        self.assertGreater(len(self.asked), 30)
        self.assertLess(service.figures()["renewal_info_age"], 86_400)

    @defer.inlineCallbacks
    def test_far_window(self) -> Any:
        """With 1/20 of the lifetime left, a window that is far ahead counts no more."""
        self.offer(200 * 86_400, 210 * 86_400)
        service = self.service("a.test")
        service.startService()
        yield self.run_for(service, 85 * 86_400, 43_200)
        self.assertEqual(len(self.renewed), 1)
        yield self.run_for(service, 86_400, 7200)
        self.assertEqual(len(self.renewed), 2)

    @defer.inlineCallbacks
    def test_moment_is_drawn_once(self) -> Any:
        """The moment in the window is random, drawn once, and outlasts a restart; a new window has a new one."""
        self.offer(30 * 86_400, 32 * 86_400)
        service = self.service("a.test")
        service.startService()
        yield self.settled(service)
        drawn = service.certificates[0].window
        assert drawn is not None
        self.assertTrue(drawn.start <= drawn.chosen <= drawn.end)
        yield self.run_for(service, 86_400, 21_600)
        service.stopService()
        again = self.service("a.test")
        self.assertEqual(again.certificates[0].window, drawn)
        self.offer(2 * 86_400, 3 * 86_400)
        again.startService()
        yield self.run_for(again, 86_400, 21_600)
        self.assertNotEqual(again.certificates[0].window, drawn)
        self.assertEqual(len(self.renewed), 1)
        yield self.run_for(again, 10 * 86_400, 3600)
        self.assertEqual(len(self.renewed), 2)

    @defer.inlineCallbacks
    def test_nonsense(self) -> Any:
        """A window that cannot be read is none; so is one that ends before it starts."""
        for window in ({}, {"suggestedWindow": 7}, {"suggestedWindow": {"start": "x", "end": "y"}}, [], "x"):
            self.additions, self.window = {"renewalInfo": "https://ari.test/info"}, window
            service = self.service("a.test")
            service.startService()
            yield self.settled(service)
            self.assertEqual(service.certificates[0].state, "valid")
            self.assertIsNone(service.certificates[0].window)
            service.stopService()
            self.clock.advance(3601)

    @defer.inlineCallbacks
    def test_replaces_is_refused(self) -> Any:
        """If an order fails that names what it replaces, the next one does not."""
        self.offer(-7200, -3600)
        self.refuse = lambda content: "replaces" in content
        service = self.service("a.test")
        service.startService()
        yield self.run_for(service, 9.5 * 86_400, 7200)
        self.assertEqual(["replaces" in order for order in self.ordered], [False, True, False])
        self.assertEqual(len(self.renewed), 2)


class AuthorityTests(ServiceTestCase):
    """What authorities ask for, or offer."""

    @defer.inlineCallbacks
    def test_profile(self) -> Any:
        """A profile is ordered if the authority offers it; else the sentence says which ones it does."""
        self.additions = {"meta": {"profiles": {"classic": "x", "shortlived": "y"}}}
        service = self.service("a.test", profile="shortlived")
        service.startService()
        yield self.settled(service)
        self.assertEqual(self.ordered[0]["profile"], "shortlived")
        self.assertEqual(service.certificates[0].state, "valid")
        service = self.service("b.test", profile="tlsserver")
        service.startService()
        yield self.settled(service)
        self.assertIn("it has classic, shortlived", service.certificates[0].reason)
        self.assertEqual(len(self.ordered), 1)

    @defer.inlineCallbacks
    def test_external_account(self) -> Any:
        """An authority that wants an external account gets one, signed with its MAC key."""
        key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
        self.pebble.stop()
        settings = {"externalAccountBindingRequired": True, "externalAccountMACKeys": {"kid-1": key}}
        self.pebble.configure(settings)
        self.pebble.start()
        service = self.service("a.test")
        service.startService()
        yield self.settled(service)
        self.assertIn("externalAccountRequired", service.certificates[0].reason)
        service = self.service("b.test", eab=("kid-1", key))
        service.startService()
        yield self.settled(service)
        self.assertEqual(service.certificates[0].state, "valid")

    @defer.inlineCallbacks
    def test_rehearsal(self) -> Any:
        """After a failure, the staging authority is tried first; its certificate is never stored."""
        staging = Pebble(http_port=self.pebble.http_port)
        self.addCleanup(staging.close)
        for pebble in (self.pebble, staging):
            pebble.point("a.test", "127.0.0.99")
        service = self.service("a.test", rehearsal=self.authority(staging))
        service.startService()
        yield self.run_for(service, 600)
        tried = staging.count("Added order")
        self.assertGreater(tried, 1)
        self.assertEqual(self.pebble.count("Added order"), 1)
        for pebble in (self.pebble, staging):
            pebble.point("a.test", "127.0.0.1")
        yield self.run_for(service, 1200)
        self.assertEqual(service.certificates[0].state, "valid")
        self.assertEqual(staging.count("Added order"), tried + 1)
        self.assertEqual(self.pebble.count("Added order"), 2)
        stored = list(Path(self.folder).rglob("*.crt"))
        self.assertEqual(len(stored), 1)
        self.assertIn(f"127.0.0.1-{self.pebble._port}-dir", str(stored[0]))
