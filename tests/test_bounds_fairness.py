"""Fairness: no connection, and no address, keeps others from the worker threads."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from channelserver.layers import InMemoryChannelLayer
from channelserver.layers.base import ChannelFull
from channelserver.layers.costs import MOST_PATHS, Costs, is_slow
from channelserver.layers.turns import Threads, Turns
from tests.certificates import write_pair
from tests.http2_client import HTTP2Client
from tests.lab import TEXT, LabTestCase, RawClient
from tests.process import project, wait_until

OTHER = "127.0.0.2"
THREADS = 4


class FairnessTestCase(LabTestCase):
    """Tests with a crowd of clients at one address."""

    files = project("bounds_fairness")
    arguments = ("--threads", str(THREADS))

    def setUp(self) -> None:
        super().setUp()
        self._stack = ExitStack()
        self.addCleanup(self._stack.close)

    def client(self, address: str = "127.0.0.1") -> RawClient:
        """Return a client, closed at the end."""
        return self._stack.enter_context(RawClient(self.server, address=address))

    def crowd(self, path: str, number: int, address: str = OTHER, **fields: str) -> list[RawClient]:
        """Send requests from one address, each on a connection of its own."""
        clients = [self.client(address) for _ in range(number)]
        for client in clients:
            client.request(path, **fields)
        return clients

    def waiting(self) -> int:
        """Return how many requests wait for a thread."""
        return int(self.server.get("/-/health").json()["queues"]["http.request"])

    def ask(self, path: str, address: str = "127.0.0.1", **fields: str) -> int:
        """Return the status of an answer."""
        client = self.client(address)
        client.request(path, **fields)
        return client.head().status


class ThreadTests(FairnessTestCase):
    """Who has the threads."""

    def test_one_address_on_all_threads(self) -> None:
        """An address that came alone and has all threads for a long time does not keep another one waiting."""
        self.crowd("/hold/alone/crowd", 3 * THREADS)
        self.wait_for_note("held", THREADS, gate="alone")
        self.assertEqual(self.ask("/quick/other"), 200)
        self.crowd("/hold/alone/other", 3 * THREADS, "127.0.0.1")
        self.wait_for_note("held", THREADS // 2, gate="alone", who="other")
        self.assertLessEqual(len(self.diary("held", gate="alone", who="crowd")), 2 * THREADS)
        self.open_gate("alone")
        self.wait_for_note("held", 3 * THREADS, gate="alone", who="crowd")
        self.wait_for_note("held", 3 * THREADS, gate="alone", who="other")

    def test_half_while_others_wait(self) -> None:
        """The threads go to both in turn, although one has sent all of its requests before."""
        self.crowd("/hold/first/nobody", THREADS, "127.0.0.3")
        self.wait_for_note("held", THREADS, gate="first")
        first = self.crowd("/hold/half/crowd", 3 * THREADS)
        second = self.crowd("/hold/half/other", 3 * THREADS, "127.0.0.1")
        wait_until(lambda: self.waiting() + len(self.diary("held", gate="half")) == 6 * THREADS, "all wait")
        self.open_gate("first")
        self.wait_for_note("held", THREADS // 2, gate="half", who="crowd")
        self.wait_for_note("held", THREADS // 2, gate="half", who="other")
        self.assertEqual(len(self.diary("held", gate="half")), THREADS)
        self.open_gate("half")
        for client in first + second:
            self.assertEqual(client.head().status, 200)

    def test_told_by_a_proxy(self) -> None:
        """Behind a trusted proxy, the addresses that it tells are what counts."""
        self.start("--threads", str(THREADS), "--trust-proxy", "127.0.0.1")
        self.crowd("/hold/proxy/crowd", 3 * THREADS, "127.0.0.1", x_forwarded_for="192.0.2.1")
        self.wait_for_note("held", THREADS, gate="proxy")
        self.assertEqual(self.ask("/quick/other", x_forwarded_for="192.0.2.2"), 200)
        self.open_gate("proxy")

    def test_the_streams_of_one_connection(self) -> None:
        """The streams of an HTTP/2 connection count as one client, also beside others of the same address."""
        pair: Any = None

        def connect() -> HTTP2Client:
            client = HTTP2Client(self.server, pair[0])
            self._stack.callback(client.close)
            return client

        self.folder = self._make_folder()
        pair = write_pair(self.folder)
        self.start("--threads", str(THREADS), "--tls-cert", pair[0], "--tls-key", pair[1])
        crowd = connect()
        for _ in range(3 * THREADS):
            crowd.send("/hold/streams/crowd")
        self.wait_for_note("held", THREADS, gate="streams")
        self.assertEqual(connect().get("/quick/other").status, 200)
        self.open_gate("streams")

    def _make_folder(self) -> Any:
        from pathlib import Path

        folder = Path(self.mktemp())
        folder.mkdir()
        return folder.resolve()

    def test_synchronous_parts_of_coroutines(self) -> None:
        """What asynchronous views do in threads counts, too: neither a view nor an asynchronous one waits for it."""
        self.crowd("/part/parts/crowd", 3 * THREADS)
        self.wait_for_note("held", THREADS, gate="parts")
        self.assertEqual(self.ask("/quick/other"), 200)
        self.open_gate("parts")
        self.wait_for_note("through gate", 3 * THREADS, gate="parts")
        self.assertEqual(self.ask("/quick-part"), 200)

    def test_messages_of_sockets(self) -> None:
        """A message of another address is consumed, although one address has all threads for its sockets' messages."""
        crowd = [self.client(OTHER).open("/") for _ in range(3 * THREADS)]
        for client in crowd:
            client.send_frame(TEXT, b"hold sockets")
        self.wait_for_note("at gate", THREADS, gate="sockets")
        other = self.client().open("/")
        other.send_frame(TEXT, b"hello")
        self.assertEqual(other.data(), "hello")
        self.open_gate("sockets")

    def test_a_handshake(self) -> None:
        """Requests of one address do not keep another's handshake waiting, nor its messages."""
        self.crowd("/hold/mixed/crowd", 3 * THREADS)
        self.wait_for_note("held", THREADS, gate="mixed")
        self.client().open("/")
        self.open_gate("mixed")

    def test_threads_that_were_replaced(self) -> None:
        """There are no more threads than before when the crowd has gone."""
        self.crowd("/hold/replaced/crowd", 2 * THREADS)
        self.wait_for_note("held", THREADS, gate="replaced")
        self.assertEqual(self.ask("/quick/other"), 200)
        self.open_gate("replaced")
        self.wait_for_note("through gate", 2 * THREADS, gate="replaced")
        self.crowd("/hold/again/crowd", 3 * THREADS)
        self.wait_for_note("held", THREADS, gate="again")
        self.assertEqual(self.ask("/quick/other"), 200)
        self.assertLessEqual(len(self.diary("held", gate="again")), 2 * THREADS)
        self.open_gate("again")


