"""The course of a message through a worker."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from channelserver import sessions
from channelserver.asgi import ChannelLayerWrapper
from channelserver.channel import Channel, Group
from channelserver.exceptions import ChannelSocketException, ConsumeLater, DenyConnection, WebsocketCloseException
from channelserver.layers import InMemoryChannelLayer
from channelserver.layers.base import FAILED
from channelserver.layers.waiting import Delivery
from channelserver.message import Message
from channelserver.routing import null_consumer, route
from channelserver.signals import consumer_finished, consumer_started
from channelserver.workers import coroutines as coroutines_module
from channelserver.workers import worker as worker_module
from channelserver.workers.coroutines import Coroutines
from channelserver.workers.loop import event_loop
from channelserver.workers.worker import Worker
from tests.fakes import FakeReactor, StrictTestCase

SOCKET, REQUEST = "websocket.send.x!1", "http.response.x!1"
CONNECT, RECEIVE, DISCONNECT, HTTP = "websocket.connect", "websocket.receive", "websocket.disconnect", "http.request"


class Replies:
    """The open connections of the process, which remember what they are sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def __contains__(self, channel: object) -> bool:
        return True

    def client_of(self, channel: str) -> Any:
        return None

    def deliver(self, channel: str, content: dict[str, Any]) -> None:
        self.sent.append(content)

    def deliver_group(self, channels: Any, content: dict[str, Any]) -> None:
        self.sent.append(content)

    def deliver_waiting(self, channel: str, content: dict[str, Any], timeout: float) -> bool:
        self.sent.append(content)
        return True


class WorkerTestCase(StrictTestCase):
    """A worker whose messages the test takes out of the layer, one by one."""

    def setUp(self) -> None:
        super().setUp()
        self.reactor = FakeReactor()
        self.layer = InMemoryChannelLayer(capacity=10, expiry=1000, clock=self.reactor.seconds)
        self.replies = Replies()
        for prefix in ("websocket.send.x!", "http.response.x!"):
            self.layer.attach(prefix, self.replies)
        #: The seconds of each call_later.
        self.pauses: list[float] = []
        #: What happened, in order.
        self.course: list[Any] = []
        self.patch(worker_module, "close_old_connections", lambda: self.course.append("close_old_connections"))
        #: The reply channels of which the worker has forgotten the session.
        self.forgotten: list[str] = []
        self.patch(sessions, "forget_channel_session", self.forgotten.append)

    def make(self, *routing: Any, **options: Any) -> Worker:
        """Return a worker with these routes."""
        wrapper = ChannelLayerWrapper(self.layer, "default", list(routing))

        def call_later(seconds: float, function: Callable[..., object], *arguments: Any) -> None:
            self.pauses.append(seconds)
            self.reactor.callLater(seconds, function, *arguments)

        return Worker(wrapper, self.layer.queues, call_later, **options)

    def take(self, *channels: str) -> Delivery | None:
        """Take a message as the pool does."""
        return self.layer.queues.take(channels or (CONNECT, RECEIVE, DISCONNECT, HTTP, "a", "websocket.session"))

    def consume(self, worker: Worker, channel: str, attachment: Any = None, **content: Any) -> None:
        """Put a message into the layer, and let the worker consume the next one."""
        if channel.startswith("websocket."):
            content = {"reply_channel": SOCKET, "path": "/", **content}
        elif channel == HTTP:
            content = {"reply_channel": REQUEST, "path": "/", **content}
        self.layer.submit(channel, content, attachment)
        delivery = self.take()
        assert delivery is not None
        worker.consume(delivery)

    def received(self, channel: str) -> list[Any]:
        """Take all messages out of a channel; return their numbers."""
        found = []
        while (message := self.layer.receive([channel])[1]) is not None:
            found.append(message["n"])
        return found

    def send(self, channel: str, number: int, **how: Any) -> None:
        """Send as an application does."""
        Channel(channel, channel_layer=self.layer).send({"n": number}, **how)

    def assertLaneFree(self) -> None:
        """Assert that the socket's next message can be taken."""
        self.layer.submit(RECEIVE, {"reply_channel": SOCKET, "n": "next"})
        delivery = self.take(RECEIVE)
        assert delivery is not None, "the lane is held"
        self.assertEqual(delivery.content["n"], "next")
        self.layer.queues.finish(delivery)

    def assertLaneHeld(self) -> None:
        """Assert that the socket's next message cannot be taken."""
        self.layer.submit(RECEIVE, {"reply_channel": SOCKET, "n": "later"})
        self.assertIsNone(self.take(RECEIVE))


