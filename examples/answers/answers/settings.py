"""Settings of the site. Three environment variables steer it:

``ANSWERS_SECONDS``
    How long an answer takes. Default: 20.
``ANSWERS_DATA``
    Folder for the collected ``static/``. Default: ``data/`` beside ``manage.py``.
``ANSWERS_DEBUG``
    ``1`` for Django's debug pages. Never where strangers can see them.
"""

import os
from pathlib import Path

from django.core.management.utils import get_random_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("ANSWERS_DATA") or BASE_DIR / "data")
ANSWER_SECONDS = float(os.environ.get("ANSWERS_SECONDS", 20))

SECRET_KEY = get_random_secret_key()  # nothing is signed: there are no sessions and no forms
DEBUG = os.environ.get("ANSWERS_DEBUG", "").lower() in ("1", "true", "yes", "on")
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

INSTALLED_APPS = ["answers", "channelserver", "django.contrib.staticfiles"]

# All of these can be asynchronous. One that cannot would have the coroutine wait in a thread until it returns.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "answers.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

# No other process sends to this server, so it needs no local socket.
CHANNELSERVER = {"local_socket": ""}

TIME_ZONE = "UTC"  # of the log, too
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
