"""Autobahn's WebSocket protocol on Twisted, which echoes: ``python -m benchmarks.apps.bare_autobahn PORT``.

Runs in the reactor thread alone.
"""

import sys

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor


class Echo(WebSocketServerProtocol):
    """Sends messages back."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Send it back."""
        self.sendMessage(payload, isBinary)


def main() -> None:
    """Serve."""
    factory = WebSocketServerFactory(f"ws://127.0.0.1:{sys.argv[1]}")
    factory.protocol = Echo
    reactor.listenTCP(int(sys.argv[1]), factory, backlog=1024, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main()