class NormalEndTests(WorkerTestCase):
    """A consumer that returns."""

    def test_message(self) -> None:
        """The consumer gets the message and the arguments of its route."""

        def consumer(message: Message, **kwargs: Any) -> None:
            self.course.append(
                (message.channel.name, message["n"], message.reply_channel and message.reply_channel.name)
            )
            self.course.append(kwargs)
            self.assertIs(message.channel_layer, self.layer)
            self.assertIsNone(message.body_file)

        self.consume(
            self.make(route("a", consumer, path=r"^/(?P<room>\w+)$")), "a", n=1, path="/blue", reply_channel="r!1"
        )
        self.assertIn(("a", 1, "r!1"), self.course)
        self.assertIn({"room": "blue"}, self.course)

    def test_sends_go_out_at_the_end(self) -> None:
        """What the consumer sends goes out when it has returned, in the order of its calls."""

        def consumer(message: Message) -> None:
            self.send("out", 1)
            Group("g", channel_layer=self.layer).send({"n": 2})
            self.send("out", 3, immediately=True)
            self.course.append(self.received("out"))

        Group("g", channel_layer=self.layer).add("out")
        self.consume(self.make(route("a", consumer)), "a")
        self.assertIn([3], self.course)
        self.assertEqual(self.received("out"), [1, 2])

    def test_lane_is_released(self) -> None:
        """The socket's next message can be taken."""
        self.consume(self.make(route(RECEIVE, null_consumer)), RECEIVE)
        self.assertLaneFree()

    def test_lane_is_held_until_all_is_sent(self) -> None:
        """As long as a held-back message waits for room, the socket's next message waits, too; the thread does not."""

        def consumer(message: Message) -> None:
            self.send("full", 1)

        for _ in range(10):
            self.send("full", 0)
        self.consume(self.make(route(RECEIVE, consumer)), RECEIVE)
        self.reactor.turn()
        self.assertLaneHeld()
        self.received("full")
        self.reactor.turn()
        self.assertEqual(self.received("full"), [1])
        delivery = self.take(RECEIVE)
        assert delivery is not None
        self.assertEqual(delivery.content["n"], "later")

    def test_lane_is_released_when_sends_are_given_up(self) -> None:
        """A channel that stays full holds the socket for two seconds and no longer."""

        def consumer(message: Message) -> None:
            self.send("full", 1)

        for _ in range(10):
            self.send("full", 0)
        self.consume(self.make(route(RECEIVE, consumer)), RECEIVE)
        self.reactor.pass_time(2.5)
        self.assertLaneFree()
        self.expect_logged("'full'", "channel full")

    def test_database_connections(self) -> None:
        """Database connections that are too old or broken are closed before and after the consumer."""
        self.consume(self.make(route("a", lambda message: self.course.append("consumer"))), "a")
        self.assertEqual(self.course, ["close_old_connections", "consumer", "close_old_connections"])

    def test_callback(self) -> None:
        """A callback is called with the channel and the message, before the consumer."""
        worker = self.make(
            route("a", lambda message: self.course.append("consumer")),
            callback=lambda channel, message: self.course.append((channel, message["n"])),
        )
        self.consume(worker, "a", n=5)
        self.assertEqual(self.course[1:3], [("a", 5), "consumer"])

    def test_attachment(self) -> None:
        """A request's body that travels beside the message is the message's file; it is closed at the end."""
        body = io.BytesIO(b"body")

        def consumer(message: Message) -> None:
            self.course.append(message.body_file.read())

        self.consume(self.make(route(HTTP, consumer)), HTTP, body)
        self.assertIn(b"body", self.course)
        self.assertTrue(body.closed)


