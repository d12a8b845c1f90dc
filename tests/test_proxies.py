"""Behind a reverse proxy: what it says about the client is believed, and what anybody else says is not.

The rules are tested on the policy alone, and then with real nginx and haproxy between a client and the server.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from channelserver.server.http.http1 import BadRequest, RequestHead, parse_head
from channelserver.server.http.proxy import ProxyPolicy, parse_forwarded
from tests.process import TIMEOUT, Server, ServerTestCase, free_port, project, wait_until
from tests.raw import Raw, head

PROXY, INNER, CLIENT = "10.0.0.1", "10.0.0.2", "203.0.113.7"
#: Where the clients of the real proxies are, which are at 127.0.0.1 themselves.
HERE = "127.0.0.9"


class PolicyTests(SynchronousTestCase):
    """The rules, without a network."""

    def apply(
        self,
        *fields: str,
        peer: str | None = PROXY,
        trusted: tuple[str, ...] = ("10.0.0.0/8",),
        host: str = "site.example",
    ) -> tuple[dict[str, Any], RequestHead]:
        """Return what the policy makes of a request."""
        parsed = parse_head(head("GET / HTTP/1.1", *fields, host=host).removesuffix(b"\r\n\r\n"))
        addresses = {
            "client": [peer, 4711] if peer else None,
            "server": ["192.0.2.1", 8000] if peer else None,
            "scheme": "http",
        }
        return ProxyPolicy(trusted).apply(parsed, addresses, peer), parsed

    def client(self, *fields: str, **keywords: Any) -> str | None:
        """Return the client's address."""
        client = self.apply(*fields, **keywords)[0]["client"]
        return client[0] if client else None

    def assertRefused(self, *fields: str, **keywords: Any) -> None:
        """Check that a request is refused."""
        with self.assertRaises(BadRequest, msg=f"{fields}") as caught:
            self.apply(*fields, **keywords)
        self.assertEqual(caught.exception.status, 400)

    # -- who is believed -----------------------------------------------------------------------------------------------

    def test_trusted_peers(self) -> None:
        """Networks and single addresses of both families; addresses of IPv4 on a listener of IPv6, too."""
        policy = ProxyPolicy(["10.0.0.0/8", "192.0.2.9", "2001:db8::/32", "10.1.2.3/16"])
        for peer in ("10.0.0.1", "10.255.255.255", "192.0.2.9", "2001:db8::1", "::ffff:10.0.0.1"):
            self.assertTrue(policy.trusts(peer), peer)
        for peer in ("11.0.0.1", "192.0.2.8", "2001:db9::1", "::ffff:11.0.0.1", None, "", "name", "10.0.0.1 "):
            self.assertFalse(policy.trusts(peer), peer)
        self.assertTrue(ProxyPolicy(["unix"]).trusts(None))
        self.assertFalse(ProxyPolicy(["unix"]).trusts("127.0.0.1"))
        self.assertFalse(ProxyPolicy())
        self.assertTrue(ProxyPolicy(["unix"]))

    def test_malformed_trust(self) -> None:
        """What is no network is an error."""
        for text in ("10.0.0.0/33", "proxy.example", "", "10.0.0"):
            self.assertRaises(ValueError, ProxyPolicy, [text])

    def test_untrusted_peers(self) -> None:
        """What others say is not believed, and does not reach the application."""
        fields = (
            f"X-Forwarded-For: {CLIENT}", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example",
            "X-Forwarded-Port: 443", f"Forwarded: for={CLIENT};proto=https", f"X-Real-IP: {CLIENT}", "Accept: */*",
        )  # fmt: skip
        addresses, parsed = self.apply(*fields, peer="192.0.2.66")
        self.assertEqual(addresses, {"client": ["192.0.2.66", 4711], "server": ["192.0.2.1", 8000], "scheme": "http"})
        self.assertEqual(parsed.headers, [[b"host", b"site.example"], [b"accept", b"*/*"]])
        self.assertNotIn(b"forwarded", parsed.fields)

    def test_untrusted_peers_may_write_what_they_like(self) -> None:
        """What is not believed is not read either."""
        self.assertEqual(self.client("X-Forwarded-For: ,;=", "Forwarded: ====", peer="192.0.2.66"), "192.0.2.66")

    def test_a_trusted_peer_that_says_nothing(self) -> None:
        """Then the peer is the client."""
        addresses, _ = self.apply()
        self.assertEqual(addresses["client"], [PROXY, 4711])
        self.assertIsNone(self.client(peer=None, trusted=("unix",)))

    # -- the client ----------------------------------------------------------------------------------------------------

    def test_read_from_the_right(self) -> None:
        """The nearest proxy writes at the end; what stands before the client is the client's own claim."""
        self.assertEqual(self.client(f"X-Forwarded-For: {CLIENT}"), CLIENT)
        self.assertEqual(self.client(f"X-Forwarded-For: 1.1.1.1, {CLIENT}"), CLIENT)
        self.assertEqual(self.client("X-Forwarded-For: 1.1.1.1", f"X-Forwarded-For: {CLIENT}"), CLIENT)
        self.assertEqual(self.client(f"X-Forwarded-For: rubbish, {CLIENT}"), CLIENT)
        self.assertEqual(self.client(f"X-Forwarded-For: {PROXY}, {CLIENT}"), CLIENT)

    def test_trusted_hops_are_skipped(self) -> None:
        """A chain of proxies: the first address that is none of them."""
        self.assertEqual(self.client(f"X-Forwarded-For: {CLIENT}, {INNER}"), CLIENT)
        self.assertEqual(self.client(f"X-Forwarded-For: 1.1.1.1, {CLIENT}, {INNER}, 10.9.9.9"), CLIENT)
        self.assertEqual(self.client(f"X-Forwarded-For: {INNER}, 10.9.9.9"), INNER, "all are trusted: the farthest")
        self.assertEqual(self.client(f"X-Forwarded-For: {CLIENT}, unix:", peer=None, trusted=("unix",)), CLIENT)
        self.assertIsNone(self.client(f"X-Forwarded-For: {CLIENT}, unix:"), "a Unix socket that is not trusted")

    def test_an_unknown_hop_is_not_skipped(self) -> None:
        """A proxy that hides who came to it is the last one believed, also where a trusted Unix socket has no name."""
        for hop in ("unknown", "_hidden", "UNKNOWN", "_hidden:81"):
            for keywords in ({}, {"peer": None, "trusted": ("unix",)}):
                self.assertIsNone(self.client(f"X-Forwarded-For: {CLIENT}, {hop}", **keywords))
                self.assertIsNone(self.client(f'Forwarded: for={CLIENT}, for="{hop}"', **keywords))

    def test_ways_to_write_an_address(self) -> None:
        """With and without a port, both families."""
        for text, wanted in (
            ("203.0.113.7:81", ["203.0.113.7", 81]),
            ("2001:db9::1", ["2001:db9::1", 0]),
            ("[2001:db9::1]", ["2001:db9::1", 0]),
            ("[2001:DB9:0::1]:81", ["2001:db9::1", 81]),
            ("::ffff:203.0.113.7", ["203.0.113.7", 0]),
        ):
            self.assertEqual(self.apply(f"X-Forwarded-For: {text}")[0]["client"], wanted)
            self.assertEqual(self.apply(f'Forwarded: for="{text}"')[0]["client"], wanted)

    def test_malformed_addresses(self) -> None:
        """The nearest proxy wrote something that is no address: refused."""
        for text in (
            "rubbish",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.4:",
            "1.2.3.4:99999",
            "1.2.3.4:x",
            "[::1",
            "::1]",
            "1.2.3.4 5",
        ):
            self.assertRefused(f"X-Forwarded-For: 1.1.1.1, {text}")
            self.assertRefused(f'Forwarded: for="{text}"')

    def test_unknown_clients(self) -> None:
        """RFC 7239 section 6: a proxy may know the client, and not tell."""
        self.assertIsNone(self.client("Forwarded: for=unknown"))
        self.assertIsNone(self.client("Forwarded: for=_hidden"))
        self.assertIsNone(self.client('Forwarded: for="_hidden:_port"'))
        self.assertIsNone(self.client("X-Forwarded-For: unknown"))
        self.assertEqual(self.client("Forwarded: proto=https"), PROXY, "it says nothing about the client")

    # -- scheme, host, port --------------------------------------------------------------------------------------------

    def test_scheme(self) -> None:
        """``https`` and ``wss`` are TLS, in any case."""
        for text, wanted in (
            ("https", "https"),
            ("HTTPS", "https"),
            ("wss", "https"),
            ("http", "http"),
            ("ws", "http"),
        ):
            self.assertEqual(self.apply(f"X-Forwarded-Proto: {text}")[0]["scheme"], wanted)
            self.assertEqual(self.apply(f"Forwarded: proto={text}")[0]["scheme"], wanted)
        for text in ("httpx", "https;", "on", "ftp"):
            self.assertRefused(f"X-Forwarded-Proto: {text}")

    def test_host_and_port(self) -> None:
        """The host counts as the request's own; the port is the one the client came to."""
        for fields, host, server in (
            (("X-Forwarded-Host: a.example",), b"a.example", ["a.example", 80]),
            (("X-Forwarded-Host: a.example:81",), b"a.example:81", ["a.example", 81]),
            (("X-Forwarded-Host: [::1]:81",), b"[::1]:81", ["[::1]", 81]),
            (("X-Forwarded-Host: [::1]",), b"[::1]", ["[::1]", 80]),
            (("X-Forwarded-Host: a.example", "X-Forwarded-Proto: https"), b"a.example", ["a.example", 443]),
            (("X-Forwarded-Host: a.example", "X-Forwarded-Port: 81"), b"a.example:81", ["a.example", 81]),
            (("X-Forwarded-Host: a.example", "X-Forwarded-Port: 80"), b"a.example", ["a.example", 80]),
            (("X-Forwarded-Port: 81",), b"site.example", ["192.0.2.1", 81]),
            (("X-Forwarded-Proto: https",), b"site.example", ["192.0.2.1", 443]),
            (("Forwarded: host=a.example;proto=https",), b"a.example", ["a.example", 443]),
            (('Forwarded: host="a.example:81"',), b"a.example:81", ["a.example", 81]),
        ):
            addresses, parsed = self.apply(*fields)
            self.assertEqual((parsed.fields[b"host"], addresses["server"]), (host, server), fields)
            self.assertEqual([value for name, value in parsed.headers if name == b"host"], [host])
        self.assertEqual(self.apply("X-Forwarded-Proto: https", host="site.example:81")[0]["server"], ["192.0.2.1", 81])
        addresses, _ = self.apply("X-Forwarded-Proto: https", peer=None, trusted=("unix",))
        self.assertEqual((addresses["server"], addresses["scheme"]), (["localhost", 443], "https"))

    def test_malformed_host_and_port(self) -> None:
        """Refused."""
        for text in ("a b", "a/b", "a@b", "a:b", "[::1", '"'):
            self.assertRefused(f"X-Forwarded-Host: {text}")
        for text in ("0", "65536", "-1", "x", "8 1", "\xb2"):
            self.assertRefused(f"X-Forwarded-Port: {text}")

    def test_lists_are_read_at_the_clients_hop(self) -> None:
        """Where each proxy adds its own word, the one that spoke to the client counts."""
        chain = f"X-Forwarded-For: {CLIENT}, {INNER}"
        self.assertEqual(self.apply(chain, "X-Forwarded-Proto: https, http")[0]["scheme"], "https")
        self.assertEqual(self.apply(chain, "X-Forwarded-Proto: http, https, http")[0]["scheme"], "https")
        self.assertEqual(self.apply(chain, "X-Forwarded-Proto: https")[0]["scheme"], "https")
        single = f"X-Forwarded-For: {CLIENT}"
        self.assertEqual(self.apply(single, "X-Forwarded-Proto: https, http")[0]["scheme"], "http")
        forwarded = (
            f"Forwarded: for=1.1.1.1;proto=http, for={CLIENT};proto=https;host=a.example, for={INNER};proto=http"
        )
        addresses, parsed = self.apply(forwarded)
        self.assertEqual((addresses["client"][0], addresses["scheme"]), (CLIENT, "https"))
        self.assertEqual(parsed.fields[b"host"], b"a.example")

    # -- contradictions ------------------------------------------------------------------------------------------------

    def test_contradictions(self) -> None:
        """A proxy that sets one kind of field lets the client's other kind pass: refused, unless they agree."""
        self.assertRefused(f"X-Forwarded-For: {CLIENT}", "Forwarded: for=1.1.1.1")
        self.assertRefused("X-Forwarded-Proto: http", "Forwarded: proto=https")
        self.assertRefused("X-Forwarded-Host: a.example", "Forwarded: host=b.example")
        self.assertRefused("X-Forwarded-Proto: https", "X-Forwarded-Ssl: off")
        self.assertRefused("X-Forwarded-Ssl: maybe")
        self.assertRefused("X-Forwarded-Host: a.example:81", "X-Forwarded-Port: 82")
        addresses, _ = self.apply(f"X-Forwarded-For: {CLIENT}", f"Forwarded: for={CLIENT};proto=https")
        self.assertEqual((addresses["client"][0], addresses["scheme"]), (CLIENT, "https"))
        self.assertEqual(self.apply("X-Forwarded-Proto: https", "X-Forwarded-Ssl: on")[0]["scheme"], "https")
        # What only one of the two says is not contradicted.
        addresses, parsed = self.apply(f"Forwarded: for={CLIENT};host=a.example", "X-Forwarded-Proto: https")
        self.assertEqual((addresses["client"][0], addresses["scheme"]), (CLIENT, "https"))
        self.assertEqual(parsed.fields[b"host"], b"a.example")

    def test_forwarded_syntax(self) -> None:
        """RFC 7239 section 4."""
        self.assertEqual(
            parse_forwarded(b'For="[2001:db8::17]:47";by=203.0.113.43 ; proto=http,for=192.0.2.43, ;, host="a\\"b"'),
            [
                {b"for": b"[2001:db8::17]:47", b"by": b"203.0.113.43", b"proto": b"http"},
                {b"for": b"192.0.2.43"},
                {b"host": b'a"b'},
            ],
        )
        for text in (
            "for",
            "for=",
            "for=[::1]",
            'for="1.1.1.1',
            "for=1.1.1.1 proto=http",
            "for = 1.1.1.1",
            "for=a;for=b",
        ):
            self.assertRefused(f"Forwarded: {text}")
        # The client's half of a pair of quotation marks swallows what the proxy adds, or breaks it.
        self.assertRefused('Forwarded: for="1.1.1.1', f"Forwarded: for={CLIENT}")
        self.assertRefused('Forwarded: for="1.1.1.1', 'Forwarded: for="[2001:db8::1]"')

    def test_nothing_sticks(self) -> None:
        """What is done to one head is not done to the next one on the connection, which shares its fields."""
        fields = "X-Forwarded-For: 1.1.1.1", "X-Forwarded-Host: shop.example"
        first = self.apply(*fields, peer=CLIENT)[1]
        self.assertNotIn(b"x-forwarded-for", first.fields)
        text = head("GET / HTTP/1.1", *fields, host="site.example")[:-4]
        second = parse_head(text, known=first.section)
        self.assertIs(second.section, first.section)
        addresses = {"client": [PROXY, 4711], "server": ["192.0.2.1", 8000], "scheme": "http"}
        self.assertEqual(ProxyPolicy(["10.0.0.0/8"]).apply(second, addresses, PROXY)["client"], ["1.1.1.1", 0])
        self.assertEqual(second.fields[b"host"], b"shop.example")
        third = parse_head(text, known=second.section)
        self.assertEqual(third.fields[b"host"], b"site.example")
        self.assertEqual([value for name, value in third.headers if name == b"host"], [b"site.example"])

    def test_the_proxy_protocol_names_the_client(self) -> None:
        """With the PROXY protocol the connection has a client of its own: the walk goes on from there."""
        parsed = parse_head(head("GET / HTTP/1.1", "X-Forwarded-For: 1.1.1.1", "X-Forwarded-Proto: https")[:-4])
        addresses = {"client": [CLIENT, 4711], "server": ["192.0.2.1", 8000], "scheme": "http"}
        found = ProxyPolicy(["10.0.0.0/8"]).apply(parsed, addresses, PROXY)
        self.assertEqual((found["client"], found["scheme"]), ([CLIENT, 4711], "https"))


