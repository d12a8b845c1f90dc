"""Event streams: a response that stays open and is fed by groups, without a thread or a coroutine of its own.

Any thread; a response belongs to its request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.http import StreamingHttpResponse

from channelserver.layers.names import check_group_name

Event = str | dict[str, Any]


class EventStream(StreamingHttpResponse):
    """A response of server-sent events (HTML standard), for ``EventSource`` in browsers.

    The server sends what is sent to one of the groups, until the client leaves::

        def news(request):
            return EventStream(groups=["news"], first=["hello"], retry=3000)

        Group("news").send({"text": "it rains"})

    Text becomes ``data:`` lines. A message may also have the keys ``event``, ``id`` and ``retry``, and ``data`` instead
    of ``text``; WebSockets of the same group get the text.

    :param groups: names of groups.
    :param first: events that are sent at once: texts, or messages as above.
    :param retry: milliseconds after which a client reconnects when the connection has ended.
    :param kwargs: ``status``, ``headers`` and ``reason``, as for ``HttpResponse``.
    :raises TypeError: a group's name is invalid, or an event is neither text nor a dict.
    """

    def __init__(
        self, groups: Iterable[str] = (), first: Iterable[Event] = (), retry: int | None = None, **kwargs: Any
    ) -> None:
        if isinstance(groups, str):
            raise TypeError(f"groups must be a list of names, not {groups!r}")
        super().__init__((), content_type="text/event-stream", **kwargs)
        self.groups = list(groups)
        for name in self.groups:
            check_group_name(name)
        self.first = [{"text": event} if isinstance(event, str) else event for event in first]
        for event in self.first:
            if not isinstance(event, dict):
                raise TypeError(f"an event must be text or a dict, not {event!r}")
        self.retry = retry
        self.headers["Cache-Control"] = "no-store"
        self.headers["X-Accel-Buffering"] = "no"
        # Django's GZipMiddleware leaves alone what is encoded; the field itself is not sent.
        self.headers["Content-Encoding"] = "identity"