class ConnectTests(WorkerTestCase):
    """The handshake of a socket."""

    def test_accepted(self) -> None:
        """A connect consumer that returns accepts the socket, after what it has sent."""

        def consumer(message: Message) -> None:
            assert message.reply_channel is not None
            message.reply_channel.send({"text": "hello"})

        self.consume(self.make(route(CONNECT, consumer)), CONNECT)
        self.assertEqual(self.replies.sent, [{"text": "hello"}, {"accept": True}])
        self.assertLaneFree()

    def test_not_accepted_by_option(self) -> None:
        """With automatic acceptance off, the worker sends nothing of its own."""
        self.consume(self.make(route(CONNECT, null_consumer), auto_accept=False), CONNECT)
        self.assertEqual(self.replies.sent, [])
        self.assertLaneFree()

    def test_other_channels_accept_nothing(self) -> None:
        """Consumers of other channels accept nothing."""
        for channel in (RECEIVE, DISCONNECT, HTTP):
            self.consume(self.make(route(channel, null_consumer)), channel)
        self.assertEqual(self.replies.sent, [])

    def test_denied(self) -> None:
        """DenyConnection refuses the socket; nothing is logged, for it is no error."""

        def consumer(message: Message) -> None:
            self.send("out", 1)
            raise DenyConnection

        self.consume(self.make(route(CONNECT, consumer)), CONNECT)
        self.assertEqual(self.replies.sent, [{"accept": False}])
        self.assertEqual(self.received("out"), [])
        self.assertLaneFree()

    def test_raised(self) -> None:
        """Any other exception fails the handshake with 500, and is logged with its traceback."""

        def consumer(message: Message) -> None:
            raise ValueError("on purpose")

        self.consume(self.make(route(CONNECT, consumer)), CONNECT)
        self.assertEqual(self.replies.sent, [{FAILED: 500}])
        self.expect_logged("raised ValueError", CONNECT, "test_raised", "ValueError: on purpose")
        self.assertLaneFree()

    def test_socket_exception_that_decides_nothing(self) -> None:
        """After an exception of an application's own that sends nothing, the handshake does not hang: it fails."""

        class Noted(ChannelSocketException):
            def run(self, message: Message) -> None:
                """Do nothing that the client would notice."""

        def consumer(message: Message) -> None:
            raise Noted

        self.consume(self.make(route(CONNECT, consumer)), CONNECT)
        self.assertEqual(self.replies.sent, [{FAILED: 500}])

    def test_socket_exception_that_fails(self) -> None:
        """If such an exception cannot do its work, the handshake fails at once."""

        class Broken(ChannelSocketException):
            pass

        def consumer(message: Message) -> None:
            raise Broken

        self.consume(self.make(route(CONNECT, consumer)), CONNECT)
        self.expect_logged("Broken", "failed", "NotImplementedError")
        self.assertEqual(self.replies.sent, [{FAILED: 500}])
        self.assertLaneFree()

    def test_closed_by_exception(self) -> None:
        """WebsocketCloseException in a connect consumer closes the socket first of all."""

        def consumer(message: Message) -> None:
            raise WebsocketCloseException(4001)

        self.consume(self.make(route(CONNECT, consumer)), CONNECT)
        self.assertEqual(self.replies.sent[0], {"close": 4001})
        self.assertLaneFree()

    def test_unrouted(self) -> None:
        """A socket without a route is accepted."""
        self.consume(self.make(), CONNECT)
        self.assertEqual(self.replies.sent, [{"accept": True}])
        self.assertLaneFree()

    def test_unrouted_rejected_by_option(self) -> None:
        """With the option for it, a socket without a route gets 404."""
        self.consume(self.make(route(CONNECT, null_consumer, path="^/other"), reject_unrouted=True), CONNECT)
        self.assertEqual(self.replies.sent, [{FAILED: 404}])
        self.assertLaneFree()

    def test_no_room_for_the_acceptance(self) -> None:
        """If the acceptance cannot be sent, that is logged, and the socket's next message can be taken."""
        self.layer.detach("websocket.send.x!")
        for _ in range(10):
            self.layer.send("websocket.send.x!2", {})
        self.consume(self.make(route(CONNECT, null_consumer)), CONNECT)
        self.expect_logged("ChannelFull")
        del self.logged[:]
        self.assertLaneFree()


