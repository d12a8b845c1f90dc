"""A connection between two processes of one machine; each can send requests to the other.

Runs in the reactor thread; owns the requests that wait for an answer, and the file descriptors that have arrived.

:mod:`channelserver.processes.wire` describes the frames. A request with a number gets an answer; one without is a
*note*. The receiver handles requests and notes in the order in which they were sent. A note can carry a file
descriptor.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IConsumer,
    IFileDescriptorReceiver,
    IPushProducer,
    IReactorCore,
    IReactorProcess,
    IReactorSocket,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
    IReactorUNIX,
    ITCPTransport,
    ITransport,
    IUNIXTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from channelserver.layers import MessageTooLarge, NotSendable
from channelserver.processes import wire

_log = Logger("channelserver.processes.link")


#: Bytes that may wait for a process that does not read, before further messages to it are dropped.
CROWDED = 32 * 1024 * 1024


class LinkLost(ConnectionError):
    """The other process ended before it answered."""


class NoLink(ConnectionError):
    """There is no connection to the other process, so it was not asked."""


class IReactor(
    IReactorCore,
    IReactorProcess,
    IReactorSocket,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
    IReactorUNIX,
):
    """The parts of Twisted's reactor that this package uses; for type checkers."""


class ILinkTransport(IUNIXTransport, ITCPTransport):
    """Twisted's connected Unix socket; for type checkers."""

    disconnecting: bool

    def pauseProducing() -> None:
        """Read nothing more (Twisted: ``IPushProducer``)."""

    def resumeProducing() -> None:
        """Read again."""

    def doWrite() -> object:
        """Send some of what is buffered (Twisted: ``IWriteDescriptor``)."""

    def unregisterProducer() -> None:
        """No producer writes to it any more (Twisted: ``IConsumer``)."""

    socket: socket.socket


