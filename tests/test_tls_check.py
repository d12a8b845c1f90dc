"""``channelserver check`` of a server with --https."""

from __future__ import annotations

import os
import re
import socket
import time
from typing import Any

from channelserver.server.common.options import resolve
from channelserver.start.check_https import of_https, server_runs
from tests import preloaded
from tests.pebble import Pebble
from tests.process import TIMEOUT, free_port
from tests.test_acme_server import AcmeTestCase


class HTTPSCheckTests(AcmeTestCase):
    """One sentence for each thing that is wrong."""

    def check(self, pebble: Pebble, *arguments: str) -> tuple[int, str]:
        """Run the command; return its exit code and what it prints."""
        command = self.command(
            "check", "--settings", "settings", "--bind", "127.0.0.1", "--https", "a.test", "--email", "me@a.test",
            "--acme-directory", pebble.directory, "--acme-ca-file", pebble.ca_file, "--acme-store", str(self.store),
            "--https-port", str(self.https_port), "--http-port", str(self.http_port), *arguments,
        )  # fmt: skip
        done = preloaded.run(command, self.folder, self.environment, TIMEOUT * 2)
        self.assertNotIn("Traceback", done.stdout + done.stderr)
        return done.returncode, done.stdout + done.stderr

    def found(self, now: float = 0.0, **options: Any) -> list[str]:
        """Return what is wrong with some options."""
        given = {
            "https": ["localhost.localdomain"], "bind": "127.0.0.1", "acme_directory": self.authority.directory,
            "acme_ca_file": self.authority.ca_file, "https_port": 0, "http_port": 0, **options,
        }  # fmt: skip
        return list(of_https(resolve({}, given), ["*"], False, lambda: now or time.time()))

    def test_sentences(self) -> None:
        """Names, ports, directory, clock; each with the cure."""
        self.patch(socket, "getaddrinfo", self._look_up(socket.getaddrinfo))
        self.authority = self.pebble()
        self.assertEqual(self.found(https=["good.test"]), [])
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            for found, pattern in (
                (self.found(https=["good.test,bad.test"]), r"^bad\.test \(--https\) does not resolve \(.*make a DNS"),
                (self.found(https=["six.test"]), r"^six\.test \(--https\) has an IPv6 address.* use --bind ::"),
                (self.found(http_port=port), rf"port {port} of 127\.0\.0\.1 \(--http-port\) .* another program has it"),
                (self.found(bind="192.0.2.1"), r"port 0 of 192\.0\.2\.1 .* see --bind"),
                (self.found(now=time.time() + 3600), r"clock is 60 min fast.*timedatectl"),
                (self.found(now=time.time() - 3600), r"clock is 60 min slow"),
                (self.found(acme_directory=f"https://127.0.0.1:{free_port()}/dir"), r"cannot be reached \(.*refused"),
                (self.found(acme_ca_file=None), r"cannot be reached \(.*this machine's clock, and --acme-ca-file"),
                (self.found(acme_ca_file="missing.pem"), r"--acme-ca-file 'missing\.pem' cannot be used: no such file"),
                (self.found(acme_directory=self.authority.directory + "/x"), r"no directory of ACME|cannot be reached"),
            ):  # fmt: skip
                self.assertTrue(any(re.search(pattern, sentence) for sentence in found), (pattern, found))
                self.assertFalse(any("\n" in sentence for sentence in found))
        values = resolve({}, {"https": ["good.test"], "http_port": port, "acme_directory": "https://127.0.0.1:1/"})
        found = list(of_https(values, ["other.test"], True))
        self.assertIn("good.test (--https) is not in ALLOWED_HOSTS, so its requests get 400; add it there", found)
        self.assertFalse(any("--http-port" in sentence for sentence in found))
        self.assertFalse(server_runs(""))

    def _look_up(self, real: Any) -> Any:
        def look_up(host: str, *arguments: Any, **named: Any) -> Any:
            if host == "bad.test":
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            if host == "six.test":
                return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0))]
            return real("127.0.0.1" if host.endswith((".test", ".localdomain")) else host, *arguments, **named)

        return look_up

    def test_command(self) -> None:
        """Beside a running server; then with a store that others may read: exit code 1, no traceback."""
        pebble = self.pebble()
        server = self.serve(pebble)
        server.wait_for(r"certificate \(the first one\)")
        text = self.check(pebble)[1]
        self.assertNotIn("port", text)
        self.assertNotIn("directory", text)
        server.stop()
        (key,) = self.store.glob("certificates/*/a.test/a.test.key")
        os.chmod(key, 0o644)
        self._refused(pebble, f"the private key '{key}' has mode 0644, so others may use it; run chmod 600 on it")
        os.chmod(key, 0o600)
        (account,) = self.store.glob("acme/*/users/*/*.key")
        if os.geteuid() == 0:
            os.chown(key.parent, 12345, -1)
            self._refused(pebble, f"'{key.parent}' belongs to user 12345, and the server runs as 0; run chown")
            os.chown(key.parent, 0, -1)
        os.chmod(account, 0o640)
        self._refused(pebble, f"the private key '{account}' has mode 0640")

    def _refused(self, pebble: Pebble, sentence: str) -> None:
        code, text = self.check(pebble)
        self.assertEqual(code, 1)
        self.assertIn(f"channelserver: {sentence}", text)
        self.assertEqual(len(text.splitlines()), 1, text)
