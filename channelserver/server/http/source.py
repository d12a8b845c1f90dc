"""What sends an answer from within the reactor, and the answer as it sees it.

Runs in the reactor thread.
"""

from __future__ import annotations

from typing import Any, Protocol

from channelserver.layers.content import Content
from channelserver.server.http.http1 import RequestHead
from channelserver.server.site import Site


class Source(Protocol):
    """Sends an answer from within the reactor."""

    def resume(self) -> None:
        """There is room: send more."""

    def close(self) -> None:
        """The exchange is over."""


class Answer(Protocol):
    """An exchange as its source sees it."""

    client: Any
    has_room: bool
    head: RequestHead
    name: str
    state: str

    @property
    def site(self) -> Site:
        """What all connections share."""

    def reply(self, content: Content) -> None:
        """Act on a reply."""

    def send_part(self, data: bytes) -> None:
        """Send a part of the body."""

    def fail(self, status: int, text: str = "") -> None:
        """Answer with an error, or break the answer off."""
