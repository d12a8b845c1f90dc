"""Which parts of Django are what :mod:`.django_fast` and :mod:`.django_cleanup` were written against.

Each shortcut stands for a few functions of Django. It is installed only if the source text of all of them has a known
fingerprint, so neither a new release of Django nor a package that replaced one of them is overruled. Without source
files, a shortcut stays off.

Any thread; owns nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from pkgutil import resolve_name
from typing import Any

#: For each shortcut: the functions it stands for, and their fingerprints in the tested releases of Django.
#: ``python -m channelserver.workers.fingerprints`` prints those of the installed release.
KNOWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "settings": (("django.conf:LazySettings.__getattribute__",), ("9addb1b32370c2b6",)),
    "response header lookups": (
        ("django.http.response:ResponseHeaders.__init__", "django.http.response:ResponseHeaders.__getitem__"),
        ("c3b1b2ba704226dc",),
    ),
    "response header assignment": (
        (
            "django.http.response:ResponseHeaders.__setitem__",
            "django.http.response:ResponseHeaders._convert_to_charset",
        ),
        ("2a1d74f815cdc8f9",),
    ),
    "regular expressions": (("django.utils.regex_helper:_lazy_re_compile",), ("c40d15ca65c4544f",)),
    "database connections": (
        (
            "django.db:reset_queries",
            "django.db:close_old_connections",
            "django.db:connections.all",
            "django.db:connections.create_connection",
            "django.db:connections.__getitem__",
            "django.dispatch:Signal.connect",
            "django.dispatch:Signal.disconnect",
        ),
        ("75dcc8faa6492441", "1a89922c4347544c", "ab0a891e8e4e11ae"),  # 5.2, 6.0, 6.1
    ),
    "caches": (
        ("django.core.cache:close_caches", "django.core.cache:caches.close_all", "django.core.cache:BaseCache.close"),
        ("cfb558b28806777a",),
    ),
    "URLconf and script prefix": (
        (
            "django.urls.base:set_urlconf",
            "django.urls.base:get_urlconf",
            "django.urls.base:set_script_prefix",
            "django.urls.base:get_script_prefix",
            "django.urls.base:clear_script_prefix",
        ),
        ("bcea0a6d80f7516a",),
    ),
    "signals": (
        (
            "django.core.signals:request_started.send",
            "django.core.signals:request_started._live_receivers",
            "django.core.signals:request_finished.send",
            "django.core.signals:request_finished._live_receivers",
            "django.core.handlers.base:reset_urlconf",
        ),
        ("d8e3303d6e8802b3", "afb2e25c51548462", "53e6c90a41ab9733"),  # 5.2, 6.0, 6.1
    ),
}


def unknown() -> set[str]:
    """Return the names of the shortcuts that must stay off in this process."""
    sources: dict[str, list[str]] = {}
    return {name for name, (functions, known) in KNOWN.items() if fingerprint(functions, sources) not in known}


def fingerprint(functions: Iterable[str], sources: dict[str, list[str]]) -> str:
    """Return a fingerprint of the source text of functions, comments included; empty if there is no source.

    :param functions: as ``module:name``.
    :param sources: the lines of the modules read so far.
    """
    digest = sha256()
    try:
        for name in functions:
            digest.update(_source(resolve_name(name), sources).encode())
    except Exception:  # no such name, no function, no source
        return ""
    return digest.hexdigest()[:16]


def _source(function: Any, sources: dict[str, list[str]]) -> str:
    """Return the text of a function, at 1/10 of the cost of ``inspect.getsource``.

    :raises Exception: it cannot be found.
    """
    code, names = function.__code__, function.__globals__
    module = names["__name__"]
    if code.co_filename != names["__file__"]:
        raise LookupError(f"{module} has not the source of {function}")
    if module not in sources:
        sources[module] = names["__loader__"].get_source(module).splitlines()
    lines = sources[module]
    first = end = code.co_firstlineno
    indent = _indent(lines[first - 1])
    while end < len(lines) and (_indent(lines[end]) > indent or lines[end].lstrip()[:1] in ("", ")")):
        end += 1
    return "\n".join(lines[first - 1 : end]).rstrip()


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


if __name__ == "__main__":
    found: dict[str, list[str]] = {}
    for name, (functions, _) in KNOWN.items():
        print(fingerprint(functions, found), name)
