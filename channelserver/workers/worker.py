"""Runs the consumer of one message, and everything around it.

Runs in worker threads; owns nothing that changes.

For each message: find its consumer; open an outbox; run the consumer; then, if it ended normally, send what it held
back, accept a handshake that is still open, and release the next message of the same socket. Whatever happens, the
thread survives, old database connections are closed, and the lane is released.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from asgiref.sync import iscoroutinefunction

from channelserver.exceptions import BadClientMessage, ChannelSocketException, ConsumeLater, DenyConnection
from channelserver.layers.base import FAILED, SESSION_CHANNEL
from channelserver.layers.content import copy_content
from channelserver.layers.losses import Reason
from channelserver.layers.queues import WorkQueues
from channelserver.layers.waiting import Delivery
from channelserver.message import Message
from channelserver.signals import consumer_finished, consumer_started
from channelserver.utils import name_that_thing
from channelserver.workers.django_cleanup import close_old_connections
from channelserver.workers.outbox import Outbox
from channelserver.workers.threads import RETRY_SECONDS, NoThreadError

logger = logging.getLogger("channelserver.worker")

#: How often ``ConsumeLater`` puts a message back, after a pause that doubles from the first number to the second
#: (seconds).
RETRIES = 10
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0


_UNKNOWN: Any = object()


#: How a message is consumed: the message, its consumer (None: no route matches), the arguments of the consumer, and the
#: coroutine function that is called in its place on the event loop, if there is one.
Plan = tuple[Message, Any, Mapping[str, Any], Callable[..., Coroutine[Any, Any, object]] | None]


class Worker:
    """Consumes messages of one channel layer.

    :param channel_layer: the wrapper, with its ``router``.
    :param queues: gets messages back, finished or to be tried again.
    :param call_later: ``call_later(seconds, function, *arguments)`` runs the function in the reactor thread.
    :param auto_accept: a connect consumer that ends normally accepts the socket.
    :param reject_unrouted: a socket whose path no route matches is answered 404.
    :param callback: called with the channel's name and the message before each consumer (Channels 1).
    """

    def __init__(
        self,
        channel_layer: Any,
        queues: WorkQueues,
        call_later: Callable[..., object],
        auto_accept: bool = True,
        reject_unrouted: bool = False,
        callback: Callable[[str, Message], object] | None = None,
    ) -> None:
        self.channel_layer = channel_layer
        self._layer = channel_layer.channel_layer
        self.queues = queues
        self.call_later = call_later
        self.auto_accept = auto_accept
        self.reject_unrouted = reject_unrouted
        self.callback = callback
        #: Hands a message over to the event loop; None: there are no coroutines here.
        self.start_coroutine: Callable[[Delivery, Plan], object] | None = None
        self._kinds: dict[int, Any] = {}  # by the identity of a route's consumer

    def message(self, delivery: Delivery) -> Message:
        message = Message(delivery.content, delivery.channel, self._layer)
        if delivery.attachment is not None:
            message.body_file = delivery.attachment
        return message

    def plan(self, message: Message) -> Plan:
        """Find out what consumes a message, and whether that is a coroutine. Any thread.

        :raises Exception: what the routing's patterns, or a consumer that decides by the message, raise.
        """
        match = self.channel_layer.router.match(message)
        if match is None:
            return message, None, {}, None
        consumer, kwargs = match
        kind = self._kinds.get(id(consumer), _UNKNOWN)
        if kind is _UNKNOWN:
            kind = coroutine_of(consumer)
            if consumer in self.channel_layer.router.consumers():  # else its number may be another's tomorrow
                self._kinds[id(consumer)] = kind
        return message, consumer, kwargs, None if kind is None else kind(message)

    def consume(self, delivery: Delivery) -> None:
        """Run the consumer of one message. Never raises."""
        message = None
        started = put_back = ended = tidy = False
        try:
            plan = delivery.plan
            if plan is None:
                message = self.message(delivery)
                plan = self.plan(message)
            message, consumer, kwargs, coroutine = plan
            if consumer is None:
                tidy = delivery.channel == SESSION_CHANNEL
                self._unrouted(delivery.channel, message)
                return
            if coroutine is not None and self.start_coroutine is not None:
                put_back = True  # it is the event loop's now
                try:
                    self.start_coroutine(delivery, plan)
                except NoThreadError:
                    self.queues.postpone(delivery, RETRY_SECONDS, self.call_later)
                return
            tidy = not getattr(consumer, "tidies_connections", False)
            if tidy:
                _close_old_connections()
            if self.callback is not None:
                self.callback(delivery.channel, message)
            started = True
            if consumer_started.receivers:
                announce(consumer_started, environ={})
            try:
                with Outbox(self.call_later) as outbox:
                    consumer(message, **kwargs)
            except ConsumeLater:
                put_back = self.later(delivery, message, consumer)
                return
            except BaseException as error:  # also SystemExit: a consumer must not end the thread
                outbox.drop()
                self.raised(error, delivery, message, consumer)
                return
            ended = True
            self.ended(delivery, message, outbox)
        except BaseException:
            logger.exception("cannot consume a message from %r", delivery.channel)
            self.fail(message, 500)
        finally:
            if started and consumer_finished.receivers:
                announce(consumer_finished)
            if not put_back:
                self.tidy(delivery)
            if tidy:
                _close_old_connections()
            if not put_back and not ended:
                self.queues.finish(delivery)

    # -- how a consumer ends -------------------------------------------------------------------------------------------

    def ended(self, delivery: Delivery, message: Message, outbox: Outbox) -> None:
        """The consumer returned: send what it held back, then release its lane."""
        outbox.flush(self._sent, delivery, message)

    def _sent(self, delivery: Delivery, message: Message) -> None:
        try:
            if self.auto_accept and delivery.channel == "websocket.connect":
                self._reply(message, {"accept": True})  # no effect if already accepted or refused
        except Exception:
            logger.exception("cannot accept %r", delivery.content.get("path"))
        finally:
            self.queues.finish(delivery)

    def raised(self, error: BaseException, delivery: Delivery, message: Message, consumer: Any) -> None:
        channel = delivery.channel
        connecting = channel == "websocket.connect"
        if connecting and isinstance(error, DenyConnection):
            self._reply(message, copy_content(dict(error.reply)))
            return
        if isinstance(error, BadClientMessage):
            self._layer.drops.record(Reason.BAD_CLIENT, channel, hint=str(error))
        elif isinstance(error, ChannelSocketException):
            try:
                error.run(message)
            except Exception:
                logger.exception("%s of %s on %r failed", type(error).__name__, name_that_thing(consumer), channel)
        else:
            logger.error(
                "%s raised %s on %r", name_that_thing(consumer), type(error).__name__, channel,
                exc_info=(type(error), error, error.__traceback__),
            )  # fmt: skip
            if not connecting and channel != "http.request":
                self._layer.drops.add(Reason.RAISED)
        if connecting or channel == "http.request":
            self.fail(message, 500)  # no effect if the client has its answer already

    def later(self, delivery: Delivery, message: Message, consumer: Any) -> bool:
        """Put a message back after a pause, for its consumer; return False if that was done often enough."""
        if delivery.tries >= RETRIES:
            logger.error(
                "%s raised ConsumeLater %d times on %r; dropped",
                name_that_thing(consumer),
                RETRIES + 1,
                delivery.channel,
            )
            self._layer.drops.add(Reason.TOO_OFTEN)
            self.fail(message, 503)
            return False
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**delivery.tries)
        delivery.tries += 1
        delivery.plan = None  # the next try begins with a new message
        if delivery.attachment is not None:
            delivery.attachment.seek(0)
        self.queues.postpone(delivery, pause, self.call_later)
        return True

    def _unrouted(self, channel: str, message: Message) -> None:
        """No route matches: sockets need none, as in Channels 1; for other messages that is an error."""
        if channel == "websocket.connect":
            if self.reject_unrouted:
                self.fail(message, 404)
            else:
                self._reply(message, {"accept": True})
        elif channel == "http.request":
            logger.error("no route for a message from 'http.request', path %r", message.get("path"))
            self.fail(message, 404)
        elif channel == SESSION_CHANNEL:
            from channelserver import sessions  # a site whose consumers have no sessions does not need them

            settle = sessions.renew_channel_session if message.get("open") else sessions.forget_channel_session
            _guarded(settle, message["reply_channel"])
        elif channel not in ("websocket.receive", "websocket.disconnect", "http.disconnect"):
            logger.error("no route matches a message from %r; dropped", channel)
            self._layer.drops.add(Reason.NO_ROUTE)

    # -- around it -----------------------------------------------------------------------------------------------------

    @staticmethod
    def tidy(delivery: Delivery) -> None:
        """Release what was kept for this message."""
        if delivery.attachment is not None:
            _guarded(delivery.attachment.close)

    def _reply(self, message: Message, content: dict[str, Any]) -> None:
        if message.reply_channel is not None:
            self._layer.dispatch(message.reply_channel.name, content)

    def fail(self, message: Message | None, status: int) -> None:
        """Answer the client, if there is one, with an error status."""
        try:
            if message is not None:
                self._reply(message, {FAILED: status})
        except Exception:
            logger.exception("cannot report the failure of a message from %r", message)


def announce(signal: Any, **arguments: Any) -> None:
    for receiver, result in _guarded(signal.send_robust, sender=Worker, **arguments) or ():
        if isinstance(result, Exception):
            logger.error("receiver %s of a worker signal failed", name_that_thing(receiver), exc_info=result)


def may_be_coroutine(consumer: Any) -> bool:
    """Whether a consumer may take messages in a coroutine. One that decides by the message says so by itself."""
    has_coroutines = getattr(consumer, "has_coroutines", None)
    return consumer is None or iscoroutinefunction(consumer) or bool(has_coroutines and has_coroutines())


def coroutine_of(consumer: Any) -> Callable[[Message], Any] | None:
    """Return what tells, for a message, the coroutine function that consumes it, or None; None: there never is one."""
    if iscoroutinefunction(consumer):
        return lambda message: consumer
    if not may_be_coroutine(consumer):
        return None
    decide: Callable[[Message], Any] | None = getattr(consumer, "coroutine_for", None)
    return decide


def _close_old_connections() -> None:
    # As _guarded() would: this is called twice for each message.
    try:
        close_old_connections()
    except BaseException:
        logger.exception("error in close_old_connections, around a consumer")


def _guarded(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a function whose failure must not stop the rest; log what it raises."""
    try:
        return function(*arguments, **named)
    except BaseException:
        logger.exception("error in %s, around a consumer", name_that_thing(function))
        return None
