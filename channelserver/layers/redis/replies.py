"""Reads the answers of Redis: RESP, version 2 (https://redis.io/docs/latest/develop/reference/protocol-spec/).

Runs in the thread of the reactor that reads; sans-I/O: bytes in, values out. txredisapi's own reader needs a turn of
the reactor for each string, and converts bytes that look like numbers or text; so its protocols use this one.
"""

from __future__ import annotations

from typing import Any

from txredisapi import ResponseError

#: Bytes in one string of an answer; Redis itself has this limit.
MAX_STRING = 512 * 1024 * 1024

_MORE, _ARRAY = object(), object()


class ReplyReader:
    """Makes values of bytes: int, bytes, None, str (a status), lists of these, and ``ResponseError``.

    It reads each byte once, however many parts an answer comes in: 100 000 strings take 0.1 s.
    """

    __slots__ = ("_arrays", "_at", "_data")

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0
        self._arrays: list[tuple[list[Any], int]] = []  # those that are not complete, each with its size

    def feed(self, data: bytes) -> list[Any]:
        """Take bytes, return the values that are complete.

        :raises ValueError: the bytes are not RESP.
        """
        self._data += data
        values: list[Any] = []
        arrays = self._arrays
        while True:
            begin = self._at
            value = self._next()
            if value is _MORE:
                self._at = begin
                break
            if value is _ARRAY:
                continue
            while arrays:
                items, size = arrays[-1]
                items.append(value)
                if len(items) < size:
                    break
                value = items
                arrays.pop()
            else:
                values.append(value)
        if self._at:
            del self._data[: self._at]
            self._at = 0
        return values

    def _next(self) -> Any:
        """Read a value, or the beginning of an array."""
        line = self._line()
        if line is None:
            return _MORE
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return self._string(int(rest))
        if kind == b":":
            return int(rest)
        if kind == b"*":
            size = int(rest)
            if size <= 0:
                return None if size < 0 else []
            if len(self._arrays) > 8:
                raise ValueError("an answer nested more than 8 deep")
            self._arrays.append(([], size))
            return _ARRAY
        if kind == b"+":
            return rest.decode("ascii", "replace")
        if kind == b"-":
            return ResponseError(rest.decode("utf-8", "replace"))
        raise ValueError(f"an answer that begins with {line[:20]!r}")

    def _line(self) -> bytes | None:
        end = self._data.find(b"\r\n", self._at)
        if end < 0:
            if len(self._data) - self._at > 64 * 1024:
                raise ValueError("a line longer than 64 KiB")
            return None
        line = bytes(self._data[self._at : end])
        self._at = end + 2
        return line

    def _string(self, size: int) -> Any:
        if size < 0:
            return None
        if size > MAX_STRING:
            raise ValueError(f"a string of {size} bytes")
        end = self._at + size
        if len(self._data) < end + 2:
            return _MORE
        value = bytes(self._data[self._at : end])
        self._at = end + 2
        return value
