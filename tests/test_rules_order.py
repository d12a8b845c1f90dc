"""The rules about order and isolation: what runs when, in which thread, and what an exception may cost (7 to 11)."""

from __future__ import annotations

import json
import threading
import time
from itertools import pairwise
from typing import Any

from tests.lab import LabTestCase, RawClient, open_sockets
from tests.process import TIMEOUT, project, wait_until

SETTINGS = """
    CHANNEL_SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    DATABASES["default"]["ATOMIC_REQUESTS"] = True
"""


class OrderTestCase(LabTestCase):
    files = project("rules_order")
    extra_settings = SETTINGS
    arguments = ("--threads", "4", "--ping-interval", "0", "--connect-timeout", "600")

    def in_background(self, path: str) -> threading.Thread:
        """GET a path in a thread."""
        thread = threading.Thread(target=self.server.get, args=[path])
        thread.start()
        self.addCleanup(thread.join)
        return thread


class SocketOrderTests(OrderTestCase):
    """Rule 7: the messages of one socket, one at a time and in order; different sockets in parallel."""

    def test_rule_07_one_at_a_time_in_order(self) -> None:
        """However long each consumer takes, whichever thread runs it: no two of a socket overlap, and all are in order;
        so their replies are.
        """
        paths = [f"/jumble/{number}/" for number in range(6)]
        texts = [str(number) for number in range(60)]
        with open_sockets(self.server, paths) as sockets:
            for text in texts:
                for socket in sockets:
                    socket.send(text)
            for socket in sockets:
                self.assertEqual([socket.recv(TIMEOUT) for _ in texts], texts)
        for path in paths:
            self.wait_for_note("end", len(texts), path=path)
            seen = [(entry["what"], entry["order"]) for entry in self.diary(path=path) if "order" in entry]
            expected = [(what, order) for order in range(1, len(texts) + 1) for what in ("begin", "end")]
            self.assertEqual(seen[: len(expected)], expected)
            # By whichever worker is free: six sockets kept four threads busy.
            self.assertGreater(len({entry["thread"] for entry in self.diary("begin", path=path)}), 1)

    def test_rule_07_sockets_run_in_parallel(self) -> None:
        """Consumers of different sockets run at the same time, as many as there are threads."""
        with open_sockets(self.server, ["/parallel/"] * 4) as sockets:
            for socket in sockets:
                socket.send("wait for the others")
            self.assertEqual([socket.recv(TIMEOUT) for socket in sockets], ["together"] * 4)

    def test_rule_07_waiting_socket_holds_up_nobody_else(self) -> None:
        """While one socket's consumer takes its time, others are served; its own messages wait for it."""
        with self.server.connect("/gate/") as slow, self.server.connect("/gate/") as quick:
            slow.send("wait slow")
            slow.send("behind it")
            self.wait_for_note("at gate", gate="wait.slow")
            for _ in range(20):
                quick.send("quick")
                self.assertEqual(quick.recv(TIMEOUT), "done quick")
            self.assertEqual(self.diary("receive", text="behind it"), [])
            self.open_gate("wait.slow")
            self.assertEqual([slow.recv(TIMEOUT), slow.recv(TIMEOUT)], ["done wait slow", "done behind it"])

    def test_rule_07_connect_first_and_disconnect_last(self) -> None:
        """What arrives while the connect consumer still runs waits for its end; the disconnect comes after all."""
        with RawClient(self.server) as client:
            client.open("/first/")
            for _ in range(20):
                client.send_frame(1, b"early")
            client.silent()
            self.assertEqual(self.diary("receive", path="/first/"), [])
            client.send_frame(8, b"\x03\xe8")
        self.open_gate("first")
        self.wait_for_note("disconnect", path="/first/", order=21)
        seen = [(entry["what"], entry.get("order")) for entry in self.diary(path="/first/")]
        self.assertEqual(seen, [("connect", None), *(("receive", order) for order in range(1, 21)), ("disconnect", 21)])

    def test_rule_07_channel_session_has_no_lost_updates(self) -> None:
        """Each consumer sees what the one before has put into the channel session."""
        numbers = [str(number) for number in range(1, 51)]
        with open_sockets(self.server, ["/count/"] * 3) as sockets:
            for _ in numbers:
                for socket in sockets:
                    socket.send("count")
            for socket in sockets:
                self.assertEqual([socket.recv(TIMEOUT) for _ in numbers], numbers)

    def test_rule_07_enforce_ordering(self) -> None:
        """``@enforce_ordering`` works in all its forms; an undecorated connect and a failed consumer stall nothing."""
        for path in ("/strict/", "/strict_in_words/", "/slight/"):
            with self.server.connect(path) as socket:
                for text in ("one", "two", "fail", "four"):
                    socket.send(text)
                replies = [socket.recv(TIMEOUT) for _ in range(3)]
            self.assertEqual((path, replies), (path, ["1", "1 2", "1 2 3 4"]))


