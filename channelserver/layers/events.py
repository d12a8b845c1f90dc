"""Messages as events of an event stream (HTML standard, "Server-sent events").

Any thread; owns nothing.
"""

from __future__ import annotations

from channelserver.layers.content import Content, whole_text


def encode_event(content: Content) -> bytes:
    """Return the event that a reply or a group's message stands for; empty if it is none.

    :param content: ``text`` or ``data`` (text; each line becomes a line of data), ``event``, ``id``, ``retry``
        (milliseconds). Line ends in ``event`` and ``id`` become spaces.
    """
    lines = []
    for key in ("event", "id"):
        value = content.get(key)
        if value is not None:
            lines.append(f"{key}: {' '.join(str(value).replace(chr(0), '').splitlines())}\n")
    retry = content.get("retry")
    if isinstance(retry, int):
        lines.append(f"retry: {retry}\n")
    data = content.get("data")
    if data is None:
        data = content.get("text")
    if isinstance(data, str):
        # Only these end a line there; splitlines() knows more.
        parts = data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        lines += [f"data: {part}\n" for part in parts]
    if not lines:
        return b""
    return whole_text("".join(lines) + "\n").encode()
