"""The Django application ``channelserver`` (``INSTALLED_APPS``)."""

from django.apps import AppConfig


class ChannelServerConfig(AppConfig):
    """Brings the management commands and the system checks."""

    name = "channelserver"
    verbose_name = "channelserver"

    def ready(self) -> None:
        """Register the system checks."""
        from channelserver import checks  # noqa: F401  (importing registers them)
