"""Django's settings of the site."""

import os
from pathlib import Path

SECRET_KEY = "for measuring only " * 3
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "benchmarks.apps.soaked.views"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "channelserver",
    "channelserver.delay",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "benchmarks.apps.soaked",
]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(os.environ["BENCHMARK_FOLDER"]) / "db.sqlite3",
        "OPTIONS": {
            "timeout": 30,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF",
        },
    },
}
#: Sockets outlive it.
SESSION_COOKIE_AGE = 20
_REDIS = os.environ.get("BENCHMARK_REDIS")
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": f"channelserver.layers.{'RedisChannelLayer' if _REDIS else 'InMemoryChannelLayer'}",
        "ROUTING": "benchmarks.apps.soaked.consumers.channel_routing",
        "CONFIG": {"hosts": [_REDIS]} if _REDIS else {},
    },
}
