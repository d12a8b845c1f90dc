"""How processes of one machine talk about a layer: frames on a Unix socket.

Runs in any thread; owns nothing.

A frame is its length in four bytes, most significant first, and a msgpack list. A request is ``[version, number, call,
arguments]``, its answer ``[number, error, result]``; ``error`` is None or ``[kind, text]``. A request whose number is
None gets no answer.
"""

from __future__ import annotations

from typing import Any

import msgpack

VERSION = 1
#: Bytes in one frame.
MAX_FRAME = 16 * 1024 * 1024
#: Bytes of a frame's length.
PREFIX = 4


def pack(value: list[Any]) -> bytes:
    """Return a value as msgpack, without the length before it.

    :raises ValueError: it is larger than a frame may be.
    """
    data: bytes = msgpack.packb(value, use_bin_type=True)
    if len(data) > MAX_FRAME:
        raise ValueError(f"{len(data)} bytes are more than the {MAX_FRAME} that fit into a frame")
    return data


def unpack(data: bytes) -> Any:
    """Return what a frame holds.

    :raises ValueError: it is no msgpack.
    """
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False)
    except Exception as error:
        raise ValueError(f"not msgpack: {error}") from error
