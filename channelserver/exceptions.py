"""Exceptions that consumers and views raise to control the worker (Channels 1: ``channels.exceptions``).

Raised and handled in worker threads; the module owns nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from channelserver.layers.reply import check_reply

if TYPE_CHECKING:
    from channelserver.message import Message


class ConsumeLater(Exception):
    """Raised by a consumer: put the message back and try again after a growing pause, ten times at most."""


class ResponseLater(Exception):
    """Raised by a view: no response now; other code sends it to the request's reply channel later."""


class RequestTimeout(Exception):
    """The rest of a request's body did not come in time (answered with 408)."""


class RequestAborted(Exception):
    """The client left before the request's body was complete (not answered)."""


class DenyConnection(Exception):
    """Raised by a ``websocket.connect`` consumer: refuse the connection, with HTTP 403 unless told otherwise.

    Elsewhere it is an exception like any other: logged, and the socket stays open.

    :param status: from 300 to 599.
    :param headers: a list of [name, value] bytes.
    :param content: the body, as bytes.
    :raises ValueError: the server cannot send that.
    """

    #: The reply.
    reply: Mapping[str, Any] = {"accept": False}

    def __init__(self, *arguments: object, **answer: Any) -> None:
        super().__init__(*arguments)
        unknown = answer.keys() - {"status", "headers", "content"}
        if unknown:
            raise TypeError(f"DenyConnection takes status, headers and content, not {', '.join(sorted(unknown))}")
        if answer:
            self.reply = {"accept": False, **answer}
            check_reply(dict(self.reply))


class BadClientMessage(ValueError):
    """A client's message is not what the consumer takes, such as text that is not JSON.

    Clients can send any number of these, so the worker counts them, and logs a line with the text of the first and then
    sums, no tracebacks. The socket stays open.
    """


class ChannelSocketException(Exception):
    """Base of exceptions that act on the socket whose message is being consumed.

    The worker calls :meth:`run` when a consumer has raised one. Applications may derive their own.
    """

    def run(self, message: Message) -> None:
        """Act on the socket.

        :param message: the message whose consumer raised it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define run(message)")


class WebsocketCloseException(ChannelSocketException):
    """Raised by a consumer: close the socket.

    :param code: close code sent to the client, 1000 or 3000 to 4999 (RFC 6455 section 7.4); None stands for 1000.
    :param reason: text for the client, 123 bytes in UTF-8 at most.
    :raises ValueError: applications may not send that code, or the reason is too long.
    """

    def __init__(self, code: int | None = None, reason: str = "") -> None:
        if code is not None and not (isinstance(code, int) and (code == 1000 or 3000 <= code <= 4999)):
            raise ValueError(f"invalid close code {code!r} (must be 1000 or from [3000, 4999])")
        super().__init__(code)
        self.code = code
        self.reply: dict[str, Any] = {"close": code or True, **({"reason": reason} if reason else {})}
        check_reply(self.reply)

    def run(self, message: Message) -> None:
        """Send the close to the message's reply channel at once.

        :raises ValueError: the message has no reply channel, so it did not come from a socket.
        """
        if message.reply_channel is None:
            raise ValueError(
                f"{type(self).__name__} raised for a message without reply_channel: only a socket's messages have one"
            )
        message.reply_channel.send(self.reply, immediately=True)


class SendNotAvailableOnDemultiplexer(Exception):
    """``send`` or ``group_send`` called on a demultiplexer, which has no stream of its own to send on."""
