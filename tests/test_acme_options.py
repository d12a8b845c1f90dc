"""The options of ``--https``: names, and what contradicts what."""

from __future__ import annotations

import errno
import socket
from typing import Any
from unittest.mock import MagicMock

from twisted.trial.unittest import SynchronousTestCase

from channelserver.server.common.host_names import certificate_names, host_name
from channelserver.server.common.option import OptionError
from channelserver.server.common.options import Settings, resolve
from channelserver.server.edge.certificates import server_tls


def options(**given: Any) -> Settings:
    return resolve(given, {}, {})


class NameTests(SynchronousTestCase):
    """Which names may have a certificate."""

    def test_names(self) -> None:
        """Names are brought into one form; a comma divides certificates, a plus joins names in one."""
        self.assertEqual(host_name(" Example.ORG. "), "example.org")
        self.assertEqual(host_name("bücher.example"), "xn--bcher-kva.example")
        self.assertEqual(
            certificate_names(["a.test,b.test", "c.test+www.c.test+c.test", "a.test"]),
            [("a.test",), ("b.test",), ("c.test", "www.c.test")],
        )

    def test_refused(self) -> None:
        """A wildcard is refused with the way out; so is what is no host name."""
        error = self.assertRaises(OptionError, options, https=["*.example.org"])
        self.assertIn("--tls-cert", str(error))
        self.assertIn("dns-01", str(error))
        self.assertIn("addresses", str(self.assertRaises(OptionError, options, https=["192.0.2.1"])))
        for name in (
            "",
            ",",
            "localhost",
            "a..b",
            "-a.test",
            "a.test/x",
            "https://a.test",
            "a b.test",
            "a" * 64 + ".x",
            "1.2",
        ):
            self.assertIn("--https must be", str(self.assertRaises(OptionError, options, https=[name])))


class ContradictionTests(SynchronousTestCase):
    """What cannot be given together."""

    def test_certificate_of_its_own(self) -> None:
        """What belongs to --https needs it; a second redirect is none."""
        error = self.assertRaises(OptionError, options, https=["a.test"], redirect_http=True)
        self.assertIn("leave out --redirect-http", str(error))
        error = self.assertRaises(OptionError, options, https=["a.test"], redirect_port=81)
        self.assertIn("leave out --redirect-port", str(error))
        error = self.assertRaises(OptionError, options, https=["a.test"], https_port=80)
        self.assertIn("--https-port and --http-port are both 80; give one", str(error))
        error = self.assertRaises(OptionError, server_tls, options(https=["a.test"], tls_key="x"))
        self.assertIn("--tls-key needs --tls-cert", str(error))
        for name, value in {"email": "a@b", "acme_store": "x", "http_port": 80, "acme_profile": "x"}.items():
            error = self.assertRaises(OptionError, options, **{name: value})
            self.assertIn("needs --https", str(error))
        self.assertRaises(OptionError, options, https=["a.test"], acme_eab_kid="x")
        for key in ("a+b/", "!!!!", "", "abcde"):
            self.assertRaises(OptionError, options, https=["a.test"], acme_eab_kid="x", acme_eab_key=key)
        self.assertRaises(OptionError, options, https=["a.test"], acme_directory="http://x/")
        self.assertRaises(OptionError, options, https=["a.test"], email="nobody")
        self.assertRaises(OptionError, options, https=["a.test", "a.test+b.test"])

    def test_listeners(self) -> None:
        """--https listens on all addresses, and --bind names another; there is no default listener."""
        for families, every in (((socket.AF_INET, socket.AF_INET6), "::"), ((socket.AF_INET,), "0.0.0.0")):
            self.patch(socket, "socket", lambda family, families=families: self._socket(family, families))
            values = options(https=["a.test"], tls_cert="x")
            self.assertEqual((values.bind, values.simple_listener), (every, False))
        values = options(https=["a.test"], bind="127.0.0.1")
        self.assertEqual((values.bind, values.simple_listener), ("127.0.0.1", False))
        self.assertIn("--https-port", str(self.assertRaises(OptionError, options, https=["a.test"], port=8000)))
        self.assertFalse(resolve({}, {"port": 8000, "https": ["a.test"]}, {}).simple_listener)
        self.assertEqual(options().bind, "127.0.0.1")

    def _socket(self, family: socket.AddressFamily, families: tuple[socket.AddressFamily, ...]) -> Any:
        """Stand for a socket on a machine that has only some families of addresses."""
        if family not in families:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return MagicMock(**{"__enter__.return_value.getsockopt.return_value": 0})
