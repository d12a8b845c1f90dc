"""The project's channel layers with their routing (Channels 1: ``channels.asgi``).

Runs in any thread; owns nothing.
"""

from __future__ import annotations

import django

from channelserver.layers import BaseChannelLayer
from channelserver.layers.names import DEFAULT_CHANNEL_LAYER
from channelserver.registry import (
    ChannelLayerManager,
    ChannelLayerWrapper,
    InvalidChannelLayerError,
    channel_layers,
    local_socket_path,
)
from channelserver.routing import Router

__all__ = [
    "ChannelLayerManager",
    "ChannelLayerWrapper",
    "InvalidChannelLayerError",
    "channel_layers",
    "get_channel_layer",
    "local_socket_path",
]

ChannelLayerWrapper.router_class = Router


def get_channel_layer(alias: str = DEFAULT_CHANNEL_LAYER) -> BaseChannelLayer:
    """Set Django up and return the layer itself, for an ``asgi.py`` as in Channels 1."""
    django.setup(set_prefix=False)
    return channel_layers[alias].channel_layer
