"""A certificate authority for tests: Debian's ``pebble``, with its own DNS, on free ports of loopback.

Each name resolves to 127.0.0.1, unless a test says otherwise (:meth:`Pebble.point`).
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from tests.certificates import certificate_pem, key_pem, make_key
from tests.process import free_port, wait_until

#: Why tests are skipped where there is no pebble.
MISSING = None if shutil.which("pebble") else "pebble is not installed"


class Pebble:
    """A running authority.

    :param http_port: where it looks for the answers to ``http-01``.
    :param tls_port: the same for ``tls-alpn-01``.
    :param rejected: how many of 100 nonces it refuses.
    :param validity: seconds for which its certificates are valid.
    """

    def __init__(self, http_port: int = 0, tls_port: int = 0, rejected: int = 0, validity: int = 86_400 * 90) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="channelserver-pebble-"))
        self.http_port, self.tls_port = http_port or free_port(), tls_port or free_port()
        self._port, self._management, self._dns, self._dns_management = (free_port() for _ in range(4))
        key = make_key(99)
        self.ca_file = str(self.folder / "ca.pem")
        Path(self.ca_file).write_bytes(certificate_pem(key, "pebble's own"))
        (self.folder / "key.pem").write_bytes(key_pem(key))
        settings = {
            "listenAddress": f"127.0.0.1:{self._port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": self.ca_file,
            "privateKey": str(self.folder / "key.pem"),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            "certificateValidityPeriod": validity,
        }
        self._settings = settings
        self.configure({})
        self._environment = {
            **os.environ,
            "PEBBLE_VA_NOSLEEP": "1",
            "PEBBLE_WFE_NONCEREJECT": str(rejected),
            "PEBBLE_AUTHZREUSE": "0",
        }
        self._log = open(self.folder / "log", "ab")
        self.directory = f"https://127.0.0.1:{self._port}/dir"
        self._servers: list[subprocess.Popen[bytes]] = []
        self._dns_server = self._start(
            "pebble-challtestsrv", "-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", "",
            "-dns01", f"127.0.0.1:{self._dns}", "-management", f"127.0.0.1:{self._dns_management}",
        )  # fmt: skip
        self.start()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, env=self._environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        self._servers.append(process)
        return process

    def configure(self, settings: dict[str, Any]) -> None:
        """Set options for the next start."""
        self._settings.update(settings)
        (self.folder / "config.json").write_text(json.dumps({"pebble": self._settings}))

    def start(self) -> None:
        """Start it, again after :meth:`stop`; it has forgotten everything then."""
        self._server = self._start(
            "pebble", "-config", str(self.folder / "config.json"), "-dnsserver", f"127.0.0.1:{self._dns}", "-strict"
        )
        wait_until(lambda: self._get(f"https://127.0.0.1:{self._port}/dir"), "pebble's start")
        self.root = str(self.folder / "root.pem")
        Path(self.root).write_bytes(self._get(f"https://127.0.0.1:{self._management}/roots/0"))

    def _get(self, url: str) -> bytes:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            with urllib.request.urlopen(url, timeout=10, context=context) as answer:
                return bytes(answer.read())
        except OSError:
            return b""

    def point(self, name: str, address: str) -> None:
        """Have a name resolve to another address."""
        for action in ("clear-a", "add-a"):
            data = json.dumps({"host": name + ".", "addresses": [address]}).encode()
            with urllib.request.urlopen(f"http://127.0.0.1:{self._dns_management}/{action}", data, 10):
                pass

    def count(self, text: str) -> int:
        """How many lines of its log have a text in them."""
        return (self.folder / "log").read_text(errors="replace").count(text)

    @property
    def orders(self) -> int:
        """How many orders it has got."""
        return self.count("POST /order-plz -> calling handler")

    @property
    def accounts(self) -> int:
        """How many accounts it has made."""
        return self.count("accounts in memory")

    def stop(self) -> None:
        """End it; its DNS goes on."""
        self._server.kill()
        self._server.wait()

    def close(self) -> None:
        """End everything, and remove the files."""
        for process in self._servers:
            process.kill()
            process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Pebble:
        return self

    def __exit__(self, *unused: Any) -> None:
        self.close()
