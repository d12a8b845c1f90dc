"""Django's settings for the unit tests: as little as sessions and users need.

The database is in memory. It has a name, so that all threads of the test process see the same one; it ends with the
process.
"""

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1"]
USE_TZ = True

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "channelserver.delay",
    "channelserver.jobs",
    "tests.places",
]
# django.tasks reads it from Django 6 on; before that, the package django-tasks does.
TASKS = {"default": {"BACKEND": "channelserver.jobs.JobBackend", "QUEUES": []}}

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": "file:channelserver-tests?mode=memory&cache=shared",
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# Tables are made straight from the models: no test is about migrations, and it is quicker.
MIGRATION_MODULES = {
    "auth": None,
    "contenttypes": None,
    "sessions": None,
    "channelserver_delay": None,
    "channelserver_jobs": None,
}

# A real hash takes as long as a hundred tests.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