class RaisedTests(WorkerTestCase):
    """A consumer that raises."""

    def test_logged(self) -> None:
        """The exception is logged with consumer, channel and traceback; the socket stays open."""

        def consumer(message: Message) -> None:
            raise ValueError("on purpose")

        for channel in (RECEIVE, DISCONNECT, "a"):
            self.consume(self.make(route(channel, consumer)), channel)
            self.expect_logged("test_logged", "raised ValueError", repr(channel), "ValueError: on purpose")
        self.assertEqual(self.replies.sent, [])
        self.assertLaneFree()

    def test_sends_are_dropped(self) -> None:
        """What the consumer had sent before is dropped, but for what went at once."""

        def consumer(message: Message) -> None:
            self.send("out", 1)
            self.send("out", 2, immediately=True)
            raise ValueError

        self.consume(self.make(route("a", consumer)), "a")
        self.reactor.pass_time(5)
        self.assertEqual(self.received("out"), [2])
        self.expect_logged("raised ValueError")

    def test_request_is_answered(self) -> None:
        """A request whose consumer raises is answered with 500; its body is closed."""

        def consumer(message: Message) -> None:
            raise ValueError

        body = io.BytesIO(b"")
        self.consume(self.make(route(HTTP, consumer)), HTTP, body)
        self.assertEqual(self.replies.sent, [{FAILED: 500}])
        self.assertTrue(body.closed)
        self.expect_logged("raised ValueError")

    def test_exceptions_that_mean_the_end(self) -> None:
        """SystemExit and its like end neither the thread nor the socket."""
        for error in (SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, RecursionError):

            def consumer(message: Message, error: type[BaseException] = error) -> None:
                raise error

            self.consume(self.make(route(RECEIVE, consumer)), RECEIVE)
            self.expect_logged("raised " + error.__name__)
            self.assertLaneFree()

    def test_deny_connection_elsewhere(self) -> None:
        """DenyConnection outside of the handshake is an exception like any other."""

        def consumer(message: Message) -> None:
            raise DenyConnection

        for channel in (RECEIVE, DISCONNECT, "a"):
            self.consume(self.make(route(channel, consumer)), channel)
            self.expect_logged("raised DenyConnection", repr(channel))
        self.assertEqual(self.replies.sent, [])
        self.assertLaneFree()

    def test_deny_connection_of_a_request(self) -> None:
        """DenyConnection for a request is answered with 500."""

        def consumer(message: Message) -> None:
            raise DenyConnection

        self.consume(self.make(route(HTTP, consumer)), HTTP)
        self.expect_logged("raised DenyConnection")
        self.assertEqual(self.replies.sent, [{FAILED: 500}])

    def test_socket_closed_by_exception(self) -> None:
        """WebsocketCloseException closes the socket with its code; what was held back is dropped, nothing is logged."""

        def consumer(message: Message) -> None:
            self.send("out", 1)
            raise WebsocketCloseException(3001)

        self.consume(self.make(route(RECEIVE, consumer)), RECEIVE)
        self.assertEqual(self.replies.sent, [{"close": 3001}])
        self.assertEqual(self.received("out"), [])
        self.assertLaneFree()

    def test_socket_exception_without_socket(self) -> None:
        """WebsocketCloseException for a message without reply channel is logged."""

        def consumer(message: Message) -> None:
            raise WebsocketCloseException

        self.consume(self.make(route("a", consumer)), "a")
        self.expect_logged("WebsocketCloseException", "failed", "'a'", "ValueError")

    def test_socket_exception_of_an_application(self) -> None:
        """The run() of an application's own exception is called with the message."""

        class Apology(ChannelSocketException):
            def run(self, message: Message) -> None:
                assert message.reply_channel is not None
                message.reply_channel.send({"text": f"sorry for {message['n']}"})

        def consumer(message: Message) -> None:
            raise Apology

        self.consume(self.make(route(RECEIVE, consumer)), RECEIVE, n=7)
        self.assertEqual(self.replies.sent, [{"text": "sorry for 7"}])
        self.assertLaneFree()

    def test_socket_exception_that_fails(self) -> None:
        """A run() that raises, whatever, is logged; the lane is released."""
        for error in (ValueError, SystemExit):

            class Broken(ChannelSocketException):
                error: type[BaseException]

                def run(self, message: Message) -> None:
                    raise self.error

            Broken.error = error

            def consumer(message: Message, kind: type[Broken] = Broken) -> None:
                raise kind

            self.consume(self.make(route(RECEIVE, consumer)), RECEIVE)
            self.expect_logged(error.__name__)
            self.assertLaneFree()
        self.assertNotIn({"close": True}, self.replies.sent)

    def test_request_with_a_socket_exception_that_does_nothing(self) -> None:
        """A request whose consumer raised without answering is answered with 500 at once."""

        class Noted(ChannelSocketException):
            def run(self, message: Message) -> None:
                """Do nothing that the client would notice."""

        def consumer(message: Message) -> None:
            raise Noted

        self.consume(self.make(route(HTTP, consumer)), HTTP)
        self.assertEqual(self.replies.sent, [{FAILED: 500}])


