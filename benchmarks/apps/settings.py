"""Django's settings of the measured site, the same for every server.

Environment variables change them: ``BENCHMARK_URLS`` is the module of the URLconf; ``BENCHMARK_MIDDLEWARE`` is
``none``, or ``default`` for the middleware of ``django-admin startproject``; ``BENCHMARK_FOLDER`` is the folder of the
database; ``BENCHMARK_FRAMEWORK``, ``channelserver`` or ``channels``, selects the channel layer; with
``BENCHMARK_GROUPS=no``, Channels 4 has none; with ``BENCHMARK_CONSUMERS=none``, the site is plain Django. If
``BENCHMARK_REDIS`` is a URL, the layer is in that Redis, and ``BENCHMARK_LAYER`` selects the layer of channels_redis:
``core`` or ``pubsub``.
"""

import os
from pathlib import Path

SECRET_KEY = "for measuring only " * 3
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = f"benchmarks.apps.{os.environ['BENCHMARK_URLS']}"
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

if (Path(os.environ["BENCHMARK_FOLDER"]) / "static").is_dir():
    STATIC_URL, STATIC_ROOT = "/static/", Path(os.environ["BENCHMARK_FOLDER"]) / "static"

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

# Each framework has its own layer, in the memory of its one process unless there is a Redis. With the layer of
# Channels, a message costs more with every open socket, so works that need no layer have none.
REDIS = os.environ["BENCHMARK_REDIS"]
if os.environ["BENCHMARK_CONSUMERS"] == "none":
    pass  # as in a project that does not know of channels
elif os.environ["BENCHMARK_FRAMEWORK"] == "channels" and os.environ["BENCHMARK_GROUPS"] == "no":
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
