"""The application for servers that speak WSGI.

With ``BENCHMARK_SHORTCUTS=yes``, Django runs with our Django shortcuts, as it does under our server.
"""

import os

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

if os.environ["BENCHMARK_SHORTCUTS"] == "yes":
    from benchmarks.apps import shortcuts  # not at the top: peers as they are should not load our modules

    shortcuts.install()
