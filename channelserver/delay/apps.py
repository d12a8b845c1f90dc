"""The Django application ``channelserver.delay`` (``INSTALLED_APPS``); imported in the main thread."""

from django.apps import AppConfig


class DelayConfig(AppConfig):
    """Has the table of delayed messages."""

    name = "channelserver.delay"
    # Django no longer accepts the label of Channels 1, "channels.delay".
    label = "channelserver_delay"
    verbose_name = "Delayed messages"
    default_auto_field = "django.db.models.BigAutoField"
