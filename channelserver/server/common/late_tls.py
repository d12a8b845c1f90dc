"""Twisted's TCP connections without OpenSSL, which a server that speaks no TLS never needs.

Twisted's module imports that of TLS for ``startTLS()``, ``connectSSL()`` and ``listenSSL()``. It gets a stand-in here,
which imports the real one when one of these is called first. OpenSSL, with what it imports, takes 60 ms of the start
and 11 MiB of memory.

Import :mod:`twisted.internet.tcp` from here, and whatever imports it after this module.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["tcp", "unix"]

#: What Twisted's reactor imports, and does not use before the first connection with TLS.
_TLS, _SSL = "twisted.protocols.tls", "twisted.internet.ssl"


def _factory(*arguments: Any, **named: Any) -> Any:
    return import_module(_TLS).TLSMemoryBIOFactory(*arguments, **named)


def _import_reactor() -> None:
    stand_in: Any = ModuleType(_TLS)
    stand_in.TLSMemoryBIOFactory = _factory
    sys.modules[_TLS], sys.modules[_SSL] = stand_in, ModuleType(_SSL)
    try:
        with suppress(ImportError):  # this version of Twisted needs more of it; or it is not on a POSIX system
            import_module("twisted.internet._newtls")
            import_module("twisted.internet.posixbase")
    finally:
        del sys.modules[_TLS], sys.modules[_SSL]


if sys.modules.keys().isdisjoint({_TLS, _SSL, "OpenSSL", "twisted.internet.tcp"}):
    _import_reactor()

from twisted.internet import tcp, unix  # noqa: E402
