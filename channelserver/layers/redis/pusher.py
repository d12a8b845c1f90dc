"""Moves the messages of this process's connections to Redis, for workers of other hosts.

Runs in the thread of the reactor; owns the messages that are being sent to Redis.

A server without worker threads puts its own messages (``http.request``, ``websocket.receive`` …) into its queues like
any other. This module takes them from there as a worker would; so order, back-pressure and expiry are those of the
queues.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from typing import BinaryIO

from twisted.internet import defer, task

from channelserver.layers.base import FAILED, ChannelFull, MessageTooLarge, NotSendable
from channelserver.layers.content import Content
from channelserver.layers.losses import Reason
from channelserver.layers.redis.errors import DeliveryUnknown, RedisUnavailable
from channelserver.layers.redis.host import Host
from channelserver.layers.waiting import Delivery

logger = logging.getLogger("channelserver.layers.redis")

#: Messages sent at the same time.
WINDOW = 200
#: Seconds before a message to a full channel is tried again.
PAUSE = 0.2
#: Bytes of a large request body that travel in one message.
PART = 256 * 1024
#: Attempts to send one part of a body while its channel is full.
TRIES = 50

#: Messages whose client gets 503 if there is no room.
_ANSWERED = ("http.request", "websocket.connect")


class Pusher:
    """Moves messages from the queues to Redis.

    :param host: this process, with its queues.
    :param fail: ``fail(reply channel, reply)`` answers a connection of this process.
    """

    def __init__(self, host: Host, channels: Sequence[str], fail: Callable[[str, Content], object]) -> None:
        self._host = host
        self._queues = host.layer.queues
        self._channels = tuple(channels)
        self._fail = fail
        self._drops = host.layer.drops
        self._under_way = 0
        self._posted = False
        self._paused: set[str] = set()

    def start(self) -> None:
        self._queues.listen(self._channels, self._announced)
        self.go()

    def _announced(self) -> None:  # any thread
        if not self._posted:
            self._posted = True
            self._host.bridge.post(self.go)

    def go(self) -> None:
        """Move the messages that wait."""
        self._posted = False
        while self._under_way < WINDOW:
            delivery = self._queues.take([name for name in self._channels if name not in self._paused])
            if delivery is None:
                return
            self._under_way += 1
            defer.ensureDeferred(self._move(delivery))

    async def _move(self, delivery: Delivery) -> None:
        try:
            if await self._moved(delivery):
                self._close(delivery)
                self._queues.finish(delivery)
        except (MessageTooLarge, NotSendable) as error:
            self._drops.record(error.reason, delivery.channel, hint=str(error))
            self._give_up(delivery, 500)
        except Exception:
            logger.exception("cannot move a message from %r to Redis", delivery.channel)
            self._drops.add(Reason.ERROR)
            self._give_up(delivery, 500)
        self._under_way -= 1
        self._announced()

    async def _moved(self, delivery: Delivery) -> bool:
        """Move one message; return False if it was put back."""
        channel, content = delivery.channel, delivery.content
        urgent = delivery.expires == float("inf")
        try:
            if not self._host.hears:  # a worker that is quicker than the subscription would answer nobody
                raise RedisUnavailable("there is no subscription for the reply yet")
            if delivery.attachment is not None:
                content = {**content, "body_channel": await self._move_body(delivery.attachment)}
            await self._host.push(channel, content, urgent)
        except DeliveryUnknown as error:
            self._drops.record(Reason.UNKNOWN, channel, hint=str(error))
            self._answer(delivery, 503)
        except ChannelFull as error:
            if channel in _ANSWERED:
                self._answer(delivery, 503)
                if not isinstance(error, RedisUnavailable):
                    logger.debug("%s", error)
                return True
            self._queues.put_back(delivery)
            self._pause(channel)
            return False
        return True

    async def _move_body(self, body: BinaryIO) -> str:
        """Move a large body; return the channel on which its parts are."""
        channel = "http.request.body?" + secrets.token_hex(12)
        body.seek(0)
        part = body.read(PART)
        while part:
            following = body.read(PART)
            message = {"content": part, "closed": False, "more_content": bool(following)}
            for tries in range(TRIES):
                try:
                    await self._host.push(channel, message)
                    break
                except DeliveryUnknown:
                    raise
                except ChannelFull as error:
                    if isinstance(error, RedisUnavailable) or tries == TRIES - 1:
                        raise
                    await task.deferLater(self._host.reactor, PAUSE)
            part = following
        return channel

    def _pause(self, channel: str) -> None:
        if channel not in self._paused:
            self._paused.add(channel)
            self._host.reactor.callLater(PAUSE, self._resume, channel)

    def _resume(self, channel: str) -> None:
        self._paused.discard(channel)
        self.go()

    def _give_up(self, delivery: Delivery, status: int) -> None:
        self._answer(delivery, status)
        self._close(delivery)
        self._queues.finish(delivery)

    def _answer(self, delivery: Delivery, status: int) -> None:
        reply = delivery.content.get("reply_channel")
        if delivery.channel in _ANSWERED and isinstance(reply, str):
            self._fail(reply, {FAILED: status})

    @staticmethod
    def _close(delivery: Delivery) -> None:
        if delivery.attachment is not None:
            delivery.attachment.close()
