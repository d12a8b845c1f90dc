"""System checks: what is wrong in the settings, before the server starts.

Runs in the main thread.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from channelserver.asgi import InvalidChannelLayerError, channel_layers
from channelserver.server.options import OptionError, resolve


@register()
def check_options(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """The setting ``CHANNELSERVER``."""
    try:
        resolve({}, getattr(settings, "CHANNELSERVER", {}))
    except OptionError as error:
        return [Error(str(error), id="channelserver.E001")]
    return []


@register()
def check_layers(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """The setting ``CHANNEL_LAYERS``, routing included."""
    try:
        aliases = list(channel_layers.configs)
    except InvalidChannelLayerError as error:
        return [Error(str(error), id="channelserver.E002")]
    messages: list[CheckMessage] = []
    for alias in aliases:
        try:
            channel_layers.make_backend(alias)
        except Exception as error:
            text = str(error) if isinstance(error, InvalidChannelLayerError) else f"CHANNEL_LAYERS[{alias!r}]: {error}"
            messages.append(Error(" ".join(text.split()), id="channelserver.E003"))
    return messages
