"""Settings of the chat site. Four environment variables steer it:

``CHATSITE_DATA``
    Folder for everything that is written: ``db.sqlite3``, ``secret_key``, ``channelserver.sock`` and the collected
    ``static/``.
    Default: ``data/`` beside ``manage.py``.
``CHATSITE_HOSTS``
    Further host names, separated by commas, under which the site may be reached.
``CHATSITE_DEBUG``
    ``1`` for Django's debug pages. Never where strangers can see them.
``CHATSITE_DEMO``
    Set by ``channelserver demo``: the pages say what to try. ``temporary`` if the folder is removed in the end.
"""

import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from django.core.management.utils import get_random_secret_key

from channelserver import data_folder

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = data_folder(os.environ.get("CHATSITE_DATA") or BASE_DIR / "data")


def secret_key(path):
    """Return the key kept in the file at ``path``; on first use, make one that only the owner can read."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(get_random_secret_key())
        # Of several processes that start together, one wins; a link never shows the others half a file.
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text().strip()


SECRET_KEY = secret_key(DATA_DIR / "secret_key")
DEBUG = os.environ.get("CHATSITE_DEBUG", "").lower() in ("1", "true", "yes", "on")
ALLOWED_HOSTS = [
    "localhost",
    "127.0.0.1",
    "[::1]",
    *(host.strip() for host in os.environ.get("CHATSITE_HOSTS", "").split(",") if host.strip()),
]
DEMO = os.environ.get("CHATSITE_DEMO", "")

INSTALLED_APPS = [
    "rooms",
    # Above staticfiles, so that "manage.py runserver" is the one that speaks WebSocket.
    "channelserver",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "chatsite.middleware.content_security_policy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    # Every page needs a log-in unless its view says otherwise.
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "chatsite.urls"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "rooms.context.demo",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA_DIR / "db.sqlite3",
        # The server keeps its threads, so a connection may live on from one message to the next.
        "CONN_MAX_AGE": 600,
        "OPTIONS": {
            "timeout": 20,
            # A transaction takes the write lock when it begins and so waits for its turn; one that asked for the
            # lock half-way would fail with "database is locked" instead.
            "transaction_mode": "IMMEDIATE",
            # With WAL, readers and the writer do not wait for each other.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# All of the real-time side: where messages travel, and which function takes which.
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channelserver.layers.InMemoryChannelLayer",
        "ROUTING": "chatsite.routing.channel_routing",
    },
}

# Every flag of "twistd channelserver --help" can stand here under its own name. Through this socket other processes,
# such as "manage.py say", send to the running server.
CHANNELSERVER = {"local_socket": str(DATA_DIR / "channelserver.sock")}

# Jobs need more packages: pip install "channelserver[jobs]". Without them there is no digest; see rooms/tasks.py.
if find_spec("cronsim") and (find_spec("django.tasks") or find_spec("django_tasks")):
    INSTALLED_APPS += ["channelserver.jobs"]
    TASKS = {"default": {"BACKEND": "channelserver.jobs.JobBackend"}}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "enter"
LOGIN_REDIRECT_URL = "lobby"
LOGOUT_REDIRECT_URL = "enter"

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    # Puts a hash of the content into each file's name, so browsers may keep the files for ever.
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"},
}

SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
