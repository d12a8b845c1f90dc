"""The Django application ``channelserver.jobs`` (``INSTALLED_APPS``); imported in the main thread."""

import os
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.models.signals import post_delete, post_migrate, post_save

#: The names of :class:`channelserver.jobs.JobBackend`.
_BACKENDS = ("channelserver.jobs.JobBackend", "channelserver.jobs.backend.JobBackend")


class JobsConfig(AppConfig):
    """Has the tables of the jobs, their admin pages and ``manage.py jobs``."""

    name = "channelserver.jobs"
    label = "channelserver_jobs"
    verbose_name = "Jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Have servers notice what people change in the admin pages."""
        from channelserver.jobs.compat import IN_DJANGO
        from channelserver.jobs.models import JobQueue, Schedule

        if not IN_DJANGO and not apps.is_installed("django_tasks"):
            checks.register(_check_backends)  # else Django, or django-tasks, checks the backends
        tasks = getattr(settings, "TASKS", None) or {}
        if not (isinstance(tasks, dict) and all(isinstance(values, dict) for values in tasks.values())):
            raise ImproperlyConfigured(
                f'TASKS must be a dict of dicts, such as {{"default": {{"BACKEND": "{_BACKENDS[0]}"}}}}, not {tasks!r}'
            )
        for alias, values in tasks.items():
            if not isinstance(values.get("BACKEND"), str):
                raise ImproperlyConfigured(
                    f"TASKS[{alias!r}] needs a 'BACKEND', such as {_BACKENDS[0]!r}, not {values.get('BACKEND')!r}"
                )
        if any(values.get("BACKEND") in _BACKENDS for values in tasks.values()):
            from channelserver.delay import keeping
            from channelserver.jobs.delayed import Jobs

            keeping.keeper = Jobs()
            post_migrate.connect(_migrated, sender=self)
        for settings_dict in connections.settings.values():
            settings_dict["NAME"] = absolute(settings_dict)
        for model in (Schedule, JobQueue):
            post_save.connect(_changed, sender=model)
            post_delete.connect(_changed, sender=model)


def absolute(database: dict[str, Any]) -> Any:
    """Return the name of a database; the path of a SQLite file from the root, for a job may call ``os.chdir``.

    :param database: one of ``DATABASES``.
    """
    name = database["NAME"]
    is_sqlite = database["ENGINE"].endswith((".sqlite3", ".spatialite"))
    return os.path.abspath(name) if is_sqlite and name and not str(name).startswith((":", "file:")) else name


def _migrated(using: str, **_: Any) -> None:
    """What waits in the table of delayed messages becomes jobs."""
    from channelserver.jobs.delayed import take_over
    from channelserver.jobs.durable import backend_of_project

    if using == backend_of_project().database:
        take_over(using)


def _check_backends(**_: Any) -> list[checks.CheckMessage]:
    from channelserver.jobs.backend import JobBackend
    from channelserver.jobs.compat import task_backends

    found = [task_backends[alias] for alias in getattr(settings, "TASKS", None) or {}]
    return [message for backend in found if isinstance(backend, JobBackend) for message in backend.check()]


def _changed(using: str, **_: Any) -> None:
    from channelserver.jobs.wake import announce_change

    announce_change(using)
