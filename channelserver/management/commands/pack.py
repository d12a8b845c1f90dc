"""``manage.py pack``: one executable file of the project. See :mod:`channelserver.packing`."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from channelserver.packing.command import add_arguments, pack_project


class Command(BaseCommand):
    """``manage.py pack``."""

    help = "Make one executable file of this project, for machines without Python."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        pack_project(os.environ.get("DJANGO_SETTINGS_MODULE"), options.get("pythonpath"), options)
