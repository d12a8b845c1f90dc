"""Other routes for the time of a test.

For the one thread of the test; owns nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from contextlib import ContextDecorator
from typing import Any

from channelserver.asgi import channel_layers
from channelserver.layers.names import DEFAULT_CHANNEL_LAYER
from channelserver.routing import Router


class apply_routes(ContextDecorator):  # noqa: N801  (Channels 1 has it as a function)
    """Replace the routes of the settings: in a ``with`` block, in a decorated test, or, on a decorated
    test case, in each of its tests from ``setUp`` on.

    :param routes: a route, or what ``ROUTING`` may be: a list, a dict, a dotted string.
    :param aliases: which of ``CHANNEL_LAYERS``; default: ``default``.
    :raises ImproperlyConfigured: the routes do not resolve.
    """

    def __init__(self, routes: Any, aliases: Iterable[str] | None = None) -> None:
        self.routes = [routes] if hasattr(routes, "channel_names") else routes
        self.aliases = [DEFAULT_CHANNEL_LAYER] if aliases is None else list(aliases)
        self._before: list[list[tuple[Any, Any, Router]]] = []

    def __enter__(self) -> apply_routes:
        routers = [Router(self.routes) for _ in self.aliases]
        before = []
        for alias, router in zip(self.aliases, routers, strict=True):
            layer = channel_layers[alias]
            before.append((layer, layer.routing, layer.router))
            layer.routing, layer.router = self.routes, router
        self._before.append(before)
        return self

    def __exit__(self, *_: object) -> None:
        for layer, routing, router in self._before.pop():
            layer.routing, layer.router = routing, router

    def __call__(self, decorated: Any) -> Any:
        """Decorate a function or a test case."""
        if not isinstance(decorated, type):
            return super().__call__(decorated)
        set_up = decorated.setUp  # type: ignore[attr-defined]

        @functools.wraps(set_up)
        def with_routes(case: Any) -> None:
            self.__enter__()
            case.addCleanup(self.__exit__)
            set_up(case)

        decorated.setUp = with_routes  # type: ignore[attr-defined]
        return decorated