class RoomTests(FairnessTestCase):
    """Who may wait."""

    extra_settings = """
        CHANNEL_LAYERS["default"]["CONFIG"] = {"channel_capacity": {"http.request": 10}}
    """

    def test_a_full_channel(self) -> None:
        """A crowd that fills the channel makes room for another client."""
        crowd = self.crowd("/hold/full/crowd", THREADS)
        self.wait_for_note("held", THREADS, gate="full")
        crowd += self.crowd("/hold/full/crowd", 12)
        self.assertEqual([client.head().status for client in crowd[-2:]], [503, 503])
        other = self.client()
        other.request("/quick/other")
        self.assertEqual(other.head().status, 200)
        self.open_gate("full")
        statuses = [client.head().status for client in crowd[:-2]]
        self.assertEqual(sorted(statuses), [200] * (len(crowd) - 3) + [503])
        self.assertLogged("crowded out")


class OrderTests(SynchronousTestCase):
    """The order in which waiting messages are taken."""

    def setUp(self) -> None:
        self.clients: list[Any] = []
        threads = Threads()
        threads.holders.append(lambda channel: (self.clients, 4))
        self.turns = Turns("http.request", threads)

    def put(self, *names: str) -> None:
        """Let messages wait: an address of one letter, its connection, and a number."""
        for name in names:
            item = _Item()
            item.name, item.client = name, (name[0], int(name[1]))
            self.turns.append(item)

    def take(self, number: int) -> list[str]:
        """Take some."""
        return [self.turns.popleft().name for _ in range(number)]

    def test_one_client(self) -> None:
        """First in, first out."""
        self.put("a1-1", "a1-2", "a1-3")
        self.assertEqual(self.take(3), ["a1-1", "a1-2", "a1-3"])
        self.assertFalse(self.turns)

    def test_one_message_each(self) -> None:
        """First in, first out."""
        self.put("a1", "a2", "a3")
        self.assertEqual(self.take(1), ["a1"])
        self.put("a1")
        self.assertEqual(self.take(3), ["a2", "a3", "a1"])

    def test_addresses_and_connections_in_turn(self) -> None:
        """First between the addresses, then between the connections of each."""
        self.put("a1-1", "a1-2", "a1-3", "a2-1", "b1-1", "b1-2")
        self.assertEqual(len(self.turns), 6)
        self.assertEqual(self.take(6), ["a1-1", "b1-1", "a2-1", "b1-2", "a1-2", "a1-3"])
        self.assertEqual(len(self.turns), 0)

    def test_half_of_the_threads(self) -> None:
        """Who has half of the threads waits until nobody else does."""
        self.put("a1-1", "a1-2", "b1-1", "b1-2")
        self.clients = [("a", 1), ("a", 2)]
        self.assertEqual(self.take(2), ["b1-1", "b1-2"])
        self.assertEqual(self.take(2), ["a1-1", "a1-2"])
        self.put("a1-1", "a1-2", "a2-1")
        self.clients = [("a", 1), ("a", 1)]
        self.assertEqual(self.take(3), ["a2-1", "a1-1", "a1-2"])

    def test_unknown_clients(self) -> None:
        """Clients without an address, at a Unix socket, are one line without a limit."""
        items = [_Item() for _ in range(5)]
        for item in items:
            self.turns.append(item)
        self.assertEqual([self.turns.popleft() for _ in range(5)], items)

    def test_half_of_an_ipv6_address(self) -> None:
        """The first half of an IPv6 address counts."""
        for number in range(3):
            item = _Item()
            item.name, item.client = f"a{number}", (f"2001:db8::{number}", number)
            self.turns.append(item)
        self.put("b1")
        self.assertEqual(self.take(4), ["a0", "b1", "a1", "a2"])

    def test_taken_from_the_middle(self) -> None:
        """What the event loop takes leaves no gap."""
        self.put("a1-1", "a1-2", "b1-1")
        self.turns.remove(next(item for item in self.turns if item.name == "a1-2"))
        self.assertEqual(self.take(2), ["b1-1", "a1-1"])
        self.put("a1", "a2", "a3")
        self.turns.remove(next(item for item in self.turns if item.name == "a2"))
        self.put("a2")
        self.assertEqual(self.take(3), ["a1", "a3", "a2"])

    def test_put_back(self) -> None:
        """A message is put back before those of its client."""
        self.put("a1-1", "a1-2", "b1-1", "b1-2")
        first = self.turns.popleft()
        self.turns.appendleft(first)
        self.assertEqual(self.take(4), ["b1-1", "a1-1", "b1-2", "a1-2"])

    def put_paths(self, *names: str) -> None:
        """Let messages wait whose last letter is their path."""
        for name in names:
            item = _Item()
            item.name, item.client, item.path = name, (name[0], int(name[1])), name[-1]
            self.turns.append(item)

    def test_quick_ones_first(self) -> None:
        """Of four messages three are of the quickest level that waits; nothing of a slower one waits for ever."""
        costs = self.turns._threads.costs
        for path, seconds in (("q", 0.001), ("m", 0.02), ("s", 0.5)):
            costs.record("http.request", path, seconds, 0.0)
        self.put_paths("a1s", "a2s", "b1m", "c1u", *(f"d{number}q" for number in range(6)))
        taken = self.take(10)
        self.assertEqual([name[-1] for name in taken], list("qqquqqqsms"))
        self.assertFalse(self.turns)

    def test_only_quick_ones(self) -> None:
        """A thread that is kept for quick messages leaves slow and unknown ones."""
        costs = self.turns._threads.costs
        costs.record("http.request", "q", 0.001, 0.0)
        costs.record("http.request", "s", 0.5, 0.0)
        self.put_paths("a1s", "b1u")
        self.assertFalse(self.turns.has_quick())
        self.assertIsNone(self.turns.popleft(True))
        self.put_paths("a2q")
        self.assertTrue(self.turns.has_quick())
        self.assertEqual(self.turns.popleft(True).name, "a2q")
        self.assertEqual(sorted(self.take(2)), ["a1s", "b1u"])


