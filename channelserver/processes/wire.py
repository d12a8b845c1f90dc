"""Frames of the local protocol, which processes of one machine speak over Unix sockets.

Runs in any thread; owns nothing.

A frame is a length (four bytes, big-endian) and a msgpack list. A request is ``[version, number, call, arguments]``.
Its answer is ``[number, error, result]``; ``error`` is None or ``[kind, text]``. A request whose number is None gets no
answer.
"""

from __future__ import annotations

from typing import Any

import msgpack

from channelserver.layers import packing
from channelserver.layers.base import ChannelFull, MessageTooLarge, NotSendable

VERSION = 1
#: Largest frame, in bytes without its length.
MAX_FRAME = 16 * 1024 * 1024
#: Bytes of a frame's length.
PREFIX = 4
#: By kind: errors that the sender of a request caused; any other is a bug of the process that answers.
ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (ChannelFull, MessageTooLarge, NotSendable, TypeError, ValueError)
}


def pack(value: list[Any]) -> bytes:
    """Return a frame without its length.

    :raises MessageTooLarge: it is larger than :data:`MAX_FRAME`.
    :raises NotSendable: it holds what cannot be packed.
    """
    return packing.pack(value, MAX_FRAME)


def unpack(data: bytes) -> Any:
    """Return the content of a frame.

    :raises ValueError: it is not msgpack.
    """
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False)
    except Exception as error:
        raise ValueError(f"not msgpack: {error}") from error
