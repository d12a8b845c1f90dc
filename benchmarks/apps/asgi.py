"""The application for servers that speak ASGI: Django for HTTP, Channels 4 for WebSockets.

``BENCHMARK_CONSUMERS`` selects the consumers: ``sync``, ``async`` or ``none``. With ``BENCHMARK_SHORTCUTS=yes``, Django
runs with our Django shortcuts, as it does under our server.
"""

import os
from typing import Any

from django.core.asgi import get_asgi_application

application: Any = get_asgi_application()

if os.environ["BENCHMARK_SHORTCUTS"] == "yes":
    from benchmarks.apps import shortcuts  # not at the top: peers as they are should not load our modules

    shortcuts.install()

if os.environ["BENCHMARK_CONSUMERS"] != "none":
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.urls import path

    from benchmarks.apps import consumers

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
    sockets = URLRouter([path(where, kind.as_asgi()) for where, kind in kinds.items()])
    application = ProtocolTypeRouter({"http": application, "websocket": sockets})
