"""Plain HTTP beside HTTPS: every request is redirected to the same URL under ``https://``.

Runs in the reactor thread; a connection is owned by its transport. No request reaches the application; health and
``OPTIONS *`` are answered as on the other listeners.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any

from channelserver.server.http.connection import HTTPConnection, HTTPFactory
from channelserver.server.http.dispatch import Dispatcher
from channelserver.server.http.exchange import Exchange
from channelserver.server.http.http1 import BadRequest, RequestHead
from channelserver.server.site import Site
from channelserver.server.websocket.origin import split_port


class Redirects(Dispatcher):
    """Answers every request with a redirect.

    :param port: returns the port of the HTTPS listener.
    """

    __slots__ = ("_port",)

    def __init__(self, site: Site, port: Callable[[], int]) -> None:
        super().__init__(site)
        self._port = port

    def _serve(self, exchange: Exchange, body: bytes, body_file: IO[bytes] | None, addresses: dict[str, Any]) -> bool:
        head = exchange.head
        exchange.quiet = True
        head.keep_alive = False
        host = head.fields.get(b"host", b"").decode("latin-1")
        name = split_port(host)
        if name is None or not self._site.origins.host_allowed(host):
            self.refuse(exchange, BadRequest(f"host {host!r} is not in ALLOWED_HOSTS"))
            return False
        port = self._port()
        place = f"https://{name}{'' if port == 443 else f':{port}'}".encode("latin-1") + head.target
        # 301 lets a browser make a GET of a POST, 308 does not (RFC 9110 section 15.4.9); all clients know 301.
        exchange.reply(
            {
                "status": 301 if head.method in ("GET", "HEAD") else 308,
                "headers": [[b"Location", place], [b"Content-Type", b"text/plain; charset=utf-8"]],
                "content": place + b"\n",
            }
        )
        return False


class RedirectConnection(HTTPConnection):
    """One connection. A request is answered as soon as its head is complete; bodies and WebSockets are not read."""

    __slots__ = ()

    def _begin_body(self, head: RequestHead) -> None:
        self._dispatch(b"", None)

    _upgrade = _begin_body


class RedirectFactory(HTTPFactory):
    """Makes connections of the redirect port.

    :param port: returns the port of the HTTPS listener.
    """

    connection_class = RedirectConnection

    def __init__(self, site: Site, port: Callable[[], int]) -> None:
        super().__init__(site, Redirects(site, port))
