"""Nothing is left of a connection, however it has ended.

The server counts the objects of its own classes, and its open files, when all is quiet; then thousands of connections
come and go in every way there is; then the counts are what they were.
"""

from __future__ import annotations

import re
import socket
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from channelserver.server.websocket.frames import Opcode
from tests.fakes import mask_frame
from tests.lab import RawClient
from tests.process import TIMEOUT, Server, ServerTestCase, project

Way = Callable[[RawClient], Any]
WAYS: dict[str, Way] = {}


def way(function: Way) -> Way:
    """Add a way in which a connection goes."""
    WAYS[function.__name__] = function
    return function


def reset(client: RawClient) -> None:
    """Close so that the other side gets a reset."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@way
def closed_by_the_client(client: RawClient) -> None:
    """A WebSocket from its beginning to its end."""
    client.open().send_frame(Opcode.TEXT, b"hello")
    client.frame()
    client.send_frame(Opcode.CLOSE, b"\x03\xe8")
    client.rest()


@way
def closed_by_a_consumer(client: RawClient) -> None:
    """The server begins to close."""
    client.open().send_frame(Opcode.TEXT, b"close")
    client.frame()
    client.send_frame(Opcode.CLOSE, b"\x0f\xa0")
    client.rest()


@way
def compressed(client: RawClient) -> None:
    """Compressed messages both ways, then a damaged one."""
    client.open(sec_websocket_extensions="permessage-deflate")
    client.send(mask_frame(0x40 | Opcode.TEXT, zlib.compress(b"hello" * 100, wbits=-15) + b"\x00"))
    while (byte := client.socket.recv(1)) != b"\xc1":
        assert byte, "closed before the answer"
    client.send(mask_frame(0x40 | Opcode.TEXT, b"\xff" * 10))
    client.rest()


@way
def reset_by_the_client(client: RawClient) -> None:
    """A WebSocket whose network fails, with messages under way."""
    client.open()
    for _ in range(3):
        client.send_frame(Opcode.TEXT, b"hello")
    reset(client)


@way
def gone_while_it_waits(client: RawClient) -> None:
    """A client that leaves before its handshake is answered."""
    client.handshake()
    reset(client)


@way
def half_a_handshake(client: RawClient) -> None:
    """A client that leaves in the middle of its handshake."""
    client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upg")
    client.close()


@way
def bad_handshake(client: RawClient) -> None:
    """A handshake that is refused at once."""
    client.handshake(sec_websocket_version="12")
    assert client.head().status == 426
    client.rest()


@way
def denied(client: RawClient) -> None:
    """A handshake that a consumer refuses."""
    client.handshake("/denied/")
    assert client.head().status == 403
    client.rest()


@way
def too_big(client: RawClient) -> None:
    """A message over the limit."""
    client.open().send(mask_frame(Opcode.BINARY, b"x" * 70_000)[:20])
    client.rest()


@way
def in_fragments(client: RawClient) -> None:
    """A client that leaves in the middle of a message."""
    client.open(sec_websocket_extensions="permessage-deflate")
    client.send(mask_frame(0x40 | Opcode.TEXT, zlib.compress(b"hello" * 100, wbits=-15)[:8], fin=False))
    client.send(mask_frame(Opcode.PING, b"x") + mask_frame(0, b"x" * 100)[:50])
    client.frame()
    reset(client)


@way
def against_the_protocol(client: RawClient) -> None:
    """A frame without a mask."""
    client.open().send(b"\x81\x01a")
    client.rest()


@way
def not_reading(client: RawClient) -> None:
    """A client for which more waits than may."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.open().send_frame(Opcode.TEXT, b"fill")
    reset(client)


@way
def kept_alive(client: RawClient) -> None:
    """Several requests on one connection."""
    for _ in range(3):
        client.request("/nowhere")
        head = client.head()
        assert head.status == 404
        client.read(int(head.fields["content-length"]))
    client.close()


@way
def pipelined(client: RawClient) -> None:
    """Several requests at once, and the last one says that it is the last."""
    client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3 + b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
    client.rest()


@way
def uploaded(client: RawClient) -> None:
    """A body that goes to a file."""
    client.request("/upload", "POST", b"x" * 100_000)
    assert client.head().status == 200
    client.close()


@way
def upload_aborted(client: RawClient) -> None:
    """A client that leaves in the middle of a body that goes to a file."""
    client.send(b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000)
    reset(client)


