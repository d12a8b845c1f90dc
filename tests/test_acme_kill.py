"""What is left of an order when the server is killed, and certificates that are exchanged under load."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import ssl
import threading
import time
from contextlib import ExitStack

from websockets.sync.client import connect

from channelserver.server.acme.store import Store, read_pair
from tests.process import TIMEOUT, wait_until
from tests.test_acme_server import AcmeTestCase

#: How often the server is killed; more by hand.
KILLS = int(os.environ.get("CHANNELSERVER_TEST_KILLS", "10"))
NAMES = ("a.test", "b.test", "c.test")


class KillTests(AcmeTestCase):
    """SIGKILL in the midst of orders."""

    timeout = 10 * TIMEOUT

    def test_kill(self) -> None:
        """The store has pairs that fit, or none; a killed order goes on, so nothing is issued twice."""
        pebble = self.pebble()
        store = Store(str(self.store), pebble.directory)
        rounds = 0
        self.write({"names": ""})
        for _ in range(KILLS):
            server = self.serve(pebble, names=",".join(NAMES))
            server.wait_for("no certificate for|certificate for")
            time.sleep(random.random() * 0.5)  # the moment is the point
            server.process.send_signal(signal.SIGKILL)
            server.wait()
            self.look(store)
            if all(store.load((name,)) for name in NAMES):
                rounds += 1
                self.assertEqual(pebble.count("Issued certificate serial"), rounds * len(NAMES))
                shutil.rmtree(self.store / "certificates")
        server = self.serve(pebble, names=",".join(NAMES))
        wait_until(lambda: all(store.load((name,)) for name in NAMES), "the certificates")
        self.assertEqual(pebble.count("Issued certificate serial"), (rounds + 1) * len(NAMES))
        self.assertEqual(pebble.accounts, 1)
        server.stop()

    def look(self, store: Store) -> None:
        """Check the files as another program would read them."""
        for name in NAMES:
            base = self.store / "certificates" / store._authority / name
            key, chain = base / f"{name}.key", base / f"{name}.crt"
            if chain.exists():
                read_pair(key.read_bytes(), chain.read_bytes(), (name,))


class ExchangeTests(AcmeTestCase):
    """A certificate is renewed while the server is busy."""

    def test_renewal_in_real_time(self) -> None:
        """A certificate of 20 seconds is renewed at half of them; no handshake fails, no open socket notices."""
        pebble = self.pebble(validity=20)
        server = self.serve(pebble)
        server.wait_for(r"certificate \(the first one\)")
        begun = time.monotonic()
        first = self.certificate()
        context = ssl.create_default_context(cafile=pebble.root)
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # see Server.connect
        failures: list[Exception] = []
        serials: dict[int, int] = {}
        done = threading.Event()

        def knock() -> None:
            trust = ssl.create_default_context(cafile=pebble.root)
            while not done.is_set():
                try:
                    with socket.create_connection(("127.0.0.1", self.https_port), TIMEOUT) as plain:
                        with trust.wrap_socket(plain, server_hostname="a.test") as secure:
                            serial = int(str(secure.getpeercert()["serialNumber"]), 16)  # type: ignore[index]
                            serials[serial] = serials.get(serial, 0) + 1
                except Exception as error:
                    failures.append(error)

        with ExitStack() as stack:
            sockets = []
            for _ in range(100):
                plain = socket.create_connection(("127.0.0.1", self.https_port), TIMEOUT)
                opened = connect("wss://a.test/", sock=plain, ssl=context, compression=None, proxy=None)
                sockets.append(stack.enter_context(opened))
            threads = [threading.Thread(target=knock) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:
                server.wait_for(r"certificate \(renewed\) for a\.test")
                took = time.monotonic() - begun
                wait_until(lambda: len(serials) > 1, "a handshake with the new certificate")
            finally:
                done.set()
                for thread in threads:
                    thread.join(TIMEOUT)
            for number, each in enumerate(sockets):
                each.send(str(number))
                self.assertEqual(each.recv(TIMEOUT), str(number))
        self.assertEqual(failures, [])
        self.assertLess(took, 20)
        self.assertNotEqual(self.certificate().serial_number, first.serial_number)
        self.assertEqual(pebble.count("Added order"), pebble.count("Issued certificate serial"))
