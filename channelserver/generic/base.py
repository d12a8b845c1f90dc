"""The base class of class-based consumers (Channels 1: ``channels.generic.base``).

Runs in worker threads, coroutine methods on the event loop. There is one instance for each message; it belongs to who
consumes the message.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from asgiref.sync import iscoroutinefunction

from channelserver.auth import channel_session_user
from channelserver.message import Message
from channelserver.routing import RouteClass
from channelserver.sessions import channel_session


class BaseConsumer:
    """A consumer with a method for each channel, a function or a coroutine function. Making an instance consumes the
    message.

    :param message: the message.
    :param kwargs: the named groups of the route's filters.
    :raises ValueError: ``method_mapping`` has no method for the message's channel.

    ``self.message`` and ``self.kwargs`` are the arguments of the instance.
    """

    #: Name of a channel = name of the method that takes its messages, as ``method(message, **kwargs)``.
    method_mapping: dict[str, str] = {}
    #: Name of such a method = name of the method that applications override, which it calls at its end.
    hooks: ClassVar[dict[str, str]] = {}
    #: Decorate the methods with :func:`channelserver.sessions.channel_session`.
    channel_session: bool = False
    #: Decorate the methods with :func:`channelserver.auth.channel_session_user`, which includes the former.
    channel_session_user: bool = False

    def __init__(self, message: Message, **kwargs: Any) -> None:
        self.message = message
        self.kwargs = kwargs
        #: What the method has returned; of a coroutine method what is to be awaited.
        self.result = self.dispatch(message, **kwargs)

    @classmethod
    def is_coroutine(cls, channel: str) -> bool:
        """Whether the method that takes the messages of a channel, or the hook it calls, is declared ``async def``."""
        name = cls.method_mapping.get(channel, "")
        return any(iscoroutinefunction(getattr(cls, known, None)) for known in (name, cls.hooks.get(name, "")))

    @classmethod
    def has_coroutines(cls) -> bool:
        """Whether it takes the messages of one of its channels in a coroutine."""
        return any(map(cls.is_coroutine, cls.channel_names()))

    @classmethod
    def coroutine_for(cls, message: Message) -> Callable[..., Coroutine[Any, Any, None]] | None:
        """Return what consumes a message on the event loop; None: it is to be consumed in a thread."""
        return cls.consume if takes_in_coroutine(cls, message.channel_name) else None

    @classmethod
    async def consume(cls, message: Message, **kwargs: Any) -> None:
        """Consume a message by a coroutine method."""
        await cls(message, **kwargs).result

    @classmethod
    def channel_names(cls) -> set[str]:
        """Return the names of the channels that the class consumes; for :class:`channelserver.routing.RouteClass`."""
        return set(cls.method_mapping)

    @classmethod
    def as_route(cls, attrs: dict[str, Any] | None = None, **filters: Any) -> RouteClass:
        """Return a route to this class, or to a subclass created for this route.

        :param attrs: attributes of such a subclass, such as ``{"groups": ["news"]}``.
        :param filters: as for :class:`channelserver.routing.Route`.
        :raises AssertionError: `attrs` is not a dict.
        """
        if attrs is None:
            return RouteClass(cls, **filters)
        if not isinstance(attrs, dict):
            raise AssertionError(f"attrs must be a dict of attributes, not {attrs!r}")
        place = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        return RouteClass(type(cls.__name__, (cls,), {**place, **attrs}), **filters)

    def get_handler(self, message: Message, **kwargs: Any) -> Callable[..., Any]:
        """Return the method for a message, with the decorators that the class's attributes ask for.

        Override it to add others: ``return decorator(super().get_handler(message, **kwargs))``.

        :raises ValueError: ``method_mapping`` has no method for the message's channel.
        """
        name = self.method_mapping.get(message.channel_name)
        if name is None:
            raise ValueError(
                f"{type(self).__name__} has no method for the channel {message.channel_name!r}: add one to "
                "method_mapping"
            )
        handler: Callable[..., Any] = getattr(self, name)
        if not iscoroutinefunction(handler) and takes_in_coroutine(type(self), message.channel_name):
            handler = _awaiting(handler)  # a coroutine function to the decorators
        if self.channel_session_user:
            return channel_session_user(handler)
        if self.channel_session:
            return channel_session(handler)
        return handler

    def dispatch(self, message: Message, **kwargs: Any) -> Any:
        """Call the method for a message."""
        return self.get_handler(message, **kwargs)(message, **kwargs)


#: What :func:`takes_in_coroutine` has found; there are few classes and channels.
_found: dict[tuple[Any, str], bool] = {}


def takes_in_coroutine(kind: Any, channel: str) -> bool:
    """Whether a class consumes the messages of a channel by a coroutine; remembered."""
    found = _found.get((kind, channel))
    if found is None:
        found = bool(kind.is_coroutine(channel))
        if len(_found) < 1000:
            _found[kind, channel] = found
    return found


def _awaiting(method: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return a coroutine function that calls a method and awaits what it returns."""

    async def call(message: Message, **kwargs: Any) -> None:
        await method(message, **kwargs)

    return call
