import socket
import sys

from twisted.internet.protocol import Factory, Protocol
from twisted.python import log

from channelserver.server.common.reactor import install

install()

from twisted.internet import reactor  # noqa: E402 - the one that was installed

log.startLogging(sys.stdout)
print(type(reactor).__module__)


class Server(Protocol):
    def dataReceived(self, data):
        if data == b"bad":
            raise RuntimeError("as it must be")
        self.transport.write(data)


port = reactor.listenTCP(0, Factory.forProtocol(Server), interface="127.0.0.1")


def clients():
    bad, good = (socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(2))
    bad.sendall(b"bad")
    print("bad got", bad.recv(10))
    good.sendall(b"good")
    print("good got", good.recv(10))
    reactor.callFromThread(reactor.stop)


reactor.callInThread(clients)
reactor.run()
