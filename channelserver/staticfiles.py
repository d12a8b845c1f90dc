"""Static files of the development server, from the apps' folders (Channels 1: ``channels.staticfiles``).

Runs in worker threads.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from django.conf import settings
from django.contrib.staticfiles import utils
from django.contrib.staticfiles.views import serve
from django.core.handlers.exception import response_for_exception
from django.http import Http404

from channelserver.handler import AsgiHandler, ViewConsumer


class StaticFilesHandler(AsgiHandler):
    """Serves ``STATIC_URL`` from the apps' ``static`` folders, everything else from the views.

    :param insecure: also without ``DEBUG``.
    """

    def __init__(self, insecure: bool = True) -> None:
        super().__init__()
        utils.check_settings()
        self.base_url = urlsplit(settings.STATIC_URL)
        self.insecure = insecure

    def get_response(self, request: Any) -> Any:
        # STATIC_URL may be with or without the root path.
        prefix = self.base_url.path
        path = next((path for path in (request.path, request.path_info) if path.startswith(prefix)), None)
        if self.base_url.netloc or path is None:
            return super().get_response(request)
        try:
            response: Any = serve(request, url2pathname(path[len(prefix) :]), insecure=self.insecure)
        except Http404 as error:
            response = response_for_exception(request, error)
        return response


class StaticFilesConsumer(ViewConsumer):
    """The consumer of ``http.request`` with :class:`StaticFilesHandler`."""

    handler_class = StaticFilesHandler
