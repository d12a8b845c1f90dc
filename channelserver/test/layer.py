"""The channel layer under test: in memory, recording what was sent.

For the one thread of the test. Owns the list of what has been sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from django.db import connections

from channelserver.asgi import ChannelLayerWrapper, InvalidChannelLayerError, channel_layers
from channelserver.layers import InMemoryChannelLayer
from channelserver.layers.content import Content, copy_content
from channelserver.layers.queues import WorkQueues


class Sent(NamedTuple):
    """One send: to a channel or to a group, by name, and what was sent."""

    is_group: bool
    name: str
    content: Content

    def __str__(self) -> str:
        return f"to {'group' if self.is_group else 'channel'} {self.name!r}: {self.content!r}"


class CaptiveLayer(InMemoryChannelLayer):
    """An in-memory layer that remembers what was sent, in ``sent``.

    Nobody takes messages out of it but the test, in whatever order it likes: a socket's messages do not wait for each
    other. What waited for a commit is sent before anything else happens here; see :func:`deliver_committed`.
    """

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.queues = WorkQueues(self.get_capacity, self.expiry, self._clock, self.drops)
        self.sent: list[Sent] = []

    def group_add(self, group: str, channel: str) -> None:
        deliver_committed()
        super().group_add(group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        deliver_committed()
        super().group_discard(group, channel)

    def dispatch(self, channel: str, content: Content) -> None:
        deliver_committed()
        super().dispatch(channel, content)
        self.sent.append(Sent(False, channel, copy_content(content)))

    def dispatch_group(self, group: str, content: Content) -> None:
        deliver_committed()
        super().dispatch_group(group, content)
        self.sent.append(Sent(True, group, copy_content(content)))


@contextmanager
def captive_layers(aliases: list[str]) -> Iterator[None]:
    """Replace the layers of `aliases` by new captive layers with the same routing.

    :raises InvalidChannelLayerError: there is no such alias.
    """
    with ExitStack() as stack:
        for alias in aliases:
            entry = channel_layers.configs.get(alias)
            if entry is None or "ROUTING" not in entry:
                known = ", ".join(map(repr, channel_layers.configs))
                raise InvalidChannelLayerError(
                    f"test_channel_aliases has {alias!r}, but CHANNEL_LAYERS has no such entry with a ROUTING; "
                    f"there is {known}"
                )
            captive = ChannelLayerWrapper(CaptiveLayer(), alias, entry["ROUTING"])
            captive.router  # noqa: B018  (imports the routing, and with it the project's bindings)
            old = channel_layers.set(alias, captive)
            stack.callback(channel_layers.set, alias, old)
        yield


def captive_layer(alias: str) -> CaptiveLayer:
    """Return the captive layer of an alias.

    :raises AssertionError: it has none at present.
    """
    layer = channel_layers[alias].channel_layer
    if not isinstance(layer, CaptiveLayer):
        raise AssertionError(
            f"the channel layer {alias!r} is not a test's own; name it in test_channel_aliases of a ChannelTestCase"
        )
    return layer


def deliver_committed() -> None:
    """Send what waits for the commit of a transaction, as far as only the test's own transaction is left.

    A ``TestCase`` never commits. What the code under test has sent with ``on_commit`` inside transactions of its own,
    which have ended, would never be seen.
    """
    for connection in connections.all(initialized_only=True):
        if not all(getattr(block, "_from_testcase", False) for block in connection.atomic_blocks):
            continue
        waiting = connection.run_on_commit
        if not waiting:
            continue
        connection.run_on_commit = [entry for entry in waiting if not _is_ours(entry[1])]
        for entry in waiting:
            if _is_ours(entry[1]):
                entry[1]()


def _is_ours(function: Callable[..., Any]) -> bool:
    while isinstance(function, partial):
        function = function.func
    module = getattr(function, "__module__", None) or ""
    return module.partition(".")[0] == "channelserver"
