"""The complete requests of one HTTP/2 connection: some are with consumers, further ones wait.

Runs in the reactor thread; owned by its connection.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from channelserver.server.site import Site

#: Requests of a connection that are with consumers at a time, or whose long answers are on the way.
RUNNING = 16
#: While so many bytes of answers wait for the client, further requests wait, too.
HOLD = 1024 * 1024
#: A request whose client takes it back keeps its place for so many seconds: its consumer may go on for some time.
TAKEN_BACK_SECONDS = 1.0


class Owner(Protocol):
    """A connection, as its queue sees it."""

    def has_room(self) -> bool:
        """Whether the client takes its answers."""

    def on_tick(self, now: float) -> float | None:
        """Let the queue go on."""


class Request(Protocol):
    """A stream, as the queue of its connection sees it."""

    placed: bool
    site: Site
    state: str

    @property
    def connection(self) -> Owner:
        """Whose stream it is."""

    def dispatch(self) -> None:
        """Give the request to the dispatcher."""


class RequestQueue:
    """Gives requests to the dispatcher, in order, as long as there is room."""

    __slots__ = ("_taken_back", "running", "waiting")

    def __init__(self) -> None:
        #: How many are with consumers.
        self.running = 0
        #: Those that wait.
        self.waiting: deque[Request] = deque()
        self._taken_back: deque[float] = deque()  # when these places are free again

    def add(self, stream: Request) -> None:
        """A request is complete."""
        if self.waiting or not self._has_room(stream):
            stream.state = "held"
            self.waiting.append(stream)
            stream.site.held_back += 1
        else:
            self.running += 1
            stream.placed = True
            stream.dispatch()

    def go_on(self) -> None:
        """Dispatch those that wait, if there is room for them."""
        while self.waiting and self._has_room(self.waiting[0]):
            stream = self.waiting.popleft()
            stream.site.held_back -= 1
            if stream.state == "held":
                self.running += 1
                stream.placed = True
                stream.dispatch()

    def take_back(self, stream: Request) -> None:
        """The client does not want an answer, but a consumer may still work on it: its place is free in a while."""
        due = stream.site.wheel.now() + TAKEN_BACK_SECONDS
        self._taken_back.append(due)
        stream.site.wheel.add(stream.connection, due)

    def clear(self) -> None:
        """Forget those that wait."""
        for stream in self.waiting:
            stream.site.held_back -= 1
        self.waiting.clear()

    @property
    def due(self) -> float | None:
        """When there is room again, if that is only a question of time."""
        return self._taken_back[0] if self._taken_back and self.waiting else None

    def _has_room(self, request: Request) -> bool:
        taken_back = self._taken_back
        if taken_back:
            now = request.site.wheel.now()
            while taken_back and taken_back[0] <= now:
                taken_back.popleft()
                self.running -= 1
        return self.running < RUNNING and request.connection.has_room()
