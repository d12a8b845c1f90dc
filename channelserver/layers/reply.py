"""What a reply to a WebSocket may hold beside data: the reason of a close, the header fields of an acceptance, and the
answer to a refused handshake.

Runs in any thread; owns nothing. Whoever sends to a socket checks here, so that the error is raised where it can be
mended; the server checks again, because not every sender knows that its channel is a socket.
"""

from __future__ import annotations

import re

from channelserver.layers.content import Content

#: Bytes of a close reason in UTF-8: what a control frame has room for (RFC 6455 section 5.5).
REASON_BYTES = 123

token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
forbidden = re.compile(rb"[\x00\r\n]").search
#: Fields that only the server sets.
HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"proxy-connection", b"te", b"trailer"}
)
#: Begins the names of the handshake's own fields.
_HANDSHAKE = b"sec-websocket-"


#: What sockets send.
_DATA: tuple[tuple[str, type], ...] = (("text", str), ("bytes", bytes))


def check_data(content: Content, receiver: str) -> None:
    """Check what a socket, or the sockets of a group, shall send.

    :param receiver: for the error.
    :raises TypeError: it is of another type.
    """
    if type(content.get("text")) is str and "bytes" not in content:  # as a rule
        return
    for key, kind in _DATA:
        data = content.get(key)
        if data is not None and not isinstance(data, kind):
            raise TypeError(
                f"{key!r} in a message to {receiver} must be {kind.__name__}, not {type(data).__name__}; "
                "send json.dumps(...) for a dict or a list"
            )


def check_reply(content: Content) -> None:
    """Check a reply to a WebSocket, without its data.

    :raises ValueError: it cannot be sent; the text says why.
    """
    reason_of(content)
    if content.get("accept"):
        acceptance_fields(content)
    elif content.get("accept") is not None or content.get("close"):
        refusal(content)


def reason_of(content: Content) -> str:
    """Return the reason that goes with the ``close`` of a reply.

    :raises ValueError: it is no text, or too long.
    """
    reason = content.get("reason")
    if not content.get("close") or reason is None:
        return ""
    if not isinstance(reason, str):
        raise ValueError(f"the reason of a close must be str, not {type(reason).__name__}: {reason!r}")
    size = len(reason.encode("utf-8", "surrogatepass"))
    if size > REASON_BYTES:
        raise ValueError(f"the reason of a close has {size} bytes in UTF-8; {REASON_BYTES} are allowed: {reason!r}")
    return reason


def acceptance_fields(content: Content) -> list[tuple[bytes, bytes]]:
    """Return the header fields that go with the acceptance of a socket.

    :raises ValueError: one is malformed, or only the server may set it.
    """
    return _fields(content, HOP_BY_HOP | {b"content-length"})


def refusal(content: Content) -> Content | None:
    """Return the HTTP answer that a refusal asks for; None: the server's own.

    :raises ValueError: it cannot be sent.
    """
    if "reply_channel" in content or content.keys().isdisjoint(("status", "headers", "content")):
        return None
    status, body = content.get("status", 403), content.get("content", b"")
    if isinstance(status, bool) or not isinstance(status, int) or not 300 <= status <= 599:
        raise ValueError(f"the status of a refused socket must be from 300 to 599, not {status!r}")
    if not isinstance(body, bytes):
        raise ValueError(f"the content of a refused socket must be bytes, not {type(body).__name__}")
    return {"status": status, "headers": _fields(content, HOP_BY_HOP), "content": body}


def _fields(content: Content, own: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    if "reply_channel" in content:
        return []  # a message of the server's that is sent back: its headers are the client's
    found = []
    headers = content.get("headers") or ()
    if not isinstance(headers, (list, tuple)):
        raise ValueError(f"headers must be a list of [name, value], not {type(headers).__name__}")
    for pair in headers:
        try:
            name, value = (item.encode("latin-1") if isinstance(item, str) else item for item in pair)
        except (TypeError, ValueError):
            raise ValueError(f"a header must be a pair of bytes, not {pair!r}") from None
        if not isinstance(name, bytes) or not isinstance(value, bytes):
            raise ValueError(f"a header must be a pair of bytes, not {pair!r}")
        if not token(name):
            raise ValueError(f"malformed header {name!r}")
        if forbidden(value):  # it may be a cookie, so it is not for the log
            raise ValueError(f"malformed header {name!r}: a line break or NUL in its value")
        if name.lower() in own or name.lower().startswith(_HANDSHAKE):
            raise ValueError(f"header {name!r} is set by the server; remove it from the reply")
        found.append((name, value))
    return found