class ProxiedTestCase(ServerTestCase):
    """A server, and what is put in front of it."""

    files = project("proxies")
    extra_settings = "ALLOWED_HOSTS = ['site.example', '127.0.0.1', 'localhost']\n"

    def program(self, name: str, package: str) -> str:
        """Return the path of a program. Without it the test is skipped: the others need nothing but Python."""
        for folder in (None, "/usr/sbin:/usr/local/sbin:/sbin"):
            found = shutil.which(name, path=folder)
            if found:
                return found
        raise SkipTest(f"{name} is not installed; this test needs the Debian package {package!r}")

    def run_proxy(self, command: list[str], port: int) -> None:
        """Run a proxy until the end of the test; wait until it listens."""
        log = self.folder / f"{Path(command[0]).name}.log"
        with open(log, "w") as stream:
            process = subprocess.Popen(
                command, cwd=self.folder, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )

        def stop() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its workers, too
            process.wait()
            if self._failed:
                print(f"--- output of the proxy ---\n{log.read_text()}")

        self.addCleanup(stop)

        def listens() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"{command[0]} has ended:\n{log.read_text()}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(listens, f"{command[0]} listening")

    def configuration(self, name: str, text: str, **values: Any) -> Path:
        """Write a configuration file; ``{name}`` in it stands for a value."""
        path = self.folder / name
        text = textwrap.dedent(text)
        for key, value in values.items():
            text = text.replace("{" + key + "}", str(value))
        path.write_text(text)
        return path

    def nginx(self, upstream: str, configured: str = "") -> int:
        """Run nginx in front of `upstream`; return its port.

        :param configured: how; as in the documentation, unless it is given.
        """
        port = free_port()
        configured = configured or documented("nginx")
        path = self.configuration(
            "nginx.conf",
            """
            daemon off;
            worker_processes 1;
            pid {folder}/nginx.pid;
            error_log stderr;
            user root;
            events { worker_connections 100; }
            http {
                access_log off;
                client_body_temp_path {folder}/body;
                proxy_temp_path {folder}/proxy;
                fastcgi_temp_path {folder}/fastcgi;
                uwsgi_temp_path {folder}/uwsgi;
                scgi_temp_path {folder}/scgi;
                {documented}
            }
            """,
            documented=configured.replace("listen 80", f"listen 127.0.0.1:{port}").replace(
                "server unix:/run/channelserver/http.sock", f"server {upstream}"
            ),
            folder=self.folder,
        )  # fmt: skip
        self.run_proxy([self.program("nginx", "nginx"), "-c", str(path), "-p", str(self.folder), "-e", "stderr"], port)
        return port

    def haproxy(self, server: str, extra: str = "") -> int:
        """Run haproxy in front of `server`, configured as in the documentation; return its port."""
        port = free_port()
        path = self.configuration(
            "haproxy.cfg",
            documented("haproxy").replace("bind :80", f"bind 127.0.0.1:{port}").replace(
                "server site unix@/run/channelserver/http.sock", f"server site {server}"
            ) + extra,
        )  # fmt: skip
        self.run_proxy([self.program("haproxy", "haproxy"), "-db", "-f", str(path)], port)
        return port

    def check_http(self, port: int, scheme: str = "http") -> dict[str, Any]:
        """A client that forges every field comes out as what it is."""
        with Raw(port, source=HERE) as raw:
            answer = raw.request(
                "/a?b", "X-Forwarded-For: 1.1.1.1", "X-Forwarded-Proto: ftp", "X-Forwarded-Host: evil.example",
                "X-Forwarded-Port: 1", "X-Forwarded-Ssl: on", "Forwarded: for=1.1.1.1;proto=https;host=evil.example",
                "X-Real-IP: 1.1.1.1", method="POST", body=b"x" * 100_000,
            )  # fmt: skip
        self.assertEqual(answer.status, 200, answer)
        seen = json.loads(answer.body)
        self.assertEqual((seen["client"], seen["scheme"], seen["length"]), (HERE, scheme, 100_000))
        self.assertEqual(seen["host"].partition(":")[0], "localhost")
        return dict(seen)

    def check_websocket(self, port: int, scheme: str = "ws", origin: str = "http://site.example") -> dict[str, Any]:
        """A WebSocket through the proxy: client and scheme are right, and the origin is checked against the host."""
        fields = {"X-Forwarded-For": "1.1.1.1", "X-Forwarded-Proto": "https", "Forwarded": "for=1.1.1.1"}
        for asked, allowed in ((origin, True), ("http://evil.example", False)):
            try:
                raw = Raw(port, source=HERE).socket
                with connect(
                    "ws://site.example/ws", sock=raw, origin=asked, additional_headers=fields, compression=None,
                    open_timeout=TIMEOUT, ping_interval=None,
                ) as opened:  # fmt: skip
                    seen = json.loads(opened.recv(TIMEOUT))
            except InvalidStatus as error:
                self.assertEqual((allowed, error.response.status_code), (False, 403))
            else:
                self.assertTrue(allowed)
                self.assertEqual((seen["client"][0], seen["scheme"]), (HERE, scheme))
        return dict(seen)