class LookTests(WorkerTestCase):
    """The event loop's look at waiting messages, while threads may take them."""

    def look(self, match: Callable[[Message], Any]) -> tuple[Worker, Delivery]:
        """Let the event loop look at a message whose route answers by `match`; return the message, taken."""

        class Route:
            def channel_names(self) -> list[str]:
                return ["a"]

            def match(self, message: Message) -> Any:
                return match(message)

        worker = self.make(Route())
        self.layer.submit("a", {"n": 1})
        pool: Any = SimpleNamespace(served=("a",), loop_first=False, loop_took=lambda number: None)
        Coroutines(worker, pool, event_loop).look()
        delivery = self.take("a")
        assert delivery is not None
        return worker, delivery

    def test_many_for_threads(self) -> None:
        """However many messages for threads wait, the loop does not look again and again."""
        self.patch(coroutines_module, "LOOK_AT", 2)
        worker = self.make(route("a", lambda message: None))
        for number in range(4):
            self.layer.submit("a", {"n": number})
        pool: Any = SimpleNamespace(served=("a",), loop_first=False, loop_asked=True, loop_took=lambda number: None)
        Coroutines(worker, pool, event_loop, lambda function: self.fail("again")).look()
        self.assertFalse(pool.loop_asked)

    def test_route_fails(self) -> None:
        """Whatever a route raises while the loop looks, a thread meets it again and tells it."""
        for error in (SystemExit("of the route"), ValueError("of the route")):

            def match(message: Message, error: BaseException = error) -> Any:
                raise error

            worker, delivery = self.look(match)
            worker.consume(delivery)
            self.expect_logged("cannot consume a message from 'a'")

    def test_plan_in_the_making(self) -> None:
        """A thread that takes a message during the look makes its own plan."""
        seen: list[Any] = []

        def match(message: Message) -> Any:
            seen.append([delivery.plan for delivery in self.layer.queues.peek(["a"], 1)])
            return null_consumer, {}

        _, delivery = self.look(match)
        self.assertEqual(seen, [[None]])
        self.assertIs(delivery.plan[1], null_consumer)


