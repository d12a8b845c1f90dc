"""The application for servers that speak ASGI: Django for HTTP, Channels 4 for WebSockets.

``BENCHMARK_CONSUMERS`` is ``sync`` or ``async``: which kind of consumers serves the sockets.
"""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

http = get_asgi_application()

from benchmarks.apps import consumers  # noqa: E402 (models may be imported once Django is set up)

if os.environ["BENCHMARK_CONSUMERS"] == "async":
    kinds = {
        "echo/": consumers.AsyncEcho,
        "group/": consumers.AsyncMember,
        "speak/": consumers.AsyncSpeaker,
    }
else:
    kinds = {
        "echo/": consumers.Echo,
        "group/": consumers.Member,
        "speak/": consumers.Speaker,
        "burn/": consumers.Burner,
        "sleep/": consumers.Sleeper,
    }

application = ProtocolTypeRouter(
    {"http": http, "websocket": URLRouter([path(where, kind.as_asgi()) for where, kind in kinds.items()])}
)