def documented(name: str, page: str = "proxies.rst") -> str:
    """Return a configuration from the documentation: what is tested is what is printed there."""
    text = (Path(__file__).parent.parent / "docs" / page).read_text()
    block = text.partition(f".. {name}-configuration\n")[2].partition("::\n")[2]
    lines = []
    for line in block.split("\n"):
        if line and not line.startswith("    "):
            break
        lines.append(line[4:])
    assert any(lines), f"docs/{page} has no configuration of {name}"
    return "\n".join(lines).strip() + "\n"


class RealProxyTests(ProxiedTestCase):
    """nginx and haproxy, over TCP, over a Unix socket, and with the PROXY protocol."""

    def serve(self, *arguments: str) -> tuple[Server, str]:
        """Start the server on a TCP port and on a Unix socket; return it and the socket's path."""
        path = str(self.folder / "http.sock")
        return self.start("--unix-socket", path, *arguments), path

    def test_nginx_over_tcp(self) -> None:
        """nginx in front of a port."""
        server, _ = self.serve("--trust-proxy", "127.0.0.1")
        port = self.nginx(f"127.0.0.1:{server.port}")
        self.check_http(port)
        self.check_websocket(port)
        server.wait_for(r"HTTP POST /a\?b 200 \d+ \[[0-9.]+ s, 127\.0\.0\.9:0\]")

    def test_proxies_that_do_not_name_their_clients(self) -> None:
        """With a bare ``proxy_pass`` all clients seem to be on this machine: they get no figures of the server."""
        path = str(self.folder / "http.sock")
        command = self.twistd("--settings", "settings", "--port", str(free_port()), "--unix-socket", path)
        server = self.run_process(command).wait_until_up()
        bare = "upstream site { server unix:/run/channelserver/http.sock; } server { listen 80; location / { %s } }"
        for upstream in (f"127.0.0.1:{server.port}", f"unix:{path}"):
            for lines in ("", "proxy_set_header Host $http_host; proxy_http_version 1.1;"):
                port = self.nginx(upstream, bare % f"proxy_pass http://site; {lines}")
                for host in ("localhost", "127.0.0.1", "example.org"):
                    with Raw(port) as raw:
                        answer = raw.send(f"GET /-/health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()).answer()
                    self.assertEqual((answer.status, answer.body), (200, b'{"status": "ready"}\n'), (upstream, host))

    def test_nginx_over_a_unix_socket(self) -> None:
        """nginx in front of a Unix socket."""
        _, path = self.serve("--trust-proxy", "unix")
        port = self.nginx(f"unix:{path}")
        seen = self.check_http(port)
        self.assertEqual(seen["uri"], f"http://localhost:{port}/a?b" if ":" in seen["host"] else "http://localhost/a?b")
        self.check_websocket(port)

    def test_haproxy_over_tcp(self) -> None:
        """haproxy in front of a port."""
        server, _ = self.serve("--trust-proxy", "127.0.0.1/32")
        port = self.haproxy(f"127.0.0.1:{server.port}")
        self.check_http(port)
        self.check_websocket(port)

    def test_haproxy_over_a_unix_socket(self) -> None:
        """haproxy in front of a Unix socket."""
        _, path = self.serve("--trust-proxy", "unix")
        port = self.haproxy(f"unix@{path}")
        self.check_http(port)
        self.check_websocket(port)

    def test_proxy_protocol(self) -> None:
        """haproxy that passes connections on as they are, and names the client in front of each."""
        for version in ("send-proxy", "send-proxy-v2"):
            inner, outer = free_port(), free_port()
            server = self.start(
                "--endpoint", f"haproxy:tcp:{inner}:interface=127.0.0.1", "--local-socket", "",
            )  # fmt: skip
            path = self.configuration(
                "proxy.cfg",
                """
                defaults
                    mode tcp
                    timeout connect 5s
                    timeout client 1h
                    timeout server 1h
                listen site
                    bind 127.0.0.1:{outer}
                    source 127.0.0.3
                    server site 127.0.0.1:{inner} {version}
                """,
                inner=inner, outer=outer, version=version,
            )  # fmt: skip
            self.run_proxy([self.program("haproxy", "haproxy"), "-db", "-f", str(path)], outer)
            with socket.create_connection(("127.0.0.1", outer), source_address=(HERE, 0)) as client:
                client.settimeout(TIMEOUT)
                client.sendall(head("GET / HTTP/1.1", "Connection: close", "X-Forwarded-Proto: https"))
                answer = b""
                while data := client.recv(65536):
                    answer += data
            seen = json.loads(answer.partition(b"\r\n\r\n")[2])
            self.assertEqual((seen["client"], seen["scheme"], seen["port"]), (HERE, "http", str(outer)))
            with connect(
                "ws://localhost/", sock=socket.create_connection(("127.0.0.1", outer), source_address=(HERE, 0)),
                compression=None, open_timeout=TIMEOUT, ping_interval=None,
            ) as opened:  # fmt: skip
                self.assertEqual(json.loads(opened.recv(TIMEOUT))["client"][0], HERE)
            # A connection without the line in front is closed, and gets no answer.
            with Raw(inner) as raw:
                self.assertTrue(raw.send(head("GET / HTTP/1.1")).is_closed())
            server.kill()

    def test_https_at_the_proxy(self) -> None:
        """The proxy ends TLS: scheme, port and absolute URLs are those of the client's connection."""
        server, _ = self.serve("--trust-proxy", "127.0.0.1")
        with Raw(server.port) as raw:
            fields = f"X-Forwarded-For: {CLIENT}", "X-Forwarded-Proto: https", "X-Forwarded-Host: site.example"
            for _ in range(4):  # the same again
                seen = json.loads(raw.request("/a", *fields).body)
                self.assertEqual((seen["client"], seen["secure"], seen["port"]), (CLIENT, True, "443"))
                self.assertEqual(seen["uri"], "https://site.example/a")
            # The same connection, another client.
            seen = json.loads(raw.request("/b", "X-Forwarded-For: 203.0.113.8").body)
            self.assertEqual((seen["client"], seen["secure"], seen["host"]), ("203.0.113.8", False, "localhost"))
            answer = raw.request("/", "X-Forwarded-Proto: https, ")
            self.assertEqual(json.loads(answer.body)["secure"], True)
            self.assertEqual(raw.request("/", "X-Forwarded-Proto: gopher").status, 400)
        fields = {"X-Forwarded-For": CLIENT, "X-Forwarded-Proto": "https", "X-Forwarded-Host": "site.example"}
        with server.connect("/", additional_headers=fields, origin="https://site.example") as opened:
            seen = json.loads(opened.recv(TIMEOUT))
            self.assertEqual((seen["scheme"], seen["client"]), ("wss", [CLIENT, 0]))
            self.assertEqual(seen["server"], ["site.example", 443])
        with self.assertRaises(InvalidStatus) as caught:
            with server.connect("/", additional_headers={"X-Forwarded-Host": "evil.example"}):
                pass
        self.assertEqual(caught.exception.response.status_code, 400)

    def test_forged_by_an_untrusted_peer(self) -> None:
        """Who is no proxy is not believed, and what it claims does not reach Django; HTTP and WebSocket."""
        server, _ = self.serve("--trust-proxy", "192.0.2.0/24", "--trust-proxy", "unix")
        fields = {
            "X-Forwarded-For": CLIENT, "X-Forwarded-Proto": "https", "X-Forwarded-Host": "site.example",
            "Forwarded": f"for={CLIENT}", "X-Forwarded-Port": "1",
        }  # fmt: skip
        with Raw(server.port) as raw:
            for _ in range(4):  # the same again
                seen = json.loads(raw.request("/", *(f"{name}: {value}" for name, value in fields.items())).body)
                self.assertEqual((seen["client"], seen["scheme"], seen["forwarded"]), ("127.0.0.1", "http", {}))
                self.assertNotEqual(seen["host"], "site.example")
        with server.connect("/", additional_headers=fields) as opened:
            seen = json.loads(opened.recv(TIMEOUT))
        self.assertEqual((seen["scheme"], seen["client"][0]), ("ws", "127.0.0.1"))
        self.assertFalse([name for name, _ in seen["headers"] if "forwarded" in name])
        with self.assertRaises(InvalidStatus):
            with server.connect("/", additional_headers=fields, origin="https://other.example"):
                pass

    def test_nobody_is_trusted_by_default(self) -> None:
        """Without the option these fields are like any other: passed on, and not believed."""
        server = self.start()
        seen = server.get("/", headers={"X-Forwarded-For": CLIENT, "X-Forwarded-Proto": "https"}).json()
        self.assertEqual((seen["client"], seen["scheme"]), ("127.0.0.1", "http"))
        self.assertEqual(seen["forwarded"]["HTTP_X_FORWARDED_FOR"], CLIENT)

    def test_wrong_option(self) -> None:
        """A network that is none is a start-up error of one sentence."""
        server = self.run_process(self.twistd("--settings", "settings", "--trust-proxy", "10.0.0.0/99"))
        self.assertEqual(server.wait(), 1)
        self.assertIn("--trust-proxy must be a network such as 10.0.0.0/8, an address, or unix", server.output)
        self.assertNotIn("Traceback", server.output)
