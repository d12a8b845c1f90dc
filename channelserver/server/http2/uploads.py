"""The request bodies that come in on one HTTP/2 connection: how much the client may send (RFC 9113 section 5.2).

Runs in the reactor thread; owned by its connection.

A stream's first window is as large as a body that travels in its message. A larger body needs a temporary file, and a
connection has only a few of these: the window of a further stream stays closed until another body has been consumed.
The connection's own window is opened at once for all that arrives, so that no stream blocks another.
"""

from __future__ import annotations

from collections import deque
from typing import IO, Protocol
from weakref import ref

from h2.connection import H2Connection

from channelserver.server.common.wheel import Timed
from channelserver.server.http.body import BODY_IN_MESSAGE
from channelserver.server.http.http1 import RequestHead
from channelserver.server.http2.state import CONNECTION_WINDOW, STREAM_WINDOW
from channelserver.server.site import Site

#: Temporary files of a connection at a time, from when a body needs one until its consumer has closed it.
FILES = 3
#: Seconds between two looks at the files that consumers have.
LOOK_SECONDS = 0.5


class Upload(Protocol):
    """A stream, as its connection's uploads see it."""

    head: RequestHead
    number: int
    site: Site
    #: Bytes that the client may send.
    window: int

    @property
    def connection(self) -> Timed:
        """Whose stream it is."""

    @property
    def body_size(self) -> int:
        """Bytes of the body so far."""

    @property
    def wants_body(self) -> bool:
        """Whether more of the body is to come."""

    def block(self, now: float) -> None:
        """The client may send nothing for a while."""

    def unblock(self, now: float) -> None:
        """The client may send again."""


class Uploads:
    """Opens the windows of a connection and its streams."""

    __slots__ = ("_files", "_granted", "_state", "_unacknowledged", "waiting")

    def __init__(self, state: H2Connection) -> None:
        self._state = state
        self._unacknowledged = 0
        self._granted: set[Upload] = set()  # streams whose bodies have, or will have, a file
        self._files: list[ref[IO[bytes]]] = []  # files that consumers have
        #: Streams that need a file.
        self.waiting: deque[Upload] = deque()

    def received(self, size: int) -> None:
        """So many bytes have arrived on the connection."""
        self._unacknowledged += size
        if self._unacknowledged >= CONNECTION_WINDOW // 4:
            self._state.increment_flow_control_window(self._unacknowledged)
            self._unacknowledged = 0

    def open_window(self, stream: Upload, now: float) -> None:
        """Let a client send more of a stream's body, if it needs to and may."""
        if stream in self._granted:
            if stream.window < STREAM_WINDOW // 2:
                self._increment(stream, STREAM_WINDOW - stream.window)
            return
        room = BODY_IN_MESSAGE - stream.body_size
        if room < BODY_IN_MESSAGE // 2 or (stream.head.length or 0) > BODY_IN_MESSAGE:
            if self._has_file():
                self._grant(stream, now)
                return
            if stream not in self.waiting:
                self.waiting.append(stream)
                stream.site.wheel.add(stream.connection, now + LOOK_SECONDS)
            if room <= 0:
                stream.block(now)
        if 0 <= stream.window < room // 2:  # padding has taken up the rest
            self._increment(stream, room - stream.window)

    def ended(self, stream: Upload, file: IO[bytes] | None) -> None:
        """A body is complete, or dropped.

        :param file: its file, which a consumer gets.
        """
        self._granted.discard(stream)
        if file is not None:
            self._files.append(ref(file))

    def go_on(self, now: float) -> None:
        """Let further bodies have the files that have been closed."""
        while self.waiting and self._has_file():
            stream = self.waiting.popleft()
            if stream.wants_body and stream not in self._granted:
                self._grant(stream, now)

    def _has_file(self) -> bool:
        if self._files:
            found = [(reference, reference()) for reference in self._files]
            self._files = [reference for reference, file in found if file is not None and not file.closed]
        return len(self._granted) + len(self._files) < FILES

    def _grant(self, stream: Upload, now: float) -> None:
        self._granted.add(stream)
        stream.unblock(now)
        self._increment(stream, STREAM_WINDOW - stream.window)

    def _increment(self, stream: Upload, size: int) -> None:
        stream.window += size
        self._state.increment_flow_control_window(size, stream.number)
