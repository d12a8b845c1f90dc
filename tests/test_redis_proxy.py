"""Two servers on one Redis behind haproxy: the walk-through of the page on Redis, step by step."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.process import TIMEOUT, Server, free_port, project, wait_until
from tests.redis_server import RedisServer
from tests.test_proxies import ProxiedTestCase, documented
from tests.test_redis_hosts import RedisServerTestCase

PAGE = "redis.rst"


class WalkThroughTests(RedisServerTestCase, ProxiedTestCase):
    """What the page says, and what it promises."""

    files = project("redis_proxy")

    def start_redis(self) -> Any:
        """Start Redis, with a password."""
        self.redis = RedisServer("--requirepass", "password")
        self.addCleanup(self.redis.remove)
        return f"redis://:password@127.0.0.1:{self.redis.port}/0"

    def serve(self, port: int = 0) -> Server:
        """Start the server as the page says, but for the addresses."""
        text = (Path(__file__).parent.parent / "docs" / PAGE).read_text()
        words = re.search(r"channelserver serve (--bind .*)", text)
        assert words is not None
        return self.start(*re.sub(r"10[.]0[.]0[.][0-9]+", "127.0.0.1", words[1]).split(), port=port)

    def balance(self, servers: list[Server]) -> int:
        """Run haproxy in front of the servers, with the page's configuration; return its port."""
        port = free_port()
        front = documented("haproxy").partition("\nbackend ")[0] + "\n\n"
        front = front.replace("bind :80", f"bind 127.0.0.1:{port}")
        back = documented("haproxy", PAGE)
        for number, server in enumerate(servers, 1):
            back = back.replace(f"10.0.0.{number}:8000", f"127.0.0.1:{server.port}")
        path = self.configuration("haproxy.cfg", front + back)
        self.run_proxy([self.program("haproxy", "haproxy"), "-db", "-f", str(path)], port)
        return port

    def browsers(self, stack: ExitStack, port: int, number: int) -> list[ClientConnection]:
        """Open WebSockets through haproxy."""
        url = f"ws://127.0.0.1:{port}/"
        options: dict[str, Any] = {"compression": None, "open_timeout": TIMEOUT, "ping_interval": None}
        return [stack.enter_context(connect(url, **options)) for _ in range(number)]

    def assertHeard(self, browsers: list[ClientConnection], text: str) -> None:
        """All of them get this next."""
        self.assertEqual([browser.recv(TIMEOUT) for browser in browsers], [text] * len(browsers))

    @staticmethod
    def number(server: Server) -> int:
        """Return how many WebSockets a server has."""
        return int(server.get("/-/health").json()["websockets"])

    def test_walk_through(self) -> None:
        """Both hosts get sockets, which chat; when a host dies, the other takes over, until it is back."""
        servers = [self.serve(free_port()), self.serve()]
        port = self.balance(servers)
        with ExitStack() as stack:
            browsers = self.browsers(stack, port, 4)
            self.assertEqual([self.number(server) for server in servers], [2, 2])
            browsers[0].send("hello")
            self.assertHeard(browsers, "hello")
            page = (Path(__file__).parent.parent / "docs" / PAGE).read_text()
            command = re.search(r'python manage.py shell -c "(.*)"', page)
            assert command is not None
            self.shell(command[1])
            self.assertHeard(browsers, "from a shell")

            servers[0].kill()
            browsers = self.browsers(stack, port, 3)
            self.assertEqual(self.number(servers[1]), 5)
            browsers[0].send("still here")
            self.assertHeard(browsers, "still here")

            self.serve(port=servers[0].port)

            def is_back() -> bool:
                with ExitStack() as short:
                    self.browsers(short, port, 1)
                    return self.number(servers[0]) > 0

            wait_until(is_back, "sockets on the host that is back")
