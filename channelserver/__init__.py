"""channelserver: a whole server for a Django site in one process.

The names below are imported when first used, so that the inner parts of the package can be used without Django.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from channelserver._version import __version__

if TYPE_CHECKING:
    from channelserver.asgi import channel_layers
    from channelserver.channel import Channel, Group
    from channelserver.event_stream import EventStream
    from channelserver.layers.names import DEFAULT_CHANNEL_LAYER
    from channelserver.message import Message
    from channelserver.packing.data import data_folder
    from channelserver.routing import include, route, route_class

__all__ = [
    "DEFAULT_CHANNEL_LAYER",
    "Channel",
    "EventStream",
    "Group",
    "Message",
    "__version__",
    "channel_layers",
    "data_folder",
    "include",
    "route",
    "route_class",
]

_HOME = {
    "DEFAULT_CHANNEL_LAYER": "layers.names",
    "Channel": "channel",
    "EventStream": "event_stream",
    "Group": "channel",
    "Message": "message",
    "channel_layers": "asgi",
    "data_folder": "packing.data",
    "include": "routing",
    "route": "routing",
    "route_class": "routing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