class HeldBackTests(OrderTestCase):
    """Rule 8: what a consumer or a view sends is held back until it has ended normally."""

    def test_rule_08_held_back_until_the_end(self) -> None:
        """Nothing leaves before the consumer has ended; then everything does, in the order of the calls."""
        with RawClient(self.server) as client:
            client.open("/held/")
            client.send_frame(1, b"go")
            self.wait_for_note("at gate", gate="held")
            self.assertTrue(client.silent())
            self.assertEqual(self.diary("noted"), [])
            self.open_gate("held")
            self.assertEqual([client.data() for _ in range(4)], ["1", "2", b"3", "4"])
            self.wait_for_note("noted", text="held")

    def test_rule_08_immediately(self) -> None:
        """With ``immediately=True`` a message goes out at once, before what was held back earlier."""
        with RawClient(self.server) as client:
            client.open("/immediately/")
            client.send_frame(1, b"go")
            self.assertEqual([client.data(), client.data()], ["at once", "at once to all"])
            self.assertEqual(self.diary("through gate", gate="immediately"), [])
            self.open_gate("immediately")
            self.assertEqual(client.data(), "held back")

    def test_rule_08_outside_a_consumer(self) -> None:
        """A thread of the application's own is no consumer, even while one waits for it: its messages go at once."""
        with RawClient(self.server) as client:
            client.open("/outside/")
            client.send_frame(1, b"go")
            self.assertEqual([client.data(), client.data()], ["from a thread", "from a thread to all"])
            self.assertEqual(self.diary("through gate", gate="outside"), [])
            self.open_gate("outside")

    def test_rule_08_dropped_when_the_consumer_raised(self) -> None:
        """A consumer that raises takes what it had held back with it, but not what it sent immediately."""
        with self.server.connect("/failing/") as socket:
            socket.send("fail")
            socket.send("works")
            self.assertEqual([socket.recv(TIMEOUT), socket.recv(TIMEOUT)], ["too early to be dropped", "works"])
        self.wait_for_note("noted", text="works")
        self.assertEqual([entry["text"] for entry in self.diary("noted")], ["works"])

    def test_rule_08_retried_message_sends_once(self) -> None:
        """A message that is tried three times sends in the last try only."""
        with self.server.connect("/retried/") as socket:
            socket.send("retry")
            socket.send("next")
            self.assertEqual([socket.recv(TIMEOUT), socket.recv(TIMEOUT)], ["sent in try 3", "sent in try 4"])

    def test_rule_08_view_holds_back(self) -> None:
        """What a view sends leaves when it returns its response."""
        with RawClient(self.server) as client:
            client.open("/join/view/")
            self.in_background("/held")
            self.wait_for_note("at gate", gate="view")
            self.assertTrue(client.silent())
            self.open_gate("view")
            self.assertEqual(client.data(), "from a view")

    def test_rule_08_view_sends_before_its_body(self) -> None:
        """For a streaming response that is before the body, however long the body takes."""
        with RawClient(self.server) as socket, RawClient(self.server) as client:
            socket.open("/join/streaming/")
            client.request("/streaming")
            self.assertEqual(client.head().status, 200)
            self.assertEqual(client.chunk(), b"begin")
            self.assertEqual(socket.data(), "before the body")
            self.assertEqual(self.diary("through gate", gate="body"), [])
            self.open_gate("body")
            self.assertEqual([client.chunk(), client.chunk()], [b"end", b""])

    def test_rule_08_view_raised(self) -> None:
        """An uncaught exception drops what the view had held back, whether the view is asynchronous or not."""
        with RawClient(self.server) as client:
            client.open("/join/failing-view/")
            self.assertEqual(self.server.get("/failing").status_code, 500)
            self.assertEqual(client.data(), "too early to be dropped")
            self.assertEqual(self.server.get("/failing_async").status_code, 500)
            self.assertTrue(client.silent())

    def test_rule_08_groups_change_at_once(self) -> None:
        """``Group.add`` and ``Group.discard`` do not wait: who leaves after a send misses it."""
        with self.server.connect("/membership/") as socket:
            socket.send("join and leave")
            self.assertEqual(socket.recv(TIMEOUT), "done")
            self.assertEqual([entry["number"] for entry in self.diary("members")], [1, 0])
            socket.send("send and leave")
            self.assertEqual(socket.recv(TIMEOUT), "done")
            socket.send("join and leave")
            self.assertEqual(socket.recv(TIMEOUT), "done")

    def test_rule_08_on_commit(self) -> None:
        """Inside a transaction ``on_commit=True`` waits for the commit, and for no longer."""
        with RawClient(self.server) as client:
            client.open("/commit/")
            client.send_frame(1, b"go")
            self.assertEqual(client.data(), "at once")
            self.wait_for_note("at gate", gate="inside")
            self.assertTrue(client.silent())
            self.open_gate("inside")
            self.assertEqual(client.data(), "after the commit")
            self.assertEqual(self.diary("through gate", gate="behind"), [])
            self.open_gate("behind")

    def test_rule_08_on_commit_rolled_back(self) -> None:
        """A transaction that is rolled back takes its messages with it; without one ``on_commit`` means nothing."""
        with self.server.connect("/rollback/") as socket:
            socket.send("go")
            replies = [socket.recv(TIMEOUT) for _ in range(3)]
            self.assertEqual(replies, ["rolled back", "committed", "no transaction"])

    def test_rule_08_on_commit_in_a_view(self) -> None:
        """Under ``ATOMIC_REQUESTS`` the transaction is the view's: who gets the message sees the view's rows."""
        thread = self.in_background("/committing")
        self.wait_for_note("at gate", gate="committing")
        self.log()
        self.assertEqual(self.diary("rows"), [])
        self.open_gate("committing")
        (entry,) = self.wait_for_note("rows")
        self.assertEqual(entry["number"], 1)
        thread.join()

    def test_rule_08_on_commit_in_a_view_rolled_back(self) -> None:
        """A view that rolls back but returns a response loses only what was to wait for the commit."""
        with RawClient(self.server) as client:
            client.open("/join/rolling-back/")
            self.assertEqual(self.server.get("/rolling_back").status_code, 200)
            self.assertEqual(client.data(), "sent all the same")
            self.assertTrue(client.silent())


