"""``manage.py rundelay``: a process that sends delayed messages (Channels 1).

Runs in the main thread. Optional: the server does the same, and both together send each message once.
"""

from __future__ import annotations

import logging
from typing import Any

from django.apps import apps
from django.core.management import BaseCommand, CommandError

from channelserver.asgi import InvalidChannelLayerError, channel_layers
from channelserver.layers.names import DEFAULT_CHANNEL_LAYER


class Command(BaseCommand):
    """Sends delayed messages until it is stopped."""

    help = "Sends delayed messages from a separate process. Optional: the running server sends them, too."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument(
            "--layer",
            default=DEFAULT_CHANNEL_LAYER,
            help="Layer whose messages to send. Default: default.",
        )
        parser.add_argument(
            "--sleep", type=float, default=1.0, help="Seconds between two database queries. Default: 1."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        from channelserver.delay.consumers import MISSING

        if not apps.is_installed("channelserver.delay"):
            raise CommandError(f"there is no table of delayed messages: {MISSING}")
        from channelserver.delay.worker import Worker

        if not options["sleep"] > 0:
            raise CommandError(f"--sleep must be a number of seconds above 0, not {options['sleep']:g}")
        try:
            layer = channel_layers[options["layer"]]
        except InvalidChannelLayerError as error:
            raise CommandError(str(error)) from error
        self._log(options["verbosity"])
        self.stdout.write(f"Sending the delayed messages of layer {layer}; quit with CONTROL-C.")
        self.stdout.flush()
        Worker(layer, database_sleep_duration=options["sleep"]).run()

    @staticmethod
    def _log(verbosity: int) -> None:
        """Show the log on the console, unless the project has configured it."""
        logger = logging.getLogger("channelserver")
        if not logger.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            logger.addHandler(handler)
            logger.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO if verbosity else logging.WARNING)
