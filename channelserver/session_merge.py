"""Saving a session that another process may have saved meanwhile: the changes of both are kept.

Consumers of one socket can run at the same time, when the messages are on different channels. Each has read the whole
session; a save writes only the keys that were changed since, into what is stored now.

Runs in worker threads. Owns locks: within the process, a save is one step. Between processes, a database compares what
it replaces; for other engines a folder is locked, and between hosts, a key in the cache.
"""

from __future__ import annotations

import copy
import fcntl
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.contrib.sessions.backends.cached_db import SessionStore as CachedDatabaseStore
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.contrib.sessions.backends.file import SessionStore as FileStore
from django.db import connections, router, transaction

#: How often a save is tried again after another process has saved first.
TRIES = 20
#: Seconds for which a lock in a cache is waited for, and after which it is void.
CACHE_LOCK_SECONDS = 2.0

_GONE: Any = object()
#: Each for some of the keys.
_locks = [threading.Lock() for _ in range(64)]


def merged(before: dict[str, Any], now: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Return `stored` with the changes that lead from `before` to `now`."""
    result = dict(stored)
    for key in {**before, **now}:
        old, new = before.get(key, _GONE), now.get(key, _GONE)
        if new is _GONE:
            result.pop(key, None)
        elif old is _GONE or type(old) is not type(new) or old != new:
            result[key] = new
    return result


class MergingStore(SessionBase):
    """Mixed in before an engine's store, and before :class:`channelserver.sessions._PinnedStore`."""

    _absent: bool
    #: What was stored when this was read or saved last.
    _before: dict[str, Any] = {}
    #: The row from which that was read, for engines with a database.
    _row: Any = None

    def load(self) -> dict[str, Any]:
        data = super().load()
        self._before = copy.deepcopy(data)
        return data

    def clear(self) -> None:
        self.keys()  # what is removed must be known
        super().clear()

    def flush(self) -> None:
        self._session_cache: dict[str, Any] = {}  # all is deleted, known or not
        super().flush()

    def delete(self, session_key: str | None = None) -> None:
        super().delete(session_key)
        if self._absent:
            self._before, self._row = {}, None

    def _get_session_from_db(self) -> Any:
        self._row = super()._get_session_from_db()  # type: ignore[misc]
        return self._row

    def save_merged(self) -> None:
        """Write what was changed."""
        self.keys()  # loads, so that `_absent` is known
        before, now = self._before, dict(self._session_cache)
        replace = self._replace_row if _is_database(type(self)) else self._replace
        with _locks[hash(self.session_key) % len(_locks)], self._locked():
            problem: Exception | None = None
            for _ in range(TRIES):
                try:
                    replace(before, now, problem)
                    break
                except (CreateError, UpdateError) as error:
                    problem = error
            else:
                raise UpdateError
        self._before = copy.deepcopy(self._session_cache)
        self._absent = False

    def _replace(self, before: dict[str, Any], now: dict[str, Any], problem: Exception | None) -> None:
        """Write the session.

        :param problem: why the last try failed.
        :raises CreateError: or ``UpdateError``: another process has saved first.
        """
        stored = copy.copy(self)
        data = MergingStore.load(stored)
        self._session_cache = merged(before, now, data)
        self._write(stored._absent or isinstance(problem, UpdateError), problem)

    def _replace_row(self, before: dict[str, Any], now: dict[str, Any], problem: Exception | None) -> None:
        """The same in a database: a row is replaced if it still has the content that was read."""
        row: Any = self._row
        if row is None or problem is not None:
            row = self._get_session_from_db()
            self._session_cache = merged(before, now, self.decode(row.session_data) if row else {})
        if row is None:
            self._write(True, problem)
            return
        new: Any = self.create_model_instance(self._session_cache)  # type: ignore[attr-defined]
        values = {field.attname: getattr(new, field.attname) for field in new._meta.concrete_fields}
        values.pop(new._meta.pk.attname)
        using = router.db_for_write(type(new), instance=new)
        rows = type(new)._base_manager.using(using)
        with transaction.atomic(using=using):
            if not rows.filter(pk=new.pk, session_data=row.session_data).update(**values):
                raise UpdateError
        self._row = new
        cache: Any = getattr(self, "_cache", None)
        if cache is not None:
            cache.set(self.cache_key, self._session_cache, self.get_expiry_age())  # type: ignore[attr-defined]

    def when_committed(self, function: Callable[[], object]) -> None:
        """Call `function` when what was saved last can be seen by others."""
        using = None
        if _is_database(type(self)):
            using = router.db_for_write(self.get_model_class())  # type: ignore[attr-defined]
        if using is not None and connections[using].in_atomic_block:
            transaction.on_commit(function, using=using)
        else:
            function()

    def _write(self, create: bool, problem: Exception | None) -> None:
        if create and isinstance(problem, CreateError):
            super().delete()  # in the way may be an expired session, which loading does not see
        super().save(must_create=create)

    def _locked(self) -> AbstractContextManager[None]:
        """Keep other processes from saving the same session, where that needs a lock."""
        cache: Any = getattr(self, "_cache", None)
        if isinstance(self, FileStore):
            return _folder_locked(self._get_storage_path())  # type: ignore[attr-defined]
        if cache is not None and not isinstance(self, DatabaseStore):
            return _cache_locked(cache, f"{self.cache_key}.lock")  # type: ignore[attr-defined]
        return nullcontext()


@functools.cache
def _is_database(kind: type[SessionBase]) -> bool:
    """Whether it stores rows, and does so as Django's own engines do."""
    engines = (base for base in kind.__mro__ if not base.__module__.startswith("channelserver."))
    return next(base for base in engines if "save" in vars(base)) in (DatabaseStore, CachedDatabaseStore)


@contextmanager
def _folder_locked(path: str) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _cache_locked(cache: Any, name: str) -> Iterator[None]:
    with _folder_locked(os.path.dirname(__file__)):  # not every cache adds a key in one step
        ends = time.monotonic() + CACHE_LOCK_SECONDS
        while not cache.add(name, 1, CACHE_LOCK_SECONDS) and time.monotonic() < ends:
            time.sleep(0.002)
        try:
            yield
        finally:
            cache.delete(name)
