"""Django's request, built from an ``http.request`` message (Channels 1: ``channels.handler.AsgiRequest``).

A request belongs to the thread that answers it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, ClassVar

from django.http import HttpRequest, QueryDict, parse_cookie
from django.utils.datastructures import MultiValueDict
from django.utils.functional import cached_property

from channelserver.channel import Channel
from channelserver.exceptions import RequestAborted, RequestTimeout, ResponseLater
from channelserver.message import Message

#: Largest body from ``body_channel`` that is kept in memory, in bytes.
SPOOL_BYTES = 64 * 1024

_meta_names: dict[bytes, str] = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}


class AsgiRequest(HttpRequest):
    """A request as views and middleware see it.

    :param message: needs ``path`` and ``method``; the other keys of ``http.request`` are optional.
    :raises UnicodeDecodeError: a header's name is not ASCII.
    :raises RequestTimeout: a part of the body did not arrive in time.
    :raises RequestAborted: the client left before the body was complete.
    """

    ResponseLater = ResponseLater

    #: Seconds to wait for each further part of a body that comes through ``body_channel``.
    body_receive_timeout: ClassVar[float] = 60.0

    _post: Any
    _files: MultiValueDict[str, Any]
    _encoding: str | None
    _set_content_type_params: Callable[[dict[str, Any]], None]

    def __init__(self, message: Message) -> None:
        content = message.content
        self.message = message
        self.resolver_match = None
        self._read_started = False
        self._post_parse_error = False

        path = content["path"]
        # The proxy may or may not have cut the mount point off.
        self.script_name = root = (content.get("root_path") or "").rstrip("/")
        self.path_info = path[len(root) :] if root and (path == root or path.startswith(root + "/")) else path
        self.path = root + self.path_info
        self.method = content["method"].upper()

        self.META = meta = {
            "REQUEST_METHOD": self.method,
            "QUERY_STRING": _text(content.get("query_string", b"")),
            "SCRIPT_NAME": root,
            "PATH_INFO": self.path_info,
            "SERVER_PROTOCOL": "HTTP/" + content.get("http_version", "1.1"),
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
        }
        client = content.get("client")
        if client:
            meta["REMOTE_ADDR"] = meta["REMOTE_HOST"] = client[0]
            meta["REMOTE_PORT"] = int(client[1])
        server = content.get("server")
        meta["SERVER_NAME"], meta["SERVER_PORT"] = (server[0], str(server[1])) if server else ("unknown", "0")
        headers = content.get("headers", ())
        self._add_headers(headers.items() if isinstance(headers, dict) else headers)
        self._set_content_type_params(meta)
        self._stream = self._open_body(message)

    def _add_headers(self, headers: Any) -> None:
        meta = self.META
        for name, value in headers:
            if isinstance(name, str):
                name = name.encode("ascii")
            key = _meta_names.get(name)
            if key is None:
                if b"_" in name:  # would be taken for the same name with "-" (CVE-2015-0219)
                    continue
                key = "HTTP_" + name.decode("ascii").upper().replace("-", "_")
                if len(_meta_names) < 1000:
                    _meta_names[name] = key
            value = value.decode("latin-1") if isinstance(value, bytes) else value
            if key in meta:  # RFC 9110 section 5.3; cookies: RFC 9113 section 8.2.3
                value = meta[key] + ("; " if key == "HTTP_COOKIE" else ", ") + value
            meta[key] = value

    def _open_body(self, message: Message) -> Any:
        content = message.content
        stream: Any = message.body_file
        if stream is None:
            stream = BytesIO(content.get("body", b""))
            if content.get("body_channel"):
                stream = self._collect_body(message)
        if "HTTP_TRANSFER_ENCODING" in self.META:
            # The length of a chunked body is known by now; form parsers need it.
            self.META["CONTENT_LENGTH"] = str(stream.seek(0, 2))
            stream.seek(0)
        return stream

    def _collect_body(self, message: Message) -> Any:
        """Read the body from the messages of its ``body_channel`` into memory, or into a file if it is large."""
        stream: Any = BytesIO()
        stream.write(message.content.get("body", b""))
        try:
            for part in self._parts(message):
                stream.write(part)
                if isinstance(stream, BytesIO) and stream.tell() > SPOOL_BYTES:
                    head, stream = stream, tempfile.TemporaryFile()
                    stream.write(head.getvalue())
        except BaseException:
            stream.close()
            raise
        stream.seek(0)
        return stream

    def _parts(self, message: Message) -> Iterator[bytes]:
        ends = time.monotonic() + self.body_receive_timeout
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
            ends = time.monotonic() + self.body_receive_timeout

    def close(self) -> None:
        super().close()
        self._stream.close()

    def _get_scheme(self) -> str:
        return self.message.content.get("scheme") or "http"

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

    @property
    def POST(self) -> Any:
        if not hasattr(self, "_post"):
            self._load_post_and_files()
        return self._post

    @POST.setter
    def POST(self, post: Any) -> None:
        self._post = post

    @property
    def FILES(self) -> MultiValueDict[str, Any]:  # type: ignore[override]
        if not hasattr(self, "_files"):
            self._load_post_and_files()
        return self._files


def _text(query_string: bytes | str) -> str:
    if isinstance(query_string, str):
        return query_string
    try:
        return query_string.decode("utf-8")
    except UnicodeDecodeError:
        return query_string.decode("latin-1")
