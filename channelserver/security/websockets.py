"""Decorators that check a socket's ``Origin`` (Channels 1: ``channels.security.websockets``).

Runs in worker threads; owns nothing. The server itself compares the origin of every socket with the site's own hosts
(option ``allowed_origin``). These decorators are for projects written for Channels 1, and for stricter rules of single
consumers: here a socket without an ``Origin`` is refused, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any
from urllib.parse import urlsplit

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http.request import validate_host

from channelserver.exceptions import DenyConnection
from channelserver.generic.base import BaseConsumer
from channelserver.message import Message
from channelserver.sessions import message_in

#: The hosts of a site under development (Django: ``HttpRequest.get_host``).
LOCAL_HOSTS = ["localhost", "127.0.0.1", "[::1]"]


class BaseOriginValidator:
    """A decorator for the consumer of ``websocket.connect``: function, method, or class derived from
    :class:`channelserver.generic.BaseConsumer`. Derived classes define :meth:`validate_origin`.

    :param func: the consumer.

    The decorated consumer raises ``DenyConnection`` if the origin is not allowed.
    """

    def __new__(cls, func: Any) -> Any:
        """Return the decorated consumer; a class is changed in place, so that it stays a class."""
        self = super().__new__(cls)
        if not (isinstance(func, type) and issubclass(func, BaseConsumer)):
            return self
        decorated: Any = func
        get_handler = decorated.get_handler

        @functools.wraps(get_handler)
        def guarded(consumer: BaseConsumer, message: Message, **kwargs: Any) -> Callable[..., Any]:
            if message.channel_name == "websocket.connect":
                self.check(message)
            return get_handler(consumer, message, **kwargs)

        decorated.get_handler = guarded
        return decorated

    def __init__(self, func: Callable[..., Any]) -> None:
        functools.update_wrapper(self, func)
        self.func = func
        if iscoroutinefunction(func):
            markcoroutinefunction(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Consume a message.

        :raises DenyConnection: its origin is not allowed.
        :raises ValueError: it has no headers, so it is no ``websocket.connect`` message.
        """
        self.check(message_in(args))
        return self.func(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind a decorated method."""
        return self if instance is None else MethodType(self, instance)

    def check(self, message: Message) -> None:
        """Raise :class:`channelserver.exceptions.DenyConnection` if a message's origin is not allowed."""
        if "headers" not in message:
            raise ValueError(
                f"{type(self).__name__} is for the consumer of 'websocket.connect'; the message on "
                f"{message.channel_name!r} has no headers"
            )
        origin = self.get_origin(message)
        if not origin or not self.validate_origin(message, origin):
            raise DenyConnection

    def get_origin(self, message: Message) -> str | None:
        """Return the value of the ``Origin`` field; None if it is missing or not ASCII."""
        try:
            value = self.get_header(message, b"origin")[0]
        except (IndexError, KeyError):
            return None
        if not value.isascii():
            return None
        return value if isinstance(value, str) else value.decode("ascii")

    def get_header(self, message: Message, name: bytes) -> list[Any]:
        """Return the values of the first header field with a name.

        :param name: in lower case.
        :raises KeyError: there is none.
        """
        headers = message.content.get("headers") or ()
        for key, *values in headers.items() if isinstance(headers, dict) else filter(None, headers):
            if key in (name, name.decode("ascii")):
                return values
        raise KeyError(f"No header named {name!r}")

    def validate_origin(self, message: Message, origin: str) -> bool:
        """Return whether a socket from this origin, such as ``https://www.example.com``, may be opened."""
        raise NotImplementedError(f"{type(self).__name__} must define validate_origin(message, origin)")


class AllowedHostsOnlyOriginValidator(BaseOriginValidator):
    """Accepts sockets only from pages of hosts in ``ALLOWED_HOSTS`` (under ``DEBUG``, if that is empty: this machine).

    A socket without an ``Origin``, which no browser opens, is refused.
    """

    def validate_origin(self, message: Message, origin: str) -> bool:
        allowed = settings.ALLOWED_HOSTS
        if settings.DEBUG and not allowed:
            allowed = LOCAL_HOSTS
        try:
            host = urlsplit(origin).hostname
        except ValueError:
            return False
        if not host:
            return False
        return validate_host(f"[{host}]" if ":" in host else host, allowed)


allowed_hosts_only = AllowedHostsOnlyOriginValidator