class ConsumeLaterTests(OrderTestCase):
    """Rule 9: a message that is to be tried again."""

    def test_rule_09_in_place(self) -> None:
        """A socket's message is tried again before its later ones, of which none is lost or overtakes."""
        with self.server.connect("/in_place/") as socket:
            for text in ("a", "b 4", "c", "d 2", "e"):
                socket.send(text)
            self.assertEqual([socket.recv(TIMEOUT) for _ in range(5)], ["a", "b", "c", "d", "e"])
        tries = [entry["text"] for entry in self.diary("try")]
        self.assertEqual(tries, ["a", "b", "b", "b", "b", "c", "d", "d", "e"])

    def test_rule_09_at_the_end(self) -> None:
        """Any other message goes to the end of its channel."""
        # Tried first when a blocker and eight others wait, and three other workers are on their blockers.
        orders: list[dict[str, Any]] = [{"text": "again", "tries": 2, "behind": 9}]
        # All workers wait until the first message has been put back, behind eight others.
        orders += [{"text": "blocker", "tries": 1, "pending": 9}] * 4
        orders += [{"text": f"other {number}", "tries": 1} for number in range(8)]
        self.assertEqual(self.server.post("/later", data=json.dumps(orders)).text, "sent")
        self.wait_for_note("consumed", text="again")
        self.wait_for_note("consumed", 8 + 4 + 1)
        tries = [entry["text"] for entry in self.diary("try")]
        self.assertEqual(tries[0], "again")
        # The order is that of the queue, but for the three workers that may be a moment later with what they took.
        self.assertGreaterEqual(len(tries) - 1 - tries[::-1].index("again"), len(tries) - 4)

    def test_rule_09_other_sockets_go_on(self) -> None:
        """While messages wait for their next tries, no worker waits with them."""
        paths = [f"/in_place/{number}/" for number in range(8)]  # twice as many as there are workers
        with open_sockets(self.server, paths) as sockets, self.server.connect("/in_place/free/") as free:
            for socket in sockets:
                socket.send("until another one is free")
            for path in paths:
                self.wait_for_note("try", text="until", path=path)
            # Would a worker wait for a message's next try, another worker's message would be ready in its place.
            wait_until(lambda: self.server.get("/-/health").json()["busy"] == 0, "idle workers")
            free.send("free")
            self.assertEqual(free.recv(TIMEOUT), "free")
            self.assertEqual([socket.recv(TIMEOUT) for socket in sockets], ["until"] * 8)

    def test_rule_09_connect_consumer(self) -> None:
        """A connect consumer may have its message again, too; the handshake is held meanwhile."""
        with self.server.connect("/connect_later/some/"):
            self.assertEqual(len(self.diary("try", text="/connect_later/some/")), 3)

    def test_rule_09_ten_tries(self) -> None:
        """The pause grows from 50 ms to 2 s; after ten more tries the message is dropped with a line in the log, the
        socket's next one has its turn, and a handshake is answered 503.
        """
        body = json.dumps([{"text": "forever", "tries": 100}])
        self.assertEqual(self.server.post("/later", data=body).text, "sent")
        with RawClient(self.server) as client, self.server.connect("/in_place/forever/") as socket:
            client.handshake("/connect_later/forever/")
            socket.send("forever 100")
            socket.send("next")
            self.assertEqual(client.head().status, 503)
            self.assertEqual(socket.recv(TIMEOUT), "next")
        for consumer, channel in (
            ("later", "later"),
            ("in_place", "websocket.receive"),
            ("connect_later", "websocket.connect"),
        ):
            self.assertLogged(rf"routing\.{consumer} raised ConsumeLater 11 times on '{channel}'; dropped")
        times = [entry["time"] for entry in self.diary("try", text="/connect_later/forever/")]
        pauses = [after - before for before, after in pairwise(times)]
        self.assertEqual(len(pauses), 10)
        for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2, 2, 2, 2), strict=True):
            self.assertGreaterEqual(pause, least)
        self.assertEqual(len(self.diary("try", text="forever")), 22)  # of the socket's and of the other one
        self.assertEqual(self.diary("consumed", text="forever"), [])


