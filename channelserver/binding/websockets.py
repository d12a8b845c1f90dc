"""Bindings of models to WebSockets (Channels 1: ``channels.binding.websockets``).

Threads: as :mod:`channelserver.binding.base`. Owns nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from channelserver.binding.base import Binding
from channelserver.binding.fields import InvalidInput, to_json_types
from channelserver.generic.websockets import WebsocketMultiplexer
from channelserver.message import Message
from channelserver.sessions import enforce_ordering


class WebsocketBinding(Binding):
    """A binding for sockets whose frames are ``{"stream": …, "payload": …}``.

    The payload, out and in, is ``{"action": "create", "pk": 5, "data": {"title": …}, "model": "app.model"}``; the model
    is not needed inwards, nor is the primary key to create, nor are data to delete.

    Inwards it stands behind a :class:`channelserver.generic.websockets.WebsocketDemultiplexer`: ``consumers =
    {"notes": NoteBinding.consumer}``.
    """

    #: Decorate with :func:`channelserver.sessions.enforce_ordering`. Sockets are consumed in order anyway.
    strict_ordering: ClassVar[bool] = False
    #: The same with ``slight=True``.
    slight_ordering: ClassVar[bool] = False

    def serialize(self, instance: Any, action: str) -> dict[str, Any]:
        """Return the payload."""
        return {
            "action": action,
            "pk": to_json_types(instance.pk),
            "data": self.serialize_data(instance),
            "model": self.model_label,
        }

    @classmethod
    def encode(cls, stream: str, payload: Any) -> dict[str, Any]:
        """Return the message that carries `payload` on a stream."""
        return WebsocketMultiplexer.encode(stream, payload)

    @classmethod
    def get_handler(cls) -> Callable[..., None]:
        """See :meth:`Binding.get_handler`."""
        handler = super().get_handler()
        if cls.strict_ordering or cls.slight_ordering:
            handler = enforce_ordering(handler, slight=not cls.strict_ordering)
        return handler

    @classmethod
    def trigger_inbound(cls, message: Message, **kwargs: Any) -> None:
        """See :meth:`Binding.trigger_inbound`. The opening and the closing of a socket mean nothing to a binding."""
        if message.channel_name not in ("websocket.connect", "websocket.disconnect"):
            super().trigger_inbound(message, **kwargs)

    def deserialize(self, message: Message) -> tuple[Any, Any, Any]:
        """Return action, primary key and data of a payload: the text of a frame, or, as before Channels 1.0, the
        message itself.

        :raises InvalidInput: it is no such payload.
        """
        payload: Any = message.content
        if "text" in payload or "bytes" in payload:
            try:
                payload = json.loads(payload.get("text") or "")
            except (ValueError, RecursionError) as error:
                raise InvalidInput(f"a payload must be JSON: {error}") from error
        if not isinstance(payload, dict) or "action" not in payload:
            raise InvalidInput('a payload must be {"action": ..., "pk": ..., "data": {...}}')
        return payload["action"], payload.get("pk"), payload.get("data")


class WebsocketBindingWithMembers(WebsocketBinding):
    """A binding that also sends what is no field: attributes, properties, results of methods.

    ``send_members = ["author.username", "get_absolute_url"]`` adds ``author__username`` and ``get_absolute_url`` to the
    data. Methods are called without arguments.
    """

    #: Names of the members; with dots, of members of members.
    send_members: ClassVar[Sequence[str]] = ()

    def serialize_data(self, instance: Any) -> dict[str, Any]:
        """Return the values of the bound fields and of the members.

        :raises AttributeError: there is no such member.
        """
        data = super().serialize_data(instance)
        for name in self.send_members:
            value: Any = instance
            for part in name.split("."):
                value = getattr(value, part)
                # As in templates: managers can be called, but do not mean it.
                if callable(value) and not getattr(value, "do_not_call_in_templates", False):
                    value = value()
            data[name.replace(".", "__")] = to_json_types(value)
        return data
