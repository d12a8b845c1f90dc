#!/usr/bin/env python
"""A project as it was written for Channels 1, in 2016. See legacy/settings.py for the one line that was added."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "legacy.settings")

    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
