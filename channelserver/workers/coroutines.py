"""Run coroutine consumers, and views, on the event loop.

:meth:`Coroutines.consume` is a task of the event loop. :meth:`Coroutines.look` runs there, too. The pool asks for it
when no worker thread moves, so that sleeping threads do not delay coroutines; and when the latest messages were for
coroutines, for a thread would only pass the next ones on. Owns the count of these.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from channelserver.exceptions import ChannelSocketException, ConsumeLater
from channelserver.layers.waiting import Delivery
from channelserver.signals import consumer_finished, consumer_started
from channelserver.workers.loop import EventLoop
from channelserver.workers.outbox import Outbox
from channelserver.workers.pool import WorkerPool
from channelserver.workers.sticky import StickyExecutor
from channelserver.workers.threads import NoThreadError
from channelserver.workers.worker import Plan, Worker, announce

logger = logging.getLogger("channelserver.worker")

#: How many waiting messages of a channel are looked at for coroutines.
LOOK_AT = 100
#: After so many messages for coroutines in a row, the loop takes the next ones from the queues by itself.
MANY = 16


class Coroutines:
    """Consumes messages of one channel layer on the event loop.

    :param worker: what it shares with the threads.
    :param pool: the threads, for the synchronous parts of coroutines.
    :param at_end_of_turn: calls a function when the reactor, if it is the caller, has dealt with all that has come.
    """

    def __init__(
        self,
        worker: Worker,
        pool: WorkerPool,
        loop: EventLoop,
        at_end_of_turn: Callable[[Callable[[], object]], object] = lambda function: function(),
    ) -> None:
        self._worker = worker
        self._pool = pool
        self._loop = loop
        self._at_end_of_turn = at_end_of_turn
        self._in_a_row = self._finished = 0

    def start(self, delivery: Delivery, plan: Plan) -> None:
        """Consume a message that has been taken. Worker threads."""
        pool = self._pool
        finished = pool.finished
        self._in_a_row = self._in_a_row + 1 if finished == self._finished else 0
        self._finished = finished + 1  # unless a message for threads comes between
        if self._in_a_row == MANY:
            pool.loop_first = True
        self._loop.start(self.consume, delivery, plan, context=pool.context.copy())

    def look_soon(self) -> None:
        """Let the loop take the coroutines' messages: no thread moves, or is needed. Any thread."""
        if not self._pool.loop_asked:
            self._pool.loop_asked = True
            self._at_end_of_turn(self._post_look)

    def _post_look(self) -> None:
        try:
            self._loop.post(self.look)
        except NoThreadError:
            self._pool.loop_asked = self._pool.loop_first = False  # threads take what waits
            self._pool.work_ready()

    def look(self) -> None:
        """Take the waiting messages that are for coroutines."""
        queues, worker, pool = self._worker.queues, self._worker, self._pool
        pool.loop_asked = False
        taken = others = 0
        for delivery in queues.peek(pool.served, LOOK_AT):
            plan = delivery.plan
            if plan is None:
                try:
                    plan = worker.plan(worker.message(delivery))
                except BaseException:  # a thread meets it again, and deals with it; a route may raise SystemExit
                    others += 1
                    continue
                delivery.plan = plan
            if plan[-1] is None:
                others += 1
            elif queues.take_this(delivery):
                taken += 1
                self._loop.start_now(self.consume, (delivery, plan), pool.context.copy())
        pool.loop_took(taken)
        if others and pool.loop_first:
            pool.loop_first, self._in_a_row = False, 0
            pool.work_ready()
        elif taken >= LOOK_AT:  # else the rest is for threads
            self.look_soon()

    async def consume(self, delivery: Delivery, plan: Plan) -> None:
        """Deal with one message. Never raises."""
        worker = self._worker
        message, consumer, kwargs, coroutine = plan
        assert coroutine is not None
        worker.queues.release(delivery)
        put_back = ended = False
        with StickyExecutor(self._pool, delivery.client) as executor:
            try:
                if worker.callback is not None:
                    worker.callback(delivery.channel, message)
                if consumer_started.receivers:
                    await self._announce(executor, consumer_started, environ={})
                try:
                    with Outbox(worker.call_later) as outbox:
                        if delivery.channel == "http.request":
                            with self._loop.cancelled_with(message):
                                await coroutine(message, **kwargs)
                        else:
                            await coroutine(message, **kwargs)
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
                if consumer_finished.receivers:
                    await self._announce(executor, consumer_finished)
                if not put_back:
                    worker.tidy(delivery)
                    if not ended:
                        worker.queues.finish(delivery)

    async def _announce(self, executor: StickyExecutor, signal: Any, **arguments: Any) -> None:
        try:
            await self._in_thread(executor, lambda: announce(signal, **arguments))
        except BaseException:
            logger.exception("error in a worker signal")

    @staticmethod
    async def _in_thread(executor: StickyExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what may use the database in the coroutine's own thread."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(executor, lambda: function(*arguments)))
