"""The rules about queues: capacities, where one may send from, names and contents (15 to 17)."""

from __future__ import annotations

import json
import select
import socket
import time
from pathlib import Path
from typing import Any

from tests.lab import LabTestCase, RawClient, client_frame, open_sockets
from tests.process import TIMEOUT, project, wait_until

#: How long held-back messages wait for room in the projects here.
RETRY_SECONDS = 8

CAPACITIES = {"http.request": 3, "websocket.connect": 2, "websocket.receive": 5, "websocket.disconnect": 1, "hole*": 1}


class QueueTestCase(LabTestCase):
    files = project("rules_queues")

    def send(self, channel: str, **content: Any) -> None:
        """Have a view send a message."""
        body = json.dumps({"channel": channel, "content": content})
        self.assertEqual(self.server.post("/send", data=body).text, "sent")

    def lost(self) -> dict[str, int]:
        """Return how many messages the server has lost, by reason."""
        reasons: dict[str, int] = self.server.get("/lost").json()
        return reasons

    def reactor_round_trip(self) -> None:
        """Wait until the reactor has taken up what was sent to it so far; needs no worker."""
        with RawClient(self.server) as client:
            client.send(b"NO REQUEST\r\n\r\n")
            self.assertEqual(client.head().status, 400)


def receive_buffer_limit() -> int:
    """Return how many bytes the operating system takes at most for a server that does not read."""
    try:
        return int(Path("/proc/sys/net/ipv4/tcp_rmem").read_text().split()[2])
    except (OSError, IndexError):
        return 8_000_000


class CapacityTests(QueueTestCase):
    """Rule 15, with small capacities."""

    arguments = ("--threads", "2", "--ping-interval", "0", "--http-timeout", "600", "--connect-timeout", "600")
    extra_settings = f"""
        CHANNEL_LAYERS["default"]["CONFIG"] = {{"channel_capacity": {CAPACITIES}}}
    """

    def keep_workers_busy(self, name: str) -> None:
        """Have both workers wait at a gate."""
        for number in range(2):
            self.send("task", gate=name, number=number)
            self.wait_for_note("at gate", number + 1, gate=name)

    def test_rule_15_requests(self) -> None:
        """A request for which ``http.request`` has no room is answered 503 at once; those that wait are served."""
        self.keep_workers_busy("requests")
        clients = [RawClient(self.server) for _ in range(5)]
        for client in clients:
            self.addCleanup(client.close)
            client.request("/lost")
            self.reactor_round_trip()
        self.assertEqual([client.head().status for client in clients[3:]], [503, 503])
        self.assertFalse(select.select([client.socket for client in clients[:3]], [], [], 0)[0])
        self.open_gate("requests")
        self.assertEqual([client.head().status for client in clients[:3]], [200, 200, 200])
        self.assertEqual(self.server.get("/lost").status_code, 200)

    def test_rule_15_handshakes(self) -> None:
        """So is a handshake for which ``websocket.connect`` has no room, and its consumer never hears of it."""
        self.keep_workers_busy("handshakes")
        clients = [RawClient(self.server) for _ in range(3)]
        for number, client in enumerate(clients):
            self.addCleanup(client.close)
            client.handshake(f"/{number}/")
            self.reactor_round_trip()
        self.assertEqual(clients[2].head().status, 503)
        self.assertFalse(select.select([client.socket for client in clients[:2]], [], [], 0)[0])
        self.open_gate("handshakes")
        self.assertEqual([client.head().status for client in clients[:2]], [101, 101])
        with self.server.connect("/again/"):
            pass
        self.wait_for_note("connect", path="/again/")
        self.assertEqual(self.diary("connect", path="/2/"), [])

    def test_rule_15_received_messages(self) -> None:
        """A socket for whose messages ``websocket.receive`` has no room is not read any more; nothing is lost, and all
        is in order when there is room again.
        """
        size = 6000
        number = (receive_buffer_limit() + 4_000_000) // size
        lost = self.lost()
        with RawClient(self.server) as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            client.open("/paused/")
            client.send_frame(1, b"wait paused")
            self.wait_for_note("at gate", gate="wait.paused")
            unsent = memoryview(b"".join(client_frame(1, str(index).ljust(size).encode()) for index in range(number)))
            client.socket.setblocking(False)
            # As long as the server reads, the client can send; when it does not, the system's buffers fill.
            while unsent and select.select([], [client.socket], [], 0.5)[1]:
                unsent = unsent[client.socket.send(unsent[:65536]) :]
            self.assertGreater(len(unsent), 65536, "the server has read on")
            client.socket.settimeout(TIMEOUT)
            self.open_gate("wait.paused")
            received: list[str] = []
            while len(received) < number:
                readable, writable, _ = select.select([client.socket], [client.socket] if unsent else [], [], TIMEOUT)
                self.assertTrue(readable or writable, "the server does not read again")
                if writable:
                    unsent = unsent[client.socket.send(unsent[:65536]) :]
                if readable:
                    received.extend(str(client.data()).strip() for _ in range(1 if unsent else number - len(received)))
            self.assertEqual(received, [str(index) for index in range(number)])
        self.assertEqual(self.lost(), lost)

    def test_rule_15_disconnect_ignores_capacities(self) -> None:
        """However full the queues are, the end of a socket is told to the application, once."""
        clients = [RawClient(self.server).open(f"/end/{number}/") for number in range(12)]
        for client in clients[:2]:
            client.send_frame(1, b"wait end")
        self.wait_for_note("at gate", 2, gate="wait.end")
        for client in clients[2:]:
            client.send_frame(1, b"queued")
        self.reactor_round_trip()
        for client in clients:
            client.close()
        self.open_gate("wait.end")
        for number in range(12):
            self.wait_for_note("disconnect", path=f"/end/{number}/")
        self.assertLogged(r"WebSocket CLOSE /end/", 12)
        self.assertEqual(sum(entry["path"].startswith("/end/") for entry in self.diary("disconnect")), 12)

    def test_rule_15_held_back_sends_wait_for_room(self) -> None:
        """Held-back messages for which there is no room are tried again without keeping the worker, and sent in order
        when there is room.
        """
        lost = self.lost()
        with open_sockets(self.server, ["/squeeze/", "/other/"]) as (client, other):
            client.send("squeeze")
            for number in range(4):
                other.send("hello")
                self.assertEqual(other.recv(TIMEOUT), "hello")
                taken = self.server.get("/take", params={"channel": "hole.squeeze"}).json()
                self.assertEqual(taken, {"number": number})
            self.assertEqual(client.recv(TIMEOUT), "squeezed")
        self.assertEqual(self.lost(), lost)

    def test_rule_15_held_back_sends_are_given_up(self) -> None:
        """After some time they are counted and logged, and the others are sent."""
        server = self.start(*self.arguments, extra_settings=self.extra_settings)
        with open_sockets(server, ["/"] * 3) as clients, server.connect("/other/") as other:
            began = time.monotonic()
            for client in clients:  # more than there are workers
                client.send("fill")
            self.assertEqual([client.recv(TIMEOUT) for client in clients], ["before"] * 3)
            other.send("hello")
            self.assertEqual(other.recv(TIMEOUT), "hello")
            for client in clients:  # nothing was given up before
                self.assertRaises(TimeoutError, client.recv, 0)
            self.assertEqual([client.recv(TIMEOUT) for client in clients], ["after"] * 3)
            self.assertGreaterEqual(time.monotonic() - began, RETRY_SECONDS)
        self.assertLogged(
            rf"WARNING .*: 1 message\(s\) to 'hole.receive' lost: channel full; .*tried again for {RETRY_SECONDS} s"
        )
        self.assertEqual(self.lost(), {"channel full": 8})

    def test_rule_15_direct_send(self) -> None:
        """A message that goes out at once, from a consumer or a thread, raises ``ChannelFull``."""
        with self.server.connect("/direct/") as client:
            client.send("direct")
            self.assertEqual(client.recv(TIMEOUT), "sent full full full")


