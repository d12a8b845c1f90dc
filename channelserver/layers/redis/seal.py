"""Packs messages into bytes; encrypts and authenticates them if there are keys.

Runs in any thread; owns the keys.

Encryption is Fernet (AES-128 in CBC mode and HMAC-SHA-256), of a key that is the SHA-256 of the text in the settings,
as in ``asgi_redis``. The first key encrypts, all of them decrypt: to change it, put the new one behind the old one on
all hosts, then before it, then remove the old one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import msgpack
from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class SealError(ValueError):
    """Bytes that this layer did not write, or that were encrypted with an unknown key."""


class Sealer:
    """Packs and unpacks.

    :param keys: ``symmetric_encryption_keys`` of the settings: text or bytes; empty: no encryption.
    :raises ValueError: it is no list of text or bytes.
    """

    def __init__(self, keys: Sequence[str | bytes] | None = None) -> None:
        if isinstance(keys, (str, bytes)) or not isinstance(keys or (), Sequence):
            raise ValueError("symmetric_encryption_keys must be a list of keys, not one key alone")
        fernets = []
        for key in keys or ():
            if not isinstance(key, (str, bytes)) or not key:
                raise ValueError("symmetric_encryption_keys must be a list of text or bytes, none of them empty")
            digest = hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()
            fernets.append(Fernet(base64.urlsafe_b64encode(digest)))
        self._fernet = MultiFernet(fernets) if fernets else None

    def seal(self, *items: Any) -> bytes:
        """Return some items as bytes."""
        data: bytes = msgpack.packb(items, use_bin_type=True)
        return data if self._fernet is None else self._fernet.encrypt(data)

    def unseal(self, data: bytes) -> list[Any]:
        """Return the items.

        :raises SealError: the bytes were altered, or not written by this layer, or with another key.
        """
        try:
            if self._fernet is not None:
                data = self._fernet.decrypt(data)
            items = msgpack.unpackb(data, raw=False, strict_map_key=True)
        except InvalidToken:
            raise SealError("it was altered, or its key is not in symmetric_encryption_keys") from None
        except Exception as error:
            raise SealError(
                f"it was not written by this layer, or it is encrypted and there is no key: {error}"
            ) from None
        if not isinstance(items, list) or not items:
            raise SealError("it is not what this layer writes")
        return items