class ThreadTests(LabTestCase):
    """Rule 10: one message, one thread; as many database connections as threads, and none left behind."""

    files = project("rules_order_threads")
    extra_settings = "\nDATABASES['default']['ENGINE'] = 'noting'\n"

    def connections_open(self) -> int:
        """Return how many database connections are open."""
        return len(self.diary("opened", all_tests=True)) - len(self.diary("closed", all_tests=True))

    def test_rule_10_number_of_threads(self) -> None:
        """Of five slow messages three run with ``--threads 3``, and the others wait; start-up has said so."""
        server = self.start("--threads", "3", extra_settings="DATABASES['default']['CONN_MAX_AGE'] = None")
        server.wait_for("worker threads: 3, so at most 3 connections to each database")
        before = len(self.diary("opened"))  # the checks at the start had one, and have closed it
        with open_sockets(server, ["/"] * 5) as sockets:
            for socket in sockets:
                socket.send("wait")
            self.wait_for_note("at gate", 3, gate="receive")
            with RawClient(server) as client:
                client.request("/async")
                self.assertEqual([entry["workers"] for entry in self.diary("consumer")], [3, 3, 3])
                self.assertEqual(self.connections_open(), 3)
                self.open_gate("receive")
                self.assertEqual([socket.recv(TIMEOUT) for socket in sockets], ["done"] * 5)
                self.assertEqual(client.head().status, 200)
        # All five, a view and an asynchronous view, with three connections in all.
        self.open_gate("sync")
        self.assertEqual(server.get("/sync").text, "done")
        self.assertEqual(len(self.diary("opened")), before + 3)
        # Connections of a finished thread are closed.
        self.assertEqual(server.stop(), 0)
        self.assertEqual(self.connections_open(), 0)

    def test_rule_10_one_message_one_thread(self) -> None:
        """Signals and consumer of a message run in one thread."""
        with self.server.connect("/") as socket:
            for _ in range(10):
                socket.send("hello")
                socket.recv(TIMEOUT)
        for what in ("consumer", "finished"):
            self.wait_for_note(what, 10)
            self.assertEqual({entry["same"] for entry in self.diary(what)}, {True})

    def test_rule_10_connections_are_closed_after_each_message(self) -> None:
        """With ``CONN_MAX_AGE`` 0, Django's default, nothing stays open, be it a consumer, a view or an asynchronous
        view.
        """
        self.open_gate("sync")
        with self.server.connect("/") as socket:
            for _ in range(5):
                socket.send("query")
                socket.recv(TIMEOUT)
        self.server.get("/sync")
        self.server.get("/async")
        self.assertGreaterEqual(len(self.diary("opened")), 7)
        wait_until(lambda: self.connections_open() == 0, "every connection closed")

    def test_rule_10_old_connections_are_closed_before_each_message(self) -> None:
        """A connection that grew too old while its thread was idle is not given to the next consumer."""
        server = self.start("--threads", "1", extra_settings="DATABASES['default']['CONN_MAX_AGE'] = 1")
        with server.connect("/") as socket:
            socket.send("query")
            socket.recv(TIMEOUT)
            socket.send("nothing")
            socket.recv(TIMEOUT)
            *_, opened = self.diary("opened")
            still_young = self.connections_open() == 1
            # Connections have their age from when they were opened; here it ends while the thread is idle.
            wait_until(lambda: time.monotonic() > opened["time"] + 1.1, "the connection's end")
            socket.send("nothing")
            socket.recv(TIMEOUT)
        before = [entry["before"] for entry in self.diary("consumer")]
        self.assertEqual(before, [False, still_young, False])


