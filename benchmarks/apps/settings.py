"""Django's settings of the measured site, the same for every server.

Variables of the environment alter them: ``BENCHMARK_MIDDLEWARE`` is ``none``, or ``default`` for what ``django-admin
startproject`` writes; ``BENCHMARK_FOLDER`` is where the database is; ``BENCHMARK_FRAMEWORK`` is ``channelserver`` or
``channels``: whose channel layer there is; with ``no`` for ``BENCHMARK_GROUPS``, Channels 4 has none. If
``BENCHMARK_REDIS`` is a URL, the layer is in that Redis, and ``BENCHMARK_LAYER`` says which of channels_redis it is:
``core`` or ``pubsub``.
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

# Each framework takes a layer of its own kind, in the memory of its one process unless there is a Redis. With that of
# Channels, each message costs the more the more sockets there are, so it is left out where it is not needed.
REDIS = os.environ["BENCHMARK_REDIS"]
if os.environ["BENCHMARK_FRAMEWORK"] == "channels" and os.environ["BENCHMARK_GROUPS"] == "no":
    CHANNEL_LAYERS = {}
elif os.environ["BENCHMARK_FRAMEWORK"] == "channels" and REDIS:
    LAYERS = {
        "core": "channels_redis.core.RedisChannelLayer",
        "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
    }
    CHANNEL_LAYERS = {
        "default": {"BACKEND": LAYERS[os.environ["BENCHMARK_LAYER"]], "CONFIG": {"hosts": [REDIS]}},
    }
elif os.environ["BENCHMARK_FRAMEWORK"] == "channels":
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
elif REDIS:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channelserver.layers.RedisChannelLayer",
            "ROUTING": "benchmarks.apps.routing.channel_routing",
            "CONFIG": {"hosts": [REDIS]},
        },
    }
else:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channelserver.layers.InMemoryChannelLayer",
            "ROUTING": "benchmarks.apps.routing.channel_routing",
        },
    }