class LaterTests(WorkerTestCase):
    """A consumer that wants its message again."""

    def setUp(self) -> None:
        super().setUp()
        self.tries = 0
        self.failures = 10_000

    def later(self, message: Message) -> None:
        """Send something, and raise ConsumeLater as often as the test says."""
        self.tries += 1
        self.send("out", self.tries)
        if self.tries <= self.failures:
            raise ConsumeLater

    def work_off(self, worker: Worker) -> None:
        """Let time pass, and the worker consume whatever there is."""
        for _ in range(400):
            self.reactor.advance(0.05)
            while (delivery := self.take()) is not None:
                worker.consume(delivery)

    def test_pauses(self) -> None:
        """The pauses double from 50 ms to 2 s; after ten of them the message is dropped and an error logged."""
        worker = self.make(route("a", self.later))
        self.consume(worker, "a")
        self.work_off(worker)
        self.assertEqual(self.pauses, [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0])
        self.expect_logged("ConsumeLater", "'a'", "dropped")
        self.assertEqual(self.received("out"), [])

    def test_well_in_the_end(self) -> None:
        """A consumer that ends normally at last sends once what it has sent in that try."""
        self.failures = 3
        worker = self.make(route("a", self.later))
        self.consume(worker, "a")
        self.work_off(worker)
        self.assertEqual(self.received("out"), [4])
        self.assertEqual(self.tries, 4)

    def test_a_sockets_message_keeps_its_place(self) -> None:
        """The socket's later messages wait for the one that is tried again."""
        self.failures = 2

        def consumer(message: Message) -> None:
            if message["n"] == 1:
                self.later(message)
            self.course.append(message["n"])

        worker = self.make(route(RECEIVE, consumer))
        self.consume(worker, RECEIVE, n=1)
        for number in (2, 3):
            self.layer.submit(RECEIVE, {"reply_channel": SOCKET, "n": number})
        self.assertIsNone(self.take(RECEIVE))
        self.work_off(worker)
        self.assertEqual([entry for entry in self.course if isinstance(entry, int)], [1, 2, 3])

    def test_any_other_goes_to_the_end(self) -> None:
        """Other messages are tried again after those that wait in the channel."""
        self.failures = 1

        def consumer(message: Message) -> None:
            if message["n"] == 1:
                self.later(message)
            self.course.append(message["n"])

        worker = self.make(route("a", consumer))
        self.consume(worker, "a", n=1)
        for number in (2, 3):
            self.layer.submit("a", {"n": number})
        self.reactor.advance(0.05)
        self.work_off(worker)
        self.assertEqual([entry for entry in self.course if isinstance(entry, int)], [2, 3, 1])

    def test_handshake_that_is_given_up(self) -> None:
        """A handshake or a request that has had its chances is answered with 503, not left hanging."""
        for channel in (CONNECT, HTTP):
            del self.replies.sent[:]
            worker = self.make(route(channel, self.later))
            self.consume(worker, channel)
            self.work_off(worker)
            self.assertEqual(self.replies.sent, [{FAILED: 503}])
            self.expect_logged("ConsumeLater", repr(channel))
        self.assertLaneFree()

    def test_body_is_kept_for_the_next_try(self) -> None:
        """The body beside a message stays open between the tries, and is closed after the last one."""
        body = io.BytesIO(b"body")
        self.failures = 2

        def consumer(message: Message) -> None:
            self.assertFalse(message.body_file.closed)
            self.later(message)

        worker = self.make(route(HTTP, consumer))
        self.consume(worker, HTTP, body)
        self.assertFalse(body.closed)
        self.work_off(worker)
        self.assertEqual(self.tries, 3)
        self.assertTrue(body.closed)

    def test_body_is_read_from_its_beginning_in_each_try(self) -> None:
        """A consumer that had read of the body before it raised finds all of it in the next try."""
        self.failures = 1
        read: list[bytes] = []

        def consumer(message: Message) -> None:
            read.append(message.body_file.read())
            self.later(message)

        worker = self.make(route(HTTP, consumer))
        self.consume(worker, HTTP, io.BytesIO(b"body"))
        self.work_off(worker)
        self.assertEqual(read, [b"body", b"body"])


