"""Quicker access to Django's settings, response headers and regular expressions.

* Each access to a setting, some 50 for a request with Django's default middleware, runs
  ``LazyObject.__getattribute__``, which hides special methods of the wrapper. Settings need no hiding.
* A missing response header costs an exception, raised and caught: nine times for a request with the default
  middleware. Here it costs a dictionary lookup. A header of printable ASCII, as nearly all are, is set without encoding
  it first.
* Whether a view is a coroutine function is found out at each request, by a dozen function calls. Here it is remembered.
* The regular expressions of each request are compiled lazily, behind a wrapper. Here they are compiled, without it.

Saves 50 000 instructions of a request with the default middleware for settings, and 82 000 for the rest (without
middleware: 8000 and 24 000). See "What we change in Django" in the documentation.

Any thread; owns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.conf import LazySettings
from django.core import signing
from django.core.handlers import base
from django.http import request, response
from django.http.response import ResponseHeaders
from django.utils.functional import SimpleLazyObject

#: Where the regular expressions are.
_PATTERNS = ((request, "host_validation_re"), (response, "_charset_from_content_type_re"), (signing, "_SEP_UNSAFE"))
#: Names of response headers up to so many characters are remembered.
SHORT_NAME = 64


def install(off: set[str]) -> None:
    """Replace functions of Django by those of this module, for this process.

    :param off: names of shortcuts to leave out (see :mod:`.fingerprints`); further ones are added if they do not fit.
    """
    if "settings" not in off:
        LazySettings.__getattribute__ = object.__getattribute__  # type: ignore[method-assign]
    if (ResponseHeaders.__contains__, ResponseHeaders.get) != (Mapping.__contains__, Mapping.get):
        off.add("response header lookups")
    if "response header lookups" not in off:
        ResponseHeaders.__contains__ = _contains  # type: ignore[method-assign]
        ResponseHeaders.get = _get  # type: ignore[method-assign]
    if "response header assignment" not in off:
        ResponseHeaders.__setitem__ = _set  # type: ignore[method-assign]
    if base.iscoroutinefunction is iscoroutinefunction:  # type: ignore[attr-defined]
        base.iscoroutinefunction = is_coroutine_function  # type: ignore[attr-defined]
    if "regular expressions" not in off:
        for module, name in _PATTERNS:
            pattern = getattr(module, name, None)
            if type(pattern) is SimpleLazyObject:
                setattr(module, name, re.compile(pattern.pattern, pattern.flags))


_is_coroutine_function = lru_cache(1000)(iscoroutinefunction)


def is_coroutine_function(function: Any) -> bool:
    """Whether calling a function returns a coroutine (``asgiref.sync.iscoroutinefunction``)."""
    try:
        return _is_coroutine_function(function)
    except TypeError:  # it cannot be a key
        return iscoroutinefunction(function)


def _contains(headers: Any, name: Any) -> bool:
    """Whether the header `name` is set, in any case."""
    return name.lower() in headers._store


def _get(headers: Any, key: Any, default: Any = None) -> Any:
    """Return the value of the header `key`, or `default`."""
    field = headers._store.get(key.lower())
    return default if field is None else field[1]


_set_any = ResponseHeaders.__setitem__


def _set(headers: Any, name: Any, value: Any) -> None:
    """Set a header.

    :raises ValueError: name or value contains a line end (Django: ``BadHeaderError``).
    """
    # Printable ASCII needs no encoding, and has no line ends.
    if type(name) is str and type(value) is str and value.isascii() and value.isprintable():
        key = _key(name) if len(name) <= SHORT_NAME else _lower(name)
        if key is not None:
            headers._store[key] = name, value
            return
    _set_any(headers, name, value)


def _lower(name: str) -> str | None:
    """Return the key under which a header is kept; None if its name is not printable ASCII."""
    return name.lower() if name.isascii() and name.isprintable() else None


_key = lru_cache(1000)(_lower)
