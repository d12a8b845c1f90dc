"""Django's settings of the site that :mod:`benchmarks.attacks` attacks."""

import os
from pathlib import Path

SECRET_KEY = "for measuring only " * 3
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "benchmarks.apps.attacked_site"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.sessions"]
MIDDLEWARE: list[str] = []
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(os.environ["BENCHMARK_FOLDER"]) / "db.sqlite3",
    },
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channelserver.layers.InMemoryChannelLayer",
        "ROUTING": "benchmarks.apps.attacked_site.channel_routing",
    },
}