@implementer(IFileDescriptorReceiver, IPushProducer)
class Link(Int32StringReceiver):
    """One end of a connection between two processes.

    :param handle: called with the name and the arguments of each request; returns the answer, or a Deferred of it.
    """

    MAX_LENGTH = wire.MAX_FRAME
    transport: ILinkTransport

    def __init__(self, handle: Callable[[str, list[Any]], Any]) -> None:
        self.handle = handle
        #: Called with this link when the connection is lost. Default: no-op.
        self.when_lost: Callable[[Link], object] = lambda link: None
        self._answering: set[Deferred[Any]] = set()
        self._asked: dict[int, Deferred[Any]] = {}
        self._number = 0
        self._descriptors: deque[int] = deque()
        #: It has left a question unanswered, and sent nothing since.
        self.deaf = False
        self._slow = False  # the other process has not read what was sent
        self._unread = 0  # bytes sent since
        #: Messages sent since: if the process ends now, it has not got them.
        self.unread_messages = 0

    # -- requests of this process --------------------------------------------------------------------------------------

    def call(self, name: str, *arguments: Any) -> Deferred[Any]:
        """Send a request.

        :returns: a Deferred of the answer; it fails with :class:`LinkLost` when the connection is lost first.
        :raises MessageTooLarge: the arguments do not fit into a frame.
        """
        self._number += 1
        self._send([wire.VERSION, self._number, name, list(arguments)])
        answer: Deferred[Any] = Deferred()
        self._asked[self._number] = answer
        return answer

    def note(self, name: str, *arguments: Any, descriptor: int | None = None) -> None:
        """Send a request that gets no answer.

        :param descriptor: a file descriptor for the other process. It must stay open until the other process has it.
        :raises MessageTooLarge: the arguments do not fit into a frame.
        """
        data = wire.pack([wire.VERSION, None, name, list(arguments)])
        if descriptor is not None:
            self.transport.sendFileDescriptor(descriptor)
        self._write(data)

    def message(self, name: str, *arguments: Any) -> bool:
        """Like :meth:`note`, for a message of the application: at most :data:`CROWDED` bytes wait for a process that
        does not read.

        :returns: False if too much waits; then the message is not sent.
        :raises MessageTooLarge: the arguments do not fit into a frame.
        """
        if self._unread > CROWDED:
            return False
        self.note(name, *arguments)
        self.unread_messages += self._slow
        return True

    def flush(self) -> None:
        """Give the kernel what was sent, as far as it takes it: it is on its way even if this process dies now.

        The reactor does so at its next turn.
        """
        if not self._slow and not self.transport.disconnecting:
            self.transport.doWrite()  # an error is found again by the reactor

    def take_descriptor(self) -> int:
        """Return the file descriptor that came with the current note."""
        return self._descriptors.popleft()

    def _send(self, frame: list[Any]) -> None:
        self._write(wire.pack(frame))

    def _write(self, data: bytes) -> None:
        self._unread += len(data) * self._slow
        self.sendString(data)

    # -- back-pressure, from the transport -----------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """More than 64 KiB wait for the other process."""
        self._slow = True

    def resumeProducing(self) -> None:
        """The other process has read, or the kernel has taken, all of it."""
        self._slow = False
        self._unread = self.unread_messages = 0
        if self.transport.disconnecting:
            self.transport.unregisterProducer()  # which would keep it open

    def stopProducing(self) -> None:
        """The connection is lost."""

    # -- requests of the other process ---------------------------------------------------------------------------------

    def stringReceived(self, string: bytes) -> None:
        self.deaf = False
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

    def _answer_later(self, value: Any, number: Any, deferred: Deferred[Any]) -> None:
        self._answering.discard(deferred)
        if number is not None and self.connected:
            self._answer(number, value)

    def _fail_later(self, failure: Failure, number: Any, deferred: Deferred[Any]) -> None:
        self._answering.discard(deferred)
        if self.connected:  # else connectionLost() has cancelled it
            self._refuse(number, failure.value)

    def _answer(self, number: Any, result: Any) -> None:
        try:
            self._send([number, None, result])
        except (MessageTooLarge, NotSendable) as problem:
            self._refuse(number, type(problem)(f"the answer cannot be sent: {problem}"))

    def _refuse(self, number: Any, problem: BaseException | None) -> None:
        kind = type(problem).__name__
        if not isinstance(problem, tuple(wire.ERRORS.values())):
            _log.error("error in a request of another process: {kind}: {problem}", kind=kind, problem=problem)
        # Sent for a note, too: its sender logs it.
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
            answer.errback(wire.ERRORS.get(kind, RuntimeError)(text))

    # -- the connection ------------------------------------------------------------------------------------------------

    def makeConnection(self, transport: ITransport) -> None:
        IConsumer(transport).registerProducer(self, True)
        super().makeConnection(transport)

    def fileDescriptorReceived(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._descriptors.append(descriptor)  # arrives before its note

    def hang_up(self) -> None:
        """The other process has ended: read what it has sent, then close. A child of it may keep its end open."""
        if self.connected:
            with contextlib.suppress(OSError):
                self.transport.socket.shutdown(socket.SHUT_RD)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected = False
        for deferred in tuple(self._answering):
            deferred.cancel()
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            answer.errback(LinkLost("the other process closed the connection"))
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self.when_lost(self)

    def lengthLimitExceeded(self, length: int) -> None:
        _log.warn("another process sent a frame of {length} bytes, which is too large", length=length)
        self.transport.abortConnection()


def ask(link: Link | None, name: str, *arguments: Any) -> Deferred[Any]:
    """Like :meth:`Link.call`, but every error makes the Deferred fail; without a link, with :class:`NoLink`."""
    if link is None:
        return fail(NoLink("there is no connection to the server"))
    try:
        return link.call(name, *arguments)
    except (MessageTooLarge, NotSendable) as problem:
        return fail(problem)


def ask_within(seconds: float, clock: IReactorTime, link: Link | None, name: str, *arguments: Any) -> Deferred[Any]:
    """Like :func:`ask`, but without an answer in `seconds` the Deferred fails with Twisted's ``TimeoutError``."""
    return ask(link, name, *arguments).addTimeout(seconds, clock)
