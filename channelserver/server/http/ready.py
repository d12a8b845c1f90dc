"""Answers that are ready in memory: the whole of a small file.

Runs in the reactor thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from channelserver.layers.content import Content

if TYPE_CHECKING:
    from channelserver.server.http.http1 import RequestHead

#: A field to send: name, value, and its line in a head.
Field = tuple[bytes, bytes, bytes]


class Ready:
    """A complete answer with status 200.

    :param headers: its fields, without ``Date`` and ``Content-Length``; well-formed.
    """

    __slots__ = ("_date", "_fields", "_fields_for", "_head", "_headers", "_message", "size")

    def __init__(self, headers: Sequence[list[bytes]], body: bytes) -> None:
        self.size = len(body)
        self._headers = [*headers, [b"Content-Length", b"%d" % len(body)]]
        self._head = b"HTTP/1.1 200 OK\r\n" + b"".join([b"%b: %b\r\n" % (name, value) for name, value in self._headers])
        self._date, self._message = b"", body  # the body is kept once, as the end of the latest message
        self._fields_for: Sequence[object] = ()
        self._fields: tuple[tuple[bytes, bytes], ...] = ()

    def is_current(self, turn: float, now: Callable[[], float]) -> bool:
        """Whether it is still the answer.

        :param turn: when the reactor began its current turn.
        :param now: returns seconds of the server's clock.
        """
        return True

    def message(self, date: bytes, further: bytes = b"") -> bytes:
        """Return head and body for a client of HTTP/1.1 that keeps its connection.

        :param date: the line of the ``Date`` field.
        :param further: lines of further fields.
        """
        if further:
            return b"%b%b%b\r\n%b" % (self._head, date, further, self._body())
        if date is not self._date:
            self._date, self._message = date, b"%b%b\r\n%b" % (self._head, date, self._body())
        return self._message

    def fields(self, *further: Field | None) -> tuple[tuple[bytes, bytes], ...]:
        """Return the fields of the answer for a client of HTTP/2.

        :param further: those that the file does not have, such as ``Date``; None: there is none.
        """
        if further != self._fields_for:
            own = [(name.lower(), value) for name, value in self._headers]
            others = [(field[0].lower(), field[1]) for field in further if field is not None]
            self._fields_for, self._fields = further, ((b":status", b"200"), *own[:-1], *others, own[-1])
        return self._fields

    def body(self) -> memoryview:
        """Return the content."""
        return memoryview(self._message)[len(self._message) - self.size :]

    def reply(self) -> Content:
        """Return it as a reply, for any exchange."""
        return {"status": 200, "headers": self._headers, "content": self._body()}

    def _body(self) -> bytes:
        return self._message[len(self._message) - self.size :]


class Served:
    """A request that was answered from memory, as the access log sees it."""

    __slots__ = ("client", "head", "size")

    status = 200

    def __init__(self, head: RequestHead, client: object, size: int) -> None:
        self.head = head
        self.client = client
        self.size = size


class Files(Protocol):
    """Answers requests for files in the reactor."""

    def __call__(self, exchange: object, /) -> bool:
        """Answer a request if it is for one of the files; return whether it was."""

    def ready(self, head: RequestHead, turn: float, now: Callable[[], float], /) -> Ready | None:
        """Return the answer to a request if it is in memory and current, see :meth:`Ready.is_current`."""