class CostsTests(SynchronousTestCase):
    """How long messages keep a thread."""

    def test_levels(self) -> None:
        """One quick time makes a path quick, for slow ones may be chance; several slow ones make it slow again."""
        costs = Costs()
        self.assertTrue(is_slow(costs.level("a", "/x")))
        costs.record("a", "/x", 1.0, 10.0)
        self.assertTrue(is_slow(costs.level("a", "/x")))
        self.assertEqual(costs.quick_until, 0.0)
        costs.record("a", "/x", 0.0001, 10.0)
        self.assertEqual(costs.level("a", "/x"), 0)
        self.assertEqual(costs.quick_until, 0.0)  # once may be chance, so no thread is kept
        costs.record("a", "/x", 0.0001, 10.0)
        self.assertGreater(costs.quick_until, 10.0)
        costs.record("a", "/x", 0.01, 10.0)
        self.assertEqual(costs.level("a", "/x"), 0)
        for _ in range(10):
            costs.record("a", "/x", 1.0, 10.0)
        self.assertTrue(is_slow(costs.level("a", "/x")))
        self.assertTrue(is_slow(costs.level("b", "/x")))

    def test_bounded(self) -> None:
        """Paths are remembered as long as they are asked for; there are only so many."""
        costs = Costs()
        for number in range(2 * MOST_PATHS):
            costs.record("a", "popular", 0.001, 0.0)
            costs.record("a", str(number), 0.001, 0.0)
        self.assertEqual(len(costs._seconds), MOST_PATHS)
        self.assertEqual(costs.level("a", "popular"), 0)
        self.assertTrue(is_slow(costs.level("a", "0")))


