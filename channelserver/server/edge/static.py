"""Static files, served by the reactor without a worker thread.

Runs in the reactor thread; owns the list of files, which is made once at the start.

WhiteNoise finds the files and writes their headers (ETag, ranges, pre-compressed variants, immutable ones); the sending
is done here. A name is looked up in the list, never in the file system, so no request leads out of the folder.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from twisted.logger import Logger
from whitenoise import WhiteNoise
from whitenoise.responders import Response, SlicedFile

from channelserver.layers.base import FILE
from channelserver.server.http.exchange import Exchange
from channelserver.server.http.http1 import RequestHead

_log = Logger("channelserver.server.static")

#: Names with a hash of the content in them, as Django's ``ManifestStaticFilesStorage`` makes them, may be kept for
#: ever.
HASHED_NAME = re.compile(r"\.[0-9a-f]{12}\.[^/]+$")

#: The request fields WhiteNoise asks for.
_WANTED = {
    b"if-none-match": "HTTP_IF_NONE_MATCH",
    b"if-modified-since": "HTTP_IF_MODIFIED_SINCE",
    b"range": "HTTP_RANGE",
    b"accept-encoding": "HTTP_ACCEPT_ENCODING",
}


class StaticFiles:
    """All files below a folder, under a prefix of the path.

    :param folder: path of the folder (Django: ``STATIC_ROOT``).
    :param prefix: what their paths start with, with a slash at both ends (Django: ``STATIC_URL``).
    :param root_path: where the site is mounted.
    :param max_age: seconds for which browsers may keep a file without a hash in its name.
    """

    def __init__(self, folder: str, prefix: str, root_path: str = "", max_age: int = 60) -> None:
        noise = WhiteNoise(
            None, folder, prefix, max_age=max_age, immutable_file_test=lambda path, url: bool(HASHED_NAME.search(url))
        )
        self._prefix = root_path + prefix
        # Hidden files are not served.
        self._files = {root_path + path: file for path, file in noise.files.items() if "/." not in path}

    #: The name in the log; and whether every path below the prefix is a file or a 404.
    kind, exclusive = "static", False

    def __len__(self) -> int:
        return len(self._files)

    def file(self, path: str) -> Any:
        """Return WhiteNoise's file for the path of a request, None if there is none."""
        return self._files.get(path)

    def __call__(self, exchange: Exchange) -> bool:
        """Answer a request if it is for one of the files; return whether it was."""
        head = exchange.head
        if not head.path.startswith(self._prefix):
            return False
        try:
            file = self.file(head.path)
            response = None if file is None else respond(file, head)
        except (OSError, ValueError) as error:
            _log.error("{kind} file {path!r}: {error}", kind=self.kind, path=head.path, error=error)
            exchange.fail(404)
            return True
        if response is not None:
            send(exchange, response)
        elif self.exclusive:
            exchange.fail(404)
        return response is not None or self.exclusive


def send(exchange: Exchange, response: Any) -> None:
    """Answer with one of WhiteNoise's responses."""
    headers = [[name.encode("latin-1"), value.encode("latin-1")] for name, value in response.headers]
    start = {"status": int(response.status), "headers": headers}
    if response.file is None:
        exchange.reply({**start, "content": b""})
    else:
        exchange.reply({**start, FILE: response.file})


def _conditions(file: Any, head: RequestHead) -> dict[str, str]:
    """Return the request fields WhiteNoise asks for, put so that it understands all that RFC 9110 allows."""
    fields = {key: head.fields[name].decode("latin-1") for name, key in _WANTED.items() if name in head.fields}
    tags = fields.get("HTTP_IF_NONE_MATCH")
    if tags is not None and file.etag:  # section 13.1.2: a list, weak tags, a star; it compares one tag
        if file.etag in (tag.strip().removeprefix("W/") for tag in tags.split(",")) or tags.strip() == "*":
            fields["HTTP_IF_NONE_MATCH"] = file.etag
    if_range = head.fields.get(b"if-range")
    if if_range is not None:  # section 13.1.5; it does not know this field
        modified = dict(file.alternatives[0][2]).get("Last-Modified")
        if if_range.decode("latin-1") not in (file.etag, modified):
            fields.pop("HTTP_RANGE", None)
    return fields


def respond(file: Any, head: RequestHead) -> Any:
    """Return the response that one of WhiteNoise's files gives to a request.

    It takes a range of a single byte for an empty one; that case is ours.

    :raises OSError: the file cannot be read.
    """
    fields = _conditions(file, head)
    response = file.get_response(head.method, fields)
    if response.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return response
    path, headers = file.get_path_and_headers(fields)
    size = int(dict(headers)["Content-Length"])
    start, end = file.get_byte_range(fields["HTTP_RANGE"], size)
    if not 0 <= start == end < size:
        return response
    headers = [(name, value) for name, value in headers if name != "Content-Length"]
    headers += [("Content-Range", f"bytes {start}-{end}/{size}"), ("Content-Length", "1")]
    stream = SlicedFile(open(path, "rb"), start, end) if head.method == "GET" else None
    return Response(HTTPStatus.PARTIAL_CONTENT, headers, stream)
