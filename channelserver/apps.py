"""The Django application ``channelserver`` (``INSTALLED_APPS``)."""

from django.apps import AppConfig, apps


class ChannelServerConfig(AppConfig):
    """Brings the management commands and the system checks."""

    name = "channelserver"
    verbose_name = "channelserver"

    def ready(self) -> None:
        """Register the system checks; see to it that ``runserver`` is ours."""
        from channelserver import checks  # noqa: F401  (importing registers them)

        names = [config.name for config in apps.get_app_configs()]
        if "django.contrib.staticfiles" in names[: names.index(self.name)]:
            self._take_over_runserver()

    @staticmethod
    def _take_over_runserver() -> None:
        """Stand in for the command of staticfiles, which is found first. Channels 1 did not mind its place either."""
        from django.contrib.staticfiles.management.commands import runserver as staticfiles_command

        from channelserver.management.commands.runserver import Command

        staticfiles_command.Command = Command  # type: ignore[misc]
