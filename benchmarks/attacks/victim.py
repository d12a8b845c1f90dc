"""The attacked server: its command line, its descriptors, its busy threads.

Runs in the main thread of the benchmark program.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.attacks.attack import Target
from benchmarks.machine import Cores
from benchmarks.servers import ROOT, Program, free_port

#: The soft limit of open files that a shell or a service has, which the server raises itself.
USUAL_FILES = 1024
#: Seconds the server has to answer the health check.
TIMEOUT = 2.0


class Victim(Program):
    """A server with all its listeners, on default options but for those given.

    :param options: further options.
    """

    def __init__(self, cores: Cores, options: Sequence[str] = ()) -> None:
        super().__init__("the attacked server")
        self.target = Target(self.port, free_port(), free_port())
        certificate = self.folder / "certificate.pem"
        certificate.write_bytes(_certificate())
        own = ["--settings=benchmarks.apps.attacked", f"--endpoint=tcp:{self.target.plain}:interface=127.0.0.1"]
        own += [f"--port={self.target.tls}", f"--tls-cert={certificate}", "--access-log=", "--local-socket="]
        own += ["--health-figures=127.0.0.3", "--redirect-http", f"--redirect-port={self.target.redirect}"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("DJANGO_", "PYTHON"))}
        environment |= {"PYTHONPATH": str(ROOT), "BENCHMARK_FOLDER": str(self.folder)}
        twistd = [str(Path(sys.executable).parent / "twistd"), "--nodaemon", "--pidfile="]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(USUAL_FILES, hard), hard))
        try:
            self.start([*twistd, "channelserver", *own, *options], cores, environment)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def _wait_until_up(self) -> None:
        for port in (self.target.redirect, self.target.tls, self.target.plain):
            self.port = port
            super()._wait_until_up()

    def descriptors(self) -> int:
        """Return the number of its open files."""
        total = 0
        for number in self._processes():
            with contextlib.suppress(OSError):
                total += len(os.listdir(f"/proc/{number}/fd"))
        return total

    def lines(self) -> int:
        """Return the number of lines it has logged."""
        return self.logged("\n")

    def health(self) -> dict[str, Any]:
        """Return the figures of its health check; nothing if it does not answer in time."""
        source = ("127.0.0.3", 0)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT, source_address=source)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/-/health")
                found: dict[str, Any] = json.loads(connection.getresponse().read())
            except (OSError, http.client.HTTPException, ValueError):
                return {}
        return found

    def cores(self) -> set[int]:
        """Return the cores that it may use."""
        return os.sched_getaffinity(self._process.pid)

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None


def _certificate() -> bytes:
    """Return a new key and its certificate, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    hosts = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = builder.add_extension(hosts, critical=False).sign(key, hashes.SHA256())
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, *private) + made.public_bytes(serialization.Encoding.PEM)
