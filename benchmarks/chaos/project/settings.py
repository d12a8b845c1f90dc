import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent
SECRET_KEY = "for the benchmark only " * 4
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "db.sqlite3",
        "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"},
    }
}
INSTALLED_APPS = ["channelserver", "channelserver.delay"]
MIDDLEWARE: list[str] = []
_REDIS = os.environ.get("CHAOS_REDIS")
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": f"channelserver.layers.{'Redis' if _REDIS else 'InMemory'}ChannelLayer",
        "ROUTING": "routing.channel_routing",
        "CONFIG": {"capacity": 10_000, **({"hosts": [_REDIS]} if _REDIS else {})},
    }
}
CHANNELSERVER = {"requeue": bool(os.environ.get("CHAOS_REQUEUE")), "health_figures": ["127.0.0.1"], "static": False}
