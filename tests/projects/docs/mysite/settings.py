from pathlib import Path

BASE_DIR = Path(__file__).parent.parent
SECRET_KEY = "only for tests"
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "mysite.urls"
USE_TZ = True
STATIC_URL = "/static/"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
INSTALLED_APPS = [
    "channelserver",
    "channelserver.delay",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    *{"chat", *(path.parent.name for path in BASE_DIR.glob("*/models.py"))},
]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channelserver.layers.InMemoryChannelLayer",
        "ROUTING": "mysite.routing.channel_routing",
    },
}
