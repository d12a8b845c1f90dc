"""Class-based consumers of WebSockets (Channels 1: ``channels.generic.websockets``).

Runs in worker threads. There is one instance for each message, and it belongs to the thread that consumes that; store
what must last longer in ``message.channel_session`` or the database.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection
from typing import Any, ClassVar

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.serializers.json import DjangoJSONEncoder

from channelserver.auth import channel_and_http_session_user_from_http, channel_session_user_from_http
from channelserver.channel import Channel, Group
from channelserver.exceptions import BadClientMessage, SendNotAvailableOnDemultiplexer
from channelserver.generic.base import BaseConsumer, takes_in_coroutine
from channelserver.layers.reply import check_reply
from channelserver.message import Message
from channelserver.sessions import enforce_ordering


class WebsocketConsumer(BaseConsumer):
    """A consumer of sockets: override :meth:`connect`, :meth:`receive`, :meth:`disconnect`, also as ``async def``.

    ``self.path`` is the path of the socket's URL.
    """

    method_mapping = {
        "websocket.connect": "raw_connect",
        "websocket.receive": "raw_receive",
        "websocket.disconnect": "raw_disconnect",
    }

    hooks: ClassVar[dict[str, str]] = {
        "raw_connect": "connect",
        "raw_receive": "receive",
        "raw_disconnect": "disconnect",
    }

    #: Give each message the user of the browser's session, as ``message.user``; see
    #: :func:`channelserver.auth.channel_session_user_from_http`.
    http_user: bool = False
    #: The same, with ``message.http_session`` on all messages; see
    #: :func:`channelserver.auth.channel_and_http_session_user_from_http`.
    http_user_and_session: bool = False
    #: Decorate with :func:`channelserver.sessions.enforce_ordering`. Sockets are consumed in order anyway.
    strict_ordering: bool = False
    #: The same with ``slight=True``.
    slight_ordering: bool = False
    #: Names of groups of which the socket is a member while it is open.
    groups: Collection[str] | None = None

    path: str | None = None

    def get_handler(self, message: Message, **kwargs: Any) -> Callable[..., Any]:
        self.path = message.get("path")
        handler = super().get_handler(message, **kwargs)
        if self.http_user_and_session:
            handler = channel_and_http_session_user_from_http(handler)
        elif self.http_user:
            handler = channel_session_user_from_http(handler)
        if self.strict_ordering or self.slight_ordering:
            handler = enforce_ordering(handler, slight=not self.strict_ordering)
        return handler

    # Those that applications override take what their routes' filters name. `*args` tells type checkers so.

    def connection_groups(self, *args: Any, **kwargs: Any) -> Collection[str]:
        """Return the names of the groups that the socket joins when it connects, and leaves when it disconnects.

        :param kwargs: the named groups of the route's filters.
        """
        return self.groups or []

    # -- messages of the channels --------------------------------------------------------------------------------------

    def raw_connect(self, message: Message, **kwargs: Any) -> Any:
        """Join the groups, then :meth:`connect`."""
        for group in self.connection_groups(**kwargs):
            Group(group, channel_layer=message.channel_layer).add(self._reply_channel)
        return self.connect(message, **kwargs)

    def raw_receive(self, message: Message, **kwargs: Any) -> Any:
        """Call :meth:`receive` with the text or the bytes."""
        if message.get("text") is not None:
            return self.receive(text=message["text"], **kwargs)
        return self.receive(bytes=message.get("bytes"), **kwargs)

    def raw_disconnect(self, message: Message, **kwargs: Any) -> Any:
        """Leave the groups, then :meth:`disconnect`."""
        for group in self.connection_groups(**kwargs):
            Group(group, channel_layer=message.channel_layer).discard(self._reply_channel)
        return self.disconnect(message, **kwargs)

    def connect(self, message: Message, *args: Any, **kwargs: Any) -> Any:
        """A client connects: accept it, or raise :class:`channelserver.exceptions.DenyConnection`."""
        self._reply_channel.send({"accept": True})

    def receive(self, *args: Any, **kwargs: Any) -> Any:
        """A text or binary message has arrived.

        :param kwargs: ``text`` or ``bytes``, and the named groups of the route's filters.
        """

    def disconnect(self, message: Message, *args: Any, **kwargs: Any) -> Any:
        """The socket has closed."""

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, text: str | None = None, bytes: bytes | None = None, close: bool | int = False) -> None:
        """Send a text or bytes to the socket.

        :param close: close it afterwards: True, or a code.
        :raises ValueError: neither text nor bytes is given; to close without data, call :meth:`close`.
        """
        self._reply_channel.send(_frame(text, bytes, close))

    @classmethod
    def group_send(
        cls, name: str, text: str | None = None, bytes: bytes | None = None, close: bool | int = False
    ) -> None:
        """Send a text or bytes to the sockets of a group, as :meth:`send` does to one."""
        Group(name).send(_frame(text, bytes, close))

    def accept(self, subprotocol: str | None = None, headers: Collection[Any] = ()) -> None:
        """Accept the socket, in :meth:`connect`.

        :param subprotocol: one that the client offers, see ``message["subprotocols"]``.
        :param headers: of the answer, such as cookies: pairs of bytes.
        :raises ValueError: the server cannot send these headers.
        """
        reply: dict[str, Any] = {"accept": True}
        if subprotocol is not None:
            reply["subprotocol"] = subprotocol
        if headers:
            reply["headers"] = [list(pair) for pair in headers]
        check_reply(reply)
        self._reply_channel.send(reply)

    def close(self, status: bool | int = True, reason: str = "") -> None:
        """Close the socket.

        :param status: True, or a code: 1000, or 3000 to 4999.
        :param reason: text for the client, 123 bytes in UTF-8 at most.
        :raises ValueError: the reason is too long.
        """
        reply: dict[str, Any] = {"close": status, **({"reason": reason} if reason else {})}
        check_reply(reply)
        self._reply_channel.send(reply)

    @property
    def _reply_channel(self) -> Channel:
        channel = self.message.reply_channel
        if channel is None:
            raise ValueError(f"{type(self).__name__} needs a message with a reply_channel; this one has none")
        return channel


def _frame(text: str | None, data: bytes | None, close: bool | int) -> dict[str, Any]:
    """Return the message that sends a frame."""
    if text is None and data is None:
        raise ValueError("You must pass text or bytes; close() closes a socket without sending anything")
    message: dict[str, Any] = {"bytes": data} if text is None else {"text": text}
    if close:
        message["close"] = close
    return message


class JsonWebsocketConsumer(WebsocketConsumer):
    """A consumer of sockets that speak JSON: :meth:`receive` and :meth:`send` take the decoded value."""

    def raw_receive(self, message: Message, **kwargs: Any) -> Any:
        """Call :meth:`receive` with the decoded text.

        :raises BadClientMessage: the text is not JSON, or the message is binary.
        """
        text = message.get("text")
        if text is None:
            raise BadClientMessage(f"No text section for incoming WebSocket frame! {type(self).__name__} expects JSON")
        try:
            content = self.decode_json(text)
        except (ValueError, RecursionError) as error:
            raise BadClientMessage(f"{type(self).__name__} expects JSON: {error}") from error
        return self.receive(content, **kwargs)

    def receive(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        """A JSON message has arrived, decoded as `content`."""

    def send(self, content: Any, close: bool | int = False) -> None:  # type: ignore[override]
        """Send `content` to the socket, as JSON.

        :param close: close it afterwards: True, or a code.
        """
        super().send(text=self.encode_json(content), close=close)

    @classmethod
    def group_send(cls, name: str, content: Any, close: bool | int = False) -> None:  # type: ignore[override]
        """Send `content` to the sockets of a group, as :meth:`send` does to one."""
        super().group_send(name, text=cls.encode_json(content), close=close)

    @classmethod
    def decode_json(cls, text: str) -> Any:
        """Return the value that a JSON text encodes.

        :raises ValueError: it is not JSON.
        """
        return json.loads(text)

    @classmethod
    def encode_json(cls, content: Any) -> str:
        """Return `content` as JSON; dates, decimals and UUIDs are encoded by ``DjangoJSONEncoder``."""
        return json.dumps(content, cls=DjangoJSONEncoder)


class WebsocketMultiplexer:
    """Sends on one stream of a socket whose frames are ``{"stream": …, "payload": …}``.

    :param stream: the stream's name.
    :param reply_channel: the socket's.
    """

    def __init__(self, stream: str, reply_channel: Channel) -> None:
        self.stream = stream
        self.reply_channel = reply_channel

    def send(self, payload: Any) -> None:
        """Send `payload`, as JSON."""
        self.reply_channel.send(self.encode(self.stream, payload))

    @classmethod
    def encode_json(cls, content: Any) -> str:
        """Return `content` as JSON, like :meth:`JsonWebsocketConsumer.encode_json`."""
        return json.dumps(content, cls=DjangoJSONEncoder)

    @classmethod
    def encode(cls, stream: str, payload: Any) -> dict[str, Any]:
        """Return the message that sends `payload` on a stream, to a socket or a group."""
        return {"text": cls.encode_json({"stream": stream, "payload": payload})}

    @classmethod
    def group_send(cls, name: str, stream: str, payload: Any, close: bool | int = False) -> None:
        """Send `payload` on a stream to the sockets of a group.

        :param close: close them afterwards: True, or a code.
        """
        message = cls.encode(stream, payload)
        if close:
            message["close"] = close
        Group(name).send(message)


class WebsocketDemultiplexer(JsonWebsocketConsumer):
    """Several consumers behind one socket whose frames are ``{"stream": …, "payload": {…}}``.

    Each consumer gets the connect and disconnect messages, and the payloads of its own stream as if they were frames.
    It replies with the argument ``multiplexer``, a :class:`WebsocketMultiplexer`: ``multiplexer.send(payload)``.
    """

    #: Name of a stream = its consumer: a class, or a function that takes ``(message, multiplexer, **kwargs)``.
    consumers: dict[str, Callable[..., Any]] = {}
    #: What consumers get as ``multiplexer``: a class like :class:`WebsocketMultiplexer`.
    multiplexer_class: Any = WebsocketMultiplexer
    #: Name of a stream = name of a channel to which its payloads are sent (Channels before 1.0).
    mapping: dict[str, str] = {}

    @classmethod
    def is_coroutine(cls, channel: str) -> bool:
        """Whether it, or one of its consumers, takes the messages of a channel in a coroutine."""
        return super().is_coroutine(channel) or any(_takes(consumer, channel) for consumer in cls.consumers.values())

    def connect(self, message: Message, *args: Any, **kwargs: Any) -> Any:
        """Accept the socket, then call every consumer."""
        self._reply_channel.send({"accept": True})
        return self._call_consumers(self.consumers, message, kwargs)

    def receive(self, content: Any, *args: Any, **kwargs: Any) -> Any:
        """Pass a payload to the consumer of its stream.

        :raises BadClientMessage: the frame does not have the form above, or its stream is unknown.
        """
        if not isinstance(content, dict) or "stream" not in content or "payload" not in content:
            raise BadClientMessage(
                "Invalid multiplexed **frame received (no channel/payload key): "
                'it must be {"stream": ..., "payload": {...}}'
            )
        stream, payload = content["stream"], content["payload"]
        if not isinstance(payload, dict):
            raise BadClientMessage(f"Multiplexed frame payload is not a dict: {stream!r:.80}")
        if isinstance(stream, str) and stream in self.consumers:
            # A copy of the message: if the consumer raises ConsumeLater, the frame itself is consumed again.
            inner = copy.copy(self.message)
            inner.content = {**self.message.content, "text": self.encode_json(payload)}
            return self._call_consumers({stream: self.consumers[stream]}, inner, kwargs)
        elif isinstance(stream, str) and stream in self.mapping:
            forwarded = {**payload, "reply_channel": self._reply_channel.name}
            Channel(self.mapping[stream], channel_layer=self.message.channel_layer).send(forwarded)
        else:
            known = ", ".join(map(repr, {**self.consumers, **self.mapping})) or "none"
            raise BadClientMessage(
                f"Invalid multiplexed frame received (stream not mapped): {type(self).__name__} has no stream "
                f"{stream!r:.80}; there is {known}"
            )

    def disconnect(self, message: Message, *args: Any, **kwargs: Any) -> Any:
        """Call every consumer; the first exception is raised after the last call."""
        return self._call_consumers(self.consumers, message, kwargs, all_of_them=True)

    def _call_consumers(
        self, consumers: dict[str, Any], message: Message, kwargs: dict[str, Any], all_of_them: bool = False
    ) -> Any:
        """Call consumers with a message, one after the other.

        :param all_of_them: go on after one has raised; the first exception is raised at the end.
        :returns: what is to be awaited if one of this class's consumers is a coroutine, else None.
        """
        if takes_in_coroutine(type(self), message.channel_name):
            return self._await_consumers(consumers, message, kwargs, all_of_them)
        problem: Exception | None = None
        for stream, consumer in consumers.items():
            try:
                self._consume(stream, consumer, message, kwargs)
            except Exception as error:
                if not all_of_them:
                    raise
                problem = problem or error
        if problem is not None:
            raise problem

    async def _await_consumers(
        self, consumers: dict[str, Any], message: Message, kwargs: dict[str, Any], all_of_them: bool
    ) -> None:
        problem: Exception | None = None
        for stream, consumer in consumers.items():
            try:
                if _takes(consumer, message.channel_name):
                    await self._consume(stream, consumer, message, kwargs)
                else:
                    await sync_to_async(self._consume)(stream, consumer, message, kwargs)
            except Exception as error:
                if not all_of_them:
                    raise
                problem = problem or error
        if problem is not None:
            raise problem

    def _consume(self, stream: str, consumer: Callable[..., Any], message: Message, kwargs: dict[str, Any]) -> Any:
        kwargs = {**kwargs, "multiplexer": self.multiplexer_class(stream, self._reply_channel)}
        if not isinstance(consumer, type) or not hasattr(consumer, "send"):
            return consumer(message, **kwargs)
        # Its send() would send a frame without a stream. Only this instance is changed, because the class may also have
        # a route; and before __init__, which consumes the message.
        kind: Any = consumer
        instance = kind.__new__(kind)
        instance.send = self.send
        instance.__init__(message, **kwargs)
        return getattr(instance, "result", None)

    def send(self, *args: Any, **kwargs: Any) -> None:
        """Not for a demultiplexer, and not for the consumers behind it.

        :raises SendNotAvailableOnDemultiplexer: always.
        """
        raise SendNotAvailableOnDemultiplexer(
            "Use multiplexer.send of the multiplexer kwarg. Each consumer of a stream gets one"
        )

    @classmethod
    def group_send(cls, name: str, *args: Any, **kwargs: Any) -> None:
        """Not for a demultiplexer.

        :raises SendNotAvailableOnDemultiplexer: always.
        """
        raise SendNotAvailableOnDemultiplexer("Use WebsocketMultiplexer.group_send(name, stream, payload)")

    @classmethod
    def encode(cls, stream: str, payload: Any) -> dict[str, Any]:
        """Return the message that sends `payload` on a stream (Channels before 1.0)."""
        message: dict[str, Any] = cls.multiplexer_class.encode(stream, payload)
        return message


def _takes(consumer: Any, channel: str) -> bool:
    """Whether a consumer behind a demultiplexer takes the messages of a channel in a coroutine."""
    if isinstance(consumer, type) and issubclass(consumer, BaseConsumer):
        return takes_in_coroutine(consumer, channel)
    return iscoroutinefunction(consumer)
