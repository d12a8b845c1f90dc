"""The Django application ``channelserver.delay`` (``INSTALLED_APPS``); imported in the main thread."""

from django.apps import AppConfig


class DelayConfig(AppConfig):
    """Brings the table of the messages that are sent later."""

    name = "channelserver.delay"
    # Channels 1 had "channels.delay", which Django does not take any more.
    label = "channelserver_delay"
    verbose_name = "Delayed messages"
    default_auto_field = "django.db.models.BigAutoField"
