"""Wires the app's signal receivers."""

from django.apps import AppConfig


class RoomsConfig(AppConfig):
    name = "rooms"

    def ready(self):
        from . import pulse, receivers  # noqa: F401  (importing them connects them)