class UnroutedTests(WorkerTestCase):
    """Messages without a consumer."""

    def test_sockets_need_none(self) -> None:
        """Receive, disconnect and the like need no route: they are dropped without a word, the lane is released."""
        for channel in (RECEIVE, DISCONNECT):
            self.consume(self.make(), channel)
        self.assertLaneFree()
        self.assertEqual(self.replies.sent, [])

    def test_session(self) -> None:
        """One of a closed socket is deleted, one of an open socket renewed; then the database connection is closed."""
        self.patch(sessions, "renew_channel_session", lambda name: self.course.append(f"renewed {name}"))
        self.consume(self.make(), "websocket.session", open=True)
        self.consume(self.make(), "websocket.session", open=False)
        self.assertEqual(self.forgotten, [SOCKET])
        self.assertEqual(self.course, [f"renewed {SOCKET}", "close_old_connections", "close_old_connections"])
        self.assertLaneFree()

    def test_session_that_cannot_be_renewed(self) -> None:
        """It is logged, and nothing else; above all, nobody is answered."""
        self.patch(sessions, "renew_channel_session", lambda name: 1 / 0)
        self.consume(self.make(), "websocket.session", open=True)
        self.expect_logged("around a consumer")
        self.assertEqual(self.replies.sent, [])

    def test_http_disconnect(self) -> None:
        """That a client has left needs no consumer."""
        self.layer.submit("http.disconnect", {"reply_channel": REQUEST, "path": "/"})
        delivery = self.take("http.disconnect")
        assert delivery is not None
        self.make().consume(delivery)

    def test_request(self) -> None:
        """A request without a route is answered with 404, and its body closed."""
        body = io.BytesIO(b"")
        self.consume(self.make(), HTTP, body)
        self.assertEqual(self.replies.sent, [{FAILED: 404}])
        self.expect_logged("no route", HTTP)
        self.assertTrue(body.closed)

    def test_others(self) -> None:
        """Any other message that nothing matches is an error."""
        self.consume(self.make(route("a", null_consumer, path="^/other$")), "a", path="/")
        self.expect_logged("no route", "'a'")

    def test_no_signals(self) -> None:
        """Where no consumer runs, no consumer starts or finishes: no signal is sent."""
        seen: list[Any] = []

        def receiver(**arguments: Any) -> None:
            seen.append(arguments["signal"])

        for signal in (consumer_started, consumer_finished):
            signal.connect(receiver)
            self.addCleanup(signal.disconnect, receiver)
        self.consume(self.make(), RECEIVE)
        self.assertEqual(seen, [])


class SignalTests(WorkerTestCase):
    """The signals around a consumer."""

    def connect(self, signal: Any, receiver: Callable[..., object]) -> None:
        """Connect a receiver for the time of the test."""
        signal.connect(receiver, weak=False)
        self.addCleanup(signal.disconnect, receiver)

    def note(self, name: str) -> None:
        """Note when a signal is sent, and with what."""
        signal = {"started": consumer_started, "finished": consumer_finished}[name]

        def receiver(sender: Any, **arguments: Any) -> None:
            arguments.pop("signal")
            self.course.append((name, sender, arguments))

        self.connect(signal, receiver)

    def test_around_the_consumer(self) -> None:
        """One is sent before the consumer, one after it, with the worker's class as sender."""
        self.note("started")
        self.note("finished")
        self.consume(self.make(route("a", lambda message: self.course.append("consumer"))), "a")
        course = [entry for entry in self.course if entry != "close_old_connections"]
        self.assertEqual(course, [("started", Worker, {"environ": {}}), "consumer", ("finished", Worker, {})])

    def test_after_an_exception(self) -> None:
        """The second one is sent whatever way the consumer ends."""

        def consumer(message: Message) -> None:
            raise message["error"]

        self.note("finished")
        worker = self.make(route("a", consumer))
        for error in (ValueError, ConsumeLater, SystemExit, DenyConnection):
            del self.course[:]
            self.consume(worker, "a", error=error)
            self.assertIn(("finished", Worker, {}), self.course)
        del self.logged[:]

    def test_receivers_that_raise(self) -> None:
        """A receiver that raises is logged; consumer and tidying up go on."""
        for signal in (consumer_started, consumer_finished):
            self.connect(signal, lambda **arguments: 1 / 0)
        body = io.BytesIO(b"")
        self.consume(self.make(route(HTTP, lambda message: self.course.append("consumer"))), HTTP, body)
        self.assertEqual(self.course, ["close_old_connections", "consumer", "close_old_connections"])
        self.assertTrue(body.closed)
        for _ in range(2):
            self.expect_logged("receiver", "ZeroDivisionError")


