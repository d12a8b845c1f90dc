"""Plain HTTP beside HTTPS: requests are redirected to the same URL under ``https://``.

Runs in the reactor thread; a connection is owned by its transport. Health and ``OPTIONS *`` are answered as on the
other listeners.

Beside ``--redirect-http`` no request reaches the application. Beside ``--https`` these do: requests for challenges that
the server has not opened itself, and all of a site with Django's ``SECURE_SSL_REDIRECT``, which redirects them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from channelserver.server.http.connection import HTTPConnection, HTTPFactory
from channelserver.server.http.dispatch import CHALLENGES, Dispatcher
from channelserver.server.http.exchange import Exchange
from channelserver.server.http.http1 import BadRequest, RequestHead
from channelserver.server.http.ready import Ready
from channelserver.server.site import Site
from channelserver.server.websocket.origin import split_port

if TYPE_CHECKING:
    from channelserver.server.tls.contexts import Contexts

_has_port = re.compile(rb":\d+$").search


class Redirects(Dispatcher):
    """Answers every request with a redirect.

    :param port: returns the port of the HTTPS listener.
    """

    __slots__ = ("_port",)

    def __init__(self, site: Site, port: Callable[[], int]) -> None:
        super().__init__(site)
        self._port = port

    def ready(self, head: RequestHead) -> Ready | None:
        """Return None: files are not served here."""
        return None

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
        self._redirect(exchange, 301 if head.method in ("GET", "HEAD") else 308, place)
        return False

    @staticmethod
    def _redirect(exchange: Exchange, status: int, place: bytes) -> None:
        exchange.reply(
            {
                "status": status,
                "headers": [[b"Location", place], [b"Content-Type", b"text/plain; charset=utf-8"]],
                "content": place + b"\n",
            }
        )


class BesideHTTPS(Redirects):
    """Answers what comes by plain HTTP for the names of ``--https``.

    :param port: returns the port of the HTTPS listener.
    :param contexts: the certificates.
    :param redirects: False: the site redirects by itself.
    """

    __slots__ = ("_contexts", "_redirects")

    def __init__(self, site: Site, port: Callable[[], int], contexts: Contexts, redirects: bool) -> None:
        super().__init__(site, port)
        self._contexts = contexts
        self._redirects = redirects

    def passes(self, head: RequestHead, addresses: dict[str, Any]) -> bool:
        """Whether a request is for the application, if it is not for an open challenge.

        What a trusted proxy has got by HTTPS is: a redirect would lead back here, for ever.
        """
        if head.path.startswith(CHALLENGES) or addresses["scheme"] == "https":
            return True
        return not self._redirects and self._contexts.has_certificate(_name(head) or "")

    def _serve(self, exchange: Exchange, body: bytes, body_file: IO[bytes] | None, addresses: dict[str, Any]) -> bool:
        head = exchange.head
        if self.passes(head, addresses):
            return Dispatcher._serve(self, exchange, body, body_file, addresses)
        exchange.quiet = True
        name = _name(head)
        if name is None or not self._serves(name):
            exchange.fail(404, f"{name or 'This host'} is not served here.")
        elif not self._contexts.has_certificate(name) and self._contexts.on_unknown is None:
            text = f"HTTPS for {name} is being set up: there is no certificate yet. Try again in a minute."
            exchange.fail(503, text, [b"Retry-After", b"60"])
        else:
            place = f"https://{name}{self._suffix(head, addresses)}".encode("latin-1") + head.target
            self._redirect(exchange, 308, place)
        return False

    def _serves(self, name: str) -> bool:
        if self._contexts.serves(name):
            return True
        return self._contexts.on_unknown is not None and self._site.origins.host_allowed(name)

    def _suffix(self, head: RequestHead, addresses: dict[str, Any]) -> str:
        """Return the port of the URL to redirect to.

        A client that names no port came by port 80. If that is not ours, a router or container maps both ports.
        """
        port, (_, own) = self._port(), addresses["server"] or (None, 80)
        mapped = own != 80 and not _has_port(head.fields[b"host"])
        return "" if port == 443 or mapped else f":{port}"


def _name(head: RequestHead) -> str | None:
    return split_port(head.fields.get(b"host", b"").decode("latin-1"))


class RedirectConnection(HTTPConnection):
    """One connection. A request is answered as soon as its head is complete; bodies and WebSockets are not read."""

    __slots__ = ()

    def _begin_body(self, head: RequestHead) -> None:
        self._dispatch(b"", None)

    _upgrade = _begin_body


class BesideConnection(RedirectConnection):
    """The same, but bodies and WebSockets for the application are read."""

    __slots__ = ()

    def _begin_body(self, head: RequestHead) -> None:
        if isinstance(self._dispatcher, BesideHTTPS) and self._dispatcher.passes(head, self._addresses):
            HTTPConnection._begin_body(self, head)
        else:
            head.keep_alive = False
            self._dispatch(b"", None)

    def _upgrade(self, head: RequestHead) -> None:
        if isinstance(self._dispatcher, BesideHTTPS) and self._dispatcher.passes(head, self._addresses):
            HTTPConnection._upgrade(self, head)
        else:
            head.keep_alive = False
            self._dispatch(b"", None)


class RedirectFactory(HTTPFactory):
    """Makes connections of the redirect port.

    :param port: returns the port of the HTTPS listener.
    """

    connection_class = RedirectConnection

    def __init__(self, site: Site, port: Callable[[], int]) -> None:
        super().__init__(site, Redirects(site, port))


class BesideFactory(RedirectFactory):
    """Makes connections of the plain port of ``--https``; the parameters are those of :class:`BesideHTTPS`."""

    connection_class = BesideConnection

    def __init__(self, site: Site, port: Callable[[], int], contexts: Contexts, redirects: bool) -> None:
        HTTPFactory.__init__(self, site, BesideHTTPS(site, port, contexts, redirects))
