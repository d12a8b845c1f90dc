"""Messages that consumers send on to channels of their own, in each arrangement of processes (rules 7 and 17)."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from contextlib import closing
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.process import TIMEOUT, Server, ServerTestCase, project, wait_until
from tests.redis_server import RedisServer


class OwnChannelTests(ServerTestCase):
    """One process."""

    files = project("lab", "own_channels")
    extra_settings = """
        CHANNEL_LAYERS["default"]["CONFIG"] = {"group_expiry": 1}
        SESSION_COOKIE_AGE = 1
    """
    migrate = True
    servers: list[Server]

    def setUp(self) -> None:
        self.servers = []
        super().setUp()

    def arrange(self) -> Server:
        """Start what takes part, with four threads in all."""
        return self.start("--threads", "4")

    def worker(self, threads: int, *options: str) -> Server:
        """Start a worker process."""
        return self.run_process([sys.executable, "manage.py", "runworker", "--threads", str(threads), *options])

    def notes(self, what: str) -> list[str]:
        """Return the texts or gates of the project's notes."""
        diary = self.folder / "diary"
        lines = diary.read_text().split("\n")[:-1] if diary.exists() else []
        entries = [entry for entry in map(json.loads, lines) if entry["what"] == what]
        return [str(entry.get("text") or entry.get("gate")) for entry in entries]

    def wait_for_gate(self, name: str) -> None:
        wait_until(lambda: name in self.notes("at gate"), f"a consumer at gate {name}")

    def open_gate(self, name: str) -> None:
        (self.folder / f"gate-{name}").touch()

    def test_own_channels(self) -> None:
        """Reply channels fit into 37 characters; order per channel and reply channel; sessions lose nothing."""
        server = self.arrange()
        with server.connect("/") as first, server.connect("/") as second:
            for socket in (first, second):
                self.assertLessEqual(len(socket.recv(TIMEOUT)), 37)

            for text in ("said wait-1", "said 2", "group 3", "said 4"):
                first.send(text)
            self.wait_for_gate("wait-1")
            # Sent later, on the same channel, and consumed: there are idle threads.
            second.send("said other")
            self.assertEqual(second.recv(TIMEOUT), "other")
            self.assertEqual(self.notes("begin"), ["wait-1", "other"])
            self.open_gate("wait-1")
            self.assertEqual([first.recv(TIMEOUT) for _ in range(4)], ["wait-1", "2", "3", "4"])

            for channel in ("said", "told"):
                texts = [f"later-{channel}", *map(str, range(10))]
                for text in texts:
                    first.send(f"{channel} {text}")
                self.assertEqual([first.recv(TIMEOUT) for _ in texts], texts)

            for text in ("loose wait-5", "loose 6"):
                first.send(text)
            self.assertEqual(first.recv(TIMEOUT), "6")
            self.open_gate("wait-5")
            self.assertEqual(first.recv(TIMEOUT), "wait-5")

            for text in ("left one", "right two"):
                first.send(text)
            for name in ("one", "two"):
                self.wait_for_gate(name)
            for name in ("one", "two"):
                self.open_gate(name)
            self.assertEqual([first.recv(TIMEOUT) for _ in range(2)], ["remembered"] * 2)

            # Rule 13: a membership ends after group_expiry, but not that of an open socket.
            first.send("member")

            def members() -> str:
                first.send("members")
                return str(first.recv(TIMEOUT))

            wait_until(lambda: members() == "1", "the end of an ordinary channel's membership")
            time.sleep(1.1)  # another time, for whoever renews memberships
            self.assertEqual(members(), "1")
            first.send("tell still here")
            self.assertEqual(first.recv(TIMEOUT), "still here")

            # Rule 12: by a group, as a reply, on a channel.
            first.send("half")
            self.assertEqual([first.recv(TIMEOUT) for _ in range(3)], ["half \ufffd, whole \U0001f600"] * 3)

            self.check_odd(first)

            # What a forked child sends arrives, although its parent raises afterwards; of whichever process it is.
            for _ in range(6):
                first.send("fork")
                self.assertEqual(
                    sorted(first.recv(TIMEOUT) for _ in range(3)), ["by a consumer", "reply of a child", "to the group"]
                )

            # Rule 13: a channel session lives as long as its socket, SESSION_COOKIE_AGE or not.
            self.manage("clearsessions")
            first.send("recall")
            self.assertEqual(first.recv(TIMEOUT), "one two")

            # A change of the password ends the login, and nothing else.
            for text, answer in (
                ("log_in ada", "logged in"), ("who", "a ada a"), ("who ada", "a nobody a"), ("who", "a nobody a"),
            ):  # fmt: skip
                second.send(text)
                self.assertEqual(second.recv(TIMEOUT), answer)
            self.assertEqual(self.sessions(), 2)
            for name in ("three", "four"):
                first.send(f"late {name}")
                self.wait_for_gate(name)
                if name == "three":
                    self.open_gate(name)
        self.check_replies(server)
        # Both are closed. A consumer that has read the session before saves it afterwards.
        wait_until(lambda: self.sessions() == 0, "the end of the sessions")
        self.open_gate("four")
        wait_until(lambda: "four" in self.notes("saved"), "a late save")
        wait_until(lambda: self.sessions() == 0, "the end of the session that was saved late")

    def check_odd(self, socket: ClientConnection) -> None:
        """What cannot be packed, or is too large for another process, arrives or is counted, and logged once."""
        socket.send("odd")
        texts = []
        while "odd end" not in texts:
            texts.append(str(socket.recv(TIMEOUT)))
        socket.send("said still connected")
        while "still connected" not in texts:
            texts.append(str(socket.recv(TIMEOUT)))
        self.assertEqual(set(texts), {"odd", "odd end", "still connected"} if "odd" in texts else set(texts))
        if texts.count("odd") < 11:
            wait_until(lambda: "not sendable" in self.lost(), "the line of what is not sendable")
        self.assertLessEqual(set(self.lost()), {"not sendable", "too large for another process"})
        self.assertLessEqual(len(self.lost()), 2 * 2)  # once for each reason and process
        self.assertFalse([line for line in self.lines() if "Traceback" in line])

    def lost(self) -> list[str]:
        """Return the reasons of the lines about lost messages."""
        return [line.partition(" lost: ")[2].partition(";")[0] for line in self.lines() if " lost: " in line]

    def lines(self) -> list[str]:
        """Return what all processes have logged."""
        return [line for server in self.servers for line in server.lines]

    def run_process(self, *arguments: Any, **named: Any) -> Server:
        server = super().run_process(*arguments, **named)
        self.servers.append(server)
        return server

    def check_replies(self, server: Server) -> None:
        """Refusals have status, header fields and content; acceptances fields and subprotocol; closes reasons."""
        with self.assertRaises(InvalidStatus) as caught, server.connect("/refused"):
            pass
        answer = caught.exception.response
        self.assertEqual((answer.status_code, answer.body), (401, b"Log in first."))
        self.assertEqual(answer.headers["WWW-Authenticate"], "Basic")
        with server.connect("/cookie", subprotocols=["chat.v1", "chat.v2"]) as socket:
            self.assertEqual(socket.subprotocol, "chat.v2")
            self.assertEqual(socket.response.headers.get_all("Set-Cookie"), ["seen=1", "again=2"])
            with self.assertRaises(ConnectionClosed) as closed:
                socket.recv(TIMEOUT)
        self.assertEqual((closed.exception.rcvd.code, closed.exception.rcvd.reason), (4002, "that is all: \u20ac"))
        with self.assertRaises(InvalidStatus) as caught, server.connect("/injected"):
            pass
        answer = caught.exception.response
        self.assertEqual((answer.status_code, answer.headers.get_all("Set-Cookie")), (500, []))

    def sessions(self) -> int:
        """Return how many sessions there are."""
        with closing(sqlite3.connect(self.folder / "db.sqlite3")) as database:
            return int(database.execute("SELECT count(*) FROM django_session").fetchone()[0])


class OwnChannelProcessesTests(OwnChannelTests):
    """``--processes 2``."""

    def arrange(self) -> Server:
        server = self.start("--processes", "2", "--threads", "2")
        server.wait_for("process 2 serves, too")
        return server


class OwnChannelWorkerTests(OwnChannelTests):
    """A server whose consumers run in a worker process, behind its local socket."""

    def arrange(self) -> Server:
        server = self.start("--threads", "1")
        self.worker(4, "--exclude-channels", "websocket.session")
        server.wait_for("worker process [0-9]+ takes ")
        return server


class OwnChannelRedisTests(OwnChannelTests):
    """A server and a worker process on one Redis."""

    def setUp(self) -> None:
        redis = RedisServer()
        self.addCleanup(redis.remove)
        self.extra_settings = f"""
            CHANNEL_LAYERS["default"] = {{
                "BACKEND": "asgi_redis.RedisChannelLayer", "ROUTING": "routing.channel_routing",
                "CONFIG": {{"hosts": [{redis.url!r}], "group_expiry": 1}},
            }}
            SESSION_COOKIE_AGE = 1
        """
        super().setUp()

    def arrange(self) -> Server:
        self.worker(2).wait_for("worker process")
        return self.start("--threads", "2")