class TroubleTests(WorkerTestCase):
    """Errors around the consumer."""

    def test_routing_that_raises(self) -> None:
        """An error in the routing fails the handshake, and releases the lane."""

        class Broken:
            channels = (CONNECT,)

            def channel_names(self) -> set[str]:
                return {CONNECT}

            def match(self, message: Message) -> Any:
                raise ValueError("on purpose")

        worker = self.make()
        worker.channel_layer.router = Broken()
        self.consume(worker, CONNECT)
        self.expect_logged(CONNECT, "ValueError: on purpose")
        self.assertEqual(self.replies.sent, [{FAILED: 500}])
        self.assertLaneFree()

    def test_callback_that_raises(self) -> None:
        """An error in the callback is logged; the message counts as failed."""
        worker = self.make(route(CONNECT, null_consumer), callback=lambda channel, message: 1 / 0)
        self.consume(worker, CONNECT)
        self.expect_logged("ZeroDivisionError")
        self.assertEqual(self.replies.sent, [{FAILED: 500}])
        self.assertLaneFree()

    def test_database_that_raises(self) -> None:
        """An error while connections are closed costs neither thread nor lane."""
        self.patch(worker_module, "close_old_connections", lambda: 1 / 0)
        self.consume(self.make(route(CONNECT, null_consumer)), CONNECT)
        self.assertEqual(len(self.replies.sent), 1, "the handshake hangs")
        for _ in range(2):
            self.expect_logged("ZeroDivisionError")
        self.assertLaneFree()

    def test_reply_channel_that_is_no_name(self) -> None:
        """A message whose reply channel is nonsense is logged, and nothing hangs."""
        self.layer.submit("a", {"reply_channel": "no such name!!"})
        delivery = self.take("a")
        assert delivery is not None
        self.make(route("a", null_consumer)).consume(delivery)
        self.expect_logged("'a'", "TypeError")

    def test_body_that_cannot_be_closed(self) -> None:
        """An error while the body is closed is logged; the database connections are tidied up all the same."""

        class Broken:
            def close(self) -> None:
                raise OSError("disk full")

        self.consume(self.make(route(HTTP, null_consumer)), HTTP, Broken())
        self.expect_logged("disk full")
        self.assertEqual(self.course.count("close_old_connections"), 2)

    def test_receiver_that_means_the_end(self) -> None:
        """SystemExit out of a signal's receiver leaves neither the body open nor the lane held."""

        def leave(**arguments: Any) -> None:
            raise SystemExit

        consumer_finished.connect(leave)
        self.addCleanup(consumer_finished.disconnect, leave)
        body = io.BytesIO(b"")
        self.consume(self.make(route(RECEIVE, null_consumer)), RECEIVE, body)
        self.expect_logged("SystemExit")
        self.assertTrue(body.closed)
        self.assertLaneFree()


class OddConsumerTests(WorkerTestCase):
    """Consumers that are objects."""

    def test_not_hashable(self) -> None:
        """A consumer need not be hashable."""
        course: list[str] = []

        class Odd:
            __hash__ = None  # type: ignore[assignment]

            def __eq__(self, other: object) -> bool:
                return self is other

            def __call__(self, message: Message) -> None:
                course.append(message["text"])

        worker = self.make(route("a", Odd()))
        for text in ("one", "two"):
            self.layer.send("a", {"text": text})
            worker.consume(self.take())  # type: ignore[arg-type]
        self.assertEqual(course, ["one", "two"])
