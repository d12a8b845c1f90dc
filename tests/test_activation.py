"""Sockets that systemd passes: with and without names; wrong variables make one sentence."""

from __future__ import annotations

import os
import socket

from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.common import activation
from channelserver.server.common.activation import systemd_endpoint


class ActivationTests(SynchronousTestCase):
    """What a description means, given the variables."""

    def setUp(self) -> None:
        """Have two sockets passed: one of IPv4 listens, a Unix socket does not."""
        listener = self.enterContext(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        self.first = 600  # not one of those that may be open
        os.dup2(listener.fileno(), self.first)
        self.addCleanup(os.close, self.first)
        other = self.enterContext(socket.socket(socket.AF_UNIX))
        os.dup2(other.fileno(), self.first + 1)
        self.addCleanup(os.close, self.first + 1)
        self.patch(activation, "FIRST", self.first)
        self.patch(activation, "_PROCESS", 7)
        self.variables = {"LISTEN_PID": "7", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "web:other:none"}

    def test_found(self) -> None:
        """By index, with or without a domain and names; by name."""
        unnamed = {**self.variables, "LISTEN_FDNAMES": ""}
        for description, variables in (
            ("systemd:domain=INET:index=0", self.variables),
            ("systemd:INET:index=0", self.variables),
            ("systemd:index=0", unnamed),
            ("systemd:domain=INET:index=0", unnamed),
            ("systemd:name=web", self.variables),
        ):
            endpoint = systemd_endpoint(MemoryReactor(), description, variables)
            self.assertEqual((endpoint.fileno, endpoint.addressFamily), (self.first, socket.AF_INET))

    def test_wrong(self) -> None:
        """Each mistake has its sentence."""
        for description, changes, words in (
            ("systemd:index=0", {"LISTEN_PID": "", "LISTEN_FDS": ""}, "has passed no sockets"),
            ("systemd:index=0", {"LISTEN_PID": ""}, "LISTEN_PID is not set"),
            ("systemd:index=0", {"LISTEN_PID": "1"}, "are for process 1, and this is 7"),
            ("systemd:index=0", {"LISTEN_FDS": "some"}, "must be the number of passed sockets, not 'some'"),
            ("systemd:index=0", {"LISTEN_FDS": "-1"}, "must be the number"),
            ("systemd:index=0", {"LISTEN_FDS": "0"}, "must be the number"),
            ("systemd:index=9", {}, "must be below 3"),
            ("systemd:index=x", {}, "must be below 3"),
            ("systemd:index=1", {}, "no listening socket"),
            ("systemd:index=2", {}, "is no socket: bad file descriptor"),
            ("systemd:domain=INET6:index=0", {}, "domain is INET, not INET6"),
            ("systemd:name=api", {}, "no socket named 'api', but 'web', 'other', 'none'"),
            ("systemd:name=api", {"LISTEN_FDNAMES": ""}, "but no names"),
            ("systemd:domain=INET", {}, "either an index or a name"),
            ("systemd:domain=INET:port=5", {}, "'port=5' has no meaning"),
        ):
            with self.assertRaises(ValueError, msg=words) as caught:
                systemd_endpoint(MemoryReactor(), description, {**self.variables, **changes})
            self.assertIn(words, str(caught.exception))
