"""Packing messages for other processes and hosts (msgpack).

Runs in any thread; owns nothing. Applications' messages are checked when they are sent
(:mod:`channelserver.layers.content`), so as a rule only their size can be wrong. What cannot be packed all the same is
an error with a reason of its own, never a lost connection between processes.
"""

from __future__ import annotations

from typing import Any

import msgpack

from channelserver.layers.base import MessageTooLarge, NotSendable


def pack(value: Any, most: int) -> bytes:
    """Return a value as bytes.

    :param most: bytes that there may be.
    :raises MessageTooLarge: there are more.
    :raises NotSendable: the value holds what cannot be packed; the text says what.
    """
    try:
        data: bytes = msgpack.packb(value, use_bin_type=True)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotSendable(f"it cannot be packed for another process: {error}") from error
    except MemoryError as error:
        raise MessageTooLarge("there is not enough memory to pack it") from error
    if len(data) > most:
        raise MessageTooLarge(f"{len(data)} bytes for another process exceed the limit of {most} bytes")
    return data
