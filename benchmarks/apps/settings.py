"""Django's settings of the measured site, the same for every server.

Two variables of the environment alter them: ``BENCHMARK_MIDDLEWARE`` is ``none``, or ``default`` for what
``django-admin startproject`` writes; ``BENCHMARK_FOLDER`` is where the database is.
"""

import os
from pathlib import Path

SECRET_KEY = "for measuring only " * 3
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "benchmarks.apps.urls"
ASGI_APPLICATION = "benchmarks.apps.asgi.application"
WSGI_APPLICATION = "benchmarks.apps.wsgi.application"
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(os.environ["BENCHMARK_FOLDER"]) / "db.sqlite3",
    },
}

MIDDLEWARE = []
if os.environ["BENCHMARK_MIDDLEWARE"] == "default":
    MIDDLEWARE = [
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ]

# Each server's framework takes the layer of its own kind; both keep it in the memory of their one process.
if os.environ["BENCHMARK_LAYER"] == "channels":
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
else:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channelserver.layers.InMemoryChannelLayer",
            "ROUTING": "benchmarks.apps.routing.channel_routing",
        },
    }
