"""What a server listens on.

Runs in the reactor thread; owns nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from zope.interface import implementer


@implementer(IStreamServerEndpoint)
class Endpoint:
    """A port or a Unix socket. Twisted has the same, in a module that imports OpenSSL.

    :param listen: ``listenTCP`` or ``listenUNIX`` of a reactor.
    :param address: the port's number, or the socket's path.
    :param options: further arguments of `listen`.
    """

    def __init__(self, listen: Callable[..., IListeningPort], address: int | str, **options: Any) -> None:
        self._listen = listen
        self._address = address
        self._options = options

    def listen(self, factory: Any) -> Deferred[IListeningPort]:
        return execute(self._listen, self._address, factory, **self._options)
