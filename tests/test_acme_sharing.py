"""What two hosts share, with the clock in the test's hands; what they share it by is in the test's memory."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from twisted.internet import defer, reactor, task

from channelserver.layers import ChannelFull
from channelserver.server.acme.service import Certificates
from tests.test_acme_service import DEAD, ServiceTestCase


class Memory:
    """A vault."""

    seals = True

    def __init__(self, case: ServiceTestCase) -> None:
        self._now = case.clock.seconds
        self.values: dict[str, Any] = {}
        self.leases: dict[str, tuple[str, float]] = {}
        self.is_up = True

    def _check(self) -> None:
        if not self.is_up:
            raise ChannelFull("Redis is down")

    async def ready(self) -> None:
        """It always is."""

    async def get(self, name: str) -> Any:
        self._check()
        return copy.deepcopy(self.values.get(name))

    async def put(self, name: str, value: Any, seconds: float) -> None:
        self._check()
        self.values[name] = copy.deepcopy(value)

    async def remove(self, name: str) -> None:
        self._check()
        self.values.pop(name, None)

    async def lease(self, name: str, owner: str, seconds: float) -> bool:
        self._check()
        other, ends = self.leases.get(name, (owner, 0.0))
        if other != owner and ends > self._now():
            return False
        self.leases[name] = owner, self._now() + seconds
        return True

    async def release(self, name: str, owner: str) -> None:
        self._check()
        if self.leases.get(name, ("", 0.0))[0] == owner:
            del self.leases[name]


class SharingTests(ServiceTestCase):
    """Two hosts."""

    def setUp(self) -> None:
        """Make what they share."""
        super().setUp()
        self.vault = Memory(self)

    def host(self, number: int, *names: str) -> Certificates:
        """Start a host."""
        service = self.service(*(names or ("a.test",)), folder=os.path.join(self.folder, str(number)), vault=self.vault)
        service.startService()
        return service

    @defer.inlineCallbacks
    def both(self, hosts: list[Certificates], seconds: float, step: float) -> Any:
        """Let time pass."""
        for _ in range(int(seconds / step)):
            self.clock.advance(step)
            for host in hosts:
                yield self.settled(host)

    @defer.inlineCallbacks
    def test_renewal(self) -> Any:
        """First certificate and renewal are ordered once, and served by both; one account."""
        hosts = [self.host(1), self.host(2)]
        for host in hosts:
            yield self.settled(host)
        yield self.both(hosts, 10, 2)
        for orders in (1, 2):
            serials = {host.certificates[0].pair.serial for host in hosts if host.certificates[0].pair}
            self.assertEqual(len(serials), 1)
            self.assertEqual((self.pebble.count("Added order"), self.pebble.accounts), (orders, 1))
            yield self.both(hosts, 62 * 86_400 if orders == 1 else 5 * 86_400, 43_200)
            yield self.both(hosts, 1200, 60)
        self.assertEqual(sorted(self.renewed), sorted(2 * list(set(self.renewed))))
        self.assertEqual(self.pebble.count("Added order"), 2)
        self.assertEqual(self.vault.leases, {})
        self.assertEqual([name for name in self.vault.values if name.startswith("challenge")], [])

    @defer.inlineCallbacks
    def test_lease(self) -> Any:
        """While another host has the lease nothing is ordered; when that host is dead, its lease ends."""
        self.vault.leases["certificate:ca:a.test"] = "another", self.clock.seconds() + 60
        host = self.host(1)
        yield self.settled(host)
        yield self.both([host], 58, 2)
        self.assertEqual(self.pebble.count("Added order"), 0)
        yield self.both([host], 6, 2)
        self.assertEqual(host.certificates[0].state, "valid")

    @defer.inlineCallbacks
    def test_failures_are_shared(self) -> Any:
        """After a failure on one host the others keep to its schedule."""
        self.problem = DEAD
        one = self.host(1)
        yield self.settled(one)
        two = self.host(2)
        yield self.settled(two)
        self.assertEqual((self.checks, two.certificates[0].failures), (1, 1))

    @defer.inlineCallbacks
    def test_outage(self) -> Any:
        """Without the others nothing is ordered, what is there is served; then all goes on."""
        self.vault.is_up = False
        hosts = [self.host(1), self.host(2)]
        for host in hosts:
            yield self.settled(host)
        yield self.both(hosts, 120, 10)
        self.assertEqual(self.pebble.count("Added order"), 0)
        self.vault.is_up = True
        yield self.both(hosts, 20, 2)
        self.assertEqual([host.certificates[0].state for host in hosts], ["valid", "valid"])
        self.vault.values.clear()  # an empty Redis gets it back
        yield self.both(hosts, 700, 100)
        self.assertIn("certificate:ca:a.test", self.vault.values)
        self.assertEqual(self.pebble.count("Added order"), 1)

    @defer.inlineCallbacks
    def test_lease_is_lost_to_another(self) -> Any:
        """Redis has lost the lease, and another host has it: the order stops, and nothing of it is stored."""
        host = yield self.stuck()
        self.vault.leases["certificate:ca:a.test"] = "another", self.clock.seconds() + 600
        self.vault.values["certificate:ca:a.test"] = other = {"record": {"order": "", "reason": "another's"}}
        self.clock.advance(20)
        yield self.settled(host)
        certificate = host.certificates[0]
        self.assertEqual((certificate.state, certificate.failures, host.failed), ("absent", 0, 0))
        yield self.both([host], 4, 2)
        self.assertEqual(self.vault.values["certificate:ca:a.test"], other)
        self.assertEqual((certificate.order, certificate.reason), ("", "another's"))
        self.assertEqual(self.tokens.open, {})
        self.answering = True
        self.vault.leases.clear()
        yield self.both([host], 40, 2)
        self.assertEqual(certificate.state, "valid")

    @defer.inlineCallbacks
    def test_lease_cannot_be_extended(self) -> Any:
        """Without Redis an order stops before others may take its lease; with it again it goes on."""
        host = yield self.stuck()
        self.vault.is_up = False
        for _ in range(49):
            self.clock.advance(1)
            yield task.deferLater(reactor, 0.01)  # the authority answers
        self.assertTrue(host.certificates[0].working)
        self.clock.advance(1)
        yield self.settled(host)
        self.assertEqual((host.certificates[0].working, host.failed), (False, 0))
        self.assertEqual(len(list(Path(self.folder).rglob("*.crt"))), 0)
        self.vault.is_up = self.answering = True
        yield self.both([host], 60, 2)
        self.assertEqual(host.certificates[0].state, "valid")
        self.assertEqual(self.pebble.count("Issued certificate serial"), 1)

    @defer.inlineCallbacks
    def timers(self) -> Any:
        """Wait for Twisted's timer of a connection that was cut off before it was made."""
        while any(call.getTime() - reactor.seconds() < 0.3 for call in reactor.getDelayedCalls()):
            yield task.deferLater(reactor, 0.01)

    @defer.inlineCallbacks
    def stuck(self) -> Any:
        """Start a host, and return it in the midst of an order: the authority waits for the answer to a challenge."""
        self.answering = False
        host = self.host(1)
        self.addCleanup(self.timers)
        while not self.tokens.open or not host.certificates[0].order:
            yield task.deferLater(reactor, 0.01)
        self.assertTrue(host.certificates[0].working)
        return host

    @defer.inlineCallbacks
    def test_many_names_in_an_outage(self) -> Any:
        """What fails at once, for hundreds of names, is no recursion."""
        self.vault.is_up = False
        host = self.host(1, *(f"n{number}.test" for number in range(400)))
        yield self.settled(host)
        self.assertEqual({each.learned for each in host.certificates}, {self.clock.seconds()})

    @defer.inlineCallbacks
    def test_orders_on_demand(self) -> Any:
        """Five an hour and one at a time, of all hosts together; what another one has ordered costs nothing."""
        hosts = [self.host(1), self.host(2)]
        for host in hosts:
            yield self.settled(host)
        yield self.both(hosts, 4, 2)

        def demand(number: int, name: str) -> Any:
            return defer.Deferred.fromCoroutine(hosts[number].demand(name))

        found = yield defer.gatherResults([demand(0, "n0.test"), demand(1, "n1.test")])
        self.assertEqual(found, [True, False])
        found = []
        for number in range(1, 10):
            found.append((yield demand(number % 2, f"n{number}.test")))
        self.assertEqual(found, [True] * 4 + [False] * 5)
        self.assertTrue((yield demand(1, "n0.test")))
        self.assertTrue((yield demand(0, "n1.test")))
        self.assertEqual(self.pebble.count("Added order"), 6)
        self.assertEqual([name for name in self.vault.leases if not name[-1].isdigit()], [])
        yield self.both(hosts, 3602, 1801)
        self.assertTrue((yield demand(0, "n9.test")))
        self.vault.is_up = False
        self.assertFalse((yield demand(0, "n10.test")))
