"""Packs messages into bytes; with keys, encrypts and authenticates them, and refuses those that come twice.

Runs in any thread; owns the keys, and what has been opened.

Encryption is Fernet (AES-128 in CBC mode and HMAC-SHA-256), of a key that is the SHA-256 of the text in the settings,
as in ``asgi_redis``. The first key encrypts, all of them decrypt: to change it, put the new one behind the old one on
all hosts, then before it, then remove the old one.

What is sealed names its *place*: the channel, group, membership or host that it is for. With keys, it also has the
random name of the process that sealed it, a number, the time, and how long it may be opened. Whoever opens it refuses
it in another place, after its time, and a second time.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from channelserver.layers.packing import pack

#: A kind and names: ``("queue", channel)``, ``("group", group)``, ``("member", group, channel)``, ``("host", name,
#: kind)``.
Place = tuple[str, ...]

#: Seconds for which a published message may be opened, and for which the longest-lived messages in queues may.
PUBLISHED, DAY = 60, 86400
#: Seconds by which the clocks of processes may differ, and by which Redis may be late to drop a message.
SLACK = 15

#: Numbers in one entry of :class:`_Opened`.
_BLOCK = 1024

#: Redis takes no larger values than 512 MiB, and closes the connection; encryption adds a third.
MOST_BYTES = 380 * 1024 * 1024


class SealError(ValueError):
    """Bytes that this layer did not write, or that were encrypted with an unknown key."""


class ReplayError(SealError):
    """Bytes that this layer wrote, but for another place, or another time, or that were opened before."""


class Sealer:
    """Packs and unpacks.

    :param keys: ``symmetric_encryption_keys`` of the settings: text or bytes; empty: no encryption.
    :param prefix: of the keys in Redis, so that two projects with the same key remain apart.
    :param now: returns the time in milliseconds, the same for all processes.
    :raises ValueError: `keys` is no list of text or bytes.
    """

    def __init__(self, keys: Sequence[str | bytes] | None, prefix: str, now: Callable[[], float]) -> None:
        if isinstance(keys, (str, bytes)) or not isinstance(keys or (), Sequence):
            raise ValueError("symmetric_encryption_keys must be a list of keys, not one key alone")
        fernets = []
        for key in keys or ():
            if not isinstance(key, (str, bytes)) or not key:
                raise ValueError("symmetric_encryption_keys must be a list of text or bytes, none of them empty")
            digest = hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()
            fernets.append(Fernet(base64.urlsafe_b64encode(digest)))
        self._fernet = MultiFernet(fernets) if fernets else None
        self._prefix = prefix
        self._now = now
        self._opened: dict[int, _Opened] = {}
        self._lock = threading.Lock()
        self._renew()

    def _renew(self) -> None:
        self._process = os.getpid()
        self._name = secrets.token_bytes(12)
        self._numbers: dict[int, itertools.count[int]] = {}

    @property
    def encrypts(self) -> bool:
        return self._fernet is not None

    def seal(self, place: Place, *items: Any, seconds: float = PUBLISHED) -> bytes:
        """Return some items as bytes.

        :param place: where they may be opened.
        :param seconds: for how long.
        :raises MessageTooLarge: there are more than :data:`MOST_BYTES`.
        :raises NotSendable: they hold what cannot be packed.
        """
        if self._fernet is None:
            return pack((place, *items), MOST_BYTES)
        if self._process != os.getpid():
            self._renew()  # a forked child's numbers are its own
        life = int(seconds)
        number = next(self._numbers.setdefault(life, itertools.count()))
        head = (self._prefix, self._name, number, int(self._now()), life)
        return self._fernet.encrypt(pack((head, place, *items), MOST_BYTES))

    def unseal(
        self, data: bytes, fits: Callable[[Place], bool], where: str | None = ""
    ) -> tuple[Place, list[Any]]:  # fmt: skip
        """Return the place and the items.

        :param fits: whether something sealed for a place may be opened here.
        :param where: what was sealed once and sent to several places can be opened once in each; None: always.
        :raises SealError: the bytes were altered, or not written by this layer, or with another key.
        :raises ReplayError: the bytes are for another place, were opened before, or are too old.
        """
        try:
            if self._fernet is None:
                place, *items = msgpack.unpackb(data, raw=False, strict_map_key=True)
            else:
                plain = self._fernet.decrypt(data)
                (prefix, name, number, made, life), place, *items = msgpack.unpackb(
                    plain, raw=False, strict_map_key=True
                )
            place = tuple(place)
        except InvalidToken:
            raise SealError("it was altered, or its key is not in symmetric_encryption_keys") from None
        except Exception as error:
            raise SealError(
                f"it was not written by this layer, or it is encrypted and there is no key: {error}"
            ) from None
        if not all(isinstance(word, str) for word in place):
            raise SealError("it is not what this layer writes")
        if not fits(place):
            raise ReplayError(f"it was sealed for {' '.join(place)!r}")
        if self._fernet is not None:
            if prefix != self._prefix:
                raise ReplayError(f"it was sealed for the prefix {prefix!r}")
            now = self._now()
            if not -SLACK * 1000 <= now - made <= (life + SLACK) * 1000:
                raise ReplayError(f"it was sealed {(now - made) / 1000:.1f} s ago, for {life} s")
            if where is not None:
                with self._lock:
                    opened = self._opened.setdefault(life, _Opened(life + 2 * SLACK))
                    if not opened.is_first(now, (name, where), number):
                        raise ReplayError("it was opened before")
        return place, items


class _Opened:
    """What has been opened: a bit for each number, in two generations, of which the older one is forgotten.

    :param seconds: for which it must be known.
    """

    def __init__(self, seconds: float) -> None:
        self._period = seconds * 1000
        self._ends = 0.0
        self._older: dict[Any, int] = {}
        self._newer: dict[Any, int] = {}

    def is_first(self, now: float, source: object, number: int) -> bool:
        """Note a number of a source; return False if it has been noted before."""
        if now >= self._ends:
            self._older, self._newer = self._newer, {}
            self._ends = now + self._period
        block, bit = (source, number // _BLOCK), 1 << number % _BLOCK
        noted = self._newer.get(block, 0)
        if (noted | self._older.get(block, 0)) & bit:
            return False
        self._newer[block] = noted | bit
        return True
