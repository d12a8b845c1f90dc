"""A small request through Django's WSGI handler, with all that channelserver changes in Django.

``plain`` in the environment variable ``MIDDLEWARE`` leaves Django's default middleware out.
"""

import os
import sys

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from measure import start

urlpatterns = [path("", lambda request: HttpResponse("hello"))]
middleware = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["localhost"],
    SECRET_KEY="not secret",
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
    MIDDLEWARE=[] if os.environ.get("MIDDLEWARE") == "plain" else middleware,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "CONN_MAX_AGE": None}},
)
django.setup()

variant, count = sys.argv[1], int(sys.argv[2])
if variant == "changed":
    from channelserver.workers.django_cleanup import install

    install()
application = get_wsgi_application()
environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_HOST": "localhost", "SERVER_NAME": "localhost"}
environ.update({"SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.input": sys.stdin})
start()
for _ in range(count):
    application(dict(environ), lambda status, headers: None).close()
