"""Several hosts of one site, which share a Redis: one orders, all serve."""

from __future__ import annotations

import signal

from tests.pebble import Pebble
from tests.process import Server, wait_until
from tests.redis_server import RedisServer
from tests.test_acme_server import AcmeTestCase


class HostsTestCase(AcmeTestCase):
    """Two hosts: one on 127.0.0.1, the other on 127.0.0.2, with the same ports."""

    keys = '["a long secret"]'

    def setUp(self) -> None:
        """Start Redis, and write the project."""
        self.redis = RedisServer()
        self.addCleanup(self.redis.remove)
        self.extra_settings = f"""
            import settings_names
            ALLOWED_HOSTS = [".test", "127.0.0.1"]
            CHANNEL_LAYERS["default"] = {{
                "BACKEND": "channelserver.layers.RedisChannelLayer", "ROUTING": "routing.channel_routing",
                "CONFIG": {{"hosts": [{self.redis.url!r}], "symmetric_encryption_keys": {self.keys}}},
            }}
        """
        super().setUp()

    def host(self, pebble: Pebble, number: int, names: str) -> Server:
        """Start a host; the first one has two processes."""
        return self.serve(
            pebble, "--bind", f"127.0.0.{number}", "--acme-store", str(self.folder / f"store{number}"),
            "--local-socket", "", "--processes", str(3 - number), names=names,
        )  # fmt: skip

    def point(self, pebble: Pebble, **addresses: str) -> None:
        """Have names lead to hosts."""
        for name, address in addresses.items():
            pebble.point(f"{name}.test", address)
        self.write({"names": "".join(f"{name}.test {address}\n" for name, address in addresses.items())})

    def redis_content(self) -> bytes:
        """Return all values in Redis."""
        return b"".join(self.redis.command("GET", key) for key in self.keys_of(b"vault"))

    def keys_of(self, kind: bytes) -> list[bytes]:
        """Return the keys of a kind."""
        return [key for key in self.redis.command("KEYS", b"*%b*" % kind).split(b"\r\n") if kind in key]


class HostsTests(HostsTestCase):
    """Orders of two hosts."""

    def test_both_at_once(self) -> None:
        """Both start at once, each has half of the names: one order per name, one account, and both serve all."""
        pebble = self.pebble()
        self.point(pebble, a="127.0.0.1", b="127.0.0.2", c="127.0.0.1", d="127.0.0.2")
        names = "a.test,b.test,c.test,d.test"
        self.redis.freeze()
        hosts = [self.host(pebble, number, names) for number in (1, 2)]
        self.redis.thaw()
        for host in hosts:
            for name in names.split(","):
                host.wait_for(rf"certificate \((the first one|another host has ordered it)\) for {name}")
        self.assertEqual((pebble.count("Added order"), pebble.accounts), (4, 1))
        self.assertEqual(pebble.count("Issued certificate serial"), 4)
        content = self.redis_content()
        self.assertGreater(len(content), 4000)
        self.assertNotIn(b"PRIVATE KEY", content)
        self.assertNotIn(b"BEGIN CERT", content)
        for number in (1, 2):
            for key in (self.folder / f"store{number}").rglob("*.key"):
                self.assertNotIn(b"".join(key.read_bytes().split(b"\n")[1:-2]), content.replace(b"\n", b""))

    def test_holder_is_killed(self) -> None:
        """The host that orders is killed: another one goes on with the same order when the lease has ended."""
        pebble = self.pebble()
        self.point(pebble, a="127.0.0.1")
        one = self.host(pebble, 1, "a.test")
        one.wait_for("ordering a certificate")
        one.process.send_signal(signal.SIGKILL)
        one.wait()
        for lease in self.keys_of(b"lease"):  # a minute later
            self.redis.command("DEL", lease)
        issued = pebble.count("Issued certificate serial")
        self.point(pebble, a="127.0.0.2")
        two = self.host(pebble, 2, "a.test")
        two.wait_for(r"certificate \((the first one|another host has ordered it)\)", 90)
        self.assertEqual(pebble.count("Issued certificate serial"), max(1, issued))

    def test_redis_is_down(self) -> None:
        """Without Redis a host serves what it has; with it again, an empty host gets the certificate from there."""
        pebble = self.pebble()
        self.point(pebble, a="127.0.0.1")
        one = self.host(pebble, 1, "a.test")
        one.wait_for(r"certificate \(the first one\)")
        one.stop()
        two = self.host(pebble, 2, "a.test")
        two.wait_for(r"another host has ordered it")
        self.redis.kill()
        again = self.host(pebble, 1, "a.test")
        again.wait_for(r"certificate for a\.test: valid until")
        self.assertEqual(self.page(pebble).status, 200)
        self.assertEqual(pebble.count("Added order"), 1)


class NoKeysTests(HostsTestCase):
    """Without encryption keys, private keys do not go to Redis."""

    keys = "[]"

    def test_refused(self) -> None:
        """The server does not start, and says what to set."""
        server = self.run_process(self.command("serve", "--settings", "settings", "--https", "a.test"))
        self.assertEqual(server.wait(), 1)
        self.assertIn("symmetric_encryption_keys", server.output)
        self.assertNotIn("Traceback", server.output)
        self.assertEqual(wait_until(lambda: server.output.count("\n") + 1), 1)