class _Item:
    """What waits."""

    name = path = ""
    client: Any = None


class RoomOrderTests(SynchronousTestCase):
    """Whose message makes room."""

    def setUp(self) -> None:
        self.layer = InMemoryChannelLayer(capacity=4)

    def put(self, address: str, port: int = 1) -> None:
        self.layer.queues.put("http.request", {"client": [address, port], "reply_channel": "http.response.x!y"})

    def waiting(self) -> str:
        found = []
        while (delivery := self.layer.queues.take(["http.request"])) is not None:
            assert delivery.client is not None
            found.append(delivery.client[0])
        return "".join(found)

    def test_up_to_equal_shares(self) -> None:
        """Others get room until all have the same share; no client takes a larger share."""
        for _ in range(4):
            self.put("a")
        self.assertRaises(ChannelFull, self.put, "a")
        self.put("b")
        self.put("b")
        self.assertRaises(ChannelFull, self.put, "b")
        self.put("c")
        self.assertEqual(sorted(self.waiting()), list("abbc"))
        self.assertEqual(self.layer.drops.totals(), {"crowded out": 3})

    def test_the_last_of_the_longest_connection(self) -> None:
        """Of an address, the connection with the most messages loses its last."""
        for port in (1, 2, 2, 3):
            self.put("a", port)
        self.put("b")
        ports = []
        while (delivery := self.layer.queues.take(["http.request"])) is not None:
            ports.append(delivery.client)
        self.assertEqual(sorted(ports), [("a", 1), ("a", 2), ("a", 3), ("b", 1)])  # type: ignore[type-var]