class DefaultCapacityTests(QueueTestCase):
    """Rule 15, with the defaults."""

    arguments = ("--threads", "2", "--ping-interval", "0")

    def test_rule_15_default_capacity(self) -> None:
        """1000 messages wait in a channel, not one more."""
        self.assertEqual(self.server.get("/fill", params={"channel": "filled"}).text, "1000")

    def test_rule_15_one_socket_does_not_fill_the_channel(self) -> None:
        """A client that sends faster than it is served is paused long before the channel is full for all others."""
        with self.server.connect("/busy/") as busy, self.server.connect("/quiet/") as quiet:
            busy.send("wait busy")
            self.wait_for_note("at gate", gate="wait.busy")
            for number in range(3000):
                busy.send(str(number))
            quiet.send("hello")
            self.assertEqual(quiet.recv(TIMEOUT), "hello")
            self.open_gate("wait.busy")
            self.assertEqual([busy.recv(TIMEOUT) for _ in range(3000)], [str(number) for number in range(3000)])


class ExpiryTests(QueueTestCase):
    """Rule 15: messages do not wait for ever."""

    arguments = ("--threads", "1", "--ping-interval", "0")
    extra_settings = "\nCHANNEL_LAYERS['default']['CONFIG'] = {'expiry': 4}\n"

    def test_rule_15_expiry(self) -> None:
        """A message which nobody took within ``expiry`` is dropped, counted and logged."""
        with self.server.connect("/expiry/") as client:
            self.send("task", name="in time")
            self.wait_for_note("task", name="in time")
            self.send("task", gate="expiry", name="slow")
            self.wait_for_note("at gate", gate="expiry")
            client.send("too late")
            self.reactor_round_trip()
            sent = time.monotonic()
            wait_until(lambda: time.monotonic() > sent + 4.01, "the message's end")
            self.open_gate("expiry")
            client.send("in time")
            self.assertEqual(client.recv(TIMEOUT), "in time")
        self.assertLogged("1 message.* to 'websocket.receive' lost: expired")
        self.assertEqual(self.lost(), {"expired": 1})


