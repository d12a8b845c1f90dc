"""Lets a project written for Channels 1 run unchanged: ``import channelserver.compat``, first line of its settings.

From then on ``channels`` and what is in it, ``asgiref.inmemory``, ``asgiref.base_layer``, ``asgiref.conformance`` and
``asgi_redis`` are importable, and served by this package. ``channels.sessions`` is the same module object as
``channelserver.sessions``, so classes and state exist once. The rest of the real ``asgiref``, which Django needs, stays
as it is. The real ``channels`` may be installed, as long as it was not imported before.

Runs wherever something is imported, in any thread. Owns one entry at the front of ``sys.meta_path``. Imports nothing
that needs Django's settings, as these are only being made.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_OURS = "channelserver"
_ALIAS = "channels"

#: Modules of Channels 1 whose names are elsewhere here.
_MOVED = {
    "channels.tests": "channelserver.test",
    "channels.tests.base": "channelserver.test.base",
    "channels.tests.http": "channelserver.test.http",
}

#: Modules that are made up: their names, and what these are called in ``channelserver.layers``.
_MADE_UP = {
    "asgiref.base_layer": {"BaseChannelLayer": "BaseChannelLayer"},
    "asgiref.conformance": {"ConformanceTestCase": "ConformanceTestCase"},
    "asgiref.inmemory": {"ChannelLayer": "InMemoryChannelLayer"},
    "asgi_redis": {
        "RedisChannelLayer": "RedisChannelLayer",
        "RedisLocalChannelLayer": "RedisChannelLayer",
        "RedisSentinelChannelLayer": "RedisSentinelChannelLayer",
    },
}


class _CompatFinder(MetaPathFinder):
    """Finds the modules of Channels 1, before all other finders."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load `fullname`, or None if it is no name of Channels 1 or nothing here stands for it."""
        if fullname in _MADE_UP:
            return ModuleSpec(fullname, _MadeUpLoader(), origin=__name__)
        if fullname != _ALIAS and not fullname.startswith(_ALIAS + "."):
            return None
        # None for a missing module: the import then fails with the usual message, which names `fullname`.
        ours = importlib.util.find_spec(_MOVED.get(fullname) or _OURS + fullname.removeprefix(_ALIAS))
        return None if ours is None else ModuleSpec(fullname, _AliasLoader(ours.name), origin=ours.origin)


class _AliasLoader(Loader):
    """Serves a module of this package under another name."""

    def __init__(self, real_name: str) -> None:
        self._real_name = real_name
        self._real_spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module itself, imported under its own name."""
        module = importlib.import_module(self._real_name)
        self._real_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Undo what the import system has done to the module in between: it keeps the spec of its own name."""
        module.__spec__ = self._real_spec


class _MadeUpLoader(Loader):
    """Fills a module that holds names of ``channelserver.layers``."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Have a new module made."""

    def exec_module(self, module: ModuleType) -> None:
        layers = importlib.import_module(_OURS + ".layers")
        for name, our_name in _MADE_UP[module.__name__].items():
            setattr(module, name, getattr(layers, our_name))
        if module.__name__ == "asgiref.inmemory":
            module.__dict__["__getattr__"] = partial(_ready_made_layer, module)


def _ready_made_layer(module: ModuleType, name: str) -> Any:
    """Make ``asgiref.inmemory.channel_layer`` when it is first asked for."""
    if name != "channel_layer":
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
    return module.__dict__.setdefault(name, module.__dict__["ChannelLayer"]())


def _install() -> None:
    """Put the finder in front of all others, unless it is there already.

    :raises ImportError: the real modules have been imported before.
    """
    if any(type(finder).__module__ == __name__ for finder in sys.meta_path):
        return
    for name in (_ALIAS, *_MADE_UP):
        module = sys.modules.get(name)
        if module is not None:
            raise ImportError(
                f"channelserver.compat cannot stand in for {name!r}: another module of that name is already imported, "
                f"from {getattr(module, '__file__', None) or 'an unknown place'}. Make 'import channelserver.compat' "
                "the first line of the settings, or uninstall the other package.",
                name=name,
            )
    sys.meta_path.insert(0, _CompatFinder())


_install()
