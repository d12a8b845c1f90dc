"""Django's request, built from an ``http.request`` message (Channels 1: ``channels.handler.AsgiRequest``).

A request belongs to the thread that answers it.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from io import BytesIO
from typing import Any, ClassVar
from urllib.parse import quote

from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpResponse, QueryDict, parse_cookie
from django.utils.functional import cached_property

from channelserver._version import __version__
from channelserver.channel import Channel
from channelserver.exceptions import RequestAborted, RequestTimeout, ResponseLater
from channelserver.message import Message

logger = logging.getLogger("channelserver.handler")

#: Largest body from ``body_channel`` that is kept in memory, in bytes.
SPOOL_BYTES = 64 * 1024

#: Paths of up to so many characters are remembered.
SHORT_PATH = 128
#: Header names of up to so many characters are remembered.
SHORT_NAME = 64

SERVER_SOFTWARE = f"channelserver/{__version__}"
#: What is the same in each environ.
_SAME: dict[str, Any] = {
    "SERVER_SOFTWARE": SERVER_SOFTWARE,
    "wsgi.version": (1, 0),
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
    "wsgi.input_terminated": True,
}

_meta_names: dict[bytes, str] = {}
#: The names in an environ that do not begin with ``HTTP_``.
_PLAIN_NAMES = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}


class AsgiRequest(WSGIRequest):
    """A request that runs in a thread, as views and middleware see it.

    It is a ``WSGIRequest``: libraries tell by that class whether a request is asynchronous. Its ``META`` is its
    ``environ`` (PEP 3333), with the keys that other servers have.

    :param message: needs ``path`` and ``method``; the other keys of ``http.request`` are optional.
    :raises UnicodeDecodeError: a header's name is not ASCII.
    :raises RequestTimeout: a part of the body did not arrive in time.
    :raises RequestAborted: the client left before the body was complete.
    """

    ResponseLater = ResponseLater

    #: Seconds to wait for each further part of a body that comes through ``body_channel``.
    body_receive_timeout: ClassVar[float] = 60.0

    resolver_match: Any = None
    _read_started = _post_parse_error = False
    _encoding: str | None
    _set_content_type_params: Callable[[dict[str, Any]], None]

    def __init__(self, message: Message, environ: dict[str, Any] | None = None) -> None:
        if environ is None:
            environ = make_environ(message)
            open_body(message, environ, self.body_receive_timeout)
        self.message = message
        self.META = self.environ = environ
        self.script_name = environ["SCRIPT_NAME"]
        self.path_info = environ["PATH_INFO"]
        self.path = self.script_name + self.path_info
        self.method = environ["REQUEST_METHOD"]
        self._set_content_type_params(environ)
        self._stream = environ["wsgi.input"]

    def close(self) -> None:
        super().close()
        self._stream.close()

    def _get_scheme(self) -> str:
        scheme: str = self.environ["wsgi.url_scheme"]
        return scheme

    @cached_property
    def reply_channel(self) -> Channel | None:
        """The channel for the response."""
        return self.message.reply_channel

    @cached_property
    def GET(self) -> QueryDict:  # type: ignore[override]
        return QueryDict(self.message.content.get("query_string") or b"", encoding=self._encoding)

    @cached_property
    def COOKIES(self) -> dict[str, str]:  # type: ignore[override]
        return parse_cookie(self.META.get("HTTP_COOKIE", ""))


def read_request(message: Message, timeout: float) -> dict[str, Any] | HttpResponse | None:
    """Return the environ of an ``http.request`` message, with its body; or the answer, if it is not to be had.

    :param timeout: seconds to wait for each further part of a body that comes through ``body_channel``.
    :returns: None: the client left before the body was complete.
    """
    try:
        environ = make_environ(message)
        open_body(message, environ, timeout)
        return environ
    except UnicodeDecodeError:
        logger.warning("a header's name is not ASCII", exc_info=True)
        return HttpResponse("Bad request\n", status=400, content_type="text/plain")
    except RequestTimeout:
        return HttpResponse("The request's body did not come in time\n", status=408, content_type="text/plain")
    except RequestAborted:
        return None


def make_environ(message: Message) -> dict[str, Any]:
    """Return the environ of an ``http.request`` message; ``wsgi.input`` is missing.

    ``PATH_INFO`` is decoded as Django's requests have it in ``META``, unlike in PEP 3333.

    :raises UnicodeDecodeError: a header's name is not ASCII, or a path in bytes is not UTF-8.
    """
    content = message.content
    path = content["path"]
    if isinstance(path, bytes):  # Channels 0.9, and tests
        path = path.decode("utf-8")
    root = content.get("root_path") or ""
    inner = path
    if root:  # the proxy may or may not have cut the mount point off
        root = root.rstrip("/")
        if path == root or path.startswith(root + "/"):
            inner = path[len(root) :]
    query = content.get("query_string")
    query = _text(query) if query else ""
    server = content.get("server")
    client = content.get("client")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": content["method"].upper(),
        "SCRIPT_NAME": root,
        "PATH_INFO": inner,
        "QUERY_STRING": query,
        "REMOTE_ADDR": client[0] if client else "",
        "SERVER_NAME": server[0] if server else "unknown",
        "SERVER_PORT": str(server[1]) if server else "0",
        "SERVER_PROTOCOL": "HTTP/" + content.get("http_version", "1.1"),
        **_SAME,
        "wsgi.url_scheme": content.get("scheme") or "http",
        "wsgi.errors": sys.stderr,
    }
    if client:
        environ["REMOTE_HOST"] = client[0]
        environ["REMOTE_PORT"] = int(client[1])
    target = _quote_short(path) if len(path) <= SHORT_PATH else _quote(path)
    environ["RAW_URI"] = f"{target}?{query}" if query else target
    headers = content.get("headers") or ()
    for name, value in headers.items() if isinstance(headers, dict) else headers:
        key = _meta_names.get(name)
        if key is None:
            if isinstance(name, str):
                name = name.encode("ascii")
            if b"_" in name:  # would be taken for the same name with "-" (CVE-2015-0219)
                continue
            key = _PLAIN_NAMES.get(name) or "HTTP_" + name.decode("ascii").upper().replace("-", "_")
            if len(name) <= SHORT_NAME:  # clients choose the names
                if len(_meta_names) >= 1000:
                    _meta_names.clear()
                _meta_names[name] = key
        value = value.decode("latin-1") if isinstance(value, bytes) else value
        if key in environ:  # RFC 9110 section 5.3; cookies: RFC 9113 section 8.2.3
            value = environ[key] + ("; " if key == "HTTP_COOKIE" else ", ") + value
        environ[key] = value
    return environ


def open_body(message: Message, environ: dict[str, Any], timeout: float) -> None:
    """Put the body of a request into its environ.

    :param timeout: seconds to wait for each further part of a body that comes through ``body_channel``.
    :raises RequestTimeout: the parts did not come in time.
    :raises RequestAborted: the client left before the body was complete.
    """
    stream: Any = message.body_file
    if stream is None:
        if message.content.get("body_channel"):
            stream = _collect_body(message, timeout)
        else:
            stream = BytesIO(message.content.get("body", b""))
    environ["wsgi.input"] = stream
    if "HTTP_TRANSFER_ENCODING" in environ:
        # The length of a chunked body is known by now; form parsers need it.
        environ["CONTENT_LENGTH"] = str(stream.seek(0, 2))
        stream.seek(0)


def _collect_body(message: Message, timeout: float) -> Any:
    """Read the body from the messages of its ``body_channel`` into memory, or into a file if it is large."""
    stream: Any = BytesIO()
    stream.write(message.content.get("body", b""))
    try:
        for part in _parts(message, timeout):
            stream.write(part)
            if isinstance(stream, BytesIO) and stream.tell() > SPOOL_BYTES:
                head, stream = stream, tempfile.TemporaryFile()
                stream.write(head.getvalue())
    except BaseException:
        stream.close()
        raise
    stream.seek(0)
    return stream


def _parts(message: Message, timeout: float) -> Iterator[bytes]:
    ends = time.monotonic() + timeout
    while True:
        channel, part = message.channel_layer.receive([message.content["body_channel"]], block=True)
        if channel is None:
            if time.monotonic() >= ends:
                raise RequestTimeout
            continue
        if part.get("closed"):
            raise RequestAborted
        yield part.get("content") or b""
        if not part.get("more_content"):
            return
        ends = time.monotonic() + timeout


def _quote(path: str) -> str:
    """Return a path as it stands in a request's first line."""
    return quote(path, safe="/!$&'()*+,;=:@%")


#: The paths of most requests are few.
_quote_short = lru_cache(1000)(_quote)


def _text(query_string: bytes | str) -> str:
    if isinstance(query_string, str):
        return query_string
    try:
        return query_string.decode("utf-8")
    except UnicodeDecodeError:
        return query_string.decode("latin-1")