class EverywhereTests(LabTestCase):
    """Rule 16, within the server's process."""

    files = project("rules_queues_everywhere")
    extra_settings = "\nINSTALLED_APPS.append('early')\n"
    migrate = True

    def test_rule_16_from_everywhere(self) -> None:
        """Any channel can be sent to from views, threads, consumers and signal receivers alike."""
        self.assertEqual(self.server.get("/view").text, "sent")
        self.assertEqual(self.server.get("/async").text, "sent")
        self.assertEqual(self.server.get("/save").text, "saved")
        for sender in (
            *("a view", "a thread", "a consumer", "a signal", "an asynchronous view", "sync_to_async"),
            "the end of a request",
        ):
            self.wait_for_note("any-name", sender=sender)

    def test_rule_16_made_when_a_module_was_imported(self) -> None:
        """A ``Channel`` or ``Group`` at the top of a module, made before the server was, is as good as any."""
        self.assertEqual(self.server.get("/early").text, "sent")
        self.wait_for_note("any-name", sender="an early channel")
        self.wait_for_note("any-name", sender="an early group")


class NamesAndContentsTests(LabTestCase):
    """Rule 17."""

    files = project("rules_queues_names")

    def order(self, text: str) -> None:
        """Have a consumer do something."""
        with self.server.connect("/") as client:
            client.send(text)
            self.assertEqual(client.recv(TIMEOUT), "done")

    def test_rule_17_names(self) -> None:
        """Names are ASCII letters, digits, ``-``, ``_`` and ``.``, for channels with one part after ``!`` or ``?``, and
        shorter than 100 characters; any other raises ``TypeError`` before anything is sent.
        """
        self.order("names")
        (entry,) = self.diary("names")
        verdicts = {
            kind: [entry[f"{kind} {number}"] for number in range(sum(key.startswith(kind) for key in entry))]
            for kind in ("Channel", "Group")
        }
        good = 8  # the next one ends in "?": it is a pattern for new_channel()
        self.assertEqual(verdicts["Channel"][:good], ["ok"] * good)
        self.assertNotIn("ok", verdicts["Channel"][good:])
        self.assertEqual(verdicts["Group"][:2], ["ok", "ok"])
        self.assertEqual([verdicts["Group"][index] for index in (5, 7)], ["ok", "ok"])
        self.assertNotIn("ok", verdicts["Group"][2:5] + verdicts["Group"][good:])
        # Bytes that are not ASCII cannot be decoded; everything else is a TypeError.
        others = {*verdicts["Channel"][good:], *verdicts["Group"][good:]} - {"TypeError"}
        self.assertEqual(others, {"UnicodeDecodeError"})

    def test_rule_17_contents(self) -> None:
        """Bytes, text, integers of 64 bits, floats, booleans, None, lists and dicts arrive as they were sent; tuples
        as lists, subclasses of text as text.
        """
        self.order("contents")
        received = sorted(self.wait_for_note("content", 13), key=lambda entry: entry["number"])
        expected: list[dict[str, object]] = [
            {}, {"bytes": b"\x00\xff"}, {"text": "\u00e4\U0001f600\x00"}, {"int": -(2**63), "long": 2**63 - 1},
            {"float": 1.5, "inf": float("inf")}, {"bool": True, "no": False}, {"none": None},
            {"list": [1, [2, {"three": [3]}]]}, {"dict": {"in": {"in": {}}}}, {"": "empty key"}, {"tuple": [1, 2]},
            {"safe": "<b>"}, {"own": "own"},
        ]  # fmt: skip
        self.assertEqual([entry["value"] for entry in received], list(map(repr, expected)))
        types = [[type(value).__name__ for value in content.values()] for content in expected]
        self.assertEqual([entry["types"] for entry in received], types)

    def test_rule_17_what_no_message_can_carry(self) -> None:
        """Anything else raises ``TypeError`` where it is sent; what is no dict, ``ValueError`` in ``Group.send``."""
        self.order("contents")
        (entry,) = self.diary("bad")
        self.assertEqual(entry["channel"], ["TypeError"] * 16)
        self.assertEqual(entry["group"], ["TypeError"] * 12 + ["ValueError"] * 4)

    def test_rule_17_altered_after_the_send(self) -> None:
        """Altering a dict after it was sent, or in one consumer, alters nothing for anybody else."""
        self.order("alter")
        entries = self.wait_for_note("altered", 4)
        self.assertEqual({entry["content"] for entry in entries}, {"[('dict', {'key': [1]}), ('list', [1])]"})
        channels = sorted(entry["channel"] for entry in entries)
        self.assertEqual(channels, ["altered", "altered", "altered", "altered.too"])
