"""Django's tasks under one set of names: ``django.tasks`` of Django 6, else the package ``django-tasks``.

Runs in any thread; owns nothing.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured

#: What a project without tasks has to do.
MISSING = 'Django 5.2 has no tasks of its own: pip install "channelserver[jobs]" brings the package django-tasks'


def _tasks() -> tuple[ModuleType, bool]:
    if django.VERSION >= (6, 0):
        return importlib.import_module("django.tasks"), True
    try:
        return importlib.import_module("django_tasks"), False
    except ImportError as error:
        raise ImproperlyConfigured(MISSING) from error


_package, IN_DJANGO = _tasks()
_name = _package.__name__
_base: Any = importlib.import_module(f"{_name}.base")
_errors: Any = importlib.import_module(f"{_name}.exceptions")
_signals: Any = importlib.import_module(f"{_name}.signals")

#: The settings' backends by alias.
task_backends: Any = _package.task_backends
BaseTaskBackend: Any = importlib.import_module(f"{_name}.backends.base").BaseTaskBackend
Task: Any = _base.Task
TaskContext: Any = _base.TaskContext
TaskError: Any = _base.TaskError
TaskResult: Any = _base.TaskResult
TaskResultStatus: Any = _base.TaskResultStatus
task: Any = _base.task
task_enqueued: Any = _signals.task_enqueued
task_started: Any = _signals.task_started
task_finished: Any = _signals.task_finished
TaskResultDoesNotExist: Any = _errors.TaskResultDoesNotExist
TaskResultMismatch: Any = _errors.TaskResultMismatch
InvalidTask: Any = _errors.InvalidTask if IN_DJANGO else _errors.InvalidTaskError
normalize_json: Any = importlib.import_module("django.utils.json" if IN_DJANGO else f"{_name}.utils").normalize_json
