"""Answers with the content of a file: conditions, ranges and content codings (RFC 9110 sections 13, 14, 12.5.3).

Runs in the reactor thread; an open file is owned by the answer that sends it.

A file may be replaced, changed or removed at any moment, so it is opened first: length, tag and time of the answer are
those of the open file, and come with its content.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from calendar import timegm
from collections.abc import Sequence
from email.utils import formatdate, parsedate
from functools import lru_cache
from typing import Any

from channelserver.layers.base import FILE
from channelserver.server.http.exchange import Exchange
from channelserver.server.http.http1 import RequestHead
from channelserver.server.http.source import BLOCK

#: A header field: name and value.
Pair = list[bytes]

#: The codings in which files may be there, by the ends of their names; the shortest first.
CODINGS = {b"br": ".br", b"gzip": ".gz"}

#: Errors of a name that leads to no file.
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})

#: Fields of an answer which 304 has, too (section 15.4.5).
_NOT_MODIFIED = frozenset({b"Cache-Control", b"ETag", b"Vary"})

#: Never wait for the other end of a FIFO.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

_range = re.compile(rb"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*").fullmatch


class OpenFile:
    """A regular file, open for reading.

    :param place: its path, or a descriptor that stands for it.
    :raises OSError: it cannot be read, or is no regular file.
    """

    __slots__ = ("_descriptor", "_left", "_offset", "modified", "size", "tag")

    #: Seconds since 1970.
    modified: float

    def __init__(self, place: str) -> None:
        self._descriptor = os.open(place, _FLAGS)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "not a regular file")
        self.size = self._left = status.st_size
        self._offset = 0
        self.modified = status.st_mtime
        #: What an entity tag has of the file's state.
        self.tag = b"%x-%x" % (status.st_mtime_ns, self.size)

    def cut(self, start: int, end: int) -> None:
        """Only read the bytes from `start` to before `end`."""
        self._offset, self._left = start, end - start

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer than `size` at the end."""
        data = os.pread(self._descriptor, min(size, self._left), self._offset) if self._left else b""
        self._offset += len(data)
        self._left -= len(data)
        return data

    def fileno(self) -> int:
        return self._descriptor

    def tell(self) -> int:
        return self._offset

    def seek(self, position: int) -> None:
        self._left -= position - self._offset
        self._offset = position

    @property
    def end(self) -> int:
        """Where reading ends."""
        return self._offset + self._left

    @property
    def closed(self) -> bool:
        return self._descriptor < 0

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
            self._descriptor = -1


class State:
    """The header fields of one state of a file.

    :param fields: those that do not depend on its content.
    :param coding: of its content; empty: none.
    """

    __slots__ = ("coding", "date", "etag", "fields", "kept", "tag")

    def __init__(self, file: OpenFile, fields: Sequence[Pair], coding: bytes = b"") -> None:
        self.tag = file.tag
        self.coding = coding
        # Two codings of a file must not share a strong tag (section 8.8.3.3).
        self.etag = b'"%b-%b"' % (file.tag, coding) if coding else b'"%b"' % file.tag
        self.date = formatdate(int(file.modified), usegmt=True).encode("ascii")
        self.fields = [*fields, [b"Last-Modified", self.date], [b"ETag", self.etag]]
        if coding:
            self.fields.append([b"Content-Encoding", coding])
        self.kept = [pair for pair in self.fields if pair[0] in _NOT_MODIFIED]


def send(exchange: Exchange, file: OpenFile, state: State) -> bool:
    """Answer a request with an open file, which is closed in the end.

    :param state: that of the file.
    :returns: False, and nothing has been sent, if the file has just become shorter.
    :raises OSError: it cannot be read.
    """
    head, size, kept = exchange.head, file.size, False
    try:
        if _is_current(head, file, state):
            exchange.reply({"status": 304, "headers": state.kept, "content": b""})
            return True
        status, fields = 200, state.fields
        if b"range" in head.fields and head.method == "GET":
            part = _part(head, size, state)
            if part is not None:
                start, end = part
                if start >= end:
                    exchange.fail(416, "", [b"Content-Range", b"bytes */%d" % size])
                    return True
                status, fields = 206, [*fields, [b"Content-Range", b"bytes %d-%d/%d" % (start, end - 1, size)]]
                file.cut(start, end)
                size = end - start
        start_line = {"status": status, "headers": [*fields, [b"Content-Length", b"%d" % size]]}
        if head.method == "HEAD":
            exchange.reply(start_line)
        elif size > BLOCK:
            kept = True
            exchange.reply({**start_line, FILE: file})
        else:
            data = file.read(size)
            if len(data) < size:
                return False
            exchange.reply({**start_line, "content": data})
        return True
    finally:
        if not kept:
            file.close()


def _is_current(head: RequestHead, file: OpenFile, state: State) -> bool:
    """Whether the client has this state of the file already (sections 13.1.2 and 13.1.3)."""
    if b"if-none-match" in head.fields:
        tags = [tag.strip().removeprefix(b"W/") for tag in _joined(head, b"if-none-match").split(b",")]
        return state.etag in tags or tags == [b"*"]
    since = head.fields.get(b"if-modified-since")
    if since is None or since == state.date:
        return since is not None
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):  # whatever a date may be
        parsed = parsedate(since.decode("latin-1"))
        return parsed is not None and timegm(parsed) >= int(file.modified)
    return False


def _part(head: RequestHead, size: int, state: State) -> tuple[int, int] | None:
    """Return the part of a file that the client wants (section 14.1.2): its start, and the position after its end;
    empty if there is no such part; None: it gets the whole file, because it wants several parts, or has another state.
    """
    match = _range(head.fields[b"range"])
    if match is None or head.fields.get(b"if-range", state.etag) not in (state.etag, state.date):
        return None
    first, last = match.groups()
    if not first:
        return (max(0, size - int(last)), size) if last else None
    start = int(first)
    if last and int(last) < start:
        return None
    return start, min(int(last) + 1, size) if last else size


def accepted(head: RequestHead) -> tuple[tuple[bytes, ...], bool]:
    """Return the content codings that a client wants, the best first, and whether it takes plain content, too.

    Codings that only a ``*`` stands for are not wanted, unless plain content is refused.
    """
    value = head.fields.get(b"accept-encoding")
    if value is None:
        return (), True
    return _read_short_encodings(value) if len(value) <= 64 else _read_encodings(value)


def _read_encodings(value: bytes) -> tuple[tuple[bytes, ...], bool]:
    weights: dict[bytes, float] = {}
    for item in value.lower().split(b","):
        name, _, parameter = item.partition(b";")
        match = re.fullmatch(rb"\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*", parameter)
        weights[name.strip().removeprefix(b"x-")] = float(match[1]) if match else 1.0
    anything = weights.get(b"*", 0.0)
    plain = weights.get(b"identity", weights.get(b"*", 0.001))
    if plain <= 0 < anything:
        for coding in CODINGS:
            weights.setdefault(coding, anything)
    wanted = [coding for coding in CODINGS if weights.get(coding, 0.0) > 0 and weights[coding] >= plain]
    return tuple(sorted(wanted, key=lambda coding: -weights[coding])), plain > 0


_read_short_encodings = lru_cache(200)(_read_encodings)


def _joined(head: RequestHead, name: bytes) -> bytes:
    """Return the value of a field that may be there more than once."""
    return b",".join(value for key, value in head.headers if key == name)


def reason(error: Any) -> str:
    """Return why a file cannot be sent."""
    return (getattr(error, "strerror", None) or str(error)).lower()
