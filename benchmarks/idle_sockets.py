"""How much memory an open WebSocket takes that does nothing.

    python -m benchmarks.idle_sockets --number 10000

Starts a server on a project of its own, opens the sockets, and tells what the server has grown by, per socket. With
``--compression`` each socket has agreed on permessage-deflate; with ``--messages`` each has sent and got one message of
4000 bytes before it falls idle. The sockets come from several loopback addresses, for one has too few ports.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import socket
import sys
import tempfile
import textwrap
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from channelserver.server.options import BY_NAME
from tests.fakes import mask_frame
from tests.process import FILES, ROOT, TIMEOUT, Server
from tests.test_websocket import handshake

ROUTING = """
    from channelserver import Group

    def connect(message):
        Group("all").add(message.reply_channel)

    def receive(message):
        message.reply_channel.send({"text": message["text"]})

    channel_routing = {"websocket.connect": connect, "websocket.receive": receive}
"""

#: Sockets from one loopback address, and sockets opened in one go.
PER_ADDRESS, BATCH = 5000, 100

TEXT = json.dumps([{"id": number, "text": f"message {number}"} for number in range(120)])[:4000].encode()


def start(folder: Path, *options: str) -> Server:
    """Start a server on a new project."""
    for name, text in {**FILES, "routing.py": ROUTING}.items():
        (folder / name).write_text(textwrap.dedent(text).lstrip("\n"))
    command = [
        sys.executable,
        "-c",
        "from twisted.scripts.twistd import run; run()",
        "-n",
        "--pidfile=",
        "channelserver",
    ]
    command += ["--settings", "settings", "--port", "0", "--access-log", "", "--ping-interval", "0", *options]
    return Server(command, folder, {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}).wait_until_up()


def memory(server: Server) -> int:
    """Return the bytes of memory the server has."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def open_sockets(server: Server, number: int, extension: str | None) -> Iterator[list[socket.socket]]:
    """Open sockets, batch by batch."""
    request = handshake(host="localhost", sec_websocket_extensions=extension)
    for start_at in range(0, number, BATCH):
        batch = []
        for index in range(start_at, min(start_at + BATCH, number)):
            connection = socket.socket()
            connection.settimeout(TIMEOUT)
            connection.bind((f"127.0.0.{1 + index // PER_ADDRESS}", 0))
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(request)
            batch.append(connection)
        for connection in batch:
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 101 "), answer
            assert (b"permessage-deflate" in answer) == (extension is not None), answer
        yield batch


def exchange(batch: list[socket.socket], frame: bytes) -> None:
    """Have each socket send a message and get it back."""
    for connection in batch:
        connection.sendall(frame)
    for connection in batch:
        head = connection.recv(4, socket.MSG_WAITALL)
        size = head[1] if head[1] < 126 else int.from_bytes(head[2:], "big")
        connection.recv(size if head[1] == 126 else size - 2, socket.MSG_WAITALL)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description="memory of idle WebSockets")
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--compression", action="store_true")
    parser.add_argument("--messages", action="store_true")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if arguments.number > most - 100:
        parser.error(f"a process may have {most} open files here")
    options = ["--compression"] if arguments.compression else []
    if "max_connections" in BY_NAME:
        options += ["--max-connections", str(2 * arguments.number)]
    frame = mask_frame(1, TEXT)
    if arguments.compression:
        frame = mask_frame(0x41, zlib.compress(TEXT, wbits=-12) + b"\x00")
    folder = Path(tempfile.mkdtemp(prefix="channelserver-benchmark-"))
    server = start(folder, *options)
    sockets: list[socket.socket] = []
    try:
        extension = "permessage-deflate; client_max_window_bits" if arguments.compression else None
        for batch in open_sockets(server, BATCH, extension):  # what the first ones bring along
            exchange(batch, frame)
            sockets += batch
        before, begun = memory(server), time.monotonic()
        for batch in open_sockets(server, arguments.number - BATCH, extension):
            if arguments.messages:
                exchange(batch, frame)
            sockets += batch
        seconds, grown = time.monotonic() - begun, memory(server) - before
        print(f"{len(sockets)} sockets, {grown / (len(sockets) - BATCH):.0f} bytes each, opened in {seconds:.1f} s")
    finally:
        for connection in sockets:
            connection.close()
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
