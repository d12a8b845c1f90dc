"""Answers whose body is a file: the reactor sends it, as fast as the client reads.

Runs in the reactor thread; a source owns the file, and is owned by its exchange.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from channelserver.server.http.source import Answer

_log = Logger("channelserver.server.http")

#: Bytes read from a file at a time.
BLOCK = 64 * 1024


class FileSource:
    """Sends a file, as fast as the client reads.

    :param file: an open file; it is closed at the end.
    """

    def __init__(self, exchange: Answer, file: Any) -> None:
        self._exchange = exchange
        self._file = file

    def resume(self) -> None:
        """Send the next parts, until the client's buffer is full or the file ends."""
        exchange = self._exchange
        try:
            while exchange.state == "streaming":
                block = self._file.read(BLOCK)
                if len(block) < BLOCK:
                    self.close()
                    exchange.reply({"content": block, "more_content": False})
                    return
                exchange.reply({"content": block, "more_content": True})
                if not exchange.has_room:
                    return
        except OSError as error:
            _log.error("the file for {path!r} cannot be read: {error}", path=exchange.head.path, error=error)
            self.close()
            exchange.fail(500)

    def close(self) -> None:
        self._file.close()
