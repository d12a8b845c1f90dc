"""A connection between two processes of one machine, by which each can ask the other to do something.

Runs in the reactor thread; owns the requests that wait for an answer, and open files that have arrived.

The frames are those of :mod:`channelserver.processes.wire`. A request with a number gets an answer; one without is a
*note*. Notes and requests are begun in the order they were sent in. A note may bring an open file along.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from zope.interface import implementer

from channelserver.layers import ChannelFull, MessageTooLarge
from channelserver.processes import wire

_log = Logger("channelserver.processes.link")

#: Errors of a request that are the asker's business; any other is a fault of this side's, and logged.
EXPECTED = (ChannelFull, MessageTooLarge, TypeError, ValueError)

_ERRORS: dict[str, type[Exception]] = {kind.__name__: kind for kind in EXPECTED}


class LinkLost(ConnectionError):
    """The process at the other end has gone before it answered."""


@implementer(IFileDescriptorReceiver)
class Link(Int32StringReceiver):
    """One end of such a connection.

    :param handle: called with the name and the arguments of what the other end asks for; returns the answer, or a
        Deferred of it.
    """

    MAX_LENGTH = wire.MAX_FRAME

    def __init__(self, handle: Callable[[str, list[Any]], Any]) -> None:
        #: See above.
        self.handle = handle
        #: Called, with this link, when the connection has gone.
        self.when_lost: Callable[[Link], object] = _nothing
        self._answering: set[Any] = set()
        self._asked: dict[int, Any] = {}
        self._number = 0
        self._descriptors: deque[int] = deque()

    # -- asking --------------------------------------------------------------------------------------------------------

    def call(self, name: str, *arguments: Any) -> Any:
        """Ask for something.

        :returns: a Deferred of the answer, which fails with :class:`LinkLost` if there will be none.
        :raises MessageTooLarge: the arguments do not fit into a frame.
        """
        self._number += 1
        self._send([wire.VERSION, self._number, name, list(arguments)])
        answer: Any = Deferred()
        self._asked[self._number] = answer
        return answer

    def note(self, name: str, *arguments: Any, descriptor: int | None = None) -> None:
        """Tell something.

        :param descriptor: of an open file, which the other end gets, too. It must stay open until the other end has it.
        :raises MessageTooLarge: the arguments do not fit into a frame.
        """
        data = self._pack([wire.VERSION, None, name, list(arguments)])
        if descriptor is not None:
            self.transport.sendFileDescriptor(descriptor)  # type: ignore[union-attr]
        self.sendString(data)

    def take_descriptor(self) -> int:
        """Return the open file that has come with the note which is being handled."""
        return self._descriptors.popleft()

    def _send(self, frame: list[Any]) -> None:
        self.sendString(self._pack(frame))

    @staticmethod
    def _pack(frame: list[Any]) -> bytes:
        try:
            return wire.pack(frame)
        except ValueError as problem:
            raise MessageTooLarge(str(problem)) from problem

    # -- being asked ---------------------------------------------------------------------------------------------------

    def stringReceived(self, string: bytes) -> None:
        """Act on one frame."""
        number: Any = None
        try:
            frame = wire.unpack(string)
            if isinstance(frame, list) and len(frame) == 3:
                self._answered(*frame)
                return
            if not isinstance(frame, list) or len(frame) != 4:
                raise ValueError("a request is a list of a version, a number, a call and its arguments")
            version, number, name, arguments = frame
            if version != wire.VERSION:
                raise ValueError(f"this process speaks version {wire.VERSION} of the local protocol, not {version!r}")
            result = self.handle(name, arguments)
        except Exception as problem:
            self._refuse(number, problem)
            return
        if isinstance(result, Deferred):
            self._answering.add(result)
            result.addCallbacks(
                self._answer_later, self._fail_later, callbackArgs=(number, result), errbackArgs=(number, result)
            )
        elif number is not None:
            self._answer(number, result)

    def _answer_later(self, value: Any, number: Any, deferred: Any) -> None:
        self._answering.discard(deferred)
        if number is not None and self.connected:
            self._answer(number, value)

    def _fail_later(self, failure: Any, number: Any, deferred: Any) -> None:
        self._answering.discard(deferred)
        if self.connected:  # else the wait was cancelled, and nobody wants to know
            self._refuse(number, failure.value)

    def _answer(self, number: Any, result: Any) -> None:
        try:
            self._send([number, None, result])
        except MessageTooLarge as problem:
            self._refuse(number, MessageTooLarge(f"the answer is too large: {problem}"))

    def _refuse(self, number: Any, problem: BaseException) -> None:
        kind = type(problem).__name__
        if not isinstance(problem, EXPECTED):
            _log.error("error in a request of another process: {kind}: {problem}", kind=kind, problem=problem)
        # A note has no number, but if it could not be read, its sender should know.
        self._send([number, [kind, str(problem)], None])

    def _answered(self, number: Any, problem: Any, result: Any) -> None:
        answer = self._asked.pop(number, None)
        if answer is None:
            if problem is not None:
                _log.warn("another process refused a note: {problem}", problem=problem)
        elif problem is None:
            answer.callback(result)
        else:
            kind, text = problem
            answer.errback(_ERRORS.get(kind, RuntimeError)(text))

    # -- the connection ------------------------------------------------------------------------------------------------

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """See ``IFileDescriptorReceiver``: it arrives before the note it belongs to."""
        self._descriptors.append(descriptor)

    def connectionLost(self, reason: Any = None) -> None:
        """Nobody waits any longer, at either end."""
        self.connected = False
        for deferred in tuple(self._answering):
            deferred.cancel()
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            answer.errback(LinkLost("the process at the other end has gone"))
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self.when_lost(self)

    def lengthLimitExceeded(self, length: int) -> None:
        """See ``IntNStringReceiver``."""
        _log.warn("a frame of {length} bytes from another process was refused", length=length)
        self.transport.abortConnection()  # type: ignore[union-attr]


def ask(link: Link | None, name: str, *arguments: Any) -> Any:
    """Like :meth:`Link.call`, but whatever is wrong makes the Deferred fail.

    :param link: None: there is no connection.
    """
    if link is None:
        return fail(LinkLost("there is no connection to the server"))
    try:
        return link.call(name, *arguments)
    except MessageTooLarge as problem:
        return fail(problem)


def _nothing(link: Link) -> None:
    """Nobody wants to know."""
