"""What two hosts share, with the clock in the test's hands; what they share it by is in the test's memory."""

from __future__ import annotations

import copy
import os
from typing import Any

from twisted.internet import defer

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

    def host(self, number: int) -> Certificates:
        """Start a host."""
        service = self.service("a.test", folder=os.path.join(self.folder, str(number)), vault=self.vault)
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
