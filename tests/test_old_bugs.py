"""Faults that the servers of 2016 had, each with a test that it is not here.

The letters are those of the notes on Channels 1 that this project was written from. Left out is what cannot occur: f
was an error of Redis, so here the layer's own queues fail; g has its place in :mod:`tests.test_delay`.
"""

from __future__ import annotations

import time

from channelserver.exceptions import WebsocketCloseException
from channelserver.layers import InMemoryChannelLayer
from channelserver.message import Message
from channelserver.workers.request import AsgiRequest
from tests.lab import CLOSE, PING, LabTestCase, RawClient, close_code, open_sockets
from tests.process import TIMEOUT, project, wait_until


class WorkerTests(LabTestCase):
    """What ended worker threads, or left sockets behind. There is one worker thread."""

    files = project("old_bugs")
    arguments = ("--threads", "1", "--http-timeout", "600", "--ping-interval", "0")
    extra_settings = """
        CHANNEL_LAYERS["default"]["BACKEND"] = "flaky.FlakyLayer"
        CHANNEL_LAYERS["default"]["CONFIG"] = {"channel_capacity": {"hole": 1, "websocket.receive": 2, "member.*": 5}}
    """

    def assertAlive(self) -> None:
        """Assert that the one worker thread takes messages."""
        self.assertEqual(self.server.get("/ok").text, "ok")

    def test_bug_a_deny_connection_outside_connect(self) -> None:
        """``DenyConnection`` outside of ``websocket.connect`` ended the worker. It is logged."""
        with self.server.connect("/deny/") as client:
            client.send("deny")
            client.send("alive")
            self.assertEqual(client.recv(TIMEOUT), "alive")
        self.wait_for_note("disconnect", path="/deny/")
        self.server.get("/task?deny")
        self.server.get("/task")
        self.wait_for_note("task")
        for channel in ("websocket.receive", "websocket.disconnect", "task"):
            self.assertLogged(f"raised DenyConnection on '{channel}'")

    def test_bug_b_close_exception(self) -> None:
        """``WebsocketCloseException`` did not take the reply channel of its own server for a socket's, and ended the
        worker. It closes the socket.
        """
        for order, code in (("close", 1000), ("close 3456", 3456)):
            with RawClient(self.server) as client:
                client.open("/close/")
                client.send_frame(1, order.encode())
                opcode, payload = client.frame() or (0, b"")
                self.assertEqual((opcode, close_code(payload)), (CLOSE, code))
        self.assertAlive()
        self.assertNoTraceback()

    def test_bug_c_full_channel(self) -> None:
        """A held-back message for which there was no room for two seconds ended the worker, and all messages behind it
        were lost. It is logged; the others are sent.
        """
        with open_sockets(self.server, ["/fill/"] * 2) as clients:
            for client in clients:
                client.send("fill")
            self.assertEqual([client.recv(TIMEOUT) for client in clients], ["after the hole"] * 2)
        self.assertLogged(r"message\(s\) to 'hole' lost: channel full")
        self.assertAlive()
        self.assertNoTraceback()

    def test_bug_f_queues_fail(self) -> None:
        """An error on the way to the next message ended the worker. It is logged, and the thread tries again."""
        with self.server.connect("/") as client:
            for _ in range(3):
                self.server.get("/break_take?times=5")
                client.send("alive")
                self.assertEqual(client.recv(TIMEOUT), "alive")
        self.assertLogged("OSError: the queues have failed", 15)

    def test_bug_h_groups_in_many_threads(self) -> None:
        """Using a group while another thread changes it failed, because nothing guarded its members."""
        answer = self.server.get("/stampede").json()
        self.assertEqual(answer["errors"], [])
        self.assertGreater(answer["rounds"], 3000)

    def test_bug_i_paused_socket_ends(self) -> None:
        """A socket that was closed for sending too much never told its end, and stayed in its groups for a day. Here it
        is not read until there is room, loses nothing, and its end is told like any other's.
        """
        with RawClient(self.server) as client:
            client.open("/paused/")
            client.send_frame(1, b"join")
            self.assertEqual(client.data(), "joined")
            client.send_frame(1, b"wait paused")
            self.wait_for_note("at gate", gate="paused")
            for _ in range(30):
                client.send_frame(1, b"more")
        self.open_gate("paused")
        (entry,) = self.wait_for_note("disconnect", path="/paused/")
        self.assertEqual(entry["order"], 33)
        members = self.server.get("/members?group=everybody").json()["members"]
        self.assertEqual(members, [])


class TimerTests(LabTestCase):
    """What ended the timers of the whole server."""

    files = project("old_bugs_timers")
    arguments = ("--threads", "2", "--http-timeout", "2", "--ping-interval", "0.5", "--ping-timeout", "0.5")

    def assertTimersRun(self) -> None:
        """Assert that requests time out, that silent sockets are pinged, and given up if they stay silent."""
        with RawClient(self.server) as silent, RawClient(self.server) as waiting:
            silent.open("/silent/")
            waiting.request("/nothing")
            self.assertEqual(waiting.head().status, 503)
            self.assertEqual(silent.frame(), (PING, b""))
            self.assertEqual(silent.frame(), None)

    def test_bug_d_stream_longer_than_the_timeout(self) -> None:
        """After a streaming answer that took longer than ``http_timeout``, there were no timeouts and no pings any more
        for anybody.
        """
        with RawClient(self.server) as client:
            client.request("/streaming")
            self.assertEqual((client.head().status, client.chunk()), (200, b"begin"))
            began = time.monotonic()
            self.assertTimersRun()
            wait_until(lambda: time.monotonic() > began + 3, "more than the timeout")
            self.assertTimersRun()
            self.open_gate("body")
            self.assertEqual([client.chunk(), client.chunk()], [b"end", b""])
        self.assertTimersRun()

    def test_bug_e_error_in_a_deadline(self) -> None:
        """An error in one socket's deadline ended the deadlines of all others."""
        with RawClient(self.server) as cursed:
            cursed.open("/cursed/")
            self.wait_for_note("cursed")
            self.assertTimersRun()
            self.wait_for_note("cursed", 2)
            self.assertTimersRun()
        self.assertLogged("this socket's deadline has failed")


class RequestTests(LabTestCase):
    """What needs no server."""

    def test_bug_j_body_part_without_content(self) -> None:
        """A part of a body without ``content`` mixed text and bytes. It adds nothing."""
        layer = InMemoryChannelLayer()
        for part in ({"more_content": True}, {"content": b"two", "more_content": True}, {"more_content": False}):
            layer.send("http.request.body?x", part)
        content = {"path": "/", "method": "POST", "body": b"one ", "body_channel": "http.request.body?x"}
        self.assertEqual(AsgiRequest(Message(content, "http.request", layer)).body, b"one two")

    def test_bug_k_close_code(self) -> None:
        """Any number passed for a close code."""
        for code in (1000, 3000, 4999, None):
            self.assertEqual(WebsocketCloseException(code).code, code)
        for code in (-1, 0, 1, 999, 1001, 1006, 1011, 2999, 5000, 65536):
            self.assertRaises(ValueError, WebsocketCloseException, code)