class ErrorTests(LabTestCase):
    """Rule 11: no exception, whatever its place, ends the worker thread (there is but one) or the server."""

    files = project("rules_order_errors")
    arguments = ("--threads", "1", "--ping-interval", "0", "--http-timeout", "600", "--connect-timeout", "600")

    orders = (
        *("exit", "interrupt", "recursion", "generator exit", "memory", "stop", "base", "unprintable"),
        *("bad end", "no end"),
    )

    def assertAlive(self) -> None:
        """Assert that the one worker thread takes messages of all kinds."""
        self.assertEqual(self.server.get("/ok").text, "ok")
        with self.server.connect("/fine/") as socket:
            socket.send("fine")
            self.assertEqual(socket.recv(TIMEOUT), "fine")

    def send(self, channel: str, **content: Any) -> None:
        """Have a view send a message."""
        body = json.dumps({"channel": channel, "content": content})
        self.assertEqual(self.server.post("/send", data=body).text, "sent")

    def test_rule_11_receive_consumers(self) -> None:
        """Whatever a receive consumer raises, the socket's next message is consumed."""
        for order in self.orders:
            with self.server.connect("/fine/") as socket:
                socket.send(order)
                socket.send("fine")
                self.assertEqual((order, socket.recv(TIMEOUT)), (order, "fine"))
        self.assertLogged("SystemExit: 3")
        self.assertLogged("RecursionError: maximum recursion depth exceeded")

    def test_rule_11_connect_consumers(self) -> None:
        """Whatever a connect consumer raises, the handshake is answered."""
        for order in self.orders:
            with RawClient(self.server) as client:
                client.handshake(f"/{order.replace(' ', '-')}/")
                self.assertEqual((order, client.head().status), (order, 500))
        self.assertAlive()

    def test_rule_11_other_consumers(self) -> None:
        """Whatever another consumer raises, the next message is consumed."""
        for order in self.orders:
            self.send("task", order=order)
        self.send("task", order="fine")
        self.wait_for_note("task", order="fine")

    def test_rule_11_disconnect_consumers(self) -> None:
        """A disconnect consumer that raises ends nothing but itself."""
        with self.server.connect("/end/"):
            pass
        self.wait_for_note("disconnect", path="/end/")
        self.assertAlive()

    def test_rule_11_views(self) -> None:
        """Whatever a view raises, it is answered with 500."""
        for order in self.orders:
            response = self.server.get("/fail", params={"order": order})
            self.assertEqual((order, response.status_code), (order, 500))
        self.assertAlive()

    def test_rule_11_asynchronous_views(self) -> None:
        """So is an asynchronous view."""
        for order in self.orders:
            response = self.server.get("/fail_async", params={"order": order})
            self.assertEqual((order, response.status_code), (order, 500))
        self.assertAlive()

    def test_rule_11_bodies(self) -> None:
        """Whatever the body of a streaming response raises: the answer breaks off, and the thread lives."""
        for order in (*self.orders, "close"):
            with RawClient(self.server) as client:
                client.request(f"/streaming?order={order.replace(' ', '+')}")
                self.assertEqual(client.head().status, 200)
                self.assertEqual(client.chunk(), b"begin")
                self.open_gate(order)
                if order != "close":
                    self.assertEqual((order, client.rest()), (order, b""))
        self.assertAlive()

    def test_rule_11_signal_receivers(self) -> None:
        """A receiver of a signal around consumers or requests may fail: the server goes on."""
        self.server.wait_for("ZeroDivisionError")  # the receiver of worker_ready, before the first message
        names = ("started", "started exit", "finished", "finished exit", "request started", "request finished")
        for name in (*names, "request started exit", "request finished exit"):
            self.server.get("/arm", params={"name": name})
            self.server.get("/ok")
            self.assertAlive()

    def test_rule_11_consumer_runs_although_a_receiver_failed(self) -> None:
        """A failing receiver of ``consumer_started`` or ``consumer_finished`` is logged, and costs no message."""
        for name in ("started", "finished"):
            with self.server.connect("/fine/") as socket:
                self.server.get("/arm", params={"name": name})
                socket.send("fine")
                self.assertEqual((name, socket.recv(TIMEOUT)), (name, "fine"))
            self.assertLogged("ZeroDivisionError")

    def test_rule_11_routes(self) -> None:
        """An object in the routing list may fail when it is asked for a match."""
        self.send("bad.route", text="anything")
        self.assertAlive()
        self.assertLogged("this route matches nothing, but loudly")

    def test_rule_11_malformed_messages(self) -> None:
        """Messages on the server's own channels which nobody but an application can have sent break nothing."""
        for channel in ("websocket.connect", "websocket.receive", "websocket.disconnect", "http.request", "task"):
            self.send(channel)
            self.send(channel, reply_channel=5)
            self.send(channel, reply_channel="not a name!")
            self.send(channel, reply_channel="websocket.send.nowhere!1", order="one", path=None, headers=7)
        self.assertAlive()