@way
def upload_refused(client: RawClient) -> None:
    """A body over the limit."""
    client.send(b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n")
    client.rest()


@way
def malformed(client: RawClient) -> None:
    """What is no HTTP."""
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    client.rest()


@way
def download_aborted(client: RawClient) -> None:
    """A client that leaves in the middle of a large answer."""
    client.request("/large")
    client.head()
    reset(client)


@way
def stream_aborted(client: RawClient) -> None:
    """A client that leaves in the middle of a stream."""
    client.request("/stream")
    client.head()
    reset(client)


@way
def failed(client: RawClient) -> None:
    """A view that raises."""
    client.request("/broken")
    assert client.head().status == 500
    client.close()


@way
def nothing(client: RawClient) -> None:
    """A client that says nothing."""
    client.close()


#: These last until a time is over, so all of them are opened before the first one is waited for.
def _silent_head(client: RawClient) -> None:
    client.send(b"GET / HTTP/1.1\r\nHost: local")


def _silent_body(client: RawClient) -> None:
    client.send(b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhello")


def _silent_socket(client: RawClient) -> None:
    client.open().send_frame(Opcode.TEXT, b"hello")


def _idle(client: RawClient) -> None:
    client.request("/nowhere")


SILENT = (_silent_head, _silent_body, _silent_socket, _idle)


class LeakTests(ServerTestCase):
    """Connections by the thousand."""

    files = project("leaks")
    extra_settings = 'SESSION_ENGINE = "django.contrib.sessions.backends.cache"\n'
    #: How often each way is gone, and each kind of silence.
    times, silences = 200, 175

    def twistd(self, *arguments: str, options: Sequence[str] = ("-n", "--pidfile=")) -> list[str]:
        """No fork of the common interpreter, whose objects no garbage collection of the fork looks at."""
        python, flag, code, *rest = super().twistd(*arguments, options=options)
        return [python, flag, f"{code} #", *rest]

    def counts(self, server: Server) -> dict[str, int]:
        """Return what the server counts."""
        found: dict[str, int] = server.get("/counts").json()
        return found

    def memory(self, server: Server) -> int:
        """Return the bytes of memory the server has."""
        match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
        assert match is not None
        return int(match[1]) * 1024

    def go(self, server: Server, times: int, silences: int) -> int:
        """Go all ways; return the number of connections."""

        def once(way: Way) -> None:
            with RawClient(server) as client:
                way(client)

        with ThreadPoolExecutor(16) as pool:
            for name, function in WAYS.items():
                try:
                    list(pool.map(once, [function] * times, timeout=TIMEOUT * 5))
                except Exception as error:
                    raise AssertionError(f"{name}: {error!r}") from error
        clients = []
        for silence in SILENT * silences:
            clients.append(RawClient(server))
            silence(clients[-1])
        for client in clients:
            with client:
                client.rest()
        return times * len(WAYS) + len(clients)

    def test_nothing_is_left(self) -> None:
        """After thousands of connections there are as many objects and open files as before, and no more memory."""
        server = self.start(
            "--compression", "--max-message-bytes", "65536", "--max-body-bytes", "2000000",
            "--send-buffer-bytes", "500000", "--header-timeout", "5", "--body-timeout", "5", "--keep-alive", "5",
            "--ping-interval", "2", "--ping-timeout", "4", "--http-timeout", "20", "--access-log", "",
        )  # fmt: skip
        self.go(server, 16, 16)
        before = self.counts_at_rest(server)
        self.go(server, self.times // 4, self.silences // 4)
        self.counts(server)
        memory = self.memory(server)
        number = self.go(server, self.times, self.silences)
        self.assertGreaterEqual(number, 5000)
        more: dict[str, int] = {}
        ends = time.monotonic() + TIMEOUT
        while time.monotonic() < ends:  # the last ones may need a moment yet
            more = {name: count for name, count in self.counts(server).items() if count > before.get(name, 0)}
            if not more:
                break
        self.assertEqual(more, {}, before)
        self.assertLess(self.memory(server) - memory, 10_000_000)

    def counts_at_rest(self, server: Server) -> dict[str, int]:
        """Return the counts when they do not change any more."""
        last = [self.counts(server)]
        while len(last) < 6 or last[-6:] != [last[-1]] * 6:
            last.append(self.counts(server))
        return last[-1]
