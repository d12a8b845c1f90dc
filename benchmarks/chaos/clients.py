"""The clients: requests, and sockets with numbered texts, which are also members of a group.

Each in a thread of its own; what they got is read when all have ended.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence

import requests
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

_numbers = itertools.count(1)


class HttpClient(threading.Thread):
    """Sends requests whose view sends a background message."""

    def __init__(self, ports: Sequence[int], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._ports, self._stop_event = ports, stop
        self.sent: set[str] = set()  # answered 200
        self.unknown: set[str] = set()
        self.failures: dict[str, int] = {}
        self.longest_gap = 0.0

    def run(self) -> None:
        last = time.monotonic()
        while not self._stop_event.is_set():
            number = next(_numbers)
            port = random.choice(self._ports)
            try:
                answer = requests.get(f"http://127.0.0.1:{port}/job/{number}/", timeout=20)
                outcome = str(answer.status_code)
            except requests.RequestException:
                outcome = "no answer"
            if outcome == "200":
                self.sent.add(f"http.{number}")
                self.longest_gap = max(self.longest_gap, time.monotonic() - last)
                last = time.monotonic()
            else:
                self.unknown.add(f"http.{number}")
                self.failures[outcome] = self.failures.get(outcome, 0) + 1
            self._stop_event.wait(0.03)


class Socket:
    """What one connection has sent and got."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.echoes: list[str] = []
        self.groups: list[int] = []
        self.is_open = True


class SocketClient(threading.Thread):
    """Keeps a socket open, connecting again when it is lost, and sends a text now and then."""

    def __init__(self, number: int, port: int, stop: threading.Event, quiet: threading.Event) -> None:
        super().__init__(daemon=True)
        self._number, self.port, self._stop_event, self._quiet = number, port, stop, quiet
        self.sockets: list[Socket] = []
        self.problems: dict[str, int] = {}

    def run(self) -> None:
        while not self._stop_event.is_set():
            try:
                with connect(
                    f"ws://127.0.0.1:{self.port}/", open_timeout=15, close_timeout=1, ping_interval=None
                ) as client:
                    self._talk(client)
            except (OSError, WebSocketException, TimeoutError) as error:
                name = type(error).__name__
                self.problems[name] = self.problems.get(name, 0) + 1
                self._stop_event.wait(0.2)

    def _talk(self, client: ClientConnection) -> None:
        socket = Socket()
        self.sockets.append(socket)
        try:
            due = time.monotonic()
            while not self._stop_event.is_set():
                if time.monotonic() >= due and not self._quiet.is_set():
                    due = max(due + 0.1, time.monotonic() - 1.0)
                    text = f"socket{self._number}-{len(self.sockets)}.{len(socket.sent)}"
                    client.send(text)
                    socket.sent.append(text)
                try:
                    text = str(client.recv(0.05))
                except TimeoutError:
                    continue
                if text.startswith("group."):
                    socket.groups.append(int(text.partition(".")[2]))
                else:
                    socket.echoes.append(text)
        except BaseException:
            socket.is_open = False
            raise


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.2)
    return True
