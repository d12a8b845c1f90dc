"""The Django application ``channelserver.jobs`` (``INSTALLED_APPS``); imported in the main thread."""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_delete, post_save


class JobsConfig(AppConfig):
    """Has the tables of the jobs, their admin pages and ``manage.py jobs``."""

    name = "channelserver.jobs"
    label = "channelserver_jobs"
    verbose_name = "Jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Have servers notice what people change in the admin pages."""
        from channelserver.jobs.models import JobQueue, Schedule

        for model in (Schedule, JobQueue):
            post_save.connect(_changed, sender=model)
            post_delete.connect(_changed, sender=model)


def _changed(using: str, **_: Any) -> None:
    from channelserver.jobs.wake import announce_change

    announce_change(using)
