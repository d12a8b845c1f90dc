"""Looking things up in Django's objects, at a fraction of the cost.

* Each look at a setting, some fifty for a request with Django's default middleware, runs a function which sees to it
  that ``hasattr(settings, "__len__")`` and the like speak of what is wrapped. That is of no use with settings, so here
  it is not run.
* To find that a response lacks a field, Django raises an exception and catches it: nine times for a request with the
  default middleware. Here it looks. A field whose name and value are plain text, as nearly all are, is put in at once.
* The regular expressions that are asked for each request lie in wrappers, for they are compiled when first needed. Here
  they are compiled, and taken out.

All together was a fifth of what a small request costs with the default middleware.

Any thread; owns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

from django.conf import LazySettings
from django.core import signing
from django.http import request, response
from django.http.response import ResponseHeaders
from django.utils import datastructures
from django.utils.functional import SimpleLazyObject

#: Where the regular expressions are.
_PATTERNS = ((request, "host_validation_re"), (response, "_charset_from_content_type_re"), (signing, "_SEP_UNSAFE"))


def install() -> None:
    """Put what is quicker in the place of Django's, for this process. What a package has replaced before stays."""
    if "__getattribute__" not in vars(LazySettings):  # else it is a package's, which resolves settings when asked for
        LazySettings.__getattribute__ = object.__getattribute__  # type: ignore[method-assign]
    if _is_of(datastructures, ResponseHeaders.__getitem__):
        for name, function in (("__contains__", _contains), ("get", _get)):
            if getattr(ResponseHeaders, name) is getattr(Mapping, name):
                setattr(ResponseHeaders, name, function)
    if _is_of(response, ResponseHeaders.__setitem__) and _is_of(response, ResponseHeaders._convert_to_charset):
        ResponseHeaders.__setitem__ = _put_in  # type: ignore[method-assign]
    for module, name in _PATTERNS:
        pattern = getattr(module, name, None)
        if type(pattern) is SimpleLazyObject:
            setattr(module, name, re.compile(pattern.pattern, pattern.flags))


def _is_of(module: ModuleType, function: Any) -> bool:
    """Whether a function is the module's own, even if one in its place bears its name (``functools.wraps``)."""
    return getattr(function, "__globals__", None) is vars(module)


def _contains(headers: Any, name: Any) -> bool:
    """Whether there is such a field, in whatever case."""
    return name.lower() in headers._store


def _get(headers: Any, key: Any, default: Any = None) -> Any:
    """Return the value of a field, or `default` if there is none."""
    field = headers._store.get(key.lower())
    return default if field is None else field[1]


_put_in_any = ResponseHeaders.__setitem__


def _put_in(headers: Any, name: Any, value: Any) -> None:
    """Put in a field.

    :raises ValueError: a line ends in it (Django: ``BadHeaderError``).
    """
    # Nothing but plain text needs no encoding, and has no line ends.
    if type(name) is str and type(value) is str and value.isascii() and value.isprintable():
        key = _key(name)
        if key is not None:
            headers._store[key] = name, value
            return
    _put_in_any(headers, name, value)


@lru_cache(1000)
def _key(name: str) -> str | None:
    """Return under what a field is kept; None: its name is not just plain text."""
    return name.lower() if name.isascii() and name.isprintable() else None
