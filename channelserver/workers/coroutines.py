"""Run coroutine consumers, and views, on the event loop.

:meth:`Coroutines.consume` is a task of the event loop; :meth:`Coroutines.look` runs there, too, and is asked for by the
pool when no worker thread moves, so that sleeping threads do not delay coroutines. Owns
nothing that changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from channelserver.exceptions import ChannelSocketException, ConsumeLater
from channelserver.layers.queues import Delivery
from channelserver.message import Message
from channelserver.signals import consumer_finished, consumer_started
from channelserver.workers.loop import EventLoop
from channelserver.workers.outbox import Outbox
from channelserver.workers.pool import WorkerPool
from channelserver.workers.sticky import StickyExecutor
from channelserver.workers.worker import Plan, Worker, announce

logger = logging.getLogger("channelserver.worker")

#: How many waiting messages of a channel are looked at for coroutines.
LOOK_AT = 100


class Coroutines:
    """Consumes messages of one channel layer on the event loop.

    :param worker: what it shares with the threads.
    :param pool: the threads, for the synchronous parts of coroutines.
    """

    def __init__(self, worker: Worker, pool: WorkerPool, loop: EventLoop) -> None:
        self._worker = worker
        self._pool = pool
        self._loop = loop

    def start(self, delivery: Delivery, plan: Plan) -> None:
        """Consume a message that has been taken. Any thread."""
        self._loop.start(self.consume, delivery, plan, context=self._pool.context.copy())

    def look_soon(self) -> None:
        """All threads are blocked: let the loop take the coroutines' messages. Any thread."""
        self._loop.post(self.look)

    def look(self) -> None:
        """Take the waiting messages that are for coroutines."""
        queues, worker = self._worker.queues, self._worker
        for delivery in queues.peek(self._pool.channels, LOOK_AT):
            plan = delivery.plan
            if plan is None:
                try:
                    plan = worker.plan(worker.message(delivery))
                except BaseException:  # a thread meets it again, and deals with it; a route may raise SystemExit
                    continue
                delivery.plan = plan
            if plan[-1] is not None and queues.take_this(delivery):
                self._loop.start_now(self.consume, (delivery, plan), self._pool.context.copy())

    async def consume(self, delivery: Delivery, plan: Plan) -> None:
        """Deal with one message. Never raises."""
        self._worker.queues.release(delivery)
        with StickyExecutor(self._pool) as executor:
            await self._consume(delivery, plan, executor)

    async def _consume(self, delivery: Delivery, plan: Plan, executor: StickyExecutor) -> None:
        worker = self._worker
        message, consumer, kwargs, coroutine = plan
        assert coroutine is not None
        put_back = ended = False
        try:
            if worker.callback is not None:
                worker.callback(delivery.channel, message)
            await self._announce(executor, consumer_started, environ={})
            try:
                with Outbox(worker.call_later) as outbox:
                    await self._run(coroutine, message, kwargs)
            except ConsumeLater:
                put_back = worker.later(delivery, message, consumer)
            except asyncio.CancelledError:
                outbox.drop()
                logger.debug("a coroutine for %r was cancelled", delivery.channel)
                worker.fail(message, 503)  # nothing to a client that has left
            except BaseException as error:
                outbox.drop()
                if isinstance(error, ChannelSocketException):  # it has a method of the application's
                    await self._in_thread(executor, worker.raised, error, delivery, message, consumer)
                else:
                    worker.raised(error, delivery, message, consumer)
            else:
                if outbox.has_functions:
                    await self._in_thread(executor, outbox.call_functions)
                ended = True
                worker.ended(delivery, message, outbox)
        except BaseException:
            logger.exception("cannot consume a message from %r", delivery.channel)
            worker.fail(message, 500)
        finally:
            await self._announce(executor, consumer_finished)
            if not put_back:
                await self._tidy(executor, delivery)
                if not ended:
                    worker.queues.finish(delivery)

    async def _run(self, coroutine: Callable[..., Any], message: Message, kwargs: Mapping[str, Any]) -> None:
        reply = message.content.get("reply_channel")
        if message.channel_name == "http.request" and reply:
            with self._loop.cancelled_with(message.channel_layer, reply):
                await coroutine(message, **kwargs)
        else:
            await coroutine(message, **kwargs)

    async def _tidy(self, executor: StickyExecutor, delivery: Delivery) -> None:
        try:
            if self._worker.tidies_in_database(delivery):
                await self._in_thread(executor, self._worker.tidy, delivery)
            else:
                self._worker.tidy(delivery)
        except BaseException:
            logger.exception("error after a coroutine for %r", delivery.channel)

    async def _announce(self, executor: StickyExecutor, signal: Any, **arguments: Any) -> None:
        if signal.receivers:
            try:
                await self._in_thread(executor, lambda: announce(signal, **arguments))
            except BaseException:
                logger.exception("error in a worker signal")

    @staticmethod
    async def _in_thread(executor: StickyExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what may use the database in the coroutine's own thread."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(executor, lambda: function(*arguments)))
