"""A client that stands for a browser.

For the one thread of the test, in which consumers run, too.
"""

from __future__ import annotations

import json as json_module
from collections import deque
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import unquote

from django.apps import apps
from django.conf import settings
from django.http import HttpRequest

from channelserver.layers.content import copy_content
from channelserver.layers.names import DEFAULT_CHANNEL_LAYER
from channelserver.layers.reply import check_reply
from channelserver.message import Message
from channelserver.sessions import session_for_reply_channel
from channelserver.test.client import Client

#: What the server says of a connection in its first message, by channel: that of a client on the same machine.
_OPENING: dict[str, dict[str, Any]] = {
    channel: {"scheme": scheme, "root_path": "", "client": ["127.0.0.1", 40000], "server": ["127.0.0.1", 8000]}
    for channel, scheme in (("websocket.connect", "ws"), ("http.request", "http"))
}


class WSClient(Client):
    """A client with cookies, headers and a session, for the consumers of sockets and of HTTP requests.

    :param ordered: give each message its ``order``.
    :param alias: which of ``CHANNEL_LAYERS``.
    """

    def __init__(self, ordered: bool = False, alias: str = DEFAULT_CHANNEL_LAYER) -> None:
        super().__init__(alias)
        #: The ``order`` of the next message.
        self.order = 0
        self._ordered = ordered
        self._session: Any = None
        self._headers: dict[str, str | bytes] = {}
        self._cookies: dict[str, str] = {}
        self._session_cookie = True
        self._kept: deque[Message] = deque()

    # -- what the browser sends along ----------------------------------------------------------------------------------

    def set_cookie(self, key: str, value: str) -> None:
        """Send a cookie from now on."""
        self._cookies[key] = value

    def set_header(self, key: str, value: str | bytes) -> None:
        """Send a header field from now on.

        :raises ValueError: it is ``cookie``.
        """
        if key.lower() == "cookie":
            raise ValueError("Use set_cookie method for cookie header")
        self._headers[key] = value

    def get_cookies(self) -> dict[str, str]:
        """Return the cookies of the next message: those that were set; before the first message, the session's."""
        cookies = dict(self._cookies)
        if self._session_cookie and apps.is_installed("django.contrib.sessions"):
            cookies[settings.SESSION_COOKIE_NAME] = self.session.session_key
        return cookies

    @property
    def headers(self) -> dict[str, str | bytes]:
        """The header fields of the next message, cookies included."""
        cookies = SimpleCookie(self.get_cookies())
        text = "; ".join(f"{key}={morsel.coded_value}" for key, morsel in cookies.items())
        return {**self._headers, "cookie": text.encode("ascii")}

    @property
    def session(self) -> Any:
        """The session: the browser's, and also the one of the socket. Call its ``save()`` after altering it.

        :raises OSError: ``django.contrib.sessions`` is not installed.
        """
        if not apps.is_installed("django.contrib.sessions"):
            raise OSError("sessions need 'django.contrib.sessions' in INSTALLED_APPS")
        if self._session is None:
            self._session = session_for_reply_channel(self.reply_channel)
        return self._session

    def login(self, **credentials: Any) -> bool:
        """Log a user in; return whether that was possible.

        :param credentials: as for ``django.contrib.auth.authenticate``.
        """
        from django.contrib.auth import authenticate

        user = authenticate(**credentials)
        if user is None or not user.is_active or not apps.is_installed("django.contrib.sessions"):
            return False
        self._login(user, None)
        return True

    def force_login(self, user: Any, backend: str | None = None) -> None:
        """Log a user in without credentials.

        :param backend: dotted name; default: the first of ``AUTHENTICATION_BACKENDS``.
        """
        self._login(user, backend or settings.AUTHENTICATION_BACKENDS[0])

    def _login(self, user: Any, backend: str | None) -> None:
        from django.contrib.auth import login

        request = HttpRequest()
        request.session = self.session
        login(request, user, backend)
        self.session.save()

    # -- sending and receiving -----------------------------------------------------------------------------------------

    def send(
        self,
        to: str,
        content: dict[str, Any] = {},  # noqa: B006  (copied at once)
        text: Any = None,
        path: str = "/",
    ) -> None:
        """Put a message into a channel, with what a browser's message has.

        :param text: for ``content["text"]``; anything but a string is sent as JSON.
        :param path: of the URL; a ``?`` begins its query string.
        :raises ValueError: `content` has an ``order``, but this client counts by itself.
        """
        super().send(to, self._filled_in(to, content, text, path))
        self._session_cookie = False

    def _filled_in(self, to: str, content: dict[str, Any], text: Any, path: str) -> dict[str, Any]:
        message = copy_content(content)
        path, _, query_string = path.partition("?")
        message.setdefault("path", unquote(path))
        if to in _OPENING:
            message.setdefault("query_string", query_string.encode("ascii"))
            message = copy_content(_OPENING[to]) | message
        message.setdefault("headers", [[_latin(key.lower()), _latin(value)] for key, value in self.headers.items()])
        if self._ordered:
            if "order" in message:
                raise ValueError('Do not use "order" manually with "ordered=True": leave it out of the content')
            message["order"] = self.order
            self.order += 1
        text = message.get("text") if text is None else text
        if text is not None:
            message["text"] = text if isinstance(text, str) else json_module.dumps(text)
        return message

    def consume(self, channel: str, fail_on_none: bool = True, check_accept: bool = True) -> Any:
        """See :meth:`channelserver.test.Client.consume`.

        :param check_accept: after a ``websocket.connect`` message, fail unless the socket has been accepted. The
            acceptance is then not to be received any more; data that was sent with or instead of it is.
        """
        result = super().consume(channel, fail_on_none=fail_on_none)
        if channel == "websocket.connect" and check_accept:
            self._check_accepted()
        return result

    def _check_accepted(self) -> None:
        message = self.get_next_message(self.reply_channel)
        # As the server does: a connect consumer that ends without a word has accepted.
        reply = ({"accept": True} if _auto_accept() else {}) if message is None else message.content
        has_data = reply.get("text") is not None or reply.get("bytes") is not None
        accepted = reply.get("accept", has_data)
        if not accepted or (reply.get("close") and not has_data):
            raise AssertionError(f"Connection rejected: {message and message.content} != '{{accept: True}}'")
        if message is not None and reply != {"accept": True}:
            self._kept.append(message)

    def send_and_consume(  # type: ignore[override]
        self,
        channel: str,
        content: dict[str, Any] = {},  # noqa: B006  (copied at once)
        text: Any = None,
        path: str = "/",
        fail_on_none: bool = True,
        check_accept: bool = True,
    ) -> Any:
        """:meth:`send`, then :meth:`consume`."""
        self.send(channel, content, text, path)
        return self.consume(channel, fail_on_none=fail_on_none, check_accept=check_accept)

    def get_next_message(self, channel: str) -> Message | None:
        """See :meth:`channelserver.test.Client.get_next_message`.

        :raises ValueError: it is a reply that the server could not send to a socket.
        """
        if channel == self.reply_channel and self._kept:
            return self._kept.popleft()
        message = super().get_next_message(channel)
        if message is not None and channel == self.reply_channel:
            check_reply(message.content)  # as the server does
        return message

    def receive(self, json: bool = True) -> Any:
        """Take the next reply and return its text, or else its content; None if there is none.

        :param json: decode the text.
        :raises ValueError: the text is no JSON.
        """
        content = super().receive()
        if not content or content.get("text") is None:
            return content
        text = content["text"]
        return json_module.loads(text) if json and isinstance(text, str) else text


def _auto_accept() -> bool:
    configured = getattr(settings, "CHANNELSERVER", None)
    return not isinstance(configured, dict) or bool(configured.get("auto_accept", True))


def _latin(value: str | bytes) -> bytes:
    return value.encode("latin-1") if isinstance(value, str) else value
