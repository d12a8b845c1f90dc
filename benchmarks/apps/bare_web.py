"""A ``twisted.web`` resource without Django: ``python -m benchmarks.apps.bare_web PORT``.

Runs in the reactor thread alone.
"""

import sys

from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from benchmarks.apps.sizes import LARGE

_LARGE_ANSWER = b"x" * LARGE


class Bare(Resource):
    """Gives the same answers as the Django views."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        """Answer a short text, or a large one."""
        if request.path == b"/answer/":
            request.setHeader(b"content-type", b"application/octet-stream")
            return _LARGE_ANSWER
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        return b"Hello, world!"

    def render_POST(self, request: Request) -> bytes:
        """Read an upload."""
        assert request.content is not None
        return b"%d" % len(request.content.read())


def main() -> None:
    """Serve."""
    reactor.listenTCP(int(sys.argv[1]), Site(Bare()), backlog=1024, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main()
